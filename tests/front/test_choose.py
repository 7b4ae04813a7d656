"""Choosing a preference: what is promised holds, and nothing better was there to choose."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.interpolate import LinearNDInterpolator

from peft_panacea.front import Front
from peft_panacea.front.between import CANDIDATES
from peft_panacea.front.choose import Interpolation
from peft_panacea.simplex import simplex_grid

LINE, TRIANGLE = (simplex_grid(m, n).double().numpy().round(7) for m, n in ((2, 10), (3, 4)))


def attained(weights):
    """Concave, each objective rising with its own weight, [..., m]."""
    return 1 - (1 - np.asarray(weights)) ** 2


def noisy(weights, *, seed=0, P=48, noise=0.5, maximise=True, **others):
    """Normal noise, half of it shared by all preferences because it is the prompt's."""
    rng = np.random.default_rng(seed)
    K, m = weights.shape
    scores = attained(weights)[:, None] + noise * (rng.normal(size=(K, P, m)) + rng.normal(size=(1, P, m)))
    sign = np.where(maximise, 1, -1)
    return Front(["a", "b", "c"][:m], weights, scores * sign, maximise, **others)


def exact(weights, **others):
    return Front(["a", "b", "c"][: weights.shape[1]], weights, attained(weights)[:, None].repeat(2, axis=1), **others)


def candidates(front):
    return Interpolation(front.objectives, front.preferences, front.scores, front.maximise, 0.9).candidates


def test_a_choice_without_noise_can_be_made_by_hand():
    """Here b is 2 · its weight, a is 3 · its own: b ≥ 0.5 leaves a at most 3/4 · 3."""
    front = Front(["a", "b"], [[0, 1], [1, 0]], [[[0, 2]] * 3, [[3, 0]] * 3])
    choice = front.choose("a", {"b": 0.5})
    assert choice.preference == pytest.approx({"a": 0.75, "b": 0.25})
    assert choice.expected == pytest.approx({"a": 2.25, "b": 0.5})
    assert choice.interval == {name: pytest.approx((x, x)) for name, x in choice.expected.items()}
    assert choice.level == 0.95
    assert front.choose("a", {}).preference == {"a": 1.0, "b": 0.0}
    assert front.nearest({"a": 1.5, "b": 1}).preference == pytest.approx({"a": 0.5, "b": 0.5})


@pytest.mark.parametrize("level", [0.6, 0.95])
@pytest.mark.parametrize("weights", [LINE, TRIANGLE], ids=["two objectives", "three"])
@pytest.mark.parametrize("up", [True, False], ids=["maximised", "minimised"])
def test_constraints_hold_and_a_search_finds_nothing_better(weights, level, up):
    """With a bootstrap and an interpolation of the search's own; b is maximised or minimised, the others maximised."""
    m = weights.shape[1]
    front = noisy(weights, maximise=[True, up, True][:m])
    limits = {"b": 0.4, "c": 0.1} if m == 3 else {"b": 0.4}
    sign = {"b": 1 if up else -1, "c": 1}
    choice = front.choose("a", {name: limit * sign[name] for name, limit in limits.items()}, level=level)

    rng = np.random.default_rng(0)
    means = np.stack([front.scores[:, rng.integers(48, size=48)].mean(axis=1) for _ in range(1000)], axis=1)
    tables = np.concatenate([front.values[:, None], means], axis=1)  # [K, 1001, m]

    def interpolated(at):
        if m == 2:
            return np.array([[np.interp(at[0], weights[:, 0], c) for c in table.T] for table in tables.swapaxes(0, 1)])
        return LinearNDInterpolator(weights[:, :-1], tables)(at[:-1])[0]

    # Between measured preferences the band is narrowest, so that its width is nearly that of the measured ones alone.
    off = (means - front.values[:, None]) / means.std(axis=1, keepdims=True)
    one_sided = np.quantile((off * np.where(front.maximise, 1, -1)).max(axis=0), level, axis=0)
    two_sided = np.quantile(np.abs(off).max(axis=0), level, axis=0)

    def worst(table, name):
        i = front.objectives.index(name)
        return sign[name] * table[0, i] - one_sided[i] * table[1:, i].std()

    chosen = interpolated(list(choice.preference.values()))
    assert all(worst(chosen, name) >= limit - 0.01 for name, limit in limits.items())
    assert chosen[0].tolist() == pytest.approx(list(choice.expected.values()), abs=1e-6)
    for i, (low, high) in enumerate(choice.interval.values()):
        assert (low + high) / 2 == pytest.approx(chosen[0, i], abs=1e-6)
        assert (high - low) / 2 == pytest.approx(two_sided[i] * chosen[1:, i].std(), rel=0.05)
    others = np.random.default_rng(1).dirichlet(np.ones(m), size=40)
    for table in map(interpolated, [*others, *weights]):
        if all(worst(table, name) >= limit + 0.01 for name, limit in limits.items()):
            assert table[0, 0] <= choice.expected["a"] + (0.002 if m == 2 else 0.05), "candidates are not dense"


