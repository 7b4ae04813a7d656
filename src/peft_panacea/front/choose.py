"""Which preference do I want? An answer from a measured front, between its points, with its uncertainty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from .uncertainty import check_level, resampled_values

if TYPE_CHECKING:
    from .result import Front

Array: TypeAlias = "np.ndarray"

CANDIDATES = 1001
"""Preferences that are looked at besides the measured ones."""


@dataclass(frozen=True)
class Choice:
    """A preference and what is expected of it.

    Between measured preferences, a value is interpolated linearly: for two objectives from the next one on either
    side, for m from the m corners of its Delaunay cell. So it is a weighted mean of measured values, and has
    a standard error s over bootstrap resamples of the prompts. The bounds are value ± c · s with one c for all
    candidates, so large that all of them hold at once in the share `level` of the resamples: picking the best
    candidate does not undermine them. They do not cover how far the truth is from a straight line.

    Attributes:
        preference: Objective → weight; goes into `set_preference` as it is.
        expected: Objective → expected mean score.
        interval: Objective → lower and upper bound of it.
        level: The confidence of the bounds. A constraint is held by a one-sided bound at the same level.
    """

    preference: dict[str, float]
    expected: dict[str, float]
    interval: dict[str, tuple[float, float]]
    level: float


class Interpolation:
    """A front between its measured points, linear on a triangulation of the preferences.

    Attributes:
        candidates: [Q, m]
        values: [Q, m]
        errors: Standard errors of the values, [Q, m].
    """

    def __init__(self, front: Front, level: float) -> None:
        check_level(level)
        self.front, self.level = front, level
        candidates, weights = _between(front.preferences)
        self.candidates, self.values = candidates.round(7), weights @ front.values
        resampled = np.einsum("qk,bkm->bqm", weights, resampled_values(front), optimize=True)
        self.errors = resampled.std(axis=0)
        # In units of the standard error, how far the worst candidate of a resample is off: the max-t band.
        off = (resampled - self.values) / np.where(self.errors > 0, self.errors, np.inf)
        self._above, self._below = off.max(axis=1), -off.min(axis=1)  # [resamples, m]

    def worst(self, i: int) -> Array:
        """One-sided bounds of objective i, [Q], all of which hold at once with confidence `level`."""
        sign = 1 if np.array(self.front.maximise)[i] else -1
        c = np.quantile((self._above if sign > 0 else self._below)[:, i], self.level)
        return self.values[:, i] - sign * c * self.errors[:, i]

    def choice(self, index: int) -> Choice:
        """What is known of one candidate."""
        c = np.quantile(np.maximum(self._above, self._below), self.level, axis=0)
        value, width = self.values[index], c * self.errors[index]
        bounds = zip((value - width).tolist(), (value + width).tolist(), strict=True)
        rows = self.candidates[index].tolist(), value.tolist(), bounds
        preference, expected, interval = (dict(zip(self.front.objectives, row, strict=True)) for row in rows)
        return Choice(preference, expected, interval, self.level)


def choose(between: Interpolation, maximise: str, subject_to: Mapping[str, float]) -> Choice:
    """See `Front.choose`."""
    front = between.front
    sign = np.where(front.maximise, 1.0, -1.0)
    wanted = _index(front.objectives, "maximise", maximise)
    allowed = np.ones(len(between.candidates), dtype=bool)
    for name, limit in subject_to.items():
        i = _index(front.objectives, "subject_to", name)
        better = sign[i] * between.worst(i)
        meets = allowed & (better >= sign[i] * limit)
        if not meets.any():
            others = "" if allowed.all() else " where the constraints before it are met"
            raise ValueError(
                f"`subject_to` must be attainable with confidence {between.level:g}, but {name!r} is "
                f"{sign[i] * better[allowed].max():.4g} at best{others}, not {limit:g}."
            )
        allowed = meets
    index = np.flatnonzero(allowed)[np.argmax(between.values[allowed, wanted] * sign[wanted])]
    return between.choice(int(index))


def nearest(between: Interpolation, target: Mapping[str, float]) -> Choice:
    """See `Front.nearest`."""
    if not target:
        raise ValueError("`target` must name at least one objective, but got none.")
    front = between.front
    columns = [_index(front.objectives, "target", name) for name in target]
    unit = np.ptp(front.values, axis=0) if front.normalisation is None else front.normalisation[1]
    unit = np.where(unit > 0, unit, 1.0)
    distance = (between.values[:, columns] - np.array(list(target.values()))) / unit[columns]
    return between.choice(int(np.argmin((distance**2).sum(axis=1))))


def _index(objectives: Sequence[str], argument: str, name: str) -> int:
    if name not in objectives:
        raise ValueError(f"`{argument}` must name objectives of {list(objectives)}, but got {name!r}.")
    return list(objectives).index(name)


def _between(preferences: Array) -> tuple[Array, Array]:
    """Candidates [Q, m] in the hull of the measured preferences, these first, and their weights on these, [Q, K]."""
    K, m = preferences.shape
    coordinates = preferences[:, :-1]  # the last entry follows from the others
    measured = np.eye(K)
    if m == 1 or m > K:
        return preferences, measured
    if m == 2:
        places, which, count = np.unique(coordinates[:, 0], return_inverse=True, return_counts=True)
        positions = np.linspace(places[0], places[-1], CANDIDATES)
        hats = np.stack([np.interp(positions, places, hat) for hat in np.eye(len(places))], axis=1)
        weights = np.concatenate([measured, hats[:, which] / count[which]])  # repeated measurements share the weight
        return weights @ preferences, weights
    from scipy.spatial import Delaunay, QhullError  # an extra

    try:
        cells = Delaunay(coordinates).simplices
    except QhullError:  # all on a face
        return preferences, measured
    corners = coordinates[cells]
    volumes = np.abs(np.linalg.det(corners[:, 1:] - corners[:, :1]))
    rng = np.random.default_rng(0)
    drawn = cells[rng.choice(len(cells), size=CANDIDATES, p=volumes / volumes.sum())]
    weights = np.zeros((CANDIDATES, K))
    np.put_along_axis(weights, drawn, rng.dirichlet(np.ones(m), size=CANDIDATES), axis=1)  # uniform in the cell
    weights = np.concatenate([measured, weights])
    return weights @ preferences, weights
