"""Every number of a front: by hand, by slow twins that share no code with it, and by what it must not depend on."""

import doctest
import itertools
import math
import statistics

import moocore
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peft_panacea import metrics
from peft_panacea.metrics import (
    calibration,
    coverage,
    drift,
    hypervolume,
    hypervolume_is_exact,
    inner_product,
    monotonicity,
    non_dominated,
    schott_spacing,
    spacing,
    sparsity,
    sparsity_per_objective,
)
from peft_panacea.simplex import simplex_grid

OF_A_FRONT = [sparsity, sparsity_per_objective, spacing, schott_spacing]
of_a_front = pytest.mark.parametrize("metric", OF_A_FRONT, ids=lambda f: f.__name__)
close = pytest.approx


def grid(m: int, n: int) -> np.ndarray:
    return simplex_grid(m, n).numpy()


@st.composite
def fronts(draw, most: int = 6, dimensions: tuple[int, int] = (1, 4)):
    """Points with coarse coordinates, so that ties and repetitions are common, and directions."""
    m = draw(st.integers(*dimensions))
    row = st.lists(st.integers(-3, 4), min_size=m, max_size=m)
    values = draw(st.lists(row, min_size=1, max_size=most))
    return np.array(values, dtype=float), draw(st.lists(st.booleans(), min_size=m, max_size=m))


problems = settings(max_examples=100, deadline=None, derandomize=True)


# Twins: pure Python, by the definitions.


def oriented(values, maximise):
    return [[x if up else -x for x, up in zip(row, maximise, strict=True)] for row in values]


def beats(x, y):
    return all(a >= b for a, b in zip(x, y, strict=True)) and any(a > b for a, b in zip(x, y, strict=True))


def slow_non_dominated(values, maximise):
    rows = oriented(values, maximise)
    return [not any(beats(y, x) for y in rows) for x in rows]


def slow_set(values, maximise):
    rows = oriented(values, maximise)
    return sorted({tuple(x) for x in rows if not any(beats(y, x) for y in rows)})


def inclusion_exclusion(values, reference, maximise):
    """The volume of a union of boxes: the alternating sum of the volumes of all intersections."""
    (corner,), boxes = oriented([reference], maximise), oriented(values, maximise)
    total = 0.0
    for size in range(1, len(boxes) + 1):
        for some in itertools.combinations(boxes, size):
            sides = (max(min(column) - c, 0) for column, c in zip(zip(*some, strict=True), corner, strict=True))
            total -= (-1) ** size * math.prod(sides)
    return total


def cells(values, reference, maximise):
    """The same for whole numbers: count the unit cells that lie below a point."""
    (corner,), boxes = oriented([reference], maximise), oriented(values, maximise)
    axes = [range(int(c), 5) for c in corner]
    return sum(
        any(all(x > c for x, c in zip(box, cell, strict=True)) for box in boxes) for cell in itertools.product(*axes)
    )


def slow_rank(numbers):
    return [sum(y < x for y in numbers) + (1 + sum(y == x for y in numbers)) / 2 for x in numbers]


def slow_spearman(x, y):
    if len(set(x)) == 1 or len(set(y)) == 1:
        return 0.0
    return statistics.correlation(slow_rank(x), slow_rank(y))


# Hypervolume


@problems
@given(front=fronts(), data=st.data())
def test_hypervolume_equals_its_twins_and_moocore(front, data):
    values, maximise = front
    m = values.shape[1]
    reference = data.draw(st.lists(st.integers(-3, 3), min_size=m, max_size=m))
    found = hypervolume(values, reference, maximise=maximise)
    assert found == close(inclusion_exclusion(values, reference, maximise))
    assert found == close(cells(values, reference, maximise))
    assert found == close(moocore.hypervolume(values, ref=np.array(reference, dtype=float), maximise=maximise))


