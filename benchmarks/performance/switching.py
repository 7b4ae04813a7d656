"""What a change of the preference costs, alone, in the call that follows it, and against re-merging a soup."""

import itertools
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from . import sides
from .sides import Rank, Shape
from .steps import decode
from .timing import Case, alternate, difference, ratio, row

PREFERENCES = ([0.3, 0.7], [0.6, 0.4])


def changes(model: Any) -> Callable[[], None]:
    """`set_preference` to one and the other."""
    preferences = itertools.cycle(PREFERENCES)
    return lambda: model.set_preference(next(preferences))


def block(model: Any) -> Callable[[], None]:
    def enter_and_leave() -> None:
        with model.preference(PREFERENCES[0]):
            pass

    return enter_and_leave


def by_depth(budget: float) -> dict[str, Any]:
    shallow, deep = (sides.panacea(sides.base(Shape("", 64, layers)), Rank()) for layers in (2, 64))
    ids = torch.zeros(1, 1, dtype=torch.long)

    def call(**options: Any) -> Callable[[], None]:
        return torch.no_grad()(lambda: shallow(ids, use_cache=False, **options) and None)

    turns = alternate(
        {
            "set_preference, 2 layers": changes(shallow),
            "set_preference, 64 layers": changes(deep),
            "with, 2 layers": block(shallow),
            "with, 64 layers": block(deep),
            "a call of 2 layers": call(),
            "the same, preference=": call(preference=PREFERENCES[0]),
        },
        budget,
    )
    figures = {
        "set_preference, 64 layers over 2": ratio(turns, "set_preference, 64 layers", "set_preference, 2 layers"),
        "with, 64 layers over 2": ratio(turns, "with, 64 layers", "with, 2 layers"),
        "preference=, µs": [1e6 * q for q in difference(turns, "the same, preference=", "a call of 2 layers")],
    }
    found = row(turns, "µs", **figures)
    return {**found, "figures": {**found["figures"], "set_preference, µs": found["sides"]["set_preference, 2 layers"]}}


def after_a_change(shape: Shape, budget: float) -> dict[str, Any]:
    """The first token after a change next to one without."""
    model = sides.panacea(sides.base(shape), Rank())
    step, change = decode(model), changes(model)

    def first() -> float:
        change()
        start = time.perf_counter()
        step()
        if shape.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    turns = alternate({"a token": step, "the first after a change": first}, budget)
    return row(turns, **{"more, ms": [1e3 * q for q in difference(turns, "the first after a change", "a token")]})


def soup(shape: Shape, merge: bool) -> Callable[[], None]:
    """A switch of two LoRAs to other weights: by averaging and merging, or by concatenating them unmerged."""
    model = sides.lora(sides.base(shape), Rank())
    model.add_adapter("other", model.peft_config["default"])
    weights = itertools.cycle(PREFERENCES)

    def make() -> None:
        kind = "linear" if merge else "cat"
        model.add_weighted_adapter(["default", "other"], next(weights), "soup", combination_type=kind)
        model.set_adapter("soup")
        if merge:
            model.merge_adapter()

    def switch() -> None:
        if merge:
            model.unmerge_adapter()
        model.set_adapter("default")
        model.delete_adapter("soup")
        make()

    make()
    return switch


def against_soups(shape: Shape, budget: float) -> dict[str, Any]:
    model = sides.panacea(sides.base(shape), Rank())
    turns = alternate(
        {
            "set_preference": changes(model),
            "soup, re-merged": soup(shape, merge=True),
            "cat, unmerged": soup(shape, merge=False),
        },
        budget,
    )
    figures = {
        "than re-merging": ratio(turns, "soup, re-merged", "set_preference"),
        "than cat": ratio(turns, "cat, unmerged", "set_preference"),
    }
    return row(turns, **figures)


def cases(quick: bool) -> Iterator[Case]:
    yield "switching: by depth", "cpu", partial(by_depth, 0 if quick else 10)
    small, large = (sides.TINY, sides.TINY) if quick else (sides.CPU[:2], [sides.QWEN_05B, *sides.GPU])
    for shape in large:
        yield f"soups: {shape}", shape.device, partial(against_soups, shape, 0 if quick else 20)
    for shape in dict.fromkeys([*small, *large]):
        yield f"after a change: {shape}", shape.device, partial(after_a_change, shape, 0 if quick else 15)
