"""The part of the simplex that preferences are kept to: for some objectives the least and the greatest weight."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Bounds = Mapping[str, Sequence[float]]
"""Objective → (least, greatest)."""

BOUND_TOLERANCE = 1e-6
"""How far outside its bounds a weight may lie and still be moved to them: room for float32, not for another weight."""


def checked_bounds(
    bounds: Any, objectives: Sequence[str], what: str = "preference_bounds"
) -> dict[str, tuple[float, float]]:
    """The bounds as they are saved; errors call them `what`.

    Raises:
        TypeError: `bounds` is no mapping from objectives to pairs of numbers.
        ValueError: an objective is unknown, a pair is not 0 ≤ least ≤ greatest ≤ 1, or no preference is within all.
    """
    if not isinstance(bounds, Mapping):
        raise TypeError(f"`{what}` must map objectives to (least, greatest), but got {bounds!r}.")
    found = {}
    for name, pair in bounds.items():
        if name not in objectives:
            raise ValueError(f"`{what}` must name objectives of {list(objectives)}, but got {name!r}.")
        if not (isinstance(pair, list | tuple) and len(pair) == 2 and all(map(_is_real, pair))):
            raise TypeError(f"`{what}[{name!r}]` must be (least, greatest), but got {pair!r}.")
        least, greatest = map(float, pair)
        if not 0 <= least <= greatest <= 1:
            raise ValueError(f"`{what}[{name!r}]` must have 0 ≤ least ≤ greatest ≤ 1, but got {pair!r}.")
        found[name] = (least, greatest)
    lows, highs = limits(found, objectives)
    if math.fsum(lows) > 1 or math.fsum(highs) < 1:
        raise ValueError(
            f"`{what}` must leave weights that sum to 1, but the least sum to "
            f"{math.fsum(lows):.6g} and the greatest to {math.fsum(highs):.6g}."
        )
    return found


def in_words(bounds: Bounds) -> str:
    """For people: `harmless 0.3 to 1, brief 0 to 0.5`."""
    return ", ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in bounds.items())


def limits(bounds: Bounds, objectives: Sequence[str]) -> tuple[list[float], list[float]]:
    """The least and the greatest weight of every objective on the simplex."""
    pairs = [bounds.get(name, (0.0, 1.0)) for name in objectives]
    return [low for low, _ in pairs], [high for _, high in pairs]


def within(row: list[float], objectives: Sequence[str], bounds: Bounds, what: str) -> list[float]:
    """The entries, those that miss their bounds by rounding moved to them; refused further outside.

    Objectives without bounds are not looked at, so that it serves preferences off the simplex as well.
    """
    moved = []
    for name, entry in zip(objectives, row, strict=True):
        low, high = bounds.get(name, (-math.inf, math.inf))
        if not low - BOUND_TOLERANCE <= entry <= high + BOUND_TOLERANCE:
            raise ValueError(
                f"{what} must have {name!r} between {low:g} and {high:g}, which the adapter's `preference_bounds` "
                f"allow, but got {entry:.6g}; `nearest_preference` finds one that they allow."
            )
        moved.append(min(max(entry, low), high))
    return moved


def nearest(row: Sequence[float], lows: Sequence[float], highs: Sequence[float]) -> list[float]:
    """The point nearest to `row` (Euclidean) that sums to 1 between these limits, which must leave one.

    It is clip(row - t, low, high) for the one t with which it sums to 1; the sum falls with t.
    """

    def shifted(t: float) -> list[float]:
        return [min(max(entry - t, low), high) for entry, low, high in zip(row, lows, highs, strict=True)]

    for _ in range(4):  # from t on again, as long as it is too large for the digits of weights
        below, above = min(row) - 1.0, max(row)  # where the sum is the highest possible, and the lowest
        for _ in range(200):
            middle = (below + above) / 2
            if middle in (below, above):
                break
            below, above = (middle, above) if math.fsum(shifted(middle)) > 1 else (below, middle)
        row = [entry - above for entry in row]
        if abs(math.fsum(shifted(0.0)) - 1) < 1e-12:
            break
    return shifted(0.0)


def nearest_rows(rows: Tensor, lows: Sequence[float], highs: Sequence[float]) -> Tensor:
    """`nearest` of every row of [..., m], float32 on the CPU."""
    found = [nearest(row, lows, highs) for row in rows.double().reshape(-1, rows.shape[-1]).tolist()]
    return torch.tensor(found, dtype=torch.float32, device="cpu").view(rows.shape)


def kept_to(grid: Tensor, lows: Sequence[float], highs: Sequence[float]) -> Tensor:
    """Each of n points, [n, m], or the nearest to it between these limits, in order and only once, [k, m]."""

    def same(points: Tensor, others: Tensor) -> Tensor:  # by distance, because rounding crosses any border of digits
        return (points - others).abs().amax(dim=-1) <= BOUND_TOLERANCE

    moved = nearest_rows(grid, lows, highs)
    found = torch.where(same(moved, grid)[:, None], grid, moved)
    return found[[i for i in range(len(found)) if not same(found[:i], found[i]).any()]]


def _is_real(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
