"""What an objective learns is kept independent of what others have learned before it (MVA, arXiv 2511.17579)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from ..dependence import Update, cosine2, hsic, published
from ..seeding import derive
from .base import PreferenceMixin
from .blocks import all_blocks


@dataclass
class DecorrelationArguments:
    """Arguments of `DecorrelationMixin`; flags, as those of `PreferenceArguments` are.

    Raises:
        ValueError: A weight below 0 or a word that is none of the choices.
    """

    decorrelation: float = field(
        default=1.0, metadata={"help": "Weight of the dependence in the loss, ≥ 0; not tuned. 0 leaves it out."}
    )
    dependence: Literal["hsic", "cosine", "published"] = field(
        default="hsic",
        metadata={
            "help": "What is penalised: 'hsic', 'cosine' (squared, of the updates), or 'published', what MVA's "
            "released code computes, for comparison only."
        },
    )
    earlier: list[str] = field(
        default_factory=list,
        metadata={"help": "Objectives that were trained before, which those trained now are kept independent of."},
    )

    def __post_init__(self) -> None:
        if not 0 <= self.decorrelation < math.inf:
            raise ValueError(f"`decorrelation` must be a finite number of at least 0, but got {self.decorrelation}.")
        if self.dependence not in ("hsic", "cosine", "published"):
            raise ValueError(
                f"`dependence` must be one of ['hsic', 'cosine', 'published'], but got {self.dependence!r}."
            )


class DecorrelationMixin(PreferenceMixin):
    """Put before another mixin: `class MVATrainer(DecorrelationMixin, ObjectiveLossMixin, DPOTrainer)`.

    Training adds α Σᵢⱼ dependence(ΔWᵢ, ΔWⱼ) to the loss, the mean over layers, for each objective i that is trained
    (`trained_objectives` of `PreferenceArguments`) and each earlier one j. Negative values, which chance makes of
    independent updates, count as 0. Only the directions of objective i have a gradient of it.
    `dependence/<i>_<j>` in the log is the mean over layers as it is, without α.

    Args:
        decorrelation_args: α, the kind of dependence, and which objectives came before.

    Raises:
        ValueError: `earlier` names what is no objective or one that is trained, or nothing says what is trained.
    """

    def __init__(self, *args: Any, decorrelation_args: DecorrelationArguments | None = None, **kwargs: Any) -> None:
        self.decorrelation_args = decorrelation_args or DecorrelationArguments()
        super().__init__(*args, **kwargs)
        earlier, trained = self.decorrelation_args.earlier, self.preference_args.trained_objectives
        if earlier and trained is None:
            raise ValueError("`trained_objectives` must name what is trained if `earlier` is given, but got None.")
        for name in earlier:
            if name not in self.objectives or name in (trained or ()):
                others = [other for other in self.objectives if other not in (trained or ())]
                raise ValueError(f"`earlier` must be objectives that are not trained, of {others}, but got {name!r}.")
        self._trained, self._earlier = ([self.objectives.index(name) for name in n or ()] for n in (trained, earlier))
        self._dependences: list[Tensor] = []

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if not self.model.training or not self._earlier or not self.decorrelation_args.decorrelation:
            return result
        loss = result[0] if return_outputs else result
        penalty = self.decorrelation_args.decorrelation * self._dependence().to(loss.device)
        if self._sums_micro_batches(num_items_in_batch):
            penalty = penalty / self.current_gradient_accumulation_steps
        return (loss + penalty, result[1]) if return_outputs else loss + penalty

    def _dependence(self) -> Tensor:
        """The sum over pairs of what is penalised, without its weight."""
        generator = torch.Generator().manual_seed(derive(self.args.seed, "dependence", self.state.global_step))
        kinds: dict[str, Callable[[Update, Update], Tensor]] = {
            "hsic": partial(hsic, generator=generator), "cosine": cosine2, "published": published,
        }  # fmt: skip
        kind = kinds[self.decorrelation_args.dependence]
        device = next(self.model.parameters()).device
        of_shapes = []
        with torch.autocast(device.type, enabled=False):
            for blocks in all_blocks(self.model):
                U, V = blocks[self._earlier]
                before = U.detach(), V.detach()
                of_shapes.append(torch.stack([kind(blocks[i], before) for i in self._trained]).to(device))
        values = torch.cat(of_shapes, dim=-1)  # [trained, earlier, layers]
        self._dependences.append(values.detach().mean(dim=-1))
        return values.relu().mean(dim=-1).sum()

    def _sums_micro_batches(self, num_items_in_batch: Any) -> bool:
        """Whether the losses of micro-batches are added, and not averaged, as `Trainer.training_step` decides it."""
        if self.loss_is_scaled_for_ga is not None:
            return bool(self.loss_is_scaled_for_ga)
        by_model = self.model_accepts_loss_kwargs and num_items_in_batch is not None
        return bool(by_model or self.compute_loss_func is not None)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs and self._dependences:
            means = torch.stack(self._dependences).mean(dim=0).tolist()
            for i, row in zip(self._trained, means, strict=True):
                for j, mean in zip(self._earlier, row, strict=True):
                    logs = {**logs, f"dependence/{self.objectives[i]}_{self.objectives[j]}": mean}
            self._dependences.clear()
        super().log(logs, *args, **kwargs)
