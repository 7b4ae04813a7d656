"""The storyteller of the examples, with its adapter for two objectives and prompts that it knows."""

import random
import sys
from pathlib import Path

from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples" / "storyteller"))
import grammar
import styles

STORYTELLER = Path(styles.__file__).parent
REWARDS = {"cheerful": styles.cheerful, "brief": styles.brief}


def load() -> tuple[PeftModel, PreTrainedTokenizerBase]:
    base = AutoModelForCausalLM.from_pretrained(STORYTELLER / "model")
    tokenizer = AutoTokenizer.from_pretrained(STORYTELLER / "model")
    return PeftModel.from_pretrained(base, STORYTELLER / "adapter"), tokenizer


def prompts(draws: int, rng: random.Random) -> list[str]:
    """The different ones among so many draws."""
    return list(dict.fromkeys(grammar.prompt(rng) for _ in range(draws)))
