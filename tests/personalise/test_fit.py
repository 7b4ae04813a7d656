"""What a fit says of a person, in which units, and what it refuses."""

import numpy as np
import pytest

from peft_panacea.personalise import fit_margins

NAMES = ["kind", "brief"]
MARGINS = np.array([[2.0, -1.0], [1.0, 0.5], [3.0, -2.0], [-0.5, 1.0], [4.0, -1.0]])


@pytest.fixture(scope="module")
def fit():
    return fit_margins(MARGINS, NAMES)


def test_the_unit_of_margins_changes_the_strength_alone(fit):
    found = fit_margins(100 * MARGINS, NAMES)
    np.testing.assert_allclose(found.preferences, fit.preferences, atol=1e-6)
    np.testing.assert_allclose(found.strengths, fit.strengths / 100, rtol=1e-5)


def test_a_seed_gives_the_same_draws(fit):
    again, other = fit_margins(MARGINS, NAMES), fit_margins(MARGINS, NAMES, seed=1)
    assert again.preferences.tobytes() == fit.preferences.tobytes()
    assert other.preferences.tobytes() != fit.preferences.tobytes()


def test_what_is_said_of_a_person(fit):
    np.testing.assert_allclose(fit.preference, fit.preferences.mean(0))
    assert fit.preference.sum() == pytest.approx(1)
    assert fit.interval().shape == (2, 2)
    np.testing.assert_allclose(fit.interval(0.5)[0] + fit.interval(0.5)[1, ::-1], 1)
    assert ((fit.interval(0.5)[:, 0] > fit.interval()[:, 0]) & (fit.interval(0.5)[:, 1] < fit.interval()[:, 1])).all()
    lines = str(fit).splitlines()
    assert "5 answers" in lines[0]
    for i, name in enumerate(NAMES):
        low, high = fit.interval()[i]
        assert lines[1 + i].split() == [name, f"{fit.preference[i]:.2f}", f"[{low:.2f},", f"{high:.2f}]"]
    assert str(fit) in repr(fit)


def test_the_probability_of_an_answer_is_that_of_all_draws(fit):
    pair = np.array([[3.0, -1.0], [0.0, 0.0]])
    expected = np.mean(
        [1 / (1 + np.exp(-k * p @ pair[0])) for p, k in zip(fit.preferences, fit.strengths, strict=True)]
    )
    assert fit.probability(pair) == pytest.approx([expected, 0.5])
    assert fit.probability(pair) + fit.probability(-pair) == pytest.approx([1, 1])


def test_information_is_the_mutual_information_of_answer_and_person(fit):
    """Σ P(y, person) log P(y | person) / P(y), over both answers and all draws."""
    pairs = np.array([[0.3, -0.3], [0.1, 0.0], [0.2, 0.2]])
    first = 1 / (1 + np.exp(-fit.strengths[:, None] * (fit.preferences @ pairs.T)))
    joint = np.stack([first, 1 - first])
    expected = (joint * np.log(joint / joint.mean(1, keepdims=True))).mean(1).sum(0)
    np.testing.assert_allclose(fit.information(pairs), expected, atol=1e-12)
    assert (fit.information(1e6 * pairs) <= np.log(2)).all()


def test_what_teaches_most_is_asked_first(fit):
    nothing, little, opposed = [0.0, 0.0], [0.1, -0.1], [3.0, -3.0]
    assert fit.ask([nothing, opposed, little]).tolist() == [1, 2, 0]
    assert fit.information([nothing])[0] == 0
    for _ in range(6):  # after many answers to it, it has less to teach
        before = fit.information([opposed])[0]
        fit = fit.update([opposed, opposed])
    assert fit.information([opposed])[0] < before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"objectives": ["one"], "margins": [[1.0]]}, r"`objectives` must be at least 2 .* got \['one'\]"),
        ({"margins": [[1.0, 2.0, 3.0]]}, r"`margins` must have shape \(n, 2\), but got \(1, 3\)"),
        ({"margins": [1.0, 2.0]}, r"`margins` must have shape \(n, 2\), but got \(2,\)"),
        ({"margins": [[1.0, 2.0], [np.nan, 1.0]]}, r"`margins` must be finite, but row 1 is not"),
        ({"margins": np.empty((0, 2))}, r"`scale` must be given where there are no margins, but got None"),
        ({"margins": np.zeros((3, 2))}, r"`scale` must be given where half of the margins are 0, but got None"),
        ({"scale": 0.0}, r"`scale` must be a positive number, but got 0.0"),
        ({"scale": np.inf}, r"`scale` must be a positive number, but got inf"),
        ({"bounds": {"cold": (0, 1)}}, r"`bounds` must name objectives of .* but got 'cold'"),
    ],
)
def test_what_cannot_be_right_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        fit_margins(**{"margins": MARGINS, "objectives": NAMES, **arguments})


def test_a_refused_update_changes_nothing(fit):
    before = fit.preferences.tobytes()
    with pytest.raises(ValueError, match=r"`margins` must have shape \(n, 2\), but got \(1, 1\)"):
        fit.update([[1.0]])
    with pytest.raises(ValueError, match=r"`level` must be between 0 and 1, but got 90"):
        fit.interval(90)
    assert fit.preferences.tobytes() == before
    assert len(fit.margins) == len(MARGINS)
