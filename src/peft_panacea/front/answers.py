"""What answers the prompts of a measurement: a model with a Panacea adapter, or a function."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import peft
import torch
import transformers
from peft import PeftModel, get_peft_model_state_dict

from ..completions import (
    Prompt,
    check_can_sample,
    eval_mode,
    generation_options,
    log_probabilities,
    log_probabilities_by_length,
    runs_in_step,
    sample,
    tokenize,
)
from ..tuner.steering import first_layer, parse_for

Array: TypeAlias = "np.ndarray"

Generate: TypeAlias = "Callable[[list[Prompt], Array | None], list[str]]"
"""Takes B prompts and their preferences [B, m], or None for the model without adaptation; returns B completions."""


@dataclass
class Answers:
    """The texts of B completions, by name B numbers about them, and what only a model's have, by name for rewards."""

    texts: list[str]
    effects: dict[str, list[float]]
    tokens: dict[str, list[Any]] = field(default_factory=dict)


class SteeredFunction:
    """A function in place of a model."""

    def __init__(self, function: Generate) -> None:
        self.function = function

    def describe(self) -> dict[str, Any]:
        return {"model": name_of(self.function)}

    def lengths(self, prompts: Sequence[Prompt]) -> list[int]:
        """Characters of every prompt."""
        return [len(str(prompt)) for prompt in prompts]

    def __call__(self, prompts: list[Prompt], preferences: Array | None) -> Answers:
        texts = list(self.function(prompts, preferences))
        if len(texts) != len(prompts):
            raise ValueError(f"`model` must return {len(prompts)} completions, but got {len(texts)}.")
        return Answers(texts, {})


class SteeredModel:
    """A decoder-only `PeftModel` with a Panacea adapter; its mode and its preference are left as they are.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        generation: Further arguments of `sample`.
        extrapolate: Whether preferences may be off the simplex.

    Raises:
        TypeError: the model is something else.
        ValueError: it is an encoder-decoder, or the tokenizer has no padding token.
        RuntimeError: an adapter is merged.
    """

    def __init__(self, model: Any, tokenizer: Any, generation: dict[str, Any], *, extrapolate: bool = False) -> None:
        if not (isinstance(model, PeftModel) and hasattr(model, "set_preference")):
            raise TypeError(
                "`model` must be a `PeftModel` with a Panacea adapter, or a function, but got a "
                f"{type(model.get_base_model() if isinstance(model, PeftModel) else model).__name__} without."
            )
        if any(getattr(module, "merged", False) for module in model.modules()):
            raise RuntimeError("`model` must not be merged, but it is; call `unmerge_adapter` first.")
        check_can_sample(model, tokenizer)
        self.model, self.tokenizer, self.generation = model, tokenizer, generation
        self.extrapolate = extrapolate
        # In half precision a cached step rounds otherwise than a whole forward, and other rows beside it do so too:
        # KL, the small difference of two log-probabilities, is then measured by two forwards that are alike.
        self.is_half = model.dtype in (torch.bfloat16, torch.float16)

    def describe(self) -> dict[str, Any]:
        """What is measured, as JSON; the adapter by a digest of its weights."""
        name = self.model.active_adapter
        digest = hashlib.sha256(str(self.model.peft_config[name].scaling).encode())
        for key, tensor in sorted(get_peft_model_state_dict(self.model, adapter_name=name).items()):
            whole = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor  # it may be a shard
            content = whole.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(key.encode() + content.numpy().tobytes())
        return {
            "model": getattr(self.model.get_base_model(), "name_or_path", ""),
            "adapter": digest.hexdigest()[:16],
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "generation": {k: _described(value) for k, value in generation_options(**self.generation).items()},
            "versions": {module.__name__: module.__version__ for module in (torch, transformers, peft)},
        }

    def check(self, objectives: list[str], preferences: Array) -> None:
        """Refuse other objectives and what are no preferences, [K, m], before anything is sampled under the first."""
        name = self.model.active_adapter
        named = self.model.peft_config[name].objectives
        if not isinstance(named, int) and named != objectives:  # counted ones may have any names
            raise ValueError(f"`rewards` must be of {named}, in the adapter's order, but got {objectives}.")
        parse_for(first_layer(self.model), preferences, name, extrapolate=self.extrapolate)

    def lengths(self, prompts: Sequence[Prompt]) -> list[int]:
        """Tokens of every prompt."""
        return [
            len(tokenize(self.tokenizer, prompt, self.generation.get("chat_template_kwargs"))) for prompt in prompts
        ]

    @torch.no_grad()
    def __call__(self, prompts: list[Prompt], preferences: Array | None) -> Answers:
        """Complete B prompts under their preferences [B, m], or without the adapter if None."""
        with eval_mode(self.model):
            with self._under(preferences):
                answers = sample(self.model, self.tokenizer, prompts, **self.generation)
                steered = answers.log_probabilities
                if steered is None or self.is_half:
                    steered = log_probabilities(self.model, answers)
            with self.model.disable_adapter():
                if preferences is None:
                    base = steered
                elif self.is_half or runs_in_step(self.model, self.generation):
                    base = log_probabilities(self.model, answers)
                else:
                    base = log_probabilities_by_length(self.model, answers)
        tokens = answers.completion.sum(1).clamp(min=1)
        effects = {
            "ended": list(map(float, answers.ended)),
            "log-perplexity": (-base.sum(1) / tokens).tolist(),
            "KL": (steered - base).sum(1).tolist(),
        }
        return Answers(answers.texts, effects, {"completion_ids": answers.token_ids, "ended": answers.ended})

    def _under(self, preferences: Array | None) -> AbstractContextManager[Any]:
        if preferences is None:
            return self.model.disable_adapter()
        return self.model.preference(preferences, self.model.active_adapter, extrapolate=self.extrapolate)


def name_of(function: Any) -> str:
    """All that is known of a function, or of an object that can be called."""
    return getattr(function, "__name__", type(function).__name__)


def _described(value: Any) -> Any:
    if hasattr(value, "to_dict"):
        value = value.to_dict()
    try:
        return json.loads(json.dumps(value))
    except TypeError:
        return type(value).__name__
