"""Several fronts: a front against itself, against a shifted one, over seeds; by hand where numbers are few."""

from dataclasses import replace

import numpy as np
import pytest

from peft_panacea import metrics
from peft_panacea.front import Front, compare, nadir, over_seeds, uncertainty
from small_fronts import LINE, TRIANGLE, UNITS, front


@pytest.fixture
def few_resamples(monkeypatch):
    monkeypatch.setattr(uncertainty, "RESAMPLES", 100)


def test_a_front_does_not_differ_from_itself(few_resamples):
    for name, row in compare(front(**UNITS), front(**UNITS)).items():
        assert row["this"] == row["other"], name
        assert row["difference"] == row["low"] == row["high"] == 0
    assert compare(front(), front())["coverage"]["this"] == 1


def test_a_shifted_front_differs_by_the_shift(few_resamples):
    """Exactly, in every resample: the noise of the prompts is common. In units of this front's normalisation."""
    one = front(normalisation=([0, 0], [2, 2]), reference=[-9, -9])
    other = replace(one, scores=one.scores + 0.5, normalisation=([7, 7], [5, 5]), reference=None)
    report = compare(other, one, level=0.9, reference=[-9, -9])
    assert report["inner product"]["difference"] == pytest.approx(0.5 / 5)
    report = compare(one, other)
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
    report = compare(one, other)
    assert report["hypervolume"]["other"] == pytest.approx(metrics.hypervolume(other.values, one.base_values))
    assert report["coverage"]["this"] == metrics.coverage(one.values, other.values)
    assert not {name for name in report if "length" in name or "KL" in name}


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (front(P=7), "`other` must be measured on the same 12 prompts, but has 7 and not the same"),
        (front(details={"prompts": "q"}), "`other` must be measured on the same 12 prompts"),
        (front(P=1), "`other` must be measured on the same 12 prompts"),
        (front(maximise=[True, False]), r"`other` must have the maximise \[True, True\], but got \[True, False\]"),
        (front(weights=TRIANGLE), r"`other` must have the objectives \['a', 'b'\], but got \['a', 'b', 'c'\]"),
    ],
    ids=["fewer", "others", "one", "directions", "objectives"],
)
def test_fronts_that_are_not_alike_are_refused(other, message, few_resamples):
    with pytest.raises(ValueError, match=message):
        compare(front(), other)
    if "prompts" not in message:
        with pytest.raises(ValueError, match=message.replace("other", "fronts")):
            nadir([front(), other])
        with pytest.raises(ValueError, match=message.replace("other", "fronts")):
            over_seeds([front(), other])
    compare(front(), front(details={}))  # nothing is known of its prompts


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


def test_what_is_known_of_one_prompt_is_too_little_to_compare():
    with pytest.raises(ValueError, match="`scores` must have at least 2 prompts for intervals, but got 1"):
        compare(front(P=1), front(P=1))
    assert nadir([front(P=1)]).shape == (2,)


@pytest.mark.parametrize("level", [0, 1, 95])
def test_what_is_no_level(level):
    with pytest.raises(ValueError, match=f"`level` must be between 0 and 1, but got {level}"):
        compare(front(), front(), level=level)
