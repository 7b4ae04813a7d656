"""How likely the completions of a generation are under the base model."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

PROBED = 8
"""Completions of each process that are asked for where TRL does not ask for all: one forward of them, no gradient."""


@torch.no_grad()
def base_log_perplexity(trainer: Any, output: dict[str, Any], reference: Tensor) -> float:
    """Mean of -log q over the tokens of completions of all processes, q being the model without its adapter, in nats.

    Args:
        trainer: One with `ObjectiveRewardMixin`.
        output: What TRL's `_generate_and_score_completions` returns, B completions of at most T tokens.
        reference: [B, T], the log-probabilities that TRL computed last. Where there is a KL term (`beta` is not 0)
            they are those of its reference, which is q here, too, unless an adapter is trained further: then it is a
            copy of that, "ref". Where it is not q, `PROBED` completions are asked for.

    Returns:
        NaN where it cannot be asked: for images, and for a model whose adapter PEFT cannot disable.
    """
    mask, logps = output["completion_mask"], reference
    model = trainer.accelerator.unwrap_model(trainer.model)
    if trainer.beta == 0 or "ref" in getattr(model, "peft_config", {}):
        if "pixel_values" in output or not hasattr(model, "disable_adapter"):
            return math.nan
        some = slice(None, None, -(-len(mask) // PROBED))  # of as many prompts as possible
        ids, attention = (
            torch.cat([output[f"prompt_{what}"], output[f"completion_{what}"]], dim=1)[some]
            for what in ("ids", "mask")
        )
        mask, size = mask[some], trainer.args.per_device_train_batch_size
        with model.disable_adapter():
            logps, *_ = trainer._get_per_token_logps_and_entropies(
                trainer.model, ids, attention, mask.size(1), batch_size=size
            )
    sums = torch.stack([-(logps * mask).sum(), mask.sum()])
    total, count = trainer.accelerator.reduce(sums, reduction="sum")
    return (total / count.clamp(min=1)).item()
