"""How cost grows: one size at a time is changed, and a step of training, of prefill and of decoding is timed."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from . import front, sides
from .sides import Rank, Shape
from .steps import decode, prefill, training_step
from .timing import Case, alternate, ratio, row

SIZES = {
    "width": (64, 128, 256, 512, 1024),
    "depth": (1, 2, 4, 8, 16),
    "batch": (1, 4, 16, 64),
    "r": (4, 16, 64, 256),
    "m": (2, 5, 10, 30, 100),
    "preference_rank": (1, 4, 16, 64),
    "points": (2, 6, 11, 21),
}
FIXED = {"width": 256, "depth": 2, "batch": 4, "r": 8, "m": 2, "preference_rank": 1}


def measured(axis: str, size: int, budget: float) -> dict[str, Any]:
    at = FIXED | {axis: size}
    base = sides.base(Shape("", at["width"], at["depth"]))
    rank = Rank(at["r"], at["m"], at["preference_rank"])
    tasks: dict[str, Callable[[], None]] = {}
    for name, make in (("Panacea", sides.panacea), ("LoRA", sides.lora)):
        tasks[f"training, {name}"] = training_step(make(base, rank), at["batch"])
        evaluated = make(base, rank)
        tasks[f"prefill, {name}"] = prefill(evaluated, at["batch"], tokens=64)
        tasks[f"decode, {name}"] = decode(evaluated, at["batch"])
    turns = alternate(tasks, budget)
    over = {
        f"{task} over LoRA": ratio(turns, f"{task}, Panacea", f"{task}, LoRA")
        for task in ("training", "prefill", "decode")
    }
    return {**row(turns, **over), "axis": axis, "size": size, "rank": rank.total}


def points(size: int, budget: float) -> dict[str, Any]:
    turns = front.timed(size, 16, 16, budget, only_grid=True)
    return {**row(turns), "axis": "points", "size": size}


def cases(quick: bool) -> Iterator[Case]:
    for axis, sizes in SIZES.items():
        for size in sizes[:1] if quick else sizes:
            budget = 0 if quick else 2.5
            measure = partial(points, size, budget) if axis == "points" else partial(measured, axis, size, budget)
            yield f"growth: {axis} {size}", "cpu", measure
