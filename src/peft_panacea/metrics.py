"""Numbers that say how good a front is. Arrays in, floats out; docs/metrics.md has the formulas and their sources.

In all functions, `maximise` says whether more is better, else less: one bool for all objectives, or one for each. An
array is anything that NumPy makes a float64 array of. All functions raise a `ValueError` where a shape is another than
the one given, a number is not finite, or `maximise` is something else.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from .extras import needs

Array: TypeAlias = "np.ndarray"
Direction: TypeAlias = "bool | Sequence[bool]"

SAMPLES = 2**20  # the relative error is mostly below 1 %, see docs/metrics.md


def hypervolume(values: ArrayLike, reference: ArrayLike, *, maximise: Direction = True, seed: int = 0) -> float:
    """The volume that is dominated by the points of a front and dominates the reference point.

    Points that do not exceed the reference in every objective, dominated ones and repetitions add nothing and are
    dropped. The number of the others decides whether the result is exact, see `hypervolume_is_exact`. Needs moocore.

    Args:
        values: [N, m], what each of the N preferences attains.
        reference: [m]
        maximise: See above.
        seed: Of the approximation; an exact result does not depend on it.

    Returns:
        The volume, ≥ 0, in the product of the objectives' units; 0 if no point dominates the reference.

    >>> hypervolume([[1, 3], [2, 2], [3, 1], [1, 1]], [0, 0])
    6.0
    >>> hypervolume([[1, 1], [2, 2]], [0, 4], maximise=[True, False])
    5.0
    """
    with needs("eval"):
        import moocore

    points = _front(_better_is_more(values, maximise))
    m = points.shape[1]
    above = points - _sign(maximise, m) * _array("reference", reference, m)
    above, corner = above[(above > 0).all(axis=1)], np.zeros(m)
    if len(above) == 0:
        return 0.0
    if hypervolume_is_exact(*above.shape):
        return float(moocore.hypervolume(above, ref=corner, maximise=True))
    box = above.max(axis=0)  # the directions that are sampled suit objectives of equal range
    settings = {"maximise": True, "nsamples": SAMPLES, "seed": seed, "method": "DZ2019-MC"}
    return float(moocore.hv_approx(above / box, ref=corner, **settings) * box.prod())


def hypervolume_is_exact(n: int, m: int) -> bool:
    """Whether `hypervolume` is exact for n points in m objectives. It is as long as that takes about a second.

    Of the n points only those count that are different, non-dominated and exceed the reference. What is True for all
    points is True for these.

    >>> hypervolume_is_exact(1001, 2), hypervolume_is_exact(55, 10), hypervolume_is_exact(220, 10)
    (True, True, False)
    """
    largest = {6: 900, 7: 250, 8: 120, 9: 70, 10: 55}
    return n <= (10_000 if m < 6 else largest.get(m, 12))


def inner_product(values: ArrayLike, preferences: ArrayLike, *, maximise: Direction = True) -> float:
    """The mean over the preferences of ⟨λ, ξ⟩, ξ being what is attained under λ (Panacea's IP). More is better.

    `values` and `preferences` are [N, m], ξ and λ. An objective that is minimised counts negatively.

    >>> inner_product([[4, 0], [2, 2]], [[1, 0], [0.5, 0.5]])
    3.0
    """
    points = _better_is_more(values, maximise)
    return float((points * _array("preferences", preferences, *points.shape)).sum(axis=1).mean())


def non_dominated(values: ArrayLike, *, maximise: Direction = True) -> Array:
    """Which points [N, m] no other beats: none is as good in all objectives and better in one. Returns bools, [N].

    Equal points do not beat each other, so all of them are marked, or none. The functions below count them once.

    >>> non_dominated([[1, 3], [3, 1], [1, 1], [3, 1]])
    array([ True,  True, False,  True])
    """
    points = _better_is_more(values, maximise)
    return np.array([not ((points >= x).all(axis=1) & (points > x).any(axis=1)).any() for x in points])


def sparsity(values: ArrayLike, *, maximise: Direction = True) -> float:
    """Panacea's sparsity, 1/(m(N-1)) Σ ‖ξⁱ - ξⁱ⁺¹‖² over the N non-dominated points. Less means denser, ≥ 0.

    The points are sorted by the first objective, then by the second and so on. For two objectives that is the order
    along the front. For more there is no such order, the paper's is unknown, and the number depends on which objective
    comes first.

    In squared units of the objectives; 0 for one point, although it has no neighbour.

    >>> sparsity([[0, 3], [1, 2], [3, 0], [0, 0]])
    2.5
    """
    front = _front(_better_is_more(values, maximise))
    return float((np.diff(front, axis=0) ** 2).sum() / (front.shape[1] * max(len(front) - 1, 1)))


def sparsity_per_objective(values: ArrayLike, *, maximise: Direction = True) -> float:
    """Sparsity as in multi-objective RL (Xu et al. 2020): each objective is sorted separately, and there is no 1/m.

    For two objectives it is twice `sparsity`. For more, it compares numbers that belong to different points.

    >>> sparsity_per_objective([[0, 3], [1, 2], [3, 0], [0, 0]])
    5.0
    """
    front = np.sort(_front(_better_is_more(values, maximise)), axis=0)
    return float((np.diff(front, axis=0) ** 2).sum() / max(len(front) - 1, 1))


def spacing(values: ArrayLike, *, maximise: Direction = True) -> float:
    """Panacea's spacing: standard deviation of the Euclidean distances from non-dominated points to their nearest one.

    In units of the objectives, ≥ 0; 0 if the points are evenly spaced, and for one or two points. With 1/N.

    >>> spacing([[0, 10], [3, 6], [9, -2], [0, 0]])
    2.357022603955158
    """
    return float(_nearest(_front(_better_is_more(values, maximise)), norm=2).std())


def schott_spacing(values: ArrayLike, *, maximise: Direction = True) -> float:
    """Schott's spacing (1995), which libraries compute: as `spacing`, with L1 distances and 1/(N-1).

    >>> schott_spacing([[0, 10], [3, 6], [9, -2], [0, 0]])
    4.041451884327381
    """
    nearest = _nearest(_front(_better_is_more(values, maximise)), norm=1)
    return float(nearest.std(ddof=1)) if len(nearest) > 1 else 0.0


def monotonicity(values: ArrayLike, preferences: ArrayLike, *, maximise: Direction = True) -> Array:
    """Spearman's rank correlation of every objective with its own weight; equal numbers share the mean of their ranks.

    Args:
        values: [N, m]
        preferences: [N, m]
        maximise: See above.

    Returns:
        [m], from -1 to 1: 1 if the objective gets better with every rise of its weight, 0 also if the objective or its
        weight never changes. For more than two objectives, 1 needs one value per weight, whatever the others' weights.

    >>> monotonicity([[0, 5], [1, 5], [3, 5]], [[0, 1], [0.5, 0.5], [1, 0]])
    array([1., 0.])
    """
    points = _better_is_more(values, maximise)
    weights = _array("preferences", preferences, *points.shape)
    return np.array([_correlation(_ranks(x), _ranks(w)) for x, w in zip(points.T, weights.T, strict=True)])


def calibration(values: ArrayLike, preferences: ArrayLike) -> float:
    """Whether equal steps of the preference make equal steps of the outcome, between neighbouring preferences.

    Two preferences are neighbours unless a third is closer to both than they are to each other: the relative
    neighbourhood graph (Toussaint 1980). On a grid of the simplex these are the pairs next to each other; for two
    objectives, those next in line. Let bₑ be the share of edge e in the lengths of all edges, and aₑ its share in the
    outcome's. The result is 1 - ½ Σ |aₑ - bₑ| / (1 - min b), so that 0 is attained.

    Args:
        values: [N, m]. Every objective is divided by its range first, so the units do not matter, nor the directions.
        preferences: [N, m], all different.

    Returns:
        From 0 to 1. 1: the outcome moves equally fast everywhere, or there is one edge. 0: a shortest edge makes all
        the change, or nothing changes. Where the steps lead is not looked at; `monotonicity` does that.

    Raises:
        ValueError: Two preferences are equal.

    >>> grid = [[0, 1], [0.25, 0.75], [0.5, 0.5], [0.75, 0.25], [1, 0]]
    >>> calibration([[0, 4], [1, 3], [2, 2], [3, 1], [4, 0]], grid), calibration([[0, 4]] * 4 + [[4, 0]], grid)
    (1.0, 0.0)
    """
    points = _array("values", values, "N", "m")
    weights = _array("preferences", preferences, *points.shape)
    if len(np.unique(weights, axis=0)) < len(weights):
        raise ValueError("`preferences` must be different from each other, but got the same one twice.")
    first, second, step = _edges(weights.tobytes(), weights.shape)
    extent = np.ptp(points, axis=0)
    points = points / np.where(extent > 0, extent, 1)
    outcome = np.linalg.norm(points[first] - points[second], axis=1)
    if len(step) < 2 or outcome.sum() == 0:
        return float(outcome.sum() > 0)
    a, b = outcome / outcome.sum(), step / step.sum()
    return float(np.clip(1 - np.abs(a - b).sum() / 2 / (1 - b.min()), 0, 1))


@lru_cache(maxsize=4)  # a bootstrap asks for those of one front a thousand times, and they take N³
def _edges(weights: bytes, shape: tuple[int, int]) -> tuple[Array, Array, Array]:
    """The relative neighbourhood graph of N points, bytes of float64: both ends and the length of each edge."""
    points = np.frombuffer(weights).reshape(shape)
    distances = np.linalg.norm(points[:, None] - points, axis=2)
    neighbours = np.triu(np.ones_like(distances, dtype=bool), k=1)
    for row in distances:  # equal distances differ by rounding, so closer means by 0.1 %
        neighbours &= np.maximum(row[:, None], row) >= 0.999 * distances
    first, second = neighbours.nonzero()
    return first, second, distances[first, second]


def coverage(values: ArrayLike, other: ArrayLike, *, maximise: Direction = True) -> float:
    """Zitzler's C-metric C(values, other): the share of `other` that some point of `values` equals or dominates.

    `values` is [N, m], `other` [K, m]. From 0 to 1. C(a, b) and C(b, a) need not add up to 1, so look at both.

    >>> coverage([[2, 2]], [[1, 1], [2, 2], [0, 3], [3, 0]]), coverage([[1, 1], [2, 2], [0, 3], [3, 0]], [[2, 2]])
    (0.5, 1.0)
    """
    points = _better_is_more(values, maximise)
    m = points.shape[1]
    others = _sign(maximise, m) * _array("other", other, "K", m)
    return float(np.mean([(points >= x).all(axis=1).any() for x in others]))


def drift(values: ArrayLike, base: ArrayLike) -> float:
    """How far steering moves a quantity that it should leave alone: length, perplexity, distinct n-grams.

    Args:
        values: [K, P], the quantity at K preferences on P prompts.
        base: [P], the same of the base model.

    Returns:
        The mean over the preferences of |mean over the prompts - the base's mean|, ≥ 0, in standard deviations of the
        base over the prompts (with 1/P).

    Raises:
        ValueError: All numbers of `base` are equal.

    >>> drift([[2, 4], [4, 6]], [1, 3])
    2.0
    """
    usual = _array("base", base, "P")
    moved = _array("values", values, "K", len(usual))
    if np.ptp(usual) == 0:
        raise ValueError(f"`base` must hold different numbers, but got {usual[0]} only.")
    return float(np.abs(moved.mean(axis=1) - usual.mean()).mean() / usual.std())


def _front(points: Array) -> Array:
    """The non-dominated points as a set, in ascending lexicographic order."""
    return np.unique(points[non_dominated(points)], axis=0)


def _nearest(points: Array, norm: int) -> Array:
    """The distance of each point to the nearest other one, [N], or [1] zero if there is no other."""
    if len(points) == 1:
        return np.zeros(1)
    distances = np.array([np.linalg.norm(points - x, ord=norm, axis=1) for x in points])
    np.fill_diagonal(distances, np.inf)
    return distances.min(axis=1)


def _ranks(numbers: Array) -> Array:
    _, places, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[places]


def _correlation(x: Array, y: Array) -> float:
    x, y = x - x.mean(), y - y.mean()
    scale = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / scale) if scale > 0 else 0.0


def _better_is_more(values: ArrayLike, maximise: Direction) -> Array:
    points = _array("values", values, "N", "m")
    return _sign(maximise, points.shape[1]) * points


def _sign(maximise: Direction, m: int) -> Array:
    up: Array = np.asarray(maximise)
    if up.dtype != bool or up.shape not in ((), (m,)):
        raise ValueError(f"`maximise` must be a bool or {m} of them, but got {maximise!r}.")
    return np.where(up, 1.0, -1.0)


def _array(name: str, numbers: Any, *shape: int | str) -> Array:
    """As an array of finite numbers. A letter in `shape` stands for any length but 0."""
    array = np.asarray(numbers, dtype=float)
    lengths = [n if isinstance(n, int) else max(found, 1) for n, found in zip(shape, array.shape, strict=False)]
    if array.ndim != len(shape) or list(array.shape) != lengths:
        expected = ", ".join(map(str, shape)) + "," * (len(shape) == 1)
        raise ValueError(f"`{name}` must have shape ({expected}), but got {array.shape}.")
    if not np.isfinite(array).all():
        raise ValueError(f"`{name}` must hold finite numbers, but got {array[~np.isfinite(array)][0]}.")
    return array