def test_the_true_value_meets_the_constraint_as_often_as_promised():
    """On prompts that were not measured, that is in the population; 60 fronts, two binomial standard errors."""
    met = []
    for seed in range(60):
        choice = noisy(LINE, seed=seed, noise=0.25).choose("a", {"b": 0.6}, level=0.9)
        met.append(attained(list(choice.preference.values()))[1] >= 0.6)
    print(f"met by {np.mean(met):.1%} of the choices, promised for 90 %")
    assert np.mean(met) >= 0.9 - 2 * (0.9 * 0.1 / len(met)) ** 0.5


def test_a_higher_level_is_more_careful():
    b = [noisy(LINE, noise=0.25).choose("a", {"b": 0.5}, level=level).preference["b"] for level in (0.5, 0.9, 0.99)]
    assert b == sorted(b)
    assert len(set(b)) == 3


@pytest.mark.parametrize("weights", [LINE, TRIANGLE, np.array([[0.5, 0.5], [1 / 3, 2 / 3], [0.9, 0.1]])], ids=len)
def test_the_nearest_of_a_measured_point_is_its_preference(weights):
    front = noisy(weights)
    for preference, values in zip(weights, front.values, strict=True):
        choice = front.nearest(dict(zip(front.objectives, values, strict=True)))
        assert list(choice.preference.values()) == pytest.approx(preference.tolist(), abs=1e-7)
        assert list(choice.expected.values()) == pytest.approx(values.tolist())


def test_nearness_is_in_units_of_the_normalisation_or_the_range():
    """(1, 0) is nearer in a's unit, (0, 1) in b's; other objectives do not count."""
    scores = [[[0, 10]] * 2, [[1, 0]] * 2]
    target = {"a": 1.0, "b": 10.0}
    by_a, by_b = (
        Front(["a", "b"], [[0, 1], [1, 0]], scores, normalisation=([0, 0], unit)) for unit in ([1, 100], [100, 1])
    )
    assert by_a.nearest(target).preference["a"] == pytest.approx(1, abs=0.02)
    assert by_b.nearest(target).preference["b"] == pytest.approx(1, abs=0.02)
    assert Front(["a", "b"], [[0, 1], [1, 0]], scores).nearest(target).preference == {"a": 0.5, "b": 0.5}
    assert by_b.nearest({"a": 0.25}).preference == {"a": 0.25, "b": 0.75}


