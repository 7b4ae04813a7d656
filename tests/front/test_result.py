"""A front as numbers: by hand, against the metrics' own functions, and with intervals that hold what they promise."""

import json
import sys
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from peft_panacea import metrics
from peft_panacea.front import Front, uncertainty
from peft_panacea.front.uncertainty import draws
from small_fronts import LINE, TRIANGLE, UNITS, front


@pytest.fixture
def few_resamples(monkeypatch):
    monkeypatch.setattr(uncertainty, "RESAMPLES", 100)


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


def test_one_prompt_has_metrics_but_no_intervals():
    """A mean over held-out rows: nothing says how uncertain it is."""
    one = front(P=1)
    assert one.metrics()["hypervolume"] > 0
    for ask in (one.interval, one.metric_intervals):
        with pytest.raises(ValueError, match="`scores` must have at least 2 prompts for intervals, but got 1"):
            ask()


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
    pytest.importorskip("pandas", reason="in the extra `eval`")
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


@pytest.mark.parametrize(
    "content",
    ["no JSON", "[1]", '{"objectives": ["a"], "preferences": [[1]], "measured": [[2]]}', '{"format_version": 1}'],
)
def test_a_file_that_is_no_front_is_refused_by_name(content, tmp_path):
    """Among them what the recipes once wrote under this name."""
    path = tmp_path / "front.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"`path` must be a front that .* wrote, but .*front\.json is not"):
        Front.from_json(path)


def test_a_front_of_a_later_version_is_refused_by_name(tmp_path):
    path = tmp_path / "front.json"
    front().to_json(path)
    content = json.loads(path.read_text())
    assert content["format_version"] == 1
    path.write_text(json.dumps(content | {"format_version": 2, "more": 1}))
    with pytest.raises(ValueError, match=r"of format_version 1 or less, but .*front\.json has 2; a later version"):
        Front.from_json(path)


def test_what_is_not_installed_is_missed_by_the_command_that_installs_it(monkeypatch):
    for package, ask in (
        ("pandas", front().to_dataframe),
        ("moocore", front().metrics),
        ("scipy.spatial", lambda: front(weights=TRIANGLE).nearest({"a": 1})),
    ):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(
            ModuleNotFoundError, match=rf"`{package}` must be installed .*`pip install peft-panacea\[eval\]`"
        ):
            ask()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"preferences": [1, 0]}, r"`preferences` must have shape \(K, 2\), but got \(2,\)"),
        ({"preferences": [[1.0]]}, r"`preferences` must have shape \(K, 2\), but got \(1, 1\)"),
        ({"scores": np.zeros((5, 0, 2))}, r"`scores` must have shape \(5, P, 2\), but got \(5, 0, 2\)"),
        ({"scores": np.zeros((4, 3, 2))}, r"`scores` must have shape \(5, P, 2\), but got \(4, 3, 2\)"),
        ({"scores": np.full((5, 12, 2), np.nan)}, "`scores` must hold finite numbers, but got nan"),
        ({"maximise": [True]}, r"`maximise` must be a bool or 2 of them, but got \[True\]"),
        ({"maximise": [1, -1]}, r"`maximise` must be a bool or 2 of them, but got \[1, -1\]"),
        ({"maximise": ["max", "min"]}, "`maximise` must be a bool or 2 of them"),
        ({"maximise": {"a": True, "b": False}}, "`maximise` must be a bool or 2 of them"),
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
    for ask in (front().interval, lambda x: front().metric_intervals(level=x)):
        with pytest.raises(ValueError, match=f"`level` must be between 0 and 1, but got {level}"):
            ask(level)


def test_whoever_writes_into_their_arrays_does_not_change_a_front():
    preferences, scores = np.eye(2), np.zeros((2, 3, 2))
    measured = Front(["a", "b"], preferences, scores)
    preferences += 1
    scores += 1
    assert (measured.preferences.sum(), measured.scores.sum()) == (2, 0)
