"""What a preference is: the forms it may have, and how it is validated."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from .bounds import Bounds, within

SUM_TOLERANCE = 1e-4
"""How far from 1 the entries of a preference may sum: room for half-precision input, not for a wrong preference."""

_FLOAT32_MAX = float(np.finfo(np.float32).max)

ROUNDING = 1e-8
"""How far below 0 an entry may lie and still count as 0: ``1 - 0.9 - 0.1`` is -2.8e-17 in float64."""

Preference: TypeAlias = "str | Sequence[float] | Mapping[str, float] | np.ndarray | Tensor"
"""One preference: m numbers in the order of the objectives, one number for every objective name, or a name that the
adapter has for it."""

Names = Mapping[str, Sequence[float]]
"""Name → m numbers."""

Preferences: TypeAlias = "Preference | Sequence[Preference]"
"""One preference for the whole batch, or B of them (also as a [B, m] array or tensor), one for every row; an array or
tensor [B, T, m] has one for every token."""


def parse_preference(
    preference: Preferences,
    objectives: Sequence[str],
    *,
    extrapolate: bool = False,
    bounds: Bounds | None = None,
    names: Names | None = None,
) -> Tensor:
    """Validate `preference` and return it as a float32 CPU tensor.

    Args:
        preference: One preference, one for every row of a batch, or one for every token of every row.
        objectives: The m objective names, in the order of the entries.
        extrapolate: Accept any finite numbers, also outside the simplex.
        bounds: Objective → (least, greatest) weight, which `extrapolate` does not get round.
        names: Preferences by name, finite numbers on the simplex or off it, which need no `extrapolate`.

    Returns:
        A new tensor of shape [m], [B, m] for B rows, or [B, T, m] for T tokens of each, without gradient.

    Raises:
        TypeError: `preference` is not made of real numbers.
        ValueError: wrong length, unknown or missing names, NaN or infinity, an entry outside its bounds (by more than
            `BOUND_TOLERANCE`), and, unless `extrapolate`, an entry below 0 (by more than `ROUNDING`) or a sum that
            differs from 1 by more than `SUM_TOLERANCE`.
    """
    values: list[Any]
    rules = _Rules(objectives, extrapolate, bounds or {}, names or {})
    if isinstance(preference, str):
        values = rules.called(preference, "`preference`")
    elif isinstance(preference, list | tuple) and preference and not any(map(_is_number, preference)):
        values = [rules.row(row, f"`preference` row {i}") for i, row in enumerate(preference)]
    else:
        values = _numbers(preference, objectives, "`preference`", may_be_rows=True)
        if values and isinstance(values[0], list):
            values = [rules.checked_entry(row, f"`preference` row {i}") for i, row in enumerate(values)]
        else:
            values = rules.checked(values, "`preference`")
    if not torch.is_inference_mode_enabled():
        return torch.tensor(values, dtype=torch.float32, device="cpu")
    with torch.inference_mode(False):  # the preference may outlive the mode it is set in, and be trained under
        return torch.tensor(values, dtype=torch.float32, device="cpu")


def checked_numbers(
    preference: Any,
    what: str,
    objectives: Sequence[str],
    bounds: Bounds | None,
    names: Names | None = None,
    *,
    extrapolate: bool = False,
) -> list[float]:
    """One preference as it is saved: in the order of the objectives, not rounded, and without its name."""
    if isinstance(preference, str) and names and preference in names:
        preference = names[preference]  # whose rules are those of its numbers here
    try:
        parsed = parse_preference(preference, objectives, extrapolate=extrapolate, bounds=bounds, names=names)
    except (TypeError, ValueError) as error:
        raise type(error)(str(error).replace("`preference`", what, 1)) from None
    if parsed.ndim != 1:
        raise ValueError(f"{what} must be one preference, but got {parsed.shape[0]} rows.")
    in_order = [preference[name] for name in objectives] if isinstance(preference, Mapping) else preference
    return [float(value) for value in in_order]


def checked_names(named: Any, objectives: Sequence[str], bounds: Bounds | None) -> dict[str, list[float]]:
    """The names of preferences, on the simplex or off it, as they are saved.

    Raises:
        TypeError: `named` is no mapping, or not to numbers.
        ValueError: a name is none, or what it stands for is no preference within the bounds.
    """
    if not isinstance(named, Mapping):
        raise TypeError(f"`named_preferences` must map names to {len(objectives)} numbers each, but got {named!r}.")
    for name in named:
        if not (isinstance(name, str) and re.fullmatch(r"[^\W\d][\w.-]*", name)):
            raise ValueError(
                "`named_preferences` must have names of letters, digits, `_`, `.` and `-`, a letter or `_` first, "
                f"but got {name!r}."
            )
    return {
        name: checked_numbers(values, f"`named_preferences[{name!r}]`", objectives, bounds, extrapolate=True)
        for name, values in named.items()
    }


def _is_number(value: Any) -> bool:
    if type(value) is float:
        return True
    if isinstance(value, np.ndarray | Tensor):
        return value.ndim == 0
    return isinstance(value, numbers.Real)


def _numbers(value: Any, objectives: Sequence[str], what: str, *, may_be_rows: bool) -> list[Any]:
    """Turn a mapping, sequence, array or tensor of real numbers into a list of them, or of rows of them."""
    if not isinstance(value, list | tuple):
        if isinstance(value, Tensor | np.ndarray):
            return _numbers_of_array(value, len(objectives), what, may_be_rows)
        if not isinstance(value, Mapping):
            raise TypeError(
                f"{what} must be a list, tuple, array, tensor or mapping of numbers, but got {type(value).__name__}."
            )
        if set(value) != set(objectives):
            raise ValueError(f"{what} must name exactly the objectives {list(objectives)}, but got {list(value)}.")
        value = [value[name] for name in objectives]
    return [entry if type(entry) is float else _number(entry, what) for entry in value]


def _numbers_of_array(value: Tensor | np.ndarray, m: int, what: str, may_be_rows: bool) -> list[Any]:
    if isinstance(value, Tensor):
        if value.is_complex() or value.dtype == torch.bool or value.is_meta:
            raise TypeError(f"{what} must hold real numbers, but got a tensor of {value.dtype} on {value.device}.")
    elif value.dtype.kind not in "fiu":
        raise TypeError(f"{what} must hold real numbers, but got an array of {value.dtype}.")
    if not may_be_rows and value.ndim != 1:
        raise ValueError(f"{what} must be one preference with {m} entries, but got shape {tuple(value.shape)}.")
    if value.ndim not in (1, 2, 3) or 0 in value.shape[:-1]:
        raise ValueError(f"{what} must have shape ({m},), (B, {m}) or (B, T, {m}), but got {tuple(value.shape)}.")
    return (value.double() if isinstance(value, Tensor) else value.astype(np.float64)).tolist()


def _number(entry: Any, what: str) -> float:
    scalar = entry.item() if isinstance(entry, np.ndarray | Tensor) and entry.ndim == 0 else entry
    if isinstance(scalar, bool | np.bool_) or not isinstance(scalar, numbers.Real):
        raise TypeError(f"{what} must hold real numbers, but got {entry!r}.")
    try:
        return float(scalar)
    except OverflowError:
        return math.inf


class _Rules(NamedTuple):
    """What the entries of a preference must be."""

    objectives: Sequence[str]
    extrapolate: bool
    bounds: Bounds
    names: Names

    def row(self, row: Any, what: str) -> list[float]:
        """That of one row of a list."""
        if isinstance(row, str):
            return self.called(row, what)
        return self.checked(_numbers(row, self.objectives, what, may_be_rows=False), what)

    def called(self, name: str, what: str) -> list[float]:
        """The one of this name."""
        if name not in self.names:
            raise ValueError(
                f"{what} must be numbers, or one of the adapter's `named_preferences` {list(self.names)}, but got "
                f"{name!r}."
            )
        return self._replace(extrapolate=True).checked(list(self.names[name]), what)

    def checked_entry(self, entry: list[Any], what: str) -> list[Any]:
        """Those of a row, or of each of its tokens."""
        if not (entry and isinstance(entry[0], list)):
            return self.checked(entry, what)
        return [self.checked(token, f"{what}, token {t}") for t, token in enumerate(entry)]

    def checked(self, row: list[float], what: str) -> list[float]:
        """Those of one preference, on the simplex unless `extrapolate`, and within the bounds."""
        m = len(self.objectives)
        valid = len(row) == m and all(abs(entry) <= _FLOAT32_MAX for entry in row)
        if valid and not self.extrapolate:
            valid = min(row) >= -ROUNDING and abs(sum(row) - 1.0) <= SUM_TOLERANCE
            row = [max(entry, 0.0) for entry in row] if valid else row
        if valid:
            return within(row, self.objectives, self.bounds, what) if self.bounds else row
        rule = f"{m} finite entries" if self.extrapolate else f"{m} non-negative entries that sum to 1"
        found = ", ".join(f"{entry:.6g}" for entry in row[:12]) + (", …" if len(row) > 12 else "")
        raise ValueError(f"{what} must have {rule}, for {', '.join(self.objectives)}, but got [{found}].")
