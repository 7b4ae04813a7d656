"""How far each objective follows its own weight: the numbers of the log that answer "does it steer?"."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

WINDOW = 48
"""How many preferences are looked back on: thirds of 16 tell a gap of about 0.7 standard deviations from noise."""

SMALLEST = 6
"""How many preferences there must be at either end; with fewer, their spread says little about the noise."""

NOISE = 2.0
"""How many of its standard errors a gap of rewards must have. Without steering one in forty has, at any one time."""

NOTICEABLE = 0.01
"""How large a gap of losses must be, as a share of the loss. Their rows are always the same, so there is no noise."""


class SteeringLog:
    """The latest rewards with the preferences they were sampled under, and what they say about each objective.

    One observation is one preference with the mean rewards of all its completions: those of a prompt if each prompt
    has its own, those of a generation if they share one. Of the latest `WINDOW` that have a reward for an objective,
    the third with the highest own weight is compared with the third with the lowest. Equal weights stay together,
    among the low ones first; so vertices alone leave 1 against 0, whatever their number.

    Args:
        objectives: Names of the m objectives.
    """

    def __init__(self, objectives: list[str]) -> None:
        self.objectives = objectives
        self._latest: deque[np.ndarray] = deque(maxlen=WINDOW)

    def add(self, preferences: Tensor, rewards: Tensor) -> None:
        """Observations in the order in which they were made, both [n, m]; a reward may be NaN."""
        both = [tensor.detach().double().cpu().numpy() for tensor in (preferences, rewards)]
        self._latest.extend(np.stack(both, axis=1))

    def numbers(self) -> dict[str, float]:
        """What is logged; nothing of an objective that has too few observations, or only one weight.

        `steering/<objective>/high` and `low` are mean rewards, `gap` is their difference, `error` its standard error,
        and `steering/steered` is the share of these objectives whose gap is beyond noise.
        """
        numbers: dict[str, float] = {}
        for i, name in enumerate(self.objectives):
            observed = np.array([row[:, i] for row in self._latest if not np.isnan(row[1, i])])
            low, high = _ends(*observed.T) if len(observed) else (observed, observed)
            if min(len(low), len(high)) >= SMALLEST:
                error = float(np.sqrt(low.var(ddof=1) / len(low) + high.var(ddof=1) / len(high)))
                numbers |= _of_objective(name, float(low.mean()), float(high.mean()), high.mean() - low.mean())
                numbers[f"steering/{name}/error"] = error
        return _with_share(numbers)


def of_losses(low: Mapping[str, float], high: Mapping[str, float]) -> dict[str, float]:
    """What is logged of losses: of each objective the loss at its low and its high own weight, and low - high."""
    numbers: dict[str, float] = {}
    for name in low:
        numbers |= _of_objective(name, low[name], high[name], low[name] - high[name])
    return _with_share(numbers)


def objectives_in(logs: Mapping[str, Any]) -> list[str]:
    """The objectives of which a log says whether they are steered."""
    return [
        key[len("steering/") : -len("/gap")] for key in logs if key.startswith("steering/") and key.endswith("/gap")
    ]


def is_steered(logs: Mapping[str, Any], objective: str) -> bool:
    """Whether the gap is beyond noise, or, of losses, large enough to notice."""
    low, gap = logs[f"steering/{objective}/low"], logs[f"steering/{objective}/gap"]
    error = logs.get(f"steering/{objective}/error")
    return bool(gap > (NOTICEABLE * abs(low) if error is None else NOISE * error))


def _ends(weights: np.ndarray, rewards: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rewards of the third with the lowest weight and of that with the highest."""
    third = max(len(weights) // 3, 1)
    ascending = np.sort(weights)
    low = weights <= ascending[third - 1]
    high = (weights >= ascending[-third]) & ~low
    return rewards[low], rewards[high]


def _of_objective(name: str, low: float, high: float, gap: float) -> dict[str, float]:
    return {f"steering/{name}/low": low, f"steering/{name}/high": high, f"steering/{name}/gap": float(gap)}


def _with_share(numbers: dict[str, float]) -> dict[str, float]:
    names = objectives_in(numbers)
    if names:
        numbers["steering/steered"] = sum(is_steered(numbers, name) for name in names) / len(names)
    return numbers
