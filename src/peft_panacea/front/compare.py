"""What several fronts say: one against another, a reference point for all, the spread over training seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from .. import metrics
from .result import Front
from .summary import IS_EXACT
from .uncertainty import bounds, check_level, draws

Array: TypeAlias = "np.ndarray"


def compare(front: Front, other: Front, reference: Any = None, level: float = 0.95) -> dict[str, dict[str, float]]:
    """By metric: `this` front's, the `other`'s, the `difference`, and its `low` and `high` by paired bootstrap.

    Both fronts are measured in units of the first one's normalisation and by one reference point. Every resample of
    the prompts is the same for both, so the prompts must be. Coverage is the share of the other's points that some
    point of the first equals or dominates, and the other way round.

    Args:
        front: This one.
        other: Of the same objectives, on the same prompts; its preferences may be others.
        reference: [m], in the units of the scores; None for the first front's own, or its base model's values.
        level: Confidence of the bounds of a difference.

    Raises:
        ValueError: other objectives, directions or prompts, one prompt only, or no reference point.
    """
    check_level(level)
    _check_alike("other", [front, other])
    P, P_of_other = front.scores.shape[1], other.scores.shape[1]
    digests = {f.details["prompts"] for f in (front, other) if "prompts" in f.details}
    if P_of_other != P or len(digests) > 1:
        raise ValueError(f"`other` must be measured on the same {P} prompts, but has {P_of_other} and not the same.")
    other = replace(other, normalisation=front.normalisation)

    def both(prompts: Any = slice(None)) -> dict[str, tuple[float, float]]:
        corner = front.reference_point(reference, prompts)
        first, second = (f.metrics(corner, prompts) for f in (front, other))
        pairs = {name: (first[name], second[name]) for name in first if name in second and name != IS_EXACT}
        a, b = (f.scores[:, prompts].mean(axis=1) for f in (front, other))
        way = front.maximise
        return {**pairs, "coverage": (metrics.coverage(a, b, maximise=way), metrics.coverage(b, a, maximise=way))}

    resampled = [both(prompts) for prompts in draws(P)]
    report = {}
    for name, (this, that) in both().items():
        low, high = bounds(np.array([one[name][0] - one[name][1] for one in resampled]), level).tolist()
        report[name] = {"this": this, "other": that, "difference": this - that, "low": low, "high": high}
    return report


def nadir(fronts: Sequence[Front]) -> Array:
    """The worst mean value of each objective over all points of all fronts, [m]: a reference point for comparisons.

    Raises:
        ValueError: no fronts, or other objectives or directions in one of them.
    """
    _check_alike("fronts", fronts)
    values = np.concatenate([front.values for front in fronts])
    return np.where(fronts[0].maximise, values.min(axis=0), values.max(axis=0))


def over_seeds(fronts: Sequence[Front], reference: Any = None) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation (n - 1) of every metric over fronts that differ in their training seed.

    All are measured in units of the first one's normalisation, and by its reference point if none is given.

    Raises:
        ValueError: fewer than two fronts, other objectives or directions in one of them, or no reference point.
    """
    _check_alike("fronts", fronts)
    if len(fronts) < 2:
        raise ValueError("`fronts` must be two or more for a standard deviation, but got one.")
    corner, unit = fronts[0].reference_point(reference), fronts[0].normalisation
    each = [replace(front, normalisation=unit).metrics(corner) for front in fronts]
    shared = [name for name in each[0] if all(name in one for one in each)]
    columns = {name: np.array([one[name] for one in each]) for name in shared}
    return {name: (float(column.mean()), float(column.std(ddof=1))) for name, column in columns.items()}


def _check_alike(argument: str, fronts: Sequence[Front]) -> None:
    if not fronts:
        raise ValueError(f"`{argument}` must hold at least one front, but got none.")
    for front in fronts:
        for name in ("objectives", "maximise"):
            expected, got = getattr(fronts[0], name), getattr(front, name)
            if expected != got:
                raise ValueError(f"`{argument}` must have the {name} {list(expected)}, but got {list(got)}.")
