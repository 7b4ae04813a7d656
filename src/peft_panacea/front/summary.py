"""Fronts as numbers: the metrics of one, two against each other, several over their seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from .. import metrics
from .uncertainty import bounds, check_level, draws

if TYPE_CHECKING:
    from .result import Front

Array: TypeAlias = "np.ndarray"
Normalisation: TypeAlias = "tuple[Array, Array] | None"

IS_EXACT = "hypervolume is exact"


def summarise(front: Front, reference: Array, unit: Normalisation, prompts: Any = slice(None)) -> dict[str, float]:
    """See `Front.metrics`; on these prompts, while reference, normalisation and the base model's spread are fixed."""
    values, corner = (_in_units(v, unit) for v in (front.scores[:, prompts].mean(axis=1), reference))
    upwards: Any = front.maximise
    above = metrics.non_dominated(values, maximise=upwards)
    above &= ((values - corner) * np.where(upwards, 1, -1) > 0).all(axis=1)
    found = {
        "hypervolume": metrics.hypervolume(values, corner, maximise=upwards),
        IS_EXACT: float(metrics.hypervolume_is_exact(len(np.unique(values[above], axis=0)), values.shape[1])),
        "inner product": metrics.inner_product(values, front.preferences, maximise=upwards),
        "sparsity": metrics.sparsity(values, maximise=upwards),
        "spacing": metrics.spacing(values, maximise=upwards),
        "monotonicity": float(metrics.monotonicity(values, front.preferences, maximise=upwards).mean()),
        "calibration": metrics.calibration(values, front.preferences),
    }
    for name, array in front.side_effects.items():
        mean, base = array[:, prompts].mean(axis=1), front.base_side_effects.get(name)
        if base is None or np.ptp(base) == 0:
            found[f"mean {name}"] = float(mean.mean())
        else:  # `drift` compares with the mean of all prompts; these may have another
            moved = mean + (base.mean() - base[prompts].mean())
            found[f"drift of {name}"] = metrics.drift(np.repeat(moved[:, None], len(base), axis=1), base)
    return found


def summary_intervals(front: Front, reference: Any, level: float) -> dict[str, tuple[float, float]]:
    """See `Front.metric_intervals`."""
    check_level(level)
    found = [
        summarise(front, front.reference_point(reference, prompts), front.normalisation, prompts)
        for prompts in draws(front.scores.shape[1])
    ]
    names = [name for name in found[0] if name != IS_EXACT]
    low, high = bounds(np.array([[one[name] for name in names] for one in found]), level)
    return dict(zip(names, zip(low.tolist(), high.tolist(), strict=True), strict=True))


def compare(front: Front, other: Front, reference: Any, level: float) -> dict[str, dict[str, float]]:
    """See `Front.compare`."""
    check_level(level)
    _check_alike("other", [front, other])
    P, theirs = front.scores.shape[1], other.scores.shape[1]
    known = [f.details["prompts"] for f in (front, other) if "prompts" in f.details]
    if theirs != P or known[1:] not in ([], known[:1]):
        raise ValueError(f"`other` must be measured on the same {P} prompts, but has {theirs} and not the same.")

    def both(prompts: Any = slice(None)) -> dict[str, tuple[float, float]]:
        unit, upwards = front.normalisation, front.maximise
        corner = front.reference_point(reference, prompts)
        mine, yours = (summarise(f, corner, unit, prompts) for f in (front, other))
        a, b = (f.scores[:, prompts].mean(axis=1) for f in (front, other))
        pairs = {name: (mine[name], yours[name]) for name in mine if name in yours and name != IS_EXACT}
        covered = metrics.coverage(a, b, maximise=upwards), metrics.coverage(b, a, maximise=upwards)
        return {**pairs, "coverage": covered}

    found = both()
    resampled = [both(prompts) for prompts in draws(P)]
    report = {}
    for name, (mine, yours) in found.items():
        low, high = bounds(np.array([one[name][0] - one[name][1] for one in resampled]), level).tolist()
        report[name] = {"this": mine, "other": yours, "difference": mine - yours, "low": low, "high": high}
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
    fixed = fronts[0].reference_point(reference)
    found = [summarise(front, fixed, fronts[0].normalisation) for front in fronts]
    shared = [name for name in found[0] if all(name in one for one in found)]
    columns = {name: np.array([one[name] for one in found]) for name in shared}
    return {name: (float(column.mean()), float(column.std(ddof=1))) for name, column in columns.items()}


def _in_units(values: Array, unit: Normalisation) -> Array:
    return values if unit is None else (values - unit[0]) / unit[1]


def _check_alike(argument: str, fronts: Sequence[Front]) -> None:
    if not fronts:
        raise ValueError(f"`{argument}` must hold at least one front, but got none.")
    for front in fronts:
        for name in ("objectives", "maximise"):
            first, own = getattr(fronts[0], name), getattr(front, name)
            if first != own:
                raise ValueError(f"`{argument}` must have the {name} {list(first)}, but got {list(own)}.")
