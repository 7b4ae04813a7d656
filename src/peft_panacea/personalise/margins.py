"""How much each objective prefers one answer to another, by the adapter itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor

from ..completions import Prompt, check_can_sample, encode, eval_mode, log_probabilities_by_length
from ..tuner.steering import first_layer, get_objectives, preference_read

Array: TypeAlias = "np.ndarray"

KEYS = ("prompt", "chosen", "rejected")


@torch.no_grad()
def margins(model: Any, pairs: Sequence[Mapping[str, Any]], *, tokenizer: Any) -> Array:
    """For each pair and objective i the difference of the implicit rewards of DPO (section 4 of arXiv 2305.18290) / β:

        dᵢ = log π_eᵢ(chosen) / π₀(chosen) - log π_eᵢ(rejected) / π₀(rejected),

    where π_eᵢ is the model with all weight on objective i, whatever `preference_bounds` allow in use, and π₀ the model
    without its adapter. Each answer is scored once, by m + 1 forwards, however many pairs it is in.

    Args:
        model: A decoder-only `PeftModel` with a Panacea adapter of at least two objectives, unmerged. Its mode and its
            preference are left as they are; the adapter is switched off meanwhile, for everyone.
        pairs: N rows with `prompt`, `chosen` and `rejected`, texts or conversations, as TRL has them: a prompt of
            messages has answers that are texts or messages. What is not yet answered may be in either order.
        tokenizer: Its tokenizer, with a padding token.

    Returns:
        [N, m], float64, nats, in the order of the adapter's objectives. Exchanging the answers changes the sign.

    Raises:
        TypeError: the model is no `PeftModel`, a pair is no mapping, or its prompt is a text and an answer messages.
        ValueError: no pairs, a pair that lacks a key, one objective, a tokenizer without a padding token, an
            encoder-decoder, or a model that says something not finite.
        RuntimeError: the model has no Panacea adapter, or it is merged.
    """
    objectives = _checked(model)
    check_can_sample(model, tokenizer)
    if not len(pairs):
        raise ValueError("`pairs` must hold at least one, but got none.")
    for n, pair in enumerate(pairs):
        if not isinstance(pair, Mapping):
            raise TypeError(f"`pairs` must hold mappings with {', '.join(KEYS)}, but got a {type(pair).__name__}.")
        if missing := [key for key in KEYS if key not in pair]:
            raise ValueError(f"`pairs` must have {', '.join(KEYS)} in each row, but row {n} lacks {missing}.")
    places: dict[str, int] = {}
    said: list[tuple[Prompt, Prompt]] = []
    of_pairs = []
    for pair in pairs:
        for key in KEYS[1:]:
            what = repr((pair["prompt"], pair[key]))
            if what not in places:
                places[what] = len(said)
                said.append((pair["prompt"], pair[key]))
            of_pairs.append(places[what])
    prompts, answers = zip(*said, strict=True)
    batch = encode(tokenizer, prompts, answers)

    def scores() -> Tensor:
        return log_probabilities_by_length(model, batch).double().sum(1).cpu()

    with eval_mode(model):
        with model.disable_adapter():
            base = scores()
        columns = []
        for vertex in torch.eye(len(objectives)):
            with preference_read(model, vertex):
                columns.append(scores() - base)
    rewards = torch.stack(columns, dim=1).numpy()
    chosen, rejected = np.array(of_pairs).reshape(-1, 2).T
    found = rewards[chosen] - rewards[rejected]
    if not np.isfinite(found).all():
        raise ValueError("`model` must give every answer a finite log-probability, but does not.")
    return found


def _checked(model: Any) -> list[str]:
    """The objectives of a model that can be asked."""
    if not isinstance(model, PeftModel):
        raise TypeError(f"`model` must be a `PeftModel` with a Panacea adapter, but got a {type(model).__name__}.")
    if first_layer(model).merged_adapters:
        raise RuntimeError("`model` must not be merged, but it is; call `unmerge_adapter` first.")
    objectives = get_objectives(model)
    if len(objectives) < 2:
        raise ValueError(f"`model` must have at least 2 objectives to choose between, but got {objectives}.")
    return objectives
