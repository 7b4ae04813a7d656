"""Sharing work between the processes of torch.distributed, in step and in order; a single process just does it."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeAlias, TypeVar

import torch.distributed as dist

T = TypeVar("T")
R = TypeVar("R")

Outcome: TypeAlias = tuple[Any, Exception | None]


def rank_and_size() -> tuple[int, int]:
    """The number of this process, and of all of them."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def first_does(work: Callable[[], R]) -> R:
    """Let process 0 alone do `work`; every process gets what it returned or raised."""
    rank, size = rank_and_size()
    if size == 1:
        return work()
    outcome = _attempt(work) if rank == 0 else (None, None)
    sent = [_portable(outcome)]
    dist.broadcast_object_list(sent, src=0)
    return _result(outcome if rank == 0 else sent[0])


def share_out(work: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """What `work` makes of every item, in their order, on every process.

    In each round process i does the i-th of as many items as there are processes. In the last round, who has none does
    the last one once more, so that all processes run their models equally often, as the shards of one model must. An
    error of one process is raised on all, after the results that come before it.
    """
    rank, size = rank_and_size()
    for start in range(0, len(items), size):
        together = items[start : start + size]
        mine = together[min(rank, len(together) - 1)]
        if size == 1:
            yield work(mine)
            continue
        outcome = _attempt(partial(work, mine))
        outcomes: list[Any] = [None] * size
        dist.all_gather_object(outcomes, _portable(outcome))
        outcomes[rank] = outcome  # the error with its traceback
        yield from map(_result, outcomes[: len(together)])


def _attempt(work: Callable[[], Any]) -> Outcome:
    try:
        return work(), None
    except Exception as error:
        return None, error


def _result(outcome: Outcome) -> Any:
    result, error = outcome
    if error is not None:
        raise error
    return result


def _portable(outcome: Outcome) -> Outcome:
    """With an error that the other processes can read, whatever it holds."""
    result, error = outcome
    try:
        return result, pickle.loads(pickle.dumps(error))
    except Exception:
        return result, RuntimeError(f"{type(error).__name__}: {error}")
