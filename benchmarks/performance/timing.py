"""Sides that take turns in one process, the statistics of their turns, and the machine they ran on."""

import platform
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import psutil
import torch
import transformers

Side = Callable[[], Any]
"""What is timed. A side that returns a float has timed itself and returns seconds."""

Turns = dict[str, list[float]]
"""Side → seconds in each turn."""

Case = tuple[str, str, Callable[[], dict[str, Any]]]
"""A row of the results: its name, which begins with its group; the device that it needs; its measurement."""

LEAST, MOST = 4, 60  # turns
SHORTEST = 0.02  # seconds; a quicker side is repeated within its turn


def alternate(sides: dict[str, Side], budget: float, *, warm_up: bool = True) -> Turns:
    """Time the sides in the order A B C, C B A, A B C, … until `budget` seconds are spent.

    There are `LEAST` turns at least, and two without a budget.
    """
    repeats = {name: _repeats(run) if warm_up else 1 for name, run in sides.items()}
    turns: Turns = {name: [] for name in sides}
    order, start = list(sides), time.perf_counter()
    for turn in range(MOST):
        if turn >= (LEAST if budget else 2) and turn % 2 == 0 and time.perf_counter() - start > budget:
            break
        for name in order:
            turns[name].append(_seconds(sides[name], repeats[name]))
        order.reverse()
    return turns


def _repeats(run: Side) -> int:
    first = _seconds(run, 1)  # with whatever happens only once
    return max(1, round(SHORTEST / max(_seconds(run, 1), 1e-7))) if first < 1 else 1


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _seconds(run: Side, repeats: int) -> float:
    synchronize()
    start = time.perf_counter()
    own = [run() for _ in range(repeats)]
    synchronize()
    elapsed = time.perf_counter() - start
    return (sum(own) if isinstance(own[0], float) else elapsed) / repeats


def quartiles(values: list[float]) -> list[float]:
    return statistics.quantiles(values, n=4, method="inclusive")


def ratio(turns: Turns, one: str, other: str) -> list[float]:
    """Quartiles of one / other in the same turn."""
    return quartiles([a / b for a, b in zip(turns[one], turns[other], strict=True)])


def difference(turns: Turns, one: str, other: str) -> list[float]:
    """Quartiles of one - other in the same turn, seconds."""
    return quartiles([a - b for a, b in zip(turns[one], turns[other], strict=True)])


def overhead(turns: Turns, one: str, other: str, base: str) -> list[float]:
    """The median of one - base in the same turn, in that of other - base, and around it quartiles by bootstrap.

    A quotient of two differences has no useful value in a single turn where the differences are as small as the noise.
    """
    both = [(turns[one][i] - turns[base][i], turns[other][i] - turns[base][i]) for i in range(len(turns[base]))]

    def quotient(pairs: list[tuple[float, float]]) -> float:
        above, below = (statistics.median(column) for column in zip(*pairs, strict=True))
        return above / below

    rng = random.Random(0)
    low, _, high = quartiles([quotient(rng.choices(both, k=len(both))) for _ in range(500)])
    return [low, quotient(both), high]


def row(turns: Turns, unit: str = "ms", **figures: list[float]) -> dict[str, Any]:
    """What is kept of a measurement: the quartiles of every side, in `unit`, and of what was made of them."""
    scale = {"s": 1, "ms": 1e3, "µs": 1e6}[unit]
    sides = {name: [scale * q for q in quartiles(values)] for name, values in turns.items()}
    return {"unit": unit, "turns": len(next(iter(turns.values()))), "sides": sides, "figures": figures}


def machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    cuda = torch.cuda.is_available()
    return {
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "versions": {
            "python": platform.python_version(),
            **{module.__name__: module.__version__ for module in (torch, transformers, peft)},
        },
    }
