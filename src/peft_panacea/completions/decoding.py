"""Decoding a batch that its rows leave when they have ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, GenerationMixin
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from ..tuner.config import PanaceaConfig
from ..tuner.steering import find_layer

# Options that say of each row what they would say of it alone, at every step of one loop.
BY_ROW = {
    *("do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p", "suppress_tokens", "no_repeat_ngram_size"),
    *("max_new_tokens", "max_length", "min_new_tokens", "bos_token_id", "eos_token_id", "pad_token_id"),
    *("transformers_version", "_from_model_config"),  # which say nothing about decoding
}
# Options that change nothing if they have these values.
NEUTRAL = {
    "num_beams": 1,
    "repetition_penalty": 1.0,
    "use_cache": True,
    "output_attentions": False,
    "output_hidden_states": False,
}
PROCESSES = "synced_gpus"
LOST = "`model` must give numbers as logits, but gave nan for {} rows; float16 that overflows does, or a diverged run."
LEAVING = 8
"""Ended rows leave as soon as they are one in so many, because what is cached of the others is copied."""


def decodes_alike(model: Any, options: Mapping[str, Any]) -> bool:
    """Whether `decode` gives what transformers' own loop would give, up to rounding and random numbers.

    All that is set, by these options of `generate`, their `generation_config` or the model's, must be known to treat
    every row by itself. So must the adapters, which may be Panacea's only, and the model must decode as others do.
    """
    base = getattr(model, "get_base_model", lambda: model)()
    configs = base.generation_config, options.get("generation_config")
    given = {name: value for config in configs if config is not None for name, value in config.to_diff_dict().items()}
    given.update((name, value) for name, value in options.items() if name not in ("generation_config", PROCESSES))
    return (
        all(
            name in BY_ROW or value is None or (name in NEUTRAL and value == NEUTRAL[name])
            for name, value in given.items()
        )
        and all(isinstance(config, PanaceaConfig) for config in getattr(model, "peft_config", {}).values())
        and all(getattr(type(base), name) is getattr(GenerationMixin, name) for name in ("generate", "_sample"))
    )


def options_of_decode(model: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """The same options of `generate`, for its call with `decode`, which it does not tell about other processes."""
    kept = {name: value for name, value in options.items() if name != PROCESSES}
    return {**kept, "custom_generate": decode, "in_step": runs_in_step(model, options)}


def runs_in_step(model: Any, options: Mapping[str, Any]) -> bool:
    """Whether all processes must run the model equally often, as `generate` sees it with these options."""
    base = getattr(model, "get_base_model", lambda: model)()
    return base._extract_generation_mode_kwargs(None, {}, options.get(PROCESSES), None, None)[PROCESSES]


def decode(
    model: Any,
    input_ids: Tensor,
    logits_processor: Callable[[Tensor, Tensor], Tensor],
    stopping_criteria: Callable[[Tensor, Any], Tensor],
    generation_config: GenerationConfig,
    in_step: bool = False,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """A `custom_generate` of transformers: greedy or sampled, and rows that have ended are computed no more.

    What is drawn for a row does not depend on which others have left. Where the cache is of a kind that no row can be
    taken from, none leaves. With `in_step` the model runs until all processes are done, as by `synced_gpus`, which
    transformers keeps from a function like this one.

    Returns:
        The prompts with what follows them, [B, P + T], padding after the end, and the log-probabilities of the T
        tokens before anything modified the logits, [B, T], float32.

    Raises:
        ValueError: logits are nan.
    """
    B, device, pad = len(input_ids), input_ids.device, generation_config.pad_token_id
    precision = torch.float32 if device.type == "mps" else torch.float64  # which mps has not
    rows, going, left = torch.arange(B, device=device), torch.ones(B, dtype=torch.bool, device=device), B
    ids = input_ids
    tokens: list[Tensor] = []
    likelihoods: list[Tensor] = []
    inputs = model.prepare_inputs_for_generation(ids, is_first_iteration=True, **kwargs)
    with ExitStack() as scopes:
        while model._has_unfinished_sequences(left == 0, in_step, device):
            outputs = model(**inputs, return_dict=True)
            kwargs = model._update_model_kwargs_for_generation(outputs, kwargs)
            if not tokens:
                scopes.enter_context(model._optimize_model_for_decode())
                preferences, may_leave = scopes.enter_context(ExitStack()), _can_lose_rows(kwargs, B)
            if left:
                logits = outputs.logits[:, -1].to(device, torch.float32)
                scores = logits_processor(ids, logits)
                if generation_config.do_sample:
                    chosen = draw(scores, torch.rand(B, 1, dtype=precision, device=device)[rows])
                else:
                    chosen = scores.argmax(-1)
                chosen = chosen.where(going, pad)
                known = logits.log_softmax(-1).gather(-1, chosen[:, None])[:, 0]
                lost = (known.isnan() & going).sum()
                tokens.append(ids.new_full((B,), pad).index_copy(0, rows, chosen))
                likelihoods.append(known.new_zeros(B).index_copy(0, rows, known))
                ids = torch.cat([ids, chosen[:, None]], dim=1)
                going &= ~stopping_criteria(ids, None)
                left, lost = torch.stack([going.sum(), lost]).tolist()  # at once, because a GPU has to be waited for
                if lost:
                    raise ValueError(LOST.format(lost))
            if left and may_leave and LEAVING * (len(rows) - left) >= len(rows):
                kept = going.nonzero()[:, 0]
                kwargs["past_key_values"].batch_select_indices(kept)
                kwargs = {name: value[kept] if isinstance(value, Tensor) else value for name, value in kwargs.items()}
                ids, rows, going = ids[kept], rows[kept], going[kept]
                preferences.close()
                preferences.enter_context(_preferences_of(model, rows.cpu(), B))
            inputs = model.prepare_inputs_for_generation(
                ids, next_sequence_length=1 if kwargs["use_cache"] else None, **kwargs
            )
    return torch.cat([input_ids, torch.stack(tokens, dim=1)], dim=1), torch.stack(likelihoods, dim=1)


def draw(scores: Tensor, uniform: Tensor) -> Tensor:
    """One token for each row, [b], where the uniform number of the row, [b, 1], falls among the probabilities.

    `torch.multinomial` draws a number for every token of the vocabulary, which takes longer than the rest of a step's
    sampling.
    """
    up_to = scores.softmax(-1).cumsum(-1, dtype=uniform.dtype)
    return torch.searchsorted(up_to, uniform * up_to[:, -1:], right=True)[:, 0].clamp(max=scores.shape[1] - 1)


def _can_lose_rows(kwargs: Mapping[str, Any], B: int) -> bool:
    """Whether all that a model goes on with has a row for each of the batch, and can be narrowed to some."""
    cache: Any = kwargs.get("past_key_values")
    return (
        type(cache) is DynamicCache
        and all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers)
        and all(value.ndim == 2 and len(value) == B for value in kwargs.values() if isinstance(value, Tensor))
    )


def _preferences_of(model: Any, rows: Tensor, B: int) -> AbstractContextManager[None]:
    """Within the block a preference for each of B rows is one for each of these."""
    layer = find_layer(model)
    if layer is None:
        return nullcontext()
    seen = {name: layer.preference_state.get(name) for name in layer.preference_state.objectives}
    per_row = {name: preference for name, preference in seen.items() if preference.ndim == 2 and len(preference) == B}
    return layer.preference_state.block({name: preference[rows] for name, preference in per_row.items()})