@pytest.mark.parametrize(("n", "m"), [(50, 2), (40, 3), (30, 5), (20, 7), (12, 10)])
def test_hypervolume_equals_moocore_in_more_dimensions(n, m):
    values = np.random.default_rng(0).normal(size=(n, m))
    assert hypervolume(values, [-1] * m) == close(moocore.hypervolume(values, ref=np.full(m, -1.0), maximise=True))


@problems
@given(front=fronts(), data=st.data())
def test_what_a_hypervolume_does_not_depend_on(front, data):
    values, maximise = front
    reference = oriented([[-3] * len(maximise)], maximise)[0]
    found = hypervolume(values, reference, maximise=maximise)
    order = data.draw(st.permutations(range(len(values))))
    assert hypervolume(values[order], reference, maximise=maximise) == found
    worse = values - np.where(maximise, 1, -1)
    assert hypervolume(np.concatenate([values, worse, values]), reference, maximise=maximise) == found
    assert hypervolume(values + 2, np.add(reference, 2), maximise=maximise) == close(found)
    units = np.array(data.draw(st.lists(st.floats(0.1, 10), min_size=len(maximise), max_size=len(maximise))))
    assert hypervolume(values * units, reference * units, maximise=maximise) == close(found * units.prod())


@problems
@given(front=fronts(most=5), data=st.data())
def test_a_hypervolume_grows_with_points_and_with_a_worse_reference(front, data):
    values, maximise = front
    m = len(maximise)
    reference = oriented([[-2] * m], maximise)[0]
    found = hypervolume(values, reference, maximise=maximise)
    more = data.draw(st.lists(st.integers(-3, 4), min_size=m, max_size=m))
    assert hypervolume([*values, more], reference, maximise=maximise) >= found - 1e-9
    assert hypervolume(values, oriented([[-3] * m], maximise)[0], maximise=maximise) >= found - 1e-9


def test_points_that_do_not_exceed_the_reference_add_nothing():
    assert hypervolume([[1, 0], [0, 5], [-1, 9]], [0, 0]) == 0
    assert hypervolume([[2, 2], [0, 5], [-1, 9]], [0, 0]) == 4


def sphere(n: int, m: int) -> np.ndarray:
    points = np.abs(np.random.default_rng(1).normal(size=(n, m)))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


@pytest.mark.parametrize(("n", "m", "tolerance"), [(30, 3, 0.005), (100, 6, 0.005), (40, 10, 0.02)])
def test_the_approximation_agrees_with_the_exact(monkeypatch, n, m, tolerance):
    """Also in units that differ by orders of magnitude, and the same for the same seed."""
    units = 10.0 ** np.arange(m)
    values, reference = 1 + sphere(n, m) * units, [1] * m
    exact = hypervolume(values, reference)
    monkeypatch.setattr(metrics, "hypervolume_is_exact", lambda n, m: False)
    found = hypervolume(values, reference)
    assert 0 < abs(found / exact - 1) < tolerance
    assert hypervolume(values, reference) == found
    assert hypervolume(values, reference, seed=1) != found


def test_only_what_remains_decides_whether_it_is_exact():
    """13 points in twelve dimensions are too many, unless one is dominated, repeated or beyond the reference."""
    values, reference = sphere(12, 12), [0] * 12
    assert hypervolume_is_exact(12, 12)
    assert not hypervolume_is_exact(13, 12)
    exact = moocore.hypervolume(values, ref=np.zeros(12), maximise=True)
    assert exact > 0
    for more in (values[:1] * 0.9, values[:1], 2 * np.eye(12)[:1]):
        assert hypervolume(np.concatenate([values, more]), reference) == close(exact, rel=1e-12)
    another = sphere(13, 12)
    assert hypervolume(another, reference, seed=0) != hypervolume(another, reference, seed=1)


@pytest.mark.parametrize("m", range(1, 30))
def test_exactness_ends_with_the_number_of_points_and_of_objectives(m):
    assert hypervolume_is_exact(10, m)
    assert not hypervolume_is_exact(20_000, m)
    assert not (hypervolume_is_exact(30, m + 1) and not hypervolume_is_exact(30, m))


