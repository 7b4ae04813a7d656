"""Sliders stay on the simplex, whatever is moved."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peft_panacea import PanaceaConfig
from peft_panacea.playground.sliders import STEPS, moved, shown

weight = st.floats(0, 1, allow_subnormal=True)


@st.composite
def preferences(draw):
    """Also with zeros, tiny weights, and vertices."""
    m = draw(st.integers(2, 10))
    parts = draw(st.lists(weight, min_size=m, max_size=m).filter(lambda parts: sum(parts) > 1e-9))
    return [part / sum(parts) for part in parts]


moves = st.lists(st.tuples(st.integers(0, 9), st.floats(-0.5, 1.5)), max_size=20)


@given(preferences(), moves)
def test_any_sequence_of_moves_leaves_preferences(preference, moves):
    config = PanaceaConfig(objectives=len(preference))
    for i, value in moves:
        preference = moved(preference, i % len(preference), value)
        assert abs(sum(preference) - 1) < 1e-12
        assert abs(sum(shown(preference)) - 1) < 1e-12
        config.parse_preference(preference)
        config.parse_preference(shown(preference))


@given(preferences(), st.integers(0, 9), weight)
def test_the_others_keep_their_proportions(preference, i, value):
    i %= len(preference)
    after = moved(preference, i, value)
    assert after[i] == value
    others = [j for j in range(len(preference)) if j != i]
    before = sum(preference[j] for j in others)
    for j in others:
        even = 1 / len(others)
        share = preference[j] / before if before > 1e-300 else even if before == 0 else None
        if share is not None:
            assert after[j] == pytest.approx((1 - value) * share, rel=1e-9, abs=1e-12)


@given(preferences(), st.integers(0, 9), st.floats(0, 0.999))
def test_a_move_there_and_back_is_undone(preference, i, value):
    i %= len(preference)
    back = moved(moved(preference, i, value), i, preference[i])
    if preference[i] < 1:  # of a vertex no proportions are known
        assert back == pytest.approx(preference, abs=1e-9)


@given(preferences())
def test_what_is_shown_is_near_and_stays(preference):
    rounded = shown(preference)
    assert all(abs(a - b) < 1 / STEPS + 1e-12 for a, b in zip(rounded, preference, strict=True))
    assert all((weight * STEPS) == pytest.approx(round(weight * STEPS), abs=1e-9) for weight in rounded)
    assert shown(rounded) == rounded


@given(st.integers(0, STEPS), preferences())
def test_a_slider_shows_where_it_was_put(step, preference):
    assert shown(moved(preference, 0, step / STEPS))[0] == step / STEPS


def test_by_hand():
    assert moved([0.2, 0.3, 0.5], 2, 0.0) == pytest.approx([0.4, 0.6, 0.0])
    assert moved([0.0, 1.0, 0.0], 1, 0.5) == [0.25, 0.5, 0.25]
    assert moved([0.2, 0.8], 0, 2.0) == [1.0, 0.0]
    assert moved([1.0], 0, 0.3) == [1.0]
    assert shown([1 / 3] * 3) == [0.334, 0.333, 0.333]
