"""What steering does to the losses of a few rows that are always the same."""

from __future__ import annotations

from itertools import islice
from typing import Any

import torch
from torch import Tensor

from ..data.rows import Batch
from ..tuner.steering import preference_kept
from .steering_log import of_losses


class LossProbe:
    """The first rows of each objective in the evaluation data, tried under it alone and under the others equally.

    The loss is the trainer's own, without gradient and dropout. Every process tries the same rows, so that nothing is
    gathered.

    Args:
        trainer: One with `ObjectiveLossMixin` and more than one objective. Objectives without evaluation rows are
            left out.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        rows, size = trainer.preference_args.steering_rows, trainer.args.per_device_eval_batch_size
        collate = trainer._get_collator_with_removed_columns(trainer.data_collator)
        self.parts: dict[str, list[tuple[int, Batch]]] = {}
        with torch.random.fork_rng(devices=[]):  # a collator may draw
            for name in trainer.objectives:
                first = list(islice((trainer.eval_dataset or {}).get(name, ()), rows))
                chunks = [first[start : start + size] for start in range(0, len(first), size)]
                if chunks:
                    self.parts[name] = [(len(chunk), collate(chunk)) for chunk in chunks]

    def numbers(self) -> dict[str, float]:
        """What `steering_log.of_losses` makes of the losses; training goes on as if nothing had been tried."""
        trainer, m = self.trainer, len(self.trainer.objectives)
        training, counted = trainer.model.training, (trainer._phase, trainer._draws)
        low: dict[str, float] = {}
        high: dict[str, float] = {}
        trainer.model.eval()
        with preference_kept(trainer.model), torch.random.fork_rng(devices=[]), torch.no_grad():
            for name in self.parts:
                alone = torch.eye(m)[trainer.objectives.index(name)]
                high[name] = self._loss(name, alone)
                low[name] = self._loss(name, (1 - alone) / (m - 1))
        trainer.model.train(training)
        trainer._phase, trainer._draws = counted
        return of_losses(low, high)

    def _loss(self, name: str, preference: Tensor) -> float:
        trainer, total, rows = self.trainer, 0.0, 0
        with trainer._measuring(preference), trainer.compute_loss_context_manager():
            for n, batch in self.parts[name]:
                total += n * trainer.compute_loss(trainer.model, trainer._prepare_inputs(batch)).mean().item()
                rows += n
        return total / rows