# Dominance


@problems
@given(front=fronts(most=10))
def test_non_dominated_equals_its_twin_and_moocore(front):
    values, maximise = front
    found = non_dominated(values, maximise=maximise)
    assert found.dtype == bool
    assert found.tolist() == slow_non_dominated(values, maximise)
    assert found.any()
    assert np.array_equal(found, moocore.is_nondominated(values, maximise=maximise, keep_weakly=True))


@problems
@given(front=fronts(dimensions=(3, 3)), other=fronts(dimensions=(3, 3)))
def test_coverage_is_the_share_that_is_weakly_dominated(front, other):
    (values, maximise), (others, _) = front, other
    found = coverage(values, others, maximise=maximise)
    a, b = oriented(values, maximise), oriented(others, maximise)
    assert found == close(statistics.fmean(any(x == y or beats(x, y) for x in a) for y in b))
    assert coverage(values, values, maximise=maximise) == 1
    assert coverage(values, values[non_dominated(values, maximise=maximise)], maximise=maximise) == 1


def test_coverage_has_two_sides():
    a, b = [[0, 3], [3, 0]], [[1, 1], [3, 0]]
    assert coverage(a, b) == 0.5
    assert coverage(b, a) == 0.5
    assert coverage(a, b, maximise=[True, False]) == 1


# Spread


def test_spread_by_hand():
    """Steps (1, -1), (2, -2), (4, -1); to the nearest √2, √2, √8, √17, or in L1 2, 2, 4, 5."""
    values = [[3, 1], [0, 4], [7, 0], [1, 3], [0, 0], [3, 1]]
    assert sparsity(values) == close((2 + 8 + 17) / 6)
    assert sparsity_per_objective(values) == close((1 + 4 + 16 + 1 + 4 + 1) / 3)
    assert spacing(values) == close(statistics.pstdev([2**0.5, 2**0.5, 8**0.5, 17**0.5]))
    assert schott_spacing(values) == close(statistics.stdev([2, 2, 4, 5]))


def test_sparsities_of_three_objectives():
    """Sorted by the first objective, against each objective sorted for itself."""
    values = [[0, 0, 4], [1, 5, 0], [2, 1, 1]]
    assert sparsity(values) == close(((1 + 25 + 16) + (1 + 16 + 1)) / (3 * 2))
    assert sparsity_per_objective(values) == close(((1 + 1) + (1 + 16) + (1 + 9)) / 2)


@problems
@given(front=fronts(most=8))
def test_spread_equals_its_twins(front):
    values, maximise = front
    rows = slow_set(values, maximise)
    steps = [(a - b) ** 2 for x, y in itertools.pairwise(rows) for a, b in zip(x, y, strict=True)]
    between = max(len(rows) - 1, 1)
    assert sparsity(values, maximise=maximise) == close(sum(steps) / between / len(maximise))
    columns = [sorted(column) for column in zip(*rows, strict=True)]
    alone = [(a - b) ** 2 for column in columns for a, b in itertools.pairwise(column)]
    assert sparsity_per_objective(values, maximise=maximise) == close(sum(alone) / between)
    if len(rows) > 1:
        nearest = [min(math.dist(x, y) for y in rows if y != x) for x in rows]
        city = [min(sum(abs(a - b) for a, b in zip(x, y, strict=True)) for y in rows if y != x) for x in rows]
        assert spacing(values, maximise=maximise) == close(statistics.pstdev(nearest), abs=1e-12)
        assert schott_spacing(values, maximise=maximise) == close(statistics.stdev(city), abs=1e-12)


@problems
@given(front=fronts(most=8, dimensions=(2, 2)))
def test_in_two_dimensions_the_sparsities_differ_by_a_factor_of_two(front):
    values, maximise = front
    assert sparsity_per_objective(values, maximise=maximise) == close(2 * sparsity(values, maximise=maximise))


