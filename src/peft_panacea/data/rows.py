"""What a row says about the objectives, and what that asks of a batch of rows; knows only torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

COLUMNS = ("objective", "objective_labels")
"""A row has one of them: the index of the one objective that it is for, 0 to m - 1; or a number for each of the m, 1
if the row is for it, -1 if it is with chosen and rejected exchanged, 0 if it is not."""

LENGTHS = "objective_lengths"
"""What a batch whose rows lie end to end, without padding, says about them: how many tokens each has."""

Batch = dict[str, Any]


def values_of(dataset: Any, column: str) -> Any:
    """A whole column of a data set, as Python's own values, whatever format the data set has."""
    return dataset.with_format(None)[column][:]


def copies(batch: Batch, rows: int) -> int:
    """How often a collator lists each row: 2 for pairs, all the chosen before all the rejected, else 1.

    Raises:
        ValueError: The batch does not list its rows equally often.
    """
    name = (
        "input_ids" if "input_ids" in batch else next(k for k, v in batch.items() if isinstance(v, Tensor) and v.ndim)
    )
    n = len(batch[name])
    if n % rows:
        raise ValueError(
            f"`{name}` must have a whole number of rows for each of the {rows} rows of the batch, but got {n}; "
            "packing and padding-free batches cannot be split by objective."
        )
    return n // rows


def select(batch: Batch, index: Tensor, rows: int) -> Batch:
    """The part of a batch of `rows` rows that belongs to the rows `index`.

    Raises:
        ValueError: Something in it has another number of rows, such as the patches of images.
    """
    if torch.equal(index.cpu(), torch.arange(rows)):
        return dict(batch)
    sizes = (rows, copies(batch, rows) * rows)

    def part(key: str, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.ndim == 0:
            return value
        if value.shape[0] not in sizes:
            raise ValueError(
                f"`preference_per` must be 'row' where a batch cannot be parted by objective, but of {rows} rows "
                f"`{key}` has {value.shape[0]}."
            )
        return value.view(-1, rows, *value.shape[1:])[:, index.to(value.device)].flatten(0, 1)

    return {key: part(key, value) for key, value in batch.items()}


def exchanged_names(names: Iterable[str]) -> dict[str, str]:
    """Which columns change places when chosen and rejected do: those that come in two, such as `ref_chosen_logps`."""
    present = set(names)
    rejected = {name: name.replace("chosen", "rejected") for name in present if "chosen" in name}
    rejected = {name: other for name, other in rejected.items() if other in present}
    return {**rejected, **{other: name for name, other in rejected.items()}}


def exchange(batch: Batch, where: Tensor) -> Batch:
    """Exchange chosen and rejected in the pairs where `where`, [B], is true.

    Raises:
        ValueError: There is a pair to exchange but the rows are no pairs.
    """
    rows = len(where)
    if not where.any():
        return batch
    if copies(batch, rows) != 2:
        raise ValueError(
            "`objective_labels` must be 0 or 1 where rows are not pairs of chosen and rejected, but got -1."
        )
    names = exchanged_names(batch)

    def swapped(key: str, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.ndim == 0:
            return value
        on_device = where.to(value.device).view(-1, *[1] * (value.ndim - 1))
        if value.shape[0] == 2 * rows:
            chosen, rejected = value.chunk(2)
            return torch.cat([torch.where(on_device, rejected, chosen), torch.where(on_device, chosen, rejected)])
        return torch.where(on_device, batch[names[key]], value) if key in names else value

    return {key: swapped(key, value) for key, value in batch.items()}
