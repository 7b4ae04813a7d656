"""Whole steps next to the preference, whose sum is exact."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from peft_panacea import PanaceaConfig
from peft_panacea.simplex import PreferenceSampler
from peft_panacea.steps import in_steps, limits_in_steps

STEPS = 100

OBJECTIVES = range(2, 11)


@pytest.mark.parametrize("m", OBJECTIVES)
def test_the_sum_is_exact_and_no_entry_moves_by_a_step(m):
    for row in PreferenceSampler(m, vertex_probability=0.1)(500).tolist():
        steps = in_steps(row, STEPS)
        assert sum(steps) == STEPS
        assert min(steps) >= 0
        assert max(abs(step - STEPS * entry) for step, entry in zip(steps, row, strict=True)) < 1 + 1e-3


@pytest.mark.parametrize("m", OBJECTIVES)
def test_whole_steps_stay_as_they_are(m):
    parse = PanaceaConfig(objectives=m).parse_preference
    generator = torch.Generator().manual_seed(m)
    for _ in range(200):
        steps = torch.randint(m, (STEPS,), generator=generator).bincount(minlength=m).tolist()
        assert in_steps(parse([step / STEPS for step in steps]).tolist(), STEPS) == steps  # by way of float32


@pytest.mark.parametrize("m", OBJECTIVES)
def test_the_nearest_whole_steps(m):
    """No swap of one step between two entries comes nearer."""
    for row in PreferenceSampler(m, seed=1)(50).tolist():
        steps = in_steps(row, STEPS)
        distance = [step - STEPS * entry for step, entry in zip(steps, row, strict=True)]
        for i in range(m):
            for j in range(m):
                if i != j:
                    after = (distance[i] - 1) ** 2 + (distance[j] + 1) ** 2
                    assert after >= distance[i] ** 2 + distance[j] ** 2 - 1e-3


@given(st.lists(st.floats(0, 1), min_size=2, max_size=10).filter(lambda row: sum(row) > 1e-3))
def test_any_preference(row):
    total = sum(row)
    steps = in_steps([entry / total for entry in row], STEPS)
    assert sum(steps) == STEPS
    assert min(steps) >= 0


def test_a_tie_is_one_in_float32_too():
    parse = PanaceaConfig(objectives=2).parse_preference
    for step in range(STEPS):
        row = [(step + 0.5) / STEPS, (STEPS - step - 0.5) / STEPS]
        assert in_steps(parse(row).tolist(), STEPS) == [step + 1, STEPS - step - 1]


def test_the_rule_by_examples():
    assert in_steps([1 / 3] * 3, STEPS) == [34, 33, 33]  # equal losses: the earlier one
    assert in_steps([0.125, 0.875], STEPS) == [13, 87]
    assert in_steps([0.2949, 0.7051], STEPS) == [29, 71]
    assert in_steps([0.333, 0.333, 0.334], STEPS) == [33, 33, 34]
    assert in_steps([0.30002, 0.70007], STEPS) == [30, 70]  # within the tolerance of `parse_preference`


def test_limits_are_moved_inward():
    assert limits_in_steps([0.305, 0.0], [1.0, 0.695], STEPS) == ([0.31, 0.0], [1.0, 0.69])
    assert limits_in_steps([0.29, 0.1], [0.9, 0.71], STEPS) == ([0.29, 0.1], [0.9, 0.71])  # 100 · 0.29 is 28.999…96
    assert limits_in_steps([1 / 3] * 3, [1 / 3] * 3, STEPS) is None
    assert limits_in_steps([0.305, 0.0], [1.0, 1.0], 1) == ([1.0, 0.0], [1.0, 1.0])
