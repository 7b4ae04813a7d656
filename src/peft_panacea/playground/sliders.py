"""Sliders that stay on the simplex: one moves, the others share what is left."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..steps import in_steps

STEPS = 1000
"""Positions of a slider from 0 to 1, without the first."""


def moved(weights: Sequence[float], i: int, value: float) -> list[float]:
    """The preference after one of its sliders was moved.

    The others keep their proportions, as far as they are not all 0; then they share evenly. A single objective keeps
    all the weight.

    Args:
        weights: m numbers ≥ 0.
        i: Which slider.
        value: Where to, from 0 to 1; what is beyond is taken for the end.

    Returns:
        m numbers from 0 to 1 that sum to 1 up to rounding.
    """
    if len(weights) == 1:
        return [1.0]
    value = min(max(value, 0.0), 1.0)
    largest = max(weight for j, weight in enumerate(weights) if j != i)
    parts = [weight / largest if largest > 0 else 1.0 for weight in weights]  # so that no sum of tiny ones is 0
    others = math.fsum(part for j, part in enumerate(parts) if j != i)
    return [value if j == i else (1 - value) * (part / others) for j, part in enumerate(parts)]


def shown(weights: Sequence[float]) -> list[float]:
    """The nearest positions of sliders that are a preference: multiples of 1 / `STEPS` that sum to 1.

    Args:
        weights: m numbers ≥ 0 that sum to about 1.

    Returns:
        m numbers, less than one step from the weights. Steps that rounding down leaves over go to where it took most.
    """
    return [step / STEPS for step in in_steps(weights, STEPS)]
