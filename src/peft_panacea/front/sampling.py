"""Completions of a model with a Panacea adapter, each row under its own preference, and how likely they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import peft
import torch
import transformers
from peft import PeftModel, get_peft_model_state_dict
from torch import Tensor

Array: TypeAlias = "np.ndarray"

Prompt: TypeAlias = str | list[dict[str, Any]]
"""A text, or messages with `role` and `content`."""

# The model's own distribution, whatever its generation config says.
UNMODIFIED = {"max_new_tokens": 64, "num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
SAMPLED = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0}


@dataclass
class Answers:
    """The texts of B completions, and by name B numbers about them."""

    texts: list[str]
    effects: dict[str, list[float]]


class Sampler:
    """Samples from a decoder-only `PeftModel` with a Panacea adapter.

    Args:
        model: The model; its mode and its preference are left as they are.
        tokenizer: Its tokenizer, with a padding token.
        generation: Options of `generate` in place of the defaults. With a `generation_config` there are no defaults.

    Raises:
        TypeError: the model is something else.
        ValueError: the model is an encoder-decoder, there is no tokenizer, or it has no padding token.
        RuntimeError: an adapter is merged.
    """

    def __init__(self, model: Any, tokenizer: Any, generation: dict[str, Any]) -> None:
        if not (isinstance(model, PeftModel) and hasattr(model, "set_preference")):
            raise TypeError(
                "`model` must be a `PeftModel` with a Panacea adapter, or a function, but got a "
                f"{type(model.get_base_model() if isinstance(model, PeftModel) else model).__name__} without."
            )
        if getattr(model.config, "is_encoder_decoder", False):
            raise ValueError("`model` must be decoder-only, but got an encoder-decoder.")
        if any(getattr(module, "merged", False) for module in model.modules()):
            raise RuntimeError("`model` must not be merged, but it is; call `unmerge_adapter` first.")
        if getattr(tokenizer, "pad_token_id", None) is None:
            found = "None" if tokenizer is None else "one without; set `tokenizer.pad_token = tokenizer.eos_token`"
            raise ValueError(f"`tokenizer` must be given with a model and have a padding token, but got {found}.")
        self.model, self.tokenizer = model, tokenizer
        self.pad = tokenizer.pad_token_id
        if "generation_config" not in generation:
            generation = {**UNMODIFIED, **(SAMPLED if generation.get("do_sample", True) else {}), **generation}
        self.generation = generation

    @property
    def objectives(self) -> list[str]:
        """Those of the active adapter."""
        return list(self.model.peft_config[self.model.active_adapter].objective_names)

    def describe(self) -> dict[str, Any]:
        """What is measured, as JSON; the adapter by a digest of its weights."""
        name = self.model.active_adapter
        digest = hashlib.sha256(str(self.model.peft_config[name].scaling).encode())
        for key, tensor in sorted(get_peft_model_state_dict(self.model, adapter_name=name).items()):
            content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(key.encode() + content.numpy().tobytes())
        return {
            "model": getattr(self.model.get_base_model(), "name_or_path", ""),
            "adapter": digest.hexdigest()[:16],
            "generation": {key: _described(value) for key, value in self.generation.items()},
            "versions": {module.__name__: module.__version__ for module in (torch, transformers, peft)},
        }

    def lengths(self, prompts: Sequence[Prompt]) -> list[int]:
        """Tokens of every prompt."""
        found = [len(self._tokens(prompt)) for prompt in prompts]
        if 0 in found:
            raise ValueError(f"`prompts` must have at least one token each, but got {prompts[found.index(0)]!r}.")
        return found

    @torch.no_grad()
    def __call__(self, prompts: Sequence[Prompt], preferences: Array | None) -> Answers:
        """Complete B prompts under their preferences [B, m], or without the adapter if None."""
        steered: dict[str, Any] = {} if preferences is None else {"preference": preferences}
        with self._in_eval_mode():
            with self.model.disable_adapter() if preferences is None else nullcontext():
                ids, mask, completion = self._sample(prompts, steered)
                own = self._log_probabilities(ids, mask, completion, steered)
            with self.model.disable_adapter():
                base = own if preferences is None else self._log_probabilities(ids, mask, completion, {})
        tokens = completion.sum(1).clamp(min=1)
        effects = {"log-perplexity": -base.sum(1) / tokens, "KL": (own - base).sum(1)}
        return Answers(self._texts(ids, mask, completion), {name: e.tolist() for name, e in effects.items()})

    @contextmanager
    def _in_eval_mode(self) -> Iterator[None]:
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        try:
            yield
        finally:
            for module, mode in modes:  # `train()` would make all of them alike
                module.training = mode

    def _tokens(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            return self.tokenizer(prompt)["input_ids"]
        text = self.tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]  # the template has them

    def _sample(self, prompts: Sequence[Prompt], steered: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """Token ids [B, P + T], their mask, and the mask of the T new ones, up to and with the first end token."""
        rows = [self._tokens(prompt) for prompt in prompts]
        P = max(map(len, rows))
        inputs = torch.tensor([[self.pad] * (P - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (P - len(row)) + [1] * len(row) for row in rows])
        inputs, mask = inputs.to(self.model.device), mask.to(self.model.device)
        needed = {
            "pad_token_id": self.pad,
            **({"tokenizer": self.tokenizer} if "stop_strings" in self.generation else {}),
        }
        ids = self.model.generate(input_ids=inputs, attention_mask=mask, **needed, **self.generation, **steered)
        if not isinstance(ids, Tensor) or len(ids) != len(rows):
            raise ValueError(
                f"`generation` must leave one row of tokens for each of {len(rows)} prompts, but `generate` returned "
                f"{len(ids) if isinstance(ids, Tensor) else f'a {type(ids).__name__}'}."
            )
        new = ids[:, P:]
        is_end = torch.isin(new, ids.new_tensor(self._ends()))
        before_end = is_end.cumsum(1) - is_end.long() == 0
        padding = (new != self.pad).flip(1).cumsum(1).flip(1) == 0  # a stop may be no token
        completion = before_end & (is_end | ~padding)
        return ids, torch.cat([mask, completion.long()], dim=1), completion

    def _ends(self) -> list[int]:
        configs = self.generation.get("generation_config"), self.model.generation_config
        known = [self.generation.get("eos_token_id"), *(getattr(config, "eos_token_id", None) for config in configs)]
        found: Any = next((ends for ends in (*known, self.tokenizer.eos_token_id) if ends is not None), [])
        return list(found) if isinstance(found, list | tuple) else [int(found)]

    def _log_probabilities(self, ids: Tensor, mask: Tensor, completion: Tensor, steered: dict[str, Any]) -> Tensor:
        """Of every completion token, [B, T], 0 after the end."""
        T = completion.shape[1]
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        logits = self.model(input_ids=ids, attention_mask=mask, position_ids=positions, **steered).logits
        rows = [  # one by one, because a vocabulary in float32 is large
            row.float().log_softmax(-1).gather(-1, own[:, None])[:, 0]
            for row, own in zip(logits[:, -T - 1 : -1], ids[:, -T:], strict=True)
        ]
        return torch.stack(rows) * completion

    def _texts(self, ids: Tensor, mask: Tensor, completion: Tensor) -> list[str]:
        """Decoded with the prompt and then cut, because alone a completion may lose its leading space."""
        whole = ids.where(mask.bool(), self.pad)
        before = whole[:, : -completion.shape[1]]
        decoded = (self.tokenizer.batch_decode(t, skip_special_tokens=True) for t in (before, whole))
        return [text[len(prompt) :] for prompt, text in zip(*decoded, strict=True)]


def _described(value: Any) -> Any:
    if hasattr(value, "to_dict"):
        value = value.to_dict()
    try:
        return json.loads(json.dumps(value))
    except TypeError:
        return type(value).__name__
