"""Preferences in hundredths, so that a server is asked for a bounded number of adapters."""

from __future__ import annotations

import math
from collections.abc import Sequence

STEPS = 100
"""From one vertex of the simplex to another."""


def hundredths(preference: Sequence[float]) -> list[int]:
    """The preference in whole steps of 1/100, by largest remainders.

    Every entry is rounded down; what is then missing from 100 goes, one step each, to the entries that lost most, the
    earlier one where two lost the same. So no entry moves by a whole step, and what is in whole steps stays.

    Args:
        preference: m numbers ≥ 0 whose sum is 1, but for the tolerance of `parse_preference`.

    Returns:
        m integers ≥ 0 whose sum is 100.
    """
    total = math.fsum(preference)
    # Four digits, because 0.695 and 0.305 lose the same, half a step, but not quite as float32.
    exact = [round(STEPS * entry / total, 4) for entry in preference]
    down = [math.floor(entry) for entry in exact]
    by_loss = sorted(range(len(exact)), key=lambda i: down[i] - exact[i])
    for i in by_loss[: STEPS - sum(down)]:
        down[i] += 1
    return down
