"""How likely the tokens of completions are."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from .batch import Completions

ROWS = 32
"""Of like length in one forward; more are no faster, and the longer ones among them have more padding beside them."""


def log_probabilities(model: Any, completions: Completions, preference: Any = None) -> Tensor:
    """Log-probability of every completion token given all before it, nats.

    The model runs in the mode it is in, and gradients flow unless they are switched off.

    Args:
        model: A decoder-only causal language model of transformers, with an adapter of any kind or without one.
        completions: Of `sample` or `encode`.
        preference: What `set_preference` takes, such as [B, m]; goes to the model only if it is given.

    Returns:
        [B, T], float32, on the model's device, 0 after the end.
    """
    ids, mask, completion = (t.to(model.device) for t in (completions.ids, completions.mask, completions.completion))
    T = completion.shape[1]
    options = {
        "position_ids": (mask.cumsum(1) - 1).clamp(min=0),
        # Of a long prompt they would be most of the memory. As indices, because what a number slices is not
        # contiguous, and on a CPU a frozen output layer is then copied for every row of the batch.
        "logits_to_keep": torch.arange(ids.shape[1] - T - 1, ids.shape[1], device=ids.device),
        "use_cache": False,
    }
    known = inspect.signature(getattr(model, "get_base_model", lambda: model)().forward).parameters
    options = {name: value for name, value in options.items() if name in known}
    steered = {} if preference is None else {"preference": preference}
    logits = model(input_ids=ids, attention_mask=mask, **options, **steered).logits
    rows = [  # one by one, because a vocabulary in float32 is large
        row.float().log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
        for row, tokens in zip(logits[:, -T - 1 : -1], ids[:, ids.shape[1] - T :], strict=True)
    ]
    return torch.stack(rows).where(completion, 0.0)


@torch.no_grad()
def log_probabilities_by_length(model: Any, completions: Completions) -> Tensor:
    """The same up to rounding, without a preference of their own and without gradients, in forwards of few rows."""
    found = torch.zeros(completions.completion.shape, device=model.device)
    for rows in torch.split(completions.mask.sum(1).argsort(stable=True), ROWS):
        few = log_probabilities(model, completions.select(rows))
        found[rows.to(found.device), : few.shape[1]] = few
    return found
