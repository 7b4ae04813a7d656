"""A preference in whole steps: the positions of a slider, or a bounded number of adapters."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

ROUNDING = 1e-6
"""How far a limit may lie from a step that it is meant to be on, in steps."""


def in_steps(preference: Sequence[float], steps: int) -> list[int]:
    """The preference in whole steps of 1 / `steps`, by largest remainders.

    Every entry is rounded down; what is then missing goes, one step each, to the entries that lost most, the earlier
    one where two lost the same. So no entry moves by a whole step, and what is in whole steps stays.

    Args:
        preference: m numbers ≥ 0 whose sum is about 1.
        steps: From one vertex of the simplex to another.

    Returns:
        m integers ≥ 0 whose sum is `steps`.
    """
    total = math.fsum(preference)
    # Four digits, because 0.695 and 0.305 lose the same, half a step of 100, but not quite as float32.
    exact = [round(steps * entry / total, 4) for entry in preference]
    down = [math.floor(entry) for entry in exact]
    by_loss = sorted(range(len(exact)), key=lambda i: down[i] - exact[i])
    for i in by_loss[: steps - sum(down)]:
        down[i] += 1
    return down


def limits_in_steps(
    lows: Sequence[float], highs: Sequence[float], steps: int
) -> tuple[list[float], list[float]] | None:
    """The limits of m entries moved inward to whole steps of 1 / `steps`, or None if they leave no preference."""
    least = [math.ceil(steps * low - ROUNDING) for low in lows]
    greatest = [math.floor(steps * high + ROUNDING) for high in highs]
    if sum(least) > steps or sum(greatest) < steps or any(map(operator.gt, least, greatest)):
        return None
    return [low / steps for low in least], [high / steps for high in greatest]
