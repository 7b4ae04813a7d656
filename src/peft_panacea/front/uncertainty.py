"""How far a measurement may be off because other prompts could have been drawn: the percentile bootstrap."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np

Array: TypeAlias = "np.ndarray"

RESAMPLES = 1000


def draws(P: int) -> Iterator[Array]:
    """Resamples of P prompts as indices [P], always the same ones, so that two fronts are resampled alike.

    Raises:
        ValueError: one prompt, which would be drawn every time.
    """
    if P < 2:
        raise ValueError(f"`scores` must have at least 2 prompts for intervals, but got {P}.")
    rng = np.random.default_rng(0)
    return (rng.integers(P, size=P) for _ in range(RESAMPLES))


def resampled_values(scores: Array) -> Array:
    """The mean scores of every resample, [resamples, K, m], from scores [K, P, m]."""
    return np.stack([scores[:, prompts].mean(axis=1) for prompts in draws(scores.shape[1])])


def check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"`level` must be between 0 and 1, but got {level}.")


def bounds(resampled: Array, level: float) -> Array:
    """Lower and upper bounds over the first axis, [2, ...]; as much is left out below as above."""
    check_level(level)
    return np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2], axis=0)
