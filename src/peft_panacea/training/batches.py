"""Data sets whose rows belong to objectives: their order, their parts, and the columns that no collator knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler

from ..data.rows import COLUMNS, LENGTHS, Batch, values_of
from ..seeding import derive


class ObjectiveSampler(Sampler[int]):
    """Takes rows of the objectives in turns, so that any m rows that follow each other hold every objective.

    Each epoch shuffles the rows of each objective. An epoch ends when the largest objective was seen once; smaller
    ones start again before.

    Args:
        objective: The objective of each row, 0 to m - 1.
        m: The number of objectives.
        seed: The order is a function of it and the epoch.
        face: The objectives that rows are of; all if None.

    Raises:
        ValueError: An objective has no rows, or a row an objective that there is not.
    """

    def __init__(self, objective: Sequence[int], m: int, seed: int, face: Sequence[int] | None = None) -> None:
        indices = torch.as_tensor(objective)
        face = range(m) if face is None else face
        self.rows = [(indices == i).nonzero().flatten() for i in face]
        if sum(map(len, self.rows)) != len(indices):
            raise ValueError(
                f"`objective` must be between 0 and {m - 1} in every row, but got {sorted(set(objective))}."
            )
        for i, rows in zip(face, self.rows, strict=True):
            if not len(rows):
                raise ValueError(
                    f"`train_dataset` must have rows of all {len(face)} objectives, but has none of objective {i}."
                )
        self.longest = max(map(len, self.rows))
        self.seed, self.epoch = seed, 0

    def __len__(self) -> int:
        return len(self.rows) * self.longest

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(derive(self.seed, "order", self.epoch))
        columns = []
        for rows in self.rows:
            rounds = -(-self.longest // len(rows))
            order = [rows[torch.randperm(len(rows), generator=generator)] for _ in range(rounds)]
            columns.append(torch.cat(order)[: self.longest])
        yield from torch.stack(columns, dim=1).flatten().tolist()

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


class ObjectiveCollator:
    """Collates with another collator, and adds the columns of the objectives, which no model knows, as tensors.

    Args:
        collator: Of the trainer.
        end_to_end: Whether it lays rows end to end, and what they are packed of. The columns then have an entry for
            each sequence, and `LENGTHS` its number of tokens.
        apart: Whether the loss is computed for each objective's rows apart.
    """

    def __init__(
        self, collator: Callable[[list[Batch]], Batch], *, end_to_end: bool = False, apart: bool = False
    ) -> None:
        self.collator = collator
        self.end_to_end, self.apart = end_to_end, apart

    def __call__(self, rows: list[Batch]) -> Batch:
        if "KL_completion_ids" in rows[0]:
            rows = self._paired(rows)
        batch = self.collator([{k: v for k, v in row.items() if k not in COLUMNS} for row in rows])
        lengths = [row.get("seq_lengths") or [len(row["input_ids"])] for row in rows] if self.end_to_end else None
        if lengths is not None:
            batch[LENGTHS] = torch.tensor([length for of_row in lengths for length in of_row])
        for column in COLUMNS:
            if column in rows[0]:
                times = [1] * len(rows) if lengths is None else [len(of_row) for of_row in lengths]
                batch[column] = torch.tensor(
                    [row[column] for row, n in zip(rows, times, strict=True) for _ in range(n)]
                )
        return batch

    def _paired(self, rows: list[Batch]) -> list[Batch]:
        """With the completion of the row before in KTO's KL term; TRL pairs them so, but before rows are shuffled."""
        parts = [row.get("objective") if self.apart else None for row in rows]
        before, found = dict(zip(parts, rows, strict=True)), []  # the first of a part has the last of it before it
        for part, row in zip(parts, rows, strict=True):
            found.append({**row, "KL_completion_ids": before[part]["completion_ids"]})
            before[part] = row
        return found


