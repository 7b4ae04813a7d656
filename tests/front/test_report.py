"""Every number of a front, a choice and a comparison stands in its table."""

from dataclasses import replace

import pytest

from peft_panacea.front import (
    Front,
    compare,
    describe,
    describe_choice,
    describe_comparison,
    describe_work,
    uncertainty,
)
from small_fronts import LINE, TRIANGLE, front


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(uncertainty, "RESAMPLES", 100)


def cells(text):
    """By the words before the first number of a line, what follows."""
    found = {}
    for line in text.splitlines():
        label, _, rest = line.strip().partition("  ")
        found[label] = rest.strip()
    return found


@pytest.mark.parametrize("weights", [LINE, TRIANGLE], ids=["two", "three"])
def test_a_front_is_described_by_its_values_and_metrics_with_intervals(weights):
    measured = front(weights=weights)
    found = cells(describe(measured))
    for row, values, low, high in zip(weights, measured.values, *measured.interval(), strict=True):
        label = ", ".join(f"{name} {p:.2f}" for name, p in zip(measured.objectives, row, strict=True) if p)
        expected = [f"{v:.3f} [{a:.3f}, {b:.3f}]" for v, a, b in zip(values, low, high, strict=True)]
        assert " ".join(found[label].split()) == " ".join(expected)
    assert found["base model"].split() == [f"{value:.3f}" for value in measured.base_values]
    for name, (low, high) in measured.metric_intervals().items():
        assert found[name] == f"{measured.metrics()[name]:.3f} [{low:.3f}, {high:.3f}]"
    assert "hypervolume is exact" not in found
    assert "approximated" not in describe(measured)
    assert "hypervolume from the base model's values" in describe(measured)


def test_columns_are_aligned_whatever_the_names():
    named = replace(front(), objectives=["a very long name of an objective, longer than its numbers", "b"])
    table = [line for line in describe(named).splitlines() if "[" in line][:5]
    assert len({len(line) for line in table}) == 1


def test_losses_are_marked():
    measured = front(maximise=[True, False])
    assert cells(describe(measured))["preference"].split() == ["a", "b*"]
    assert "* lower is better" in describe(measured)
    assert "lower is better" not in describe(front())


def test_a_front_of_one_prompt_is_described_without_intervals():
    """As the recipes measure: mean losses over held-out rows, [K, m], one for the base model."""
    losses, base = front(P=1).values, front(P=1).base[0]
    measured = Front(["a", "b"], LINE, losses[:, None], maximise=False, base=base[None])
    text = describe(measured)
    assert "One value each, so no intervals" in text
    assert "[" not in text
    assert cells(text)["a 1.00"].split() == [f"{value:.3f}" for value in losses[-1]]
    assert cells(text)["hypervolume"] == f"{measured.metrics()['hypervolume']:.3f}"


def test_units_and_reference_point_are_said():
    measured = front(normalisation=([0, 0], [2, 2]), reference=[-3, -2])
    assert "standard deviations of the normalisation, hypervolume from [-3.0, -2.0]:" in describe(measured)


def test_without_a_reference_point_there_are_values_but_no_metrics():
    text = describe(front(base=None))
    assert "No metrics: `reference` must be given" in text
    assert "base model " not in text
    assert "a 1.00 " in text


def test_a_choice_is_described_by_what_goes_into_set_preference():
    choice = front().choose("a", {}, level=0.9)
    found = cells(describe_choice(choice))
    assert describe_choice(choice).startswith("  Chosen: a 1.000, b 0.000; expected, with 90% intervals:")
    for name, value in choice.expected.items():
        low, high = choice.interval[name]
        assert found[name] == f"{value:.3f} [{low:.3f}, {high:.3f}]"


def test_a_comparison_has_a_line_for_every_metric():
    report = compare(front(), front(seed=1))
    found = cells(describe_comparison(report))
    assert list(found) == ["metric", *report]
    row = report["hypervolume"]
    numbers = f"{row['this']:.3f} {row['other']:.3f} {row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
    assert " ".join(found["hypervolume"].split()) == numbers


@pytest.mark.parametrize(
    ("preferences", "asked", "completions", "batches"),
    [(3, "3 preferences and the base model", "1,000 completions", 24 + 8), (0, "the base model", "250", 8)],
)
def test_what_is_going_to_be_sampled(preferences, asked, completions, batches):
    text = describe_work(125, preferences, 2, 32, 48)
    assert text.startswith(f"125 prompts, {asked}, 2 completions each: {completions}")
    assert text.endswith(f"of up to 48 tokens, in {batches} batches of 32")