def test_what_cannot_be_attained_is_refused_with_the_best_value():
    front = exact(LINE)
    with pytest.raises(ValueError, match=r"with confidence 0\.95, but 'b' is 1 at best, not 1\.5\."):
        front.choose("a", {"b": 1.5})
    with pytest.raises(
        ValueError, match=r"but 'a' is 0\.5\d* at best where the constraints before it are met, not 0\.9"
    ):
        front.choose("a", {"b": 0.9, "a": 0.9})
    least = Front(["a", "b"], LINE, 1 + exact(LINE).scores, maximise=False)
    with pytest.raises(ValueError, match=r"'b' is 1 at best, not 0\.5\."):
        least.choose("a", {"b": 0.5})
    assert least.choose("a", {"b": 1.5}).preference["b"] == pytest.approx(1 - 0.5**0.5, abs=0.01), "less is better"


def one_prompt(front):
    return replace(front, scores=front.scores[:, :1])


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda f: f.choose("x", {}), r"`maximise` must name objectives of \['a', 'b'\], but got 'x'"),
        (lambda f: f.choose("a", {"x": 1}), r"`subject_to` must name objectives of \['a', 'b'\], but got 'x'"),
        (lambda f: f.nearest({"x": 1}), r"`target` must name objectives of \['a', 'b'\], but got 'x'"),
        (lambda f: f.nearest({"a": np.nan}), r"`target\['a'\]` must be a finite number, but got nan"),
        (lambda f: f.nearest({}), "`target` must name at least one objective, but got none"),
        (lambda f: f.choose("a", {}, level=1.0), r"`level` must be between 0 and 1, but got 1\.0"),
        (lambda f: f.nearest({"a": 1}, level=0), "`level` must be between 0 and 1, but got 0"),
        (lambda f: one_prompt(f).choose("a", {}), "`scores` must have at least 2 prompts for intervals, but got 1"),
        (lambda f: one_prompt(f).nearest({"a": 1}), "`scores` must have at least 2 prompts for intervals, but got 1"),
    ],
)
def test_what_is_refused(ask, message):
    with pytest.raises(ValueError, match=message):
        ask(exact(LINE))


def test_candidates_of_a_triangle_are_uniform():
    """In cells of unequal size, by the share of candidates in each quarter of a triangle."""
    weights = np.concatenate([TRIANGLE, np.random.default_rng(0).dirichlet([5, 5, 5], size=20)])
    drawn = candidates(noisy(weights))[len(weights) :]
    assert len(drawn) == CANDIDATES
    np.testing.assert_allclose(drawn.sum(axis=1), 1, atol=3e-7)
    shares = [*(drawn > 0.5).mean(axis=0), (drawn <= 0.5).all(axis=1).mean()]
    np.testing.assert_allclose(shares, 0.25, atol=4 * (0.25 * 0.75 / CANDIDATES) ** 0.5)


@pytest.mark.parametrize(
    "weights",
    [[[0.2, 0.8]], [[0.2, 0.8]] * 2, [[1.0]], [[0.5, 0.5, 0], [0.2, 0.8, 0], [1, 0, 0], [0, 1, 0]], np.eye(3)[:2]],
    ids=["one", "twice", "one objective", "on a face", "too few"],
)
def test_preferences_that_span_nothing_are_the_candidates(weights):
    front = noisy(np.array(weights))
    assert {tuple(p) for p in candidates(front)} == {tuple(p) for p in front.preferences}
    assert front.choose("a", {}).expected["a"] == pytest.approx(front.values[:, 0].max())


def test_a_preference_measured_twice_counts_by_its_mean():
    front = Front(["a", "b"], [[0, 1], [1, 0], [1, 0]], [[[0, 4]] * 2, [[3, 0]] * 2, [[5, 0]] * 2])
    assert front.nearest({"b": 2.0}).expected == pytest.approx({"a": 2.0, "b": 2.0})


def test_ten_objectives_are_quick_enough():
    weights = simplex_grid(10, 2).double().numpy()
    front = Front([str(i) for i in range(10)], weights, np.sqrt(weights)[:, None].repeat(2, axis=1))
    choice = front.choose("0", {"1": 0.2, "2": 0.2})
    assert sum(choice.preference.values()) == pytest.approx(1, abs=1e-6)
    assert min(choice.expected["1"], choice.expected["2"]) >= 0.2
