"""The mean of the last iterates in place of the last one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

FILE = "average.pt"


class IterateAverage(TrainerCallback):
    """Leaves the model at the mean of its trained parameters after each step of the last `share` of a training.

    The mean of the iterates of a constant or slowly falling learning rate lies where the noise of single steps has
    cancelled (Polyak & Juditsky 1992). What is saved while training are the iterates themselves; in each checkpoint
    lies the sum so far, so that a run that goes on ends with the mean that it would have ended with.

    Args:
        share: Of the steps, above 0 and at most 1.

    Raises:
        ValueError: `share` is something else; when training begins, `load_best_model_at_end`, whose model it would
            replace.
    """

    def __init__(self, share: float = 0.5) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"`share` must be above 0 and at most 1, but got {share!r}.")
        self.share = share
        self.steps = 0
        self.sums: dict[str, Tensor] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.load_best_model_at_end:
            raise ValueError(
                "`load_best_model_at_end` must be False with `IterateAverage`, which leaves the mean of the last "
                "iterates, but got True."
            )
        self.steps, self.sums = 0, {}
        checkpoint = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}" / FILE
        if state.global_step and checkpoint.exists():
            stored = torch.load(checkpoint, map_location="cpu", weights_only=True)
            self.steps, self.sums = stored["steps"], stored["sums"]

    @torch.no_grad()
    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step <= math.floor(state.max_steps * (1 - self.share) + 1e-9):  # 1 - 0.9 is less than 0.1
            return
        self.steps += 1
        for name, parameter in _trained(model):
            value = parameter.detach().to(torch.promote_types(parameter.dtype, torch.float32), copy=True)
            self.sums[name] = self.sums[name].to(value.device).add_(value) if name in self.sums else value

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero and self.steps:
            folder = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
            torch.save({"steps": self.steps, "sums": self.sums}, folder / FILE)

    @torch.no_grad()
    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if self.steps:
            for name, parameter in _trained(model):
                parameter.copy_(self.sums[name] / self.steps)


def _trained(model: Any) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
