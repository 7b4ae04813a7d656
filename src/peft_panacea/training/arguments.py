"""How preferences are drawn in training, and how objectives are aggregated under them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from torch import Tensor

from ..aggregation import linear, smooth_tchebycheff, tchebycheff
from ..simplex import PreferenceSampler


@dataclass
class PreferenceArguments:
    """Arguments of both mixins; `transformers.HfArgumentParser` and TRL's `TrlParser` make flags of them.

    Raises:
        ValueError: A word that is none of the choices, a smoothing that is not positive, an ideal point that is
            not finite, or values that `PreferenceSampler` refuses. What does not go together is refused by the mixins.
    """

    preference_per: Literal["row", "batch"] = field(
        default="row",
        metadata={
            "help": "'row': every row of the batch (RL: every prompt, with all its completions) has a preference of "
            "its own. 'batch': one preference for each optimizer step (RL: each generation), on all processes, as in "
            "the paper."
        },
    )
    preference_distribution: Literal["stratified", "uniform", "dirichlet"] = field(
        default="stratified",
        metadata={"help": "Distribution of the preferences; 'stratified' is uniform and evenly spread in a batch."},
    )
    preference_concentration: float = field(
        default=1.0, metadata={"help": "Concentration of the symmetric Dirichlet distribution; 1 is uniform."}
    )
    vertex_probability: float | None = field(
        default=None,
        metadata={
            "help": "Share of preferences, in [0, 1], that are one objective alone. Not given: half of them for rows "
            "trained on losses, none otherwise."
        },
    )
    aggregation: Literal["linear", "tchebycheff", "smooth_tchebycheff"] = field(
        default="linear",
        metadata={
            "help": "What is optimised under a preference; of losses, all but 'linear' want one for each batch."
        },
    )
    ideal_point: list[float] | None = field(
        default=None,
        metadata={
            "help": "Best value of each objective for the Tchebycheff kinds: of losses 0 if not given; of rewards "
            "to be given, in standard deviations above the mean if rewards are normalised."
        },
    )
    smoothing: float = field(default=0.1, metadata={"help": "Temperature of the smooth Tchebycheff aggregation, > 0."})
    steering_rows: int = field(
        default=8,
        metadata={
            "help": "Rows of each objective, ≥ 0, the first of the evaluation data, on which every log tries whether "
            "losses are steered; 0 tries nothing. Rewards need none: their log looks at the completions of training."
        },
    )
    trained_objectives: list[str] | None = field(
        default=None,
        metadata={
            "help": "Objectives that training is confined to: rows of theirs alone, under preferences in which the "
            "others weigh nothing, so that the others' own directions stay as they are. Not given: all."
        },
    )
    freeze_shared: bool = field(
        default=False,
        metadata={
            "help": "Whether what all objectives share stays as it is: shared directions, and the scale unless each "
            "objective has its own."
        },
    )

    def __post_init__(self) -> None:
        for name, allowed in (
            ("preference_per", ("row", "batch")),
            ("aggregation", ("linear", "tchebycheff", "smooth_tchebycheff")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"`{name}` must be one of {list(allowed)}, but got {getattr(self, name)!r}.")
        if not 0 < self.smoothing < math.inf:
            raise ValueError(f"`smoothing` must be greater than 0 and finite, but got {self.smoothing}.")
        if self.ideal_point is not None and not all(map(math.isfinite, self.ideal_point)):
            raise ValueError(f"`ideal_point` must have finite values, but got {self.ideal_point}.")
        if self.steering_rows < 0:
            raise ValueError(f"`steering_rows` must be at least 0, but got {self.steering_rows}.")
        self.sampler(2, seed=0)

    def sampler(self, objectives: int, seed: int, vertex_probability: float = 0.0) -> PreferenceSampler:
        """The sampler for a number of objectives, with this share of vertices if the arguments do not say which."""
        return PreferenceSampler(
            objectives=objectives,
            distribution=self.preference_distribution,
            concentration=self.preference_concentration,
            vertex_probability=vertex_probability if self.vertex_probability is None else self.vertex_probability,
            seed=seed,
        )

    def aggregate(self, sign: float = 1.0) -> Callable[[Tensor, Tensor], Tensor]:
        """The aggregation as a function of losses and preference; `sign` = -1 if the ideal point is one of rewards."""
        if self.aggregation == "linear":
            return linear
        ideal = [sign * value for value in self.ideal_point] if self.ideal_point else 0.0
        if self.aggregation == "tchebycheff":
            return partial(tchebycheff, ideal=ideal)
        return partial(smooth_tchebycheff, ideal=ideal, temperature=self.smoothing)
