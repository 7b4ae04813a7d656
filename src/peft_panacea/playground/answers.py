"""Answers as they are written, token by token, one prompt under one or several preferences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..completions.batch import tokenize
from ..completions.decoding import LOST, draw
from ..completions.sampling import end_tokens
from ..tuner import Preferences, first_active


def stream(
    model: Any,
    tokenizer: Any,
    prompt: str,
    preferences: Preferences,
    *,
    temperature: float = 0.0,
    max_new_tokens: int = 128,
    seed: int = 0,
) -> Iterator[list[str]]:
    """What the model answers under each of B preferences, anew with every token, all of them one batch.

    Every token is a call of the model of its own, with its preferences. So answers of several threads may take turns,
    and one that nobody asks to go on costs nothing more. All rows draw the same random numbers: what differs between
    them is made by the preference, and a row is what it would be alone.

    Args:
        model: A decoder-only causal language model of transformers with a Panacea adapter, in eval mode.
        tokenizer: Its tokenizer. With a chat template the prompt is what the user says, else it is continued.
        prompt: A text.
        preferences: B of them.
        temperature: Of the sampling; 0 takes the likeliest token.
        max_new_tokens: Of an answer at most; the model's own limit may be lower.
        seed: Of the sampling, from 0 to 2⁶⁴ - 1.

    Yields:
        B texts, so far.

    Raises:
        ValueError: a prompt without text or as long as the model's limit, preferences that are none, or logits that
            are nan.
    """
    rows = model.peft_config[first_active(model)].parse_preference(preferences)
    before = _tokens(model, tokenizer, prompt)
    limit = _limit(model)
    shown = len(tokenizer.decode(before, skip_special_tokens=True))
    ends, generator = end_tokens(model, tokenizer), torch.Generator().manual_seed(seed)
    ids = torch.tensor([before] * len(rows))
    ended, answers, cache = [False] * len(rows), [list(before) for _ in rows], None
    for _ in range(max_new_tokens if limit is None else min(max_new_tokens, limit - len(before))):
        logits, cache = _step(model, ids, rows, cache)
        if lost := int(logits.isnan().any(-1).sum()):
            raise ValueError(LOST.format(lost))
        if temperature > 0:
            uniform = torch.rand(1, 1, dtype=torch.float64, generator=generator).expand(len(rows), 1)
            chosen = draw(logits / temperature, uniform).tolist()
        else:
            chosen = logits.argmax(-1).tolist()
        for row, token in enumerate(chosen):
            ended[row] |= token in ends
            if not ended[row]:
                answers[row].append(token)
        # Decoded with the prompt, because alone an answer may lose its leading space; half a character has to wait.
        texts = (tokenizer.decode(answer, skip_special_tokens=True)[shown:] for answer in answers)
        yield [text.rstrip("\ufffd") for text in texts]
        if all(ended):
            return
        ids = torch.cat([ids, torch.tensor(chosen)[:, None]], dim=1)


def _tokens(model: Any, tokenizer: Any, prompt: str) -> list[int]:
    if not prompt.strip():
        raise ValueError("`prompt` must have some text, but got none.")
    found = tokenize(tokenizer, prompt if tokenizer.chat_template is None else [{"role": "user", "content": prompt}])
    limit = _limit(model)
    if limit is not None and len(found) >= limit:
        raise ValueError(f"`prompt` must have fewer than {limit} tokens, the model's limit, but got {len(found)}.")
    return found


def _limit(model: Any) -> int | None:
    """How many tokens the model can see, if it says so."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


@torch.inference_mode()
def _step(model: Any, ids: Tensor, preference: Tensor, cache: Any) -> tuple[Tensor, Any]:
    """The logits after the last tokens, [B, V], float32 on the CPU, and what the model remembers of all."""
    new = ids if cache is None else ids[:, -1:]
    given = {"input_ids": new.to(model.device), "attention_mask": torch.ones_like(ids).to(model.device)}
    outputs = model(**given, past_key_values=cache, use_cache=True, preference=preference)
    return outputs.logits[:, -1].float().cpu(), outputs.past_key_values