@of_a_front
def test_spread_ignores_dominated_points_repetitions_and_order(metric):
    values = sphere(7, 3)
    found = metric(values)
    assert found > 0
    assert metric(np.concatenate([values, values[::-1], values / 2])[::-1]) == found
    power = 2 if "sparsity" in metric.__name__ else 1
    assert metric(3 * values + 5) == close(3**power * found)


@of_a_front
def test_one_point_has_no_spread(metric):
    assert metric([[1, 2]]) == metric([[1, 2], [1, 2], [0, 0]]) == 0


@pytest.mark.parametrize("metric", [spacing, schott_spacing])
def test_even_fronts_have_no_spacing(metric):
    assert metric([[0, 3], [1, 2], [2, 1], [3, 0]]) == metric([[0, 1], [5, 0]]) == 0


# Steering


def test_inner_product_by_hand():
    values, preferences = [[4, 1], [2, 2]], [[1, 0], [0.5, 0.5]]
    assert inner_product(values, preferences) == 3
    assert inner_product(values, preferences, maximise=False) == -3
    assert inner_product(values, preferences, maximise=[True, False]) == 2


@problems
@given(data=st.data(), n=st.integers(1, 8), m=st.integers(1, 3))
def test_monotonicity_is_spearmans(data, n, m):
    table = st.lists(st.lists(st.integers(0, 4), min_size=m, max_size=m), min_size=n, max_size=n)
    values, weights = np.array(data.draw(table)), np.array(data.draw(table))
    found = monotonicity(values, weights)
    assert found.shape == (m,)
    assert found == close([slow_spearman(x, w) for x, w in zip(values.T.tolist(), weights.T.tolist(), strict=True)])
    assert (np.abs(found) <= 1).all()
    assert monotonicity(np.exp(values) - 7, weights**3).tolist() == found.tolist()
    assert monotonicity(values, weights, maximise=False).tolist() == (-found).tolist()


def test_monotonicity_of_what_follows_its_weight():
    preferences = grid(3, 4)
    assert monotonicity(np.exp(preferences), preferences).tolist() == [1, 1, 1]
    assert monotonicity(-preferences, preferences).tolist() == [-1, -1, -1]
    assert monotonicity(np.ones_like(preferences), preferences).tolist() == [0, 0, 0]
    assert monotonicity([[1, 2]], [[0, 1]]).tolist() == [0, 0]
    mixed = (
        preferences + 0.01 * preferences[:, [1, 2, 0]]
    )  # a little of another weight: no longer a function of the own
    assert (monotonicity(mixed, preferences) < 1).all()


@pytest.mark.parametrize(("m", "n"), [(2, 1), (2, 100), (3, 12), (4, 5), (5, 4), (10, 2)])
def test_a_linear_outcome_is_calibrated_on_every_grid(m, n):
    preferences = grid(m, n)
    assert calibration(preferences, preferences) == close(1)
    assert calibration(5 - preferences * 10.0 ** np.arange(m), preferences) == close(1)


def slow_calibration_of_a_grid(values, m, n):
    """The neighbours of a grid are known: one step is taken from one objective and given to another."""
    numerators = [tuple(row) for row in np.rint(grid(m, n) * n).astype(int).tolist()]
    ranges = [max(c) - min(c) or 1 for c in zip(*values, strict=True)]
    scaled = [[x / r for x, r in zip(row, ranges, strict=True)] for row in values]
    pairs = itertools.combinations(zip(numerators, scaled, strict=True), 2)
    steps = [math.dist(x, y) for (a, x), (b, y) in pairs if sum(abs(i - j) for i, j in zip(a, b, strict=True)) == 2]
    even = 1 / len(steps)
    return 1 - sum(abs(step / sum(steps) - even) for step in steps) / 2 / (1 - even)


