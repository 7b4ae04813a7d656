"""While a front is measured: what a trainer tells `evaluate_front`, its rewards and prompts, and a reader, how far."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers.trainer_callback import ProgressCallback

OWN_COLUMNS = ("prompt", "completion", "completion_ids")
"""Columns that are no further arguments of a reward, as in TRL."""


def reward_functions(objectives: list[str], rewards: list[Any]) -> dict[str, Callable[..., list[float]]]:
    """The rewards by objective; TRL takes some that only it can call."""
    for name, reward in zip(objectives, rewards, strict=True):
        if isinstance(reward, torch.nn.Module):
            found = f"the model {type(reward).__name__}"
        elif inspect.iscoroutinefunction(reward) or inspect.iscoroutinefunction(type(reward).__call__):
            found = "a coroutine function"
        else:
            continue
        raise TypeError(
            f"`reward_funcs` must be plain functions to be measured, but got {found} for {name!r}; a model can be "
            "given as `peft_panacea.rewards.Classifier`."
        )
    return dict(zip(objectives, rewards, strict=True))


def prompts_and_columns(dataset: Any) -> tuple[list[Any], dict[str, list[Any]]]:
    """The prompts, and by name what else the rows have for rewards."""
    if dataset is None or isinstance(dataset, dict):
        found = "None" if dataset is None else f"those of {list(dataset)}"
        raise ValueError(f"`dataset` must be one data set, unless the trainer's `eval_dataset` is, but got {found}.")
    rows = list(dataset)
    names = [name for name in (rows[0] if rows else ()) if name not in OWN_COLUMNS]
    return [row["prompt"] for row in rows], {name: [row[name] for row in rows] for name in names}


def generation_settings(trainer: Any) -> dict[str, Any]:
    """How the trainer samples completions; on vLLM it has no generation config, but what one would be made of."""
    template = {"chat_template_kwargs": trainer.chat_template_kwargs} if trainer.chat_template_kwargs else {}
    if hasattr(trainer, "generation_config"):
        return {"generation_config": trainer.generation_config, **template}
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
    return {
        "max_new_tokens": trainer.max_completion_length,
        **{name: getattr(trainer, name) for name in names},
        **template,
    }


@contextmanager
def one_progress_bar(trainer: Any, batches: int) -> Iterator[None]:
    """One bar for all evaluation loops of the block, where transformers' own would go on counting past the first."""
    callbacks = [one for one in trainer.callback_handler.callbacks if isinstance(one, ProgressCallback)]
    callbacks = callbacks if trainer.is_world_process_zero() else []
    for callback in callbacks:
        callback.prediction_bar = tqdm(total=batches, desc="measuring", unit="batch", dynamic_ncols=True)
    try:
        yield
    finally:
        for callback in callbacks:
            callback.prediction_bar.close()
            callback.prediction_bar = None
