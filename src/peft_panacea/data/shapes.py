"""The two shapes of training rows: a row for one objective, or a row on which every objective has an opinion.

Both have TRL's columns and one more: `objective` or `objective_labels`.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any, TypeAlias

from ..extras import needs
from .rows import COLUMNS, exchanged_names

if TYPE_CHECKING:
    from datasets import Dataset

Text: TypeAlias = "str | list[dict[str, str]]"
"""What TRL takes as a prompt or a response: a string, or a list of messages ``{"role": …, "content": …}``."""


def dataset_of(rows: list[dict[str, Any]]) -> Dataset:
    """A data set of these rows; `datasets` is an extra, and what only reads the columns of a row need not have it."""
    with needs("train"):
        from datasets import Dataset
    return Dataset.from_list(rows)


def combine(datasets: Mapping[str, Dataset], objectives: Sequence[str] | None = None) -> Dataset:
    """Put the sets of several objectives into one, a row of each in turn.

    Args:
        datasets: A set for every objective name; all with the same columns.
        objectives: The m names in the order of the index, as in `PanaceaConfig.objectives`. Unset: in the order of
            `datasets`.

    Returns:
        The rows with a column `objective`, an int from 0 to m - 1. Any m rows in a row hold every objective; sets
        shorter than the longest start again from their first row until that one is used up.

    Raises:
        ValueError: not one set for each objective, a set without rows, differing columns or column types, or a
            column `objective` or `objective_labels`.
    """
    with needs("train"):
        from datasets import interleave_datasets
    names = list(datasets if objectives is None else objectives)
    if not names or sorted(names) != sorted(datasets):
        raise ValueError(f"`datasets` must have one set for each of the objectives {names}, but got {list(datasets)}.")
    features = datasets[names[0]].features
    for name in names:
        dataset = datasets[name]
        if not len(dataset):
            raise ValueError(f"`datasets` must have rows for every objective, but got none for {name}.")
        if dataset.features != features:
            raise ValueError(
                f"`datasets` must have the same columns, but got {dict(features)} for {names[0]} "
                f"and {dict(dataset.features)} for {name}."
            )
    if taken := set(COLUMNS) & set(features):
        raise ValueError(f"`datasets` must not say which objective a row belongs to, but got {sorted(taken)}.")
    parts = [datasets[name].add_column("objective", [i] * len(datasets[name])) for i, name in enumerate(names)]
    return interleave_datasets(parts, stopping_strategy="all_exhausted")


def one_row_per_objective(dataset: Dataset) -> Dataset:
    """Replace every row by one row for each objective that has an opinion on it.

    Args:
        dataset: Rows with `objective_labels`, a list of m ints. With columns `chosen` and `rejected`: 1 where the
            objective prefers `chosen`, -1 where it prefers `rejected`, 0 where it has no opinion. Other rows: 1 where
            the row is a demonstration of the objective, 0 where it is not.

    Returns:
        Rows with `objective` in its place, in the same order, none repeated; where the label is -1, `chosen` and
        `rejected` are exchanged, and so are other columns that come in two, such as `chosen_score`.

    Raises:
        ValueError: no column `objective_labels`, lists of different lengths, other labels, or no label but 0.
    """
    with needs("train"):
        from datasets import concatenate_datasets
    if "objective_labels" not in dataset.column_names:
        raise ValueError(f"`dataset` must have a column `objective_labels`, but got {dataset.column_names}.")
    pairs = {"chosen", "rejected"} <= set(dataset.column_names)
    allowed = (-1, 0, 1) if pairs else (0, 1)
    labels = dataset["objective_labels"][:]
    rows = []
    for i, row in enumerate(labels):
        if len(row) != len(labels[0]) or not set(row) <= set(allowed):
            raise ValueError(
                f"`objective_labels` must be {len(labels[0])} numbers out of {allowed}, but got {row} in row {i}."
            )
        for objective, label in enumerate(row):
            if label:
                rows.append((2 * objective + (label < 0)) * len(dataset) + i)
    if not rows:
        raise ValueError("`objective_labels` must hold an opinion, but got none.")
    dataset = exchanged = dataset.remove_columns("objective_labels")
    if pairs:
        exchanged = dataset.rename_columns(exchanged_names(dataset.column_names))
        exchanged = exchanged.select_columns(dataset.column_names)
    # Every row with every label, nothing copied; to add the column after the selection would copy row by row.
    parts = [
        part.add_column("objective", [objective] * len(part))
        for objective in range(len(labels[0]))
        for part in (dataset, exchanged)
    ]
    return concatenate_datasets(parts).select(rows)


def pairs_from_scores(
    prompt: Text, responses: Sequence[Text], scores: Sequence[Sequence[float | None]]
) -> list[dict[str, Any]]:
    """Compare every two responses to one prompt on every objective.

    Args:
        prompt: The prompt.
        responses: Its n responses.
        scores: For each response m finite numbers, one for each objective, the higher the better; None where it was
            not scored. Only their order counts.

    Returns:
        A row for every two different responses on which some objective has an opinion, with `prompt`, `chosen`,
        `rejected` and `objective_labels`. An objective has none if the scores are equal or one of them is None. The
        first objective that has one prefers `chosen`.

    Raises:
        ValueError: not one list of scores for each response, lists of different lengths, a score that is not finite.
        TypeError: a score that is neither a number nor None.
    """
    if len(scores) != len(responses) or len({len(row) for row in scores}) > 1:
        raise ValueError(
            f"`scores` must be {len(responses)} lists of one length, one for each response, "
            f"but got lists of {[len(row) for row in scores]}."
        )
    for score in (score for row in scores for score in row if score is not None):
        if isinstance(score, bool) or not isinstance(score, numbers.Real):
            raise TypeError(f"`scores` must hold numbers or None, but got {score!r}.")
        if not math.isfinite(score):
            raise ValueError(f"`scores` must hold finite numbers, but got {score}.")
    rows = []
    for (first, a), (second, b) in combinations(zip(responses, scores, strict=True), 2):
        labels = [0 if x is None or y is None else int(x > y) - int(x < y) for x, y in zip(a, b, strict=True)]
        if first == second or not any(labels):
            continue
        sign = next(filter(None, labels))
        chosen, rejected = (first, second) if sign > 0 else (second, first)
        labels = [sign * label for label in labels]
        rows.append({"prompt": prompt, "chosen": chosen, "rejected": rejected, "objective_labels": labels})
    return rows