@pytest.mark.parametrize(("m", "n"), [(2, 10), (2, 2), (3, 1), (3, 6), (4, 4), (5, 3), (7, 2)])
def test_calibration_on_a_grid_equals_its_twin(m, n):
    preferences = grid(m, n)
    values = np.random.default_rng(0).normal(size=preferences.shape)
    assert calibration(values, preferences) == close(slow_calibration_of_a_grid(values.tolist(), m, n))


@pytest.mark.parametrize("m", [2, 3, 5])
def test_calibration_on_scattered_preferences_equals_its_twin(m):
    random = np.random.default_rng(m)
    p, x = random.dirichlet(np.ones(m), size=15).tolist(), random.normal(size=(15, m)).tolist()
    ranges = [max(c) - min(c) for c in zip(*x, strict=True)]
    x = [[a / r for a, r in zip(row, ranges, strict=True)] for row in x]
    far = math.dist
    pairs = [
        (i, j)
        for i, j in itertools.combinations(range(15), 2)
        if not any(max(far(p[i], r), far(p[j], r)) < 0.999 * far(p[i], p[j]) for r in p)
    ]
    steps, outcomes = [far(p[i], p[j]) for i, j in pairs], [far(x[i], x[j]) for i, j in pairs]
    apart = sum(abs(a / sum(outcomes) - b / sum(steps)) for a, b in zip(outcomes, steps, strict=True)) / 2
    assert calibration(x, p) == close(1 - apart / (1 - min(steps) / sum(steps)))


def test_calibration_by_hand():
    """Two edges of lengths 1 : 3 that take 3/4 and 1/4 of the change: ½ (½ + ½) of at most 3/4."""
    preferences = [[0, 1], [0.25, 0.75], [1, 0]]
    assert calibration([[0, 4], [3, 1], [4, 0]], preferences) == close(1 - 0.5 / 0.75)
    assert calibration([[0, 4], [1, 3], [4, 0]], preferences) == close(1)
    assert calibration([[0, 4], [4, 0], [4, 0]], preferences) == close(0, abs=1e-12)
    assert calibration([[1, 1]] * 3, preferences) == 0


def test_few_preferences_have_a_calibration():
    assert calibration([[1, 2]], [[1, 0]]) == 0
    assert calibration([[1, 2], [2, 1]], [[1, 0], [0, 1]]) == 1
    assert calibration([[1, 2], [1, 2]], [[1, 0], [0, 1]]) == 0


@problems
@given(seed=st.integers(0, 1000), m=st.integers(2, 4), n=st.integers(3, 12))
def test_what_a_calibration_does_not_depend_on(seed, m, n):
    random = np.random.default_rng(seed)
    preferences, values = random.dirichlet(np.ones(m), size=n), random.normal(size=(n, m))
    found = calibration(values, preferences)
    assert 0 <= found <= 1
    order = random.permutation(n)
    assert calibration(values[order], preferences[order]) == close(found)
    units = random.uniform(0.1, 10, m) * random.choice([-1, 1], m)
    assert calibration(values * units + random.normal(size=m), preferences) == close(found)
    objectives = random.permutation(m)
    assert calibration(values[:, objectives], preferences[:, objectives]) == close(found)


@problems
@given(data=st.data(), front=fronts(most=8))
def test_a_direction_is_a_sign(data, front):
    values, maximise = front
    sign = np.where(maximise, 1, -1)
    weights = np.array(data.draw(st.lists(st.integers(0, 3), min_size=values.size, max_size=values.size)))
    weights = weights.reshape(values.shape)
    for metric in OF_A_FRONT:
        assert metric(values, maximise=maximise) == metric(values * sign)
    assert np.array_equal(non_dominated(values, maximise=maximise), non_dominated(values * sign))
    for steered in (inner_product, monotonicity):
        assert np.array_equal(steered(values, weights, maximise=maximise), steered(values * sign, weights))
    assert coverage(values, weights, maximise=maximise) == coverage(values * sign, weights * sign)
    reference = weights[0]
    assert hypervolume(values, reference, maximise=maximise) == hypervolume(values * sign, reference * sign)
    assert hypervolume(values, reference, maximise=np.array(maximise)) >= 0


