"""A tiny chat model and its tokenizer in a folder, whose texts are words from w3 to w63."""

from pathlib import Path

from conftest import llama
from small_tokenizers import CHAT, word_tokenizer

SYSTEM = {"role": "system", "content": "w9"}


def save_chat_model(folder: Path, weights: bool = True) -> Path:
    """Without `weights` whatever loads the model fails."""
    model = llama(vocab_size=64)
    (model.save_pretrained if weights else model.config.save_pretrained)(folder)
    word_tokenizer(CHAT).save_pretrained(folder)
    return folder


def conversations(n: int, system: bool = False) -> list[list[dict[str, str]]]:
    """Different ones, with a system's message in every second if `system`."""
    said = [{"role": "user", "content": f"w{10 + i} w{11 + i}"} for i in range(n)]
    return [[SYSTEM, message] if system and i % 2 else [message] for i, message in enumerate(said)]
