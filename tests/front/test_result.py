"""A front as numbers: by hand, against the metrics' own functions, and with intervals that hold what they promise."""

import json
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from peft_panacea import metrics
from peft_panacea.front import Front, nadir, over_seeds, uncertainty
from peft_panacea.front.uncertainty import draws
from peft_panacea.simplex import simplex_grid

LINE = simplex_grid(2, 4).numpy().astype(float)
TRIANGLE = simplex_grid(3, 2).numpy().astype(float)


@pytest.fixture
def few_resamples(monkeypatch):
    monkeypatch.setattr(uncertainty, "RESAMPLES", 100)


def front(*, seed=0, P=12, weights=LINE, gain=1.0, **others):
    rng = np.random.default_rng(seed)
    K, m = weights.shape
    base = rng.normal(size=(P, m))
    scores = base + gain * np.sqrt(weights)[:, None] + 0.3 * rng.normal(size=(K, P, m))
    effects = {"length": rng.normal(20, 3, size=(K, P)), "KL": rng.uniform(0, 2, size=(K, P))}
    common = {
        "base": base,
        "side_effects": effects,
        "base_side_effects": {"length": rng.normal(18, 3, size=P), "KL": np.zeros(P)},
        "details": {"seed": seed, "prompts": "p", "more": [np.float32(0.5), {"n": np.int64(3), "a": np.arange(2)}]},
    }
    return Front(["a", "b", "c"][:m], weights, scores, **{**common, **others})


UNITS = {"normalisation": ([0.5, -1], [2, 0.25]), "reference": [-3, -2], "maximise": [True, False]}


# Numbers


def test_values_are_means_over_prompts():
    one = Front(["a", "b"], [[1, 0], [0, 1]], [[[1, 2], [3, 6]], [[0, 0], [1, 1]]], base=[[1, 1], [2, 4]])
    assert one.values.tolist() == [[2, 4], [0.5, 0.5]]
    assert one.base_values.tolist() == [1.5, 2.5]
    assert one.maximise == (True, True)
    assert one.objectives == ("a", "b")
    assert replace(one, base=None).base_values is None


@pytest.mark.parametrize("weights", [LINE, TRIANGLE], ids=["two", "three"])
@pytest.mark.parametrize("normalised", [False, True])
def test_metrics_are_those_of_the_functions_on_normalised_values(weights, normalised):
    m = weights.shape[1]
    maximise = [True, False, True][:m]
    mean, std = np.array([0.5, -1, 2])[:m], np.array([2, 0.25, 1])[:m]
    measured = front(weights=weights, maximise=maximise, normalisation=(mean, std) if normalised else None)
    reference = np.array([-1.0, 2.0, -1.0])[:m]
    if not normalised:
        mean, std = np.zeros(m), np.ones(m)
    values, corner = (measured.values - mean) / std, (reference - mean) / std
    found = measured.metrics(reference)
    expected = {
        "hypervolume": metrics.hypervolume(values, corner, maximise=maximise),
        "hypervolume is exact": 1.0,
        "inner product": metrics.inner_product(values, weights, maximise=maximise),
        "sparsity": metrics.sparsity(values, maximise=maximise),
        "spacing": metrics.spacing(values, maximise=maximise),
        "monotonicity": metrics.monotonicity(values, weights, maximise=maximise).mean(),
        "calibration": metrics.calibration(values, weights),
        "drift of length": metrics.drift(measured.side_effects["length"], measured.base_side_effects["length"]),
        "mean KL": measured.side_effects["KL"].mean(),
    }
    assert found == pytest.approx(expected, rel=1e-9)
    assert list(found) == list(expected)
    assert all(type(value) is float for value in found.values())
    assert found["hypervolume"] > 0


def test_the_reference_is_the_given_one_or_the_fronts_or_the_base():
    measured = front(reference=[-3, -2])
    volume = {
        name: metrics.hypervolume(measured.values, point)
        for name, point in {"given": [-5, -5], "own": [-3, -2], "base": measured.base_values}.items()
    }
    assert measured.metrics([-5, -5])["hypervolume"] == pytest.approx(volume["given"])
    assert measured.metrics()["hypervolume"] == pytest.approx(volume["own"])
    assert replace(measured, reference=None).metrics()["hypervolume"] == pytest.approx(volume["base"])
    with pytest.raises(ValueError, match="`reference` must be given for a front without `reference` and `base`"):
        replace(measured, reference=None, base=None).metrics()
    with pytest.raises(ValueError, match=r"`reference` must have shape \(2,\), but got \(3,\)"):
        measured.metrics([0, 0, 0])


