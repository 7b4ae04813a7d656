"""Which preference do I want? An answer from a measured front, between its points, with its uncertainty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from .between import Between
from .uncertainty import check_level, resampled_values

Array: TypeAlias = "np.ndarray"


@dataclass(frozen=True)
class Choice:
    """A preference and what is expected of it.

    Between measured preferences, a value is interpolated linearly: for two objectives from the next one on either
    side, for m from the m corners of its Delaunay cell. So it is a weighted mean of measured values, and has
    a standard error s over bootstrap resamples of the prompts. The bounds are value ± c · s with one c for all
    candidates, so large that all of them hold at once in the share `level` of the resamples: picking the best
    candidate does not undermine them. They do not cover how far the truth is from a straight line.

    Attributes:
        preference: Objective → weight; goes into `set_preference` as it is, with `extrapolate` off the simplex.
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

    Args:
        objectives: The m names.
        preferences: [K, m]
        scores: [K, P, m]
        maximise: [m]
        level: Confidence of the bounds.

    Attributes:
        candidates: [Q, m]
        values: [Q, m]
        errors: Standard errors of the values, [Q, m].
        sign: 1 where more is better, -1 where less is, [m].
    """

    def __init__(
        self, objectives: Sequence[str], preferences: Array, scores: Array, maximise: Sequence[bool], level: float
    ) -> None:
        check_level(level)
        self.objectives, self.level = list(objectives), level
        self.sign = np.where(maximise, 1.0, -1.0)
        candidates, weights = Between(preferences).candidates()
        self.candidates, self.values = candidates.round(7), weights @ scores.mean(axis=1)
        resampled = np.einsum("qk,bkm->bqm", weights, resampled_values(scores), optimize=True)
        self.errors = resampled.std(axis=0)
        # In units of the standard error, how far the worst candidate of a resample is off: the max-t band.
        off = (resampled - self.values) / np.where(self.errors > 0, self.errors, np.inf)
        self._above, self._below = off.max(axis=1), -off.min(axis=1)  # [resamples, m]

    def worst(self, i: int) -> Array:
        """One-sided bounds of objective i, [Q], all of which hold at once with confidence `level`."""
        off = self._above if self.sign[i] > 0 else self._below
        return self.values[:, i] - self.sign[i] * np.quantile(off[:, i], self.level) * self.errors[:, i]

    def index(self, argument: str, objective: str) -> int:
        """The place of an objective that was named in `argument`."""
        if objective not in self.objectives:
            raise ValueError(f"`{argument}` must name objectives of {self.objectives}, but got {objective!r}.")
        return self.objectives.index(objective)

    def choice(self, index: int) -> Choice:
        """What is known of one candidate."""
        c = np.quantile(np.maximum(self._above, self._below), self.level, axis=0)
        value, width = self.values[index], c * self.errors[index]
        bounds = zip((value - width).tolist(), (value + width).tolist(), strict=True)
        rows = self.candidates[index].tolist(), value.tolist(), bounds
        preference, expected, interval = (dict(zip(self.objectives, row, strict=True)) for row in rows)
        return Choice(preference, expected, interval, self.level)


def choose(between: Interpolation, maximise: str, subject_to: Mapping[str, float]) -> Choice:
    """See `Front.choose`."""
    wanted = between.index("maximise", maximise)
    allowed = np.ones(len(between.candidates), dtype=bool)
    for name, limit in subject_to.items():
        i = between.index("subject_to", name)
        sign, worst = between.sign[i], between.worst(i)
        meets = allowed & (sign * worst >= sign * limit)
        if not meets.any():
            others = "" if allowed.all() else " where the constraints before it are met"
            raise ValueError(
                f"`subject_to` must be attainable with confidence {between.level:g}, but {name!r} is "
                f"{sign * (sign * worst[allowed]).max():.4g} at best{others}, not {limit:g}."
            )
        allowed = meets
    index = np.flatnonzero(allowed)[np.argmax(between.sign[wanted] * between.values[allowed, wanted])]
    return between.choice(int(index))


def nearest(between: Interpolation, target: Mapping[str, float], unit: Array) -> Choice:
    """See `Front.nearest`; distances of objective i are in units of unit[i], or as they are where that is 0."""
    if not target:
        raise ValueError("`target` must name at least one objective, but got none.")
    columns = [between.index("target", name) for name in target]
    for name, value in target.items():
        if not np.isfinite(value):
            raise ValueError(f"`target[{name!r}]` must be a finite number, but got {value}.")
    unit = np.where(unit > 0, unit, 1.0)
    distance = (between.values[:, columns] - np.array(list(target.values()))) / unit[columns]
    return between.choice(int(np.argmin((distance**2).sum(axis=1))))