# Side effects


def test_drift_by_hand():
    assert drift([[3, 5], [1, 1], [2, 2]], [1, 3]) == close((2 + 1 + 0) / 3)
    assert drift([[1, 3]], [3, 1]) == 0


def test_drift_has_no_unit():
    values, base = np.random.default_rng(0).normal(size=(4, 9)), np.random.default_rng(1).normal(size=9)
    assert drift(values * -60 + 3, base * -60 + 3) == close(drift(values, base))


# Refusals

TWO = [[1.0, 2.0], [2.0, 1.0]]
BAD = [
    (lambda: non_dominated([1, 2, 3]), "`values` must have shape (N, m), but got (3,)."),
    (lambda: sparsity(3), "`values` must have shape (N, m), but got ()."),
    (lambda: spacing(np.ones((0, 2))), "`values` must have shape (N, m), but got (0, 2)."),
    (lambda: schott_spacing([[[1]]]), "`values` must have shape (N, m), but got (1, 1, 1)."),
    (lambda: sparsity_per_objective([[]]), "`values` must have shape (N, m), but got (1, 0)."),
    (lambda: hypervolume(TWO, [0, 0, 0]), "`reference` must have shape (2,), but got (3,)."),
    (lambda: hypervolume(TWO, 0), "`reference` must have shape (2,), but got ()."),
    (lambda: hypervolume(TWO, [0, -np.inf]), "`reference` must hold finite numbers, but got -inf."),
    (lambda: hypervolume([[1, np.nan]], [0, 0]), "`values` must hold finite numbers, but got nan."),
    (lambda: inner_product(TWO, TWO[0]), "`preferences` must have shape (2, 2), but got (2,)."),
    (lambda: inner_product(TWO, [[np.inf, 0], [0, 1]]), "`preferences` must hold finite numbers, but got inf."),
    (lambda: monotonicity(TWO, TWO[:1]), "`preferences` must have shape (2, 2), but got (1, 2)."),
    (lambda: calibration(TWO, [[1], [2]]), "`preferences` must have shape (2, 2), but got (2, 1)."),
    (
        lambda: calibration(TWO, [[1, 0], [1, 0]]),
        "`preferences` must be different from each other, but got the same one twice.",
    ),
    (lambda: coverage(TWO, [[1, 2, 3]]), "`other` must have shape (K, 2), but got (1, 3)."),
    (lambda: coverage(TWO, np.ones((0, 2))), "`other` must have shape (K, 2), but got (0, 2)."),
    (lambda: drift([1, 2], [1, 2]), "`values` must have shape (K, 2), but got (2,)."),
    (lambda: drift(TWO, [TWO]), "`base` must have shape (P,), but got (1, 2, 2)."),
    (lambda: drift(TWO, [3, 3]), "`base` must hold different numbers, but got 3.0 only."),
    (lambda: sparsity(TWO, maximise=[True]), "`maximise` must be a bool or 2 of them, but got [True]."),
    (lambda: non_dominated(TWO, maximise="yes"), "`maximise` must be a bool or 2 of them, but got 'yes'."),
    (lambda: coverage(TWO, TWO, maximise=[1, 0]), "`maximise` must be a bool or 2 of them, but got [1, 0]."),
]


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        call()
    assert str(caught.value) == message


@pytest.mark.parametrize("metric", OF_A_FRONT)
def test_the_direction_is_named(metric):
    with pytest.raises(TypeError, match="positional"):
        metric(TWO, False)


def test_the_documented_numbers():
    found = doctest.testmod(metrics)
    assert (found.failed, found.attempted > 10) == (0, True)