def packed_by_objective(dataset: Any, pack: Callable[[Any], Any]) -> Any:
    """Rows packed with others of their objective alone, which is then that of the pack.

    Args:
        dataset: Of `datasets`, with a column `objective`.
        pack: What makes packs of a data set, and leaves no column.

    Raises:
        ValueError: Rows do not say, or cannot be asked, which objective they are for.
    """
    from datasets import concatenate_datasets

    if not hasattr(dataset, "__len__") or "objective" not in dataset.column_names:
        raise ValueError(
            "`packing` must have a data set with the column `objective` that is no stream, because rows are packed "
            f"with others of their objective, but got a {type(dataset).__name__} with {dataset.column_names}."
        )
    objective = torch.tensor(values_of(dataset, "objective"))
    parts = []
    for i in sorted(set(objective.tolist())):
        part = pack(dataset.select((objective == i).nonzero().flatten().tolist()))
        parts.append(part.add_column("objective", [i] * len(part)))
    return concatenate_datasets(parts)


def by_token(preferences: Tensor, lengths: Tensor, tokens: int) -> Tensor:
    """A preference for each sequence, [n, m], as one for each of their tokens and of the padding behind, [1, T, m]."""
    sequences = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    padding = sequences.new_full((tokens - len(sequences),), len(lengths) - 1)
    return preferences[torch.cat([sequences, padding])][None]


def known_labels(dataset: Any, objectives: Sequence[str], name: str) -> Tensor | None:
    """The column `objective_labels`, [N, m]; None if there is none, or it is not known yet, as in a stream.

    Raises:
        ValueError: A row has more labels, or fewer.
    """
    if "objective_labels" not in (getattr(dataset, "column_names", None) or ()) or not hasattr(dataset, "__len__"):
        return None
    rows = values_of(dataset, "objective_labels")
    for i, row in enumerate(rows):
        if row is None or len(row) != len(objectives):
            raise one_number_for_each(objectives, f"`{name}`", row, i)
    return torch.as_tensor(rows).reshape(-1, len(objectives))


def one_number_for_each(objectives: Sequence[str], where: str, found: Any, row: int) -> ValueError:
    return ValueError(
        f"`objective_labels` must have a number for each of {list(objectives)}, but got {found} in row {row} of "
        f"{where}."
    )


def one_forward_serves(labels: Tensor, face: Sequence[int]) -> bool:
    """Whether every row that is for an objective of the face, of labels [N, m], is for all m.

    Raises:
        ValueError: The face is all, and a row is for none.
    """
    counting = labels[:, list(face)].any(dim=1)
    if len(face) == labels.shape[1] and not counting.all():
        raise ValueError(
            "`objective_labels` must not be 0 for every objective of a row, but are in row "
            f"{counting.long().argmin()} of `train_dataset`."
        )
    return bool(labels[counting].all())


def belonging(dataset: Any, objectives: Sequence[str]) -> Tensor:
    """Which rows of an evaluation's data set are for which objective, bool, [N, m].

    Raises:
        ValueError: It is a stream, or the rows do not say which objective they are for, or not of every one, or name
            one there is not.
    """
    if not hasattr(dataset, "__len__"):
        raise ValueError(
            f"`eval_dataset` must be no stream, because it is parted by objective, but got a {type(dataset).__name__}."
        )
    labels = known_labels(dataset, objectives, "eval_dataset")
    if labels is not None:
        return labels != 0
    if "objective" not in dataset.column_names:
        raise ValueError(
            f"`eval_dataset` must have one of the columns {list(COLUMNS)}, but got {dataset.column_names}."
        )
    objective = torch.tensor(values_of(dataset, "objective"))
    if (unknown := objective[(objective < 0) | (objective >= len(objectives))]).numel():
        raise ValueError(
            f"`objective` of `eval_dataset` must be from 0 to {len(objectives) - 1}, but got {unknown[0]}."
        )
    return objective[:, None] == torch.arange(len(objectives))


def by_objective(dataset: Any, objectives: Sequence[str]) -> dict[str, Any]:
    """One data set for each objective that has rows, by name; of labelled rows each with its index as `objective`.

    Raises:
        ValueError: As `belonging`.
    """
    parts = {}
    for i, rows in enumerate(belonging(dataset, objectives).T):
        if rows.any():
            part = dataset.select(rows.nonzero().flatten().tolist())
            labelled = "objective_labels" in dataset.column_names
            parts[objectives[i]] = part.add_column("objective", [i] * len(part)) if labelled else part
    return parts
