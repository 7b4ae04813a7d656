"""A front: the whole grid at once, against a loop over preferences such as a user would write."""

import random
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.utils.logging import disable_progress_bar

import embedded
from peft_panacea.front import evaluate_front
from peft_panacea.simplex import simplex_grid

from .timing import Case, Side, alternate, ratio, row

disable_progress_bar()
BATCH = 128


@torch.no_grad()
def loop(model: Any, tokenizer: Any, prompts: list[str], grid: Tensor, tokens: int) -> None:
    """One preference after another: completions, their rewards, and their log-probabilities under both models."""
    model.eval()
    for preference in grid:
        model.set_preference(preference)
        for start in range(0, len(prompts), BATCH):
            batch = prompts[start : start + BATCH]
            inputs = tokenizer(batch, return_tensors="pt", padding=True, padding_side="left")
            ids = model.generate(**inputs, do_sample=True, top_k=0, max_new_tokens=tokens)
            new = ids[:, inputs["input_ids"].shape[1] :]
            texts = tokenizer.batch_decode(new, skip_special_tokens=True)
            for reward in embedded.REWARDS.values():
                reward(texts, prompts=batch)
            ended = (new == tokenizer.eos_token_id).int()
            mask = torch.cat([inputs["attention_mask"], (ended.cumsum(1) - ended == 0).long()], dim=1)
            steered = log_probabilities(model, ids, mask, new.shape[1])
            with model.disable_adapter():
                base = log_probabilities(model, ids, mask, new.shape[1])
            assert torch.isfinite(steered - base).all()


def log_probabilities(model: Any, ids: Tensor, mask: Tensor, T: int) -> Tensor:
    """Of the last T tokens of every row, summed, [B]."""
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = model(ids, attention_mask=mask, position_ids=positions, logits_to_keep=T + 1, use_cache=False).logits
    found = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, -T:, None])[..., 0]
    return (found * mask[:, -T:]).sum(1)


def ways(points: int, count: int, tokens: int) -> dict[str, Side]:
    """To measure so many preferences on so many prompts."""
    model, tokenizer = embedded.load()
    prompts, grid = embedded.prompts(1000, random.Random(0))[:count], simplex_grid(2, points - 1)
    options = {"tokenizer": tokenizer, "batch_size": BATCH, "base": False, "max_new_tokens": tokens}

    def measure(parts: list[Tensor]) -> None:
        for part in parts:
            evaluate_front(model, prompts, embedded.REWARDS, part, **options)

    return {
        "evaluate_front": lambda: measure([grid]),
        "a loop over preferences": lambda: loop(model, tokenizer, prompts, grid, tokens),
        "evaluate_front, one by one": lambda: measure(list(grid.split(1))),
    }


def measured(points: int, count: int, tokens: int, budget: float) -> dict[str, Any]:
    turns = alternate(ways(points, count, tokens), budget, warm_up=False)
    figures = {
        "over the loop": ratio(turns, "evaluate_front", "a loop over preferences"),
        "over one by one": ratio(turns, "evaluate_front", "evaluate_front, one by one"),
    }
    return row(turns, "s", **figures)


def cases(quick: bool) -> Iterator[Case]:
    points, count, tokens, budget = (2, 2, 4, 0) if quick else (11, 128, 64, 1)
    yield f"front: {points} × {count}", "cpu", partial(measured, points, count, tokens, budget)