def test_only_what_counts_decides_whether_the_hypervolume_is_exact():
    """Thirteen points in eleven objectives are too many, unless one beats another or is the same."""
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.ones(11), size=13)
    names = [str(i) for i in range(11)]
    values = 1 + np.concatenate([np.eye(11), rng.uniform(0, 0.5, size=(2, 11))])
    exact = lambda v: Front(names, weights, v[:, None]).metrics(np.zeros(11))["hypervolume is exact"]  # noqa: E731
    assert exact(values) == 0.0
    beaten = values.copy()
    beaten[-1] = beaten[-2] - 0.1
    assert exact(beaten) == 1.0
    beaten[-1] = beaten[-2]
    assert exact(beaten) == 1.0


# Intervals


def test_an_interval_covers_the_mean_of_the_population_as_often_as_it_says():
    """250 times 60 prompts, of a skewed and of a normal population; about three binomial standard errors."""
    rng = np.random.default_rng(0)
    covered = np.zeros(2)
    for _ in range(250):
        scores = np.stack([rng.exponential(size=60), rng.normal(2, 5, size=60)], axis=1)
        low, high = Front(["a", "b"], [[0.5, 0.5]], scores[None]).interval(0.95)[:, 0]
        covered += (low <= [1, 2]) & (high >= [1, 2])
    print(f"coverage of 95 % intervals: {covered / 250}")
    assert (np.abs(covered / 250 - 0.95) < 0.045).all()


def test_an_interval_is_the_percentiles_of_resampled_means():
    measured = front()
    slow = np.array([[one[prompts].mean(axis=0) for one in measured.scores] for prompts in draws(12)])
    assert len(slow) == 1000
    np.testing.assert_allclose(measured.interval(0.8), np.quantile(slow, [0.1, 0.9], axis=0))
    low, high = measured.interval(0.5)
    assert (measured.interval(0.9)[0] < low).all()
    assert (low < high).all()


def test_resampled_metrics_are_those_of_a_front_of_the_resampled_prompts(few_resamples):
    """Where reference and normalisation are fixed; a side effect moves with its base, whose spread is fixed."""
    measured = front(**UNITS)
    found = []
    for prompts in draws(12):
        effects = {name: array[:, prompts] for name, array in measured.side_effects.items()}
        bases = {name: array[prompts] for name, array in measured.base_side_effects.items()}
        spread = bases["length"].std() / measured.base_side_effects["length"].std() or 1.0
        one = replace(measured, scores=measured.scores[:, prompts], side_effects=effects, base_side_effects=bases)
        found.append(one.metrics() | {"drift of length": one.metrics()["drift of length"] * spread})
    intervals = measured.metric_intervals(level=0.9)
    assert set(intervals) == set(found[0]) - {"hypervolume is exact"}
    for name, bound in intervals.items():
        assert bound == pytest.approx(tuple(np.quantile([one[name] for one in found], [0.05, 0.95])))


def test_the_base_model_is_as_uncertain_as_its_prompts(few_resamples):
    """A hypervolume above the base model's values moves with them, one above a given point does not."""
    constant = Front(["a", "b"], [[1, 0], [0, 1]], np.ones((2, 12, 2)), base=np.random.default_rng(0).random((12, 2)))
    low, high = constant.metric_intervals()["hypervolume"]
    assert low < constant.metrics()["hypervolume"] < high
    given = constant.metric_intervals(constant.base_values)["hypervolume"]
    assert given == pytest.approx((constant.metrics()["hypervolume"],) * 2)


def test_few_prompts_have_intervals_too(few_resamples):
    """Resamples in which a side effect of the base model never changes are no error, and ties stay ties."""
    few = front(P=2)
    assert set(few.metric_intervals()) == set(few.metrics()) - {"hypervolume is exact"}
    constant = replace(few, scores=np.repeat(few.scores[:1], 5, axis=0))
    assert constant.metric_intervals()["monotonicity"] == (0, 0)
    assert constant.metric_intervals()["calibration"] == (0, 0)
    one = front(P=1)
    assert np.array_equal(one.interval(), [one.values, one.values])
    assert "mean length" in one.metric_intervals()


# Against another front


