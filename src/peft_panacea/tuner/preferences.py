"""What a preference is: the forms it may have, and how it is validated."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

SUM_TOLERANCE = 1e-4
"""How far from 1 the entries of a preference may sum: room for half-precision input, not for a wrong preference."""

_FLOAT32_MAX = float(np.finfo(np.float32).max)

ROUNDING = 1e-8
"""How far below 0 an entry may lie and still count as 0: ``1 - 0.9 - 0.1`` is -2.8e-17 in float64."""

Preference: TypeAlias = "Sequence[float] | Mapping[str, float] | np.ndarray | Tensor"
"""One preference: m numbers in the order of the objectives, or one number for every objective name."""

Preferences: TypeAlias = "Preference | Sequence[Preference]"
"""One preference for the whole batch, or B of them (also as a [B, m] array or tensor), one for every row."""


def parse_preference(preference: Preferences, objectives: Sequence[str], *, extrapolate: bool = False) -> Tensor:
    """Validate `preference` and return it as a float32 CPU tensor.

    Args:
        preference: One preference, or one for every row of a batch.
        objectives: The m objective names, in the order of the entries.
        extrapolate: Accept any finite numbers, also outside the simplex.

    Returns:
        A new tensor of shape [m], or [B, m] for B rows, without gradient.

    Raises:
        TypeError: `preference` is not made of real numbers.
        ValueError: wrong length, unknown or missing names, NaN or infinity, and, unless `extrapolate`, an entry
            below 0 (by more than `ROUNDING`) or a sum that differs from 1 by more than `SUM_TOLERANCE`.
    """
    if isinstance(preference, list | tuple) and preference and not any(map(_is_number, preference)):
        rows = [_numbers(row, objectives, f"`preference` row {i}") for i, row in enumerate(preference)]
        for i, row in enumerate(rows):
            if row.ndim != 1:
                raise ValueError(
                    f"`preference` row {i} must be one preference with {len(objectives)} entries, "
                    f"but got shape {tuple(row.shape)}."
                )
            _check(row[None], objectives, extrapolate, first_row=i)
        values = np.stack(rows)
    else:
        values = _numbers(preference, objectives, "`preference`")
        rows_or_one = values if values.ndim == 2 else values[None]
        if rows_or_one.ndim != 2 or rows_or_one.shape[0] == 0:
            m = len(objectives)
            raise ValueError(f"`preference` must have shape ({m},) or (B, {m}), but got {tuple(values.shape)}.")
        _check(rows_or_one, objectives, extrapolate, first_row=0 if values.ndim == 2 else None)
    if not extrapolate:
        values = values.clip(min=0.0)
    with torch.inference_mode(False):  # the preference may outlive the mode it is set in, and be trained under
        return torch.tensor(values, dtype=torch.float32, device="cpu")


def _is_number(value: Any) -> bool:
    if isinstance(value, np.ndarray | Tensor):
        return value.ndim == 0
    return isinstance(value, numbers.Real)


def _numbers(value: Any, objectives: Sequence[str], what: str) -> np.ndarray:
    """Turn a mapping, sequence, array or tensor of real numbers into a float64 array."""
    if isinstance(value, Mapping):
        if set(value) != set(objectives):
            raise ValueError(f"{what} must name exactly the objectives {list(objectives)}, but got {list(value)}.")
        value = [value[name] for name in objectives]
    if isinstance(value, Tensor):
        if value.is_complex() or value.dtype == torch.bool or value.is_meta:
            raise TypeError(f"{what} must hold real numbers, but got a tensor of {value.dtype} on {value.device}.")
        return value.detach().to("cpu", torch.float64).numpy()
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "fiu":
            raise TypeError(f"{what} must hold real numbers, but got an array of {value.dtype}.")
        return value.astype(np.float64)
    if not isinstance(value, list | tuple):
        raise TypeError(
            f"{what} must be a list, tuple, array, tensor or mapping of numbers, but got {type(value).__name__}."
        )
    return np.array([_number(entry, what) for entry in value], dtype=np.float64)


def _number(entry: Any, what: str) -> float:
    scalar = entry.item() if isinstance(entry, np.ndarray | Tensor) and entry.ndim == 0 else entry
    if isinstance(scalar, bool | np.bool_) or not isinstance(scalar, numbers.Real):
        raise TypeError(f"{what} must hold real numbers, but got {entry!r}.")
    try:
        return float(scalar)
    except OverflowError:
        return math.inf


def _check(rows: np.ndarray, objectives: Sequence[str], extrapolate: bool, first_row: int | None) -> None:
    """Check a [B, m] array; `first_row` numbers the rows in the message, None means that there is only one."""
    m = len(objectives)
    rule = f"{m} finite entries" if extrapolate else f"{m} non-negative entries that sum to 1"
    for i, row in enumerate(rows):
        valid = row.size == m and bool((np.abs(row) <= _FLOAT32_MAX).all())
        if valid and not extrapolate:
            valid = bool((row >= -ROUNDING).all()) and abs(row.sum() - 1.0) <= SUM_TOLERANCE
        if not valid:
            what = "`preference`" if first_row is None else f"`preference` row {first_row + i}"
            found = ", ".join(f"{entry:.6g}" for entry in row[:12]) + (", …" if row.size > 12 else "")
            raise ValueError(f"{what} must have {rule}, for {', '.join(objectives)}, but got [{found}].")
