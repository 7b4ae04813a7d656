"""What objectives that are losses do not go together with."""

from __future__ import annotations

from typing import Any


def refuse_what_cannot_be_right(trainer: Any) -> None:
    """Arguments of a trainer that do not go together.

    Raises:
        ValueError: They do not; the message says which.
    """
    if getattr(trainer, "padding_free", False) and trainer.preference_args.preference_per == "batch":
        raise ValueError(
            "`preference_per` must be 'row' with packing or padding-free batches, which cannot be parted by "
            "objective, but got 'batch'."
        )
    if trainer.preference_args.aggregation != "linear" and trainer.preference_args.preference_per == "row":
        raise ValueError(
            "`preference_per` must be 'batch' unless `aggregation` is 'linear', because others want the losses of "
            f"all objectives under one preference, but got 'row' with {trainer.preference_args.aggregation!r}."
        )
    if getattr(trainer.args, "precompute_ref_log_probs", False) and "ref" in getattr(trainer.model, "peft_config", {}):
        raise ValueError(
            "`precompute_ref_log_probs` must be False when an adapter is trained further, because its reference "
            "depends on the preference, but got True."
        )
    if getattr(trainer.args, "precompute_ref_log_probs", False) and getattr(trainer, "calculate_KL", False):
        raise ValueError(
            "`precompute_ref_log_probs` must be False with the KL term of KTO, whose completions are those of the "
            "batch, which is another in every epoch, but got True."
        )
    if getattr(trainer.args, "predict_with_generate", False):
        raise ValueError(
            "`predict_with_generate` must be False, because rows are evaluated by their loss, each under a preference "
            "of its own, but got True."
        )