def test_a_front_does_not_differ_from_itself(few_resamples):
    for name, row in front(**UNITS).compare(front(**UNITS)).items():
        assert row["this"] == row["other"], name
        assert row["difference"] == row["low"] == row["high"] == 0
    assert front().compare(front())["coverage"]["this"] == 1


def test_a_shifted_front_differs_by_the_shift(few_resamples):
    """Exactly, in every resample: the noise of the prompts is common. In units of this front's normalisation."""
    one = front(normalisation=([0, 0], [2, 2]), reference=[-9, -9])
    other = replace(one, scores=one.scores + 0.5, normalisation=([7, 7], [5, 5]), reference=None)
    report = other.compare(one, level=0.9, reference=[-9, -9])
    assert report["inner product"]["difference"] == pytest.approx(0.5 / 5)
    report = one.compare(other)
    assert report["inner product"] == pytest.approx(
        {
            "this": one.metrics()["inner product"],
            "other": one.metrics()["inner product"] + 0.25,
            **dict.fromkeys(["difference", "low", "high"], -0.25),
        }
    )
    assert report["coverage"]["this"] == 0
    assert report["coverage"]["other"] == 1
    assert report["hypervolume"]["high"] < 0
    assert report["sparsity"]["low"] == pytest.approx(0, abs=1e-12)
    assert "hypervolume is exact" not in report


def test_fronts_of_other_preferences_can_be_compared(few_resamples):
    one, other = front(), front(seed=1, weights=LINE[::2], base_side_effects={}, side_effects={})
    report = one.compare(other)
    assert report["hypervolume"]["other"] == pytest.approx(metrics.hypervolume(other.values, one.base_values))
    assert report["coverage"]["this"] == metrics.coverage(one.values, other.values)
    assert not {name for name in report if "length" in name or "KL" in name}


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (front(P=7), "`other` must be measured on the same 12 prompts, but has 7 and not the same"),
        (front(details={"prompts": "q"}), "`other` must be measured on the same 12 prompts"),
        (front(maximise=[True, False]), r"`other` must have the maximise \[True, True\], but got \[True, False\]"),
        (front(weights=TRIANGLE), r"`other` must have the objectives \['a', 'b'\], but got \['a', 'b', 'c'\]"),
    ],
    ids=["fewer", "others", "directions", "objectives"],
)
def test_fronts_that_are_not_alike_are_refused(other, message, few_resamples):
    with pytest.raises(ValueError, match=message):
        front().compare(other)
    if "prompts" not in message:
        with pytest.raises(ValueError, match=message.replace("other", "fronts")):
            nadir([front(), other])
        with pytest.raises(ValueError, match=message.replace("other", "fronts")):
            over_seeds([front(), other])
    front().compare(front(details={}))  # nothing is known of its prompts


def test_the_nadir_is_the_worst_of_all_points():
    one = Front(["a", "b"], [[1, 0], [0, 1]], [[[1, 2]], [[3, 4]]], maximise=[True, False])
    other = Front(["a", "b"], [[1, 0]], [[[2, 9]]], maximise=[True, False])
    assert nadir([one]).tolist() == [1, 4]
    assert nadir([one, other]).tolist() == nadir([other, one]).tolist() == [1, 9]
    with pytest.raises(ValueError, match="`fronts` must hold at least one front, but got none"):
        nadir([])


def test_over_seeds_is_mean_and_standard_deviation():
    fronts = [front(seed=i, normalisation=([0, 0], [1 + i, 1]), reference=[-4 - i, -4]) for i in range(3)]
    alike = [replace(f, normalisation=fronts[0].normalisation, reference=[-4, -4]) for f in fronts]
    volumes = [f.metrics()["hypervolume"] for f in alike]
    found = over_seeds(fronts)
    assert found["hypervolume"] == pytest.approx((np.mean(volumes), np.std(volumes, ddof=1)))
    assert over_seeds(fronts, [-5, -5])["inner product"] == found["inner product"]
    assert over_seeds(fronts, [-5, -5])["hypervolume"][0] > found["hypervolume"][0]
    assert set(found) == set(fronts[0].metrics())
    with pytest.raises(ValueError, match="`fronts` must be two or more for a standard deviation, but got one"):
        over_seeds(fronts[:1])


# Elsewhere


