"""What the page says of a front is what the front says."""

import numpy as np
import pytest

from peft_panacea.front import Front
from peft_panacea.playground.on_front import OnFront
from small_fronts import LINE, TRIANGLE, front


def on_line(**others):
    return OnFront(front(**others), ["a", "b"])


@pytest.mark.parametrize("weights", [LINE, TRIANGLE], ids=["two objectives", "three"])
def test_at_measured_preferences_it_expects_what_was_measured(weights):
    measured = front(weights=weights)
    on_front = OnFront(measured, measured.objectives)
    for preference, values in zip(weights, measured.values, strict=True):
        np.testing.assert_allclose(on_front.expected(preference.tolist()), values)


def test_between_two_it_expects_their_mean():
    on_front = on_line()
    values = on_front.front.values
    np.testing.assert_allclose(on_front.expected([0.125, 0.875]), values[:2].mean(axis=0))
    _, words = on_front.drawn({"here": [0.125, 0.875]})
    a, b = values[:2].mean(axis=0)
    assert words == f"expected at **here**: a {a:.3g}, b {b:.3g}"


def test_where_nothing_was_measured_it_says_so():
    on_front = OnFront(Front(["a", "b"], [[0.2, 0.8], [0.6, 0.4]], [[[0, 1]], [[1, 0]]]), ["a", "b"])
    figure, words = on_front.drawn({"here": [1.0, 0.0]})
    assert words == "expected at **here**: nothing was measured around this preference"
    assert figure.axes


def test_a_wish_is_that_of_the_front():
    on_front = on_line(P=48)
    wished = on_front.choose("a", ["", " 0.1 "])
    assert wished.preference == on_front.front.choose("a", {"b": 0.1}).preference
    assert on_front.choose("b", ["", ""]).preference == on_front.front.choose("b", {}).preference


@pytest.mark.parametrize(
    ("limits", "sentence"),
    [
        (["", "much"], r"The limits must be numbers, or nothing, but got \['much'\]\."),
        (["", "99"], "^What is wished for must be attainable with confidence 0.95, but 'b' is .* at best, not 99"),
    ],
)
def test_a_wish_that_cannot_be_met(limits, sentence):
    with pytest.raises(ValueError, match=sentence):
        on_line(P=48).choose("a", limits)


def test_a_front_of_another_adapter_is_refused():
    with pytest.raises(ValueError, match=r"`front` must be over \['b', 'a'\], but got one over \['a', 'b'\]"):
        OnFront(front(), ["b", "a"])
