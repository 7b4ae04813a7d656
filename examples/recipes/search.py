"""Extrapolation after training, of `mva.py` and `peo.py`: which combinations of what was learned are worth having."""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from blocks import BlockArguments, Blocks
from peft_panacea import PanaceaConfig, simplex_grid
from peft_panacea.metrics import non_dominated
from recipe import keep_held_out, write_front


@dataclass
class SearchArguments(BlockArguments):
    """The flags of both."""

    grid_steps: int = field(default=10, metadata={"help": "Steps of the grid of combinations along each objective."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.grid_steps < 1:
            raise ValueError(f"`--grid_steps` must be at least 1, but got {self.grid_steps}.")
        some = [1.0] * len(self.objectives)  # what could not be a name is refused before anything is trained
        replace(self.peft_config(), named_preferences={name_of(self.objectives, some): some})


def free(m: int, n: int, highest: float) -> Tensor:
    """Every combination of weights that are multiples of C/n up to C = `highest`, without 0, [n^m, m]."""
    if not highest > 0:
        raise ValueError(f"`--highest` must be above 0, but got {highest}.")
    axis = torch.arange(1, n + 1) / n * highest
    return torch.cartesian_prod(*[axis] * m).reshape(-1, m)


def around(m: int, n: int, highest: float) -> Tensor:
    """Every combination of multiples of 1/n that sum to 1, where none is below -(C - 1) / (m - 1), C = `highest`.

    So it is the grid of the simplex, enlarged by whole steps, and no weight is above C; for C = 1 it is that grid.
    """
    if not highest >= 1 or m < 2:
        raise ValueError(f"`--highest` must be at least 1, of at least two objectives, but got {highest} of {m}.")
    beyond = int((highest - 1) * n / (m - 1) + 1e-9)
    return (simplex_grid(m, n + m * beyond) * (n + m * beyond) - beyond).round() / n


def name_of(objectives: list[str], preference: list[float]) -> str:
    """Such as `polite_0.5_brief_1`, as the adapter has it."""
    weights = "_".join(f"{name}_{weight:.4g}" for name, weight in zip(objectives, preference, strict=True))
    return re.sub(r"[^\w.-]", "_", weights)


def search(blocks: Blocks, start: Path, grid: Tensor, output: Path) -> None:
    """Score a grid on validation, keep what no other beats there, measure that on the test part, and name it."""
    trainer = blocks.trainer(output, start, blocks.validation)
    keep_held_out(trainer, blocks.test)
    scored = blocks.score(trainer, grid, "validation")
    kept = grid[torch.from_numpy(non_dominated(scored.values, maximise=scored.maximise))]
    front = blocks.score(trainer, kept, "test")
    trainer.save_model()
    named = {name_of(blocks.recipe.objectives, row): row for row in front.preferences.tolist()}
    if trainer.is_world_process_zero():
        scored.to_json(output / "validation.json")
        config = PanaceaConfig.from_pretrained(output)
        config.named_preferences = named
        config.save_pretrained(output)
        print(f"\nOf {len(grid)} combinations {len(kept)} are beaten by no other on validation. Of these on the test:")
    write_front(trainer, front, blocks.unit, combinations=len(grid), kept=len(kept))
    if trainer.is_world_process_zero():
        print(f"The adapter knows them by name, set_preference({next(iter(named))!r}) and so on.")