@pytest.mark.parametrize("others", [{}, UNITS, {"base": None, "base_side_effects": {}, "side_effects": {}}], ids=str)
def test_json_keeps_everything_to_seven_digits(others, tmp_path):
    one = front(**others)
    one.to_json(tmp_path / "new" / "front.json")
    two = Front.from_json(tmp_path / "new" / "front.json")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["front.json"]
    for name in (f.name for f in fields(Front)):
        first, second = getattr(one, name), getattr(two, name)
        if name == "details":
            assert second == {"seed": 0, "prompts": "p", "more": [0.5, {"n": 3, "a": [0, 1]}]}
        elif isinstance(first, dict):
            assert list(first) == list(second)
            for effect in first:
                np.testing.assert_allclose(first[effect], second[effect], rtol=5e-7, atol=0)
        elif first is None or name in ("objectives", "maximise"):
            assert first == second
        else:
            np.testing.assert_allclose(first, second, rtol=5e-7, atol=0)
    two.to_json(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "new" / "front.json").read_bytes()


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "front.json"
    front().to_json(path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        front(details={"what": object()}).to_json(path)
    assert path.read_bytes() == before
    assert json.loads(before)["objectives"] == ["a", "b"]


def test_the_dataframe_has_a_row_for_every_preference_and_prompt():
    pytest.importorskip("pandas")
    one = front()
    frame = one.to_dataframe()
    assert list(frame) == ["weight of a", "weight of b", "prompt", "a", "b", "length", "KL"]
    assert len(frame) == 5 * 12
    for k, p in ((0, 0), (1, 3), (4, 11)):
        (row,) = frame[(frame["weight of a"] == LINE[k, 0]) & (frame["prompt"] == p)].to_dict("records")
        assert [row["a"], row["b"]] == one.scores[k, p].tolist()
        assert row["weight of b"] == LINE[k, 1]
        assert [row["length"], row["KL"]] == [one.side_effects[name][k, p] for name in ("length", "KL")]
    means = frame.groupby("weight of a")[["a", "b"]].mean().to_numpy()
    np.testing.assert_allclose(means, one.values)


def test_tensors_are_taken_and_half_precision_too():
    one = Front(["a", "b"], torch.tensor([[0.5, 0.5]], dtype=torch.bfloat16), torch.ones(1, 2, 2))
    assert one.preferences.tolist() == [[0.5, 0.5]]
    assert one.scores.dtype == one.preferences.dtype == np.float64


def test_a_front_draws_itself():
    assert [axes.get_xlabel() for axes in front().plot().axes if axes.get_xlabel()] == ["a"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"preferences": [1, 0]}, r"`preferences` must have shape \(K, 2\), but got \(2,\)"),
        ({"preferences": [[1.0]]}, r"`preferences` must have shape \(K, 2\), but got \(1, 1\)"),
        ({"scores": np.zeros((5, 0, 2))}, r"`scores` must have shape \(5, P, 2\), but got \(5, 0, 2\)"),
        ({"scores": np.zeros((4, 3, 2))}, r"`scores` must have shape \(5, P, 2\), but got \(4, 3, 2\)"),
        ({"scores": np.full((5, 12, 2), np.nan)}, "`scores` must hold finite numbers, but got nan"),
        ({"maximise": [True]}, "`maximise` must have 2 entries, but got 1"),
        ({"base": np.zeros((3, 2))}, r"`base` must have shape \(12, 2\), but got \(3, 2\)"),
        ({"reference": [0]}, r"`reference` must have shape \(2,\), but got \(1,\)"),
        ({"normalisation": ([0, 0], [1, 0])}, r"positive standard deviations, but got \[1.0, 0.0\]"),
        ({"side_effects": {"x": [1]}}, r"`side_effects\['x'\]` must have shape \(5, 12\), but got \(1,\)"),
        ({"side_effects": {"a": np.zeros((5, 12))}}, "must have different names, but got"),
        ({"objectives": ["a", "a"]}, r"`objectives` and `side_effects` must have different names, but got \['a', 'a'"),
        ({"base_side_effects": {"x": [1]}}, r"`base_side_effects\['x'\]` must have shape \(12,\), but got \(1,\)"),
    ],
    ids=str,
)
def test_what_is_no_front(changed, message):
    with pytest.raises(ValueError, match=message):
        replace(front(), **changed)


@pytest.mark.parametrize("level", [0, 1, 95])
def test_what_is_no_level(level):
    for ask in (
        front().interval,
        lambda x: front().metric_intervals(level=x),
        lambda x: front().compare(front(), level=x),
    ):
        with pytest.raises(ValueError, match=f"`level` must be between 0 and 1, but got {level}"):
            ask(level)
