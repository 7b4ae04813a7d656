"""Fronts, choices and comparisons as tables of plain text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from .choose import Choice
from .result import Front
from .summary import IS_EXACT


def describe_work(prompts: int, preferences: int, samples: int, batch_size: int, tokens: int) -> str:
    """What `evaluate_front` is going to sample, with its base model; without preferences what `evaluate_base` is."""
    of_each = [prompts * samples * preferences, prompts * samples]
    batches = sum(-(-n // batch_size) for n in of_each)
    asked = f"{preferences} preferences and the base model" if preferences else "the base model"
    return (
        f"{prompts} prompts, {asked}, {samples} completions each: {sum(of_each):,} completions of up to {tokens} "
        f"tokens, in {batches:,} batches of {batch_size}"
    )


@lru_cache(maxsize=1)  # which the card and the command want, and large fronts take minutes for
def describe(front: Front) -> str:
    """What each preference and the base model attain, and the metrics, with 95 % intervals over the prompts.

    A front of one prompt has no intervals, one without a reference point no metrics. An objective with an asterisk is
    better where it is less.
    """
    with_intervals = front.scores.shape[1] > 1
    weighted = (zip(front.objectives, row, strict=True) for row in front.preferences.tolist())
    labels = [", ".join(f"{name} {weight:.2f}" for name, weight in row if weight) for row in weighted]
    bounds = zip(*front.interval().tolist(), strict=True) if with_intervals else [(None, None)] * len(labels)
    ups: Any = front.maximise  # [m], whatever it was given as
    rows = [["preference", *(name + "*" * (not up) for name, up in zip(front.objectives, ups, strict=True))]]
    for label, values, (low, high) in zip(labels, front.values.tolist(), bounds, strict=True):
        around = [None] * len(values) if low is None else list(zip(low, high, strict=True))
        rows.append([label, *map(_number, values, around)])
    if front.base_values is not None:
        rows.append(["base model", *map(_number, front.base_values.tolist())])
    lines = [_table(rows)]
    if not all(ups):
        lines.append("  * lower is better")
    intervals = "95 % intervals over the prompts in brackets" if with_intervals else "One value each, so no intervals"
    lines.append(f"  {intervals}")
    return "\n".join([*lines, "", _describe_metrics(front, with_intervals)])


def describe_choice(choice: Choice) -> str:
    """The preference that was chosen, and what is expected of it."""
    preference = ", ".join(f"{name} {weight:.3f}" for name, weight in choice.preference.items())
    rows = [[name, _number(value, choice.interval[name])] for name, value in choice.expected.items()]
    return f"  Chosen: {preference}; expected, with {choice.level:.0%} intervals:\n{_table(rows)}"


def describe_comparison(comparison: Mapping[str, Mapping[str, float]]) -> str:
    """What `compare` found, a metric in each line."""
    rows = [["metric", "this", "other", "difference"]]
    for name, row in comparison.items():
        difference = _number(row["difference"], (row["low"], row["high"]), sign="+")
        rows.append([name, _number(row["this"]), _number(row["other"]), difference])
    return _table(rows)


def _describe_metrics(front: Front, with_intervals: bool) -> str:
    try:
        metrics = front.metrics()
    except ValueError as error:  # a preference measured twice, or no reference point
        return f"  No metrics: {error}"
    exact = metrics.pop(IS_EXACT)
    bounds = front.metric_intervals() if with_intervals else {}
    rows = [[name, _number(value, bounds.get(name))] for name, value in metrics.items()]
    unit = "the units above" if front.normalisation is None else "standard deviations of the normalisation"
    corner = "the base model's values" if front.reference is None else f"{front.reference.tolist()}"
    how = "" if exact else ", approximated"
    return f"  Metrics; scores in {unit}, hypervolume from {corner}{how}:\n\n{_table(rows)}"


def _number(value: float, bounds: tuple[float, float] | None = None, sign: str = "") -> str:
    if bounds is None:
        return f"{value:{sign}.3f}"
    low, high = bounds
    return f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def _table(rows: Sequence[Sequence[str]]) -> str:
    """The first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left, *others = widths
    return "\n".join(
        f"  {row[0]:{left}}" + "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], others, strict=True))
        for row in rows
    )
