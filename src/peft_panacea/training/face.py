"""Training that is confined to some objectives: to their face of the simplex, where the others weigh nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..data.rows import COLUMNS, values_of
from ..simplex import PreferenceSampler


class FaceSampler:
    """Draws as another sampler does, on a face of a larger simplex.

    Args:
        sampler: Of as many objectives as the face has.
        face: Their positions among all, in ascending order.
        m: The number of all.
    """

    def __init__(self, sampler: PreferenceSampler, face: Sequence[int], m: int) -> None:
        self.sampler, self.face, self.m = sampler, torch.tensor(face), m

    def __call__(self, n: int, **key: int) -> Tensor:
        """As `PreferenceSampler` draws, [n, m]."""
        return self._among_all(self.sampler(n, **key))

    def given(self, objective: Tensor, **key: int) -> Tensor:
        """As `PreferenceSampler.given` draws, [n, m], for objectives of the face by their positions among all."""
        return self._among_all(self.sampler.given(torch.searchsorted(self.face, objective), **key))

    def _among_all(self, preferences: Tensor) -> Tensor:
        found = preferences.new_zeros(len(preferences), self.m)
        found[:, self.face] = preferences
        return found


def face_of(names: Sequence[str] | None, objectives: Sequence[str]) -> list[int]:
    """The positions of these objectives among all, in ascending order; all if None.

    Raises:
        ValueError: there are none, or one is no objective, or named twice.
    """
    if names is None:
        return list(range(len(objectives)))
    if not names or len(set(names)) < len(names) or not set(names) <= set(objectives):
        raise ValueError(f"`trained_objectives` must be some of {list(objectives)}, each once, but got {list(names)}.")
    return sorted(objectives.index(name) for name in names)


def rows_on(dataset: Any, face: Sequence[int]) -> Any:
    """The rows of a data set that belong to one of these objectives.

    Raises:
        ValueError: it is none of `datasets`, or there are no such rows.
    """
    columns = getattr(dataset, "column_names", None)
    if columns is None:
        raise ValueError(
            "`train_dataset` must be one of `datasets`, with known columns, for `trained_objectives`, but got a "
            f"{type(dataset).__name__}."
        )
    column = next(name for name in COLUMNS if name in columns)
    if not hasattr(dataset, "__len__"):
        return dataset.filter(lambda value: _is_on(value, face), input_columns=column)
    index = [i for i, value in enumerate(values_of(dataset, column)) if _is_on(value, face)]
    if not index:
        raise ValueError("`train_dataset` must have rows of the `trained_objectives`, but has none.")
    return dataset.select(index)


def _is_on(value: Any, face: Sequence[int]) -> bool:
    return value in face if isinstance(value, int) else any(value[i] for i in face)
