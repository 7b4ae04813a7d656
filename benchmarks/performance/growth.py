"""How cost grows: one size at a time is changed, and a step of training, of prefill and of decoding is timed."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from . import front, sides
from .sides import Rank, Shape
from .steps import decode, prefill, training_step
from .timing import Case, Side, alternate, row

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


def steps(size: dict[str, int]) -> dict[str, Side]:
    base = sides.base(Shape("", size["width"], size["depth"]))
    rank = Rank(size["r"], size["m"], size["preference_rank"])
    found: dict[str, Side] = {}
    for name, make in (("Panacea", sides.panacea), ("LoRA", sides.lora)):
        evaluated = make(base, rank)
        found[f"training, {name}"] = training_step(make(base, rank), size["batch"])
        found[f"prefill, {name}"] = prefill(evaluated, size["batch"], tokens=64)
        found[f"decode, {name}"] = decode(evaluated, size["batch"])
    return found


def measured(axis: str, sizes: tuple[int, ...], budget: float) -> dict[str, Any]:
    """All sizes take turns, so that a slope is none of the machine's load."""
    if axis == "points":
        each = {size: {"front": front.ways(size, 16, 16)["evaluate_front"]} for size in sizes}
    else:
        each = {size: steps(FIXED | {axis: size}) for size in sizes}
    turns = alternate({f"{what}, {size}": run for size, runs in each.items() for what, run in runs.items()}, budget)
    return {**row(turns), "sizes": sizes}


def cases(quick: bool) -> Iterator[Case]:
    for axis, sizes in SIZES.items():
        yield f"growth: {axis}", "cpu", partial(measured, axis, sizes[:2] if quick else sizes, 0 if quick else 15)
