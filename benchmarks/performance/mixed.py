"""Eight requests with a preference each, in one batch: against eight LoRAs in one batch, and one after another."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from peft import LoraConfig

from . import sides
from .sides import Rank, Shape
from .steps import decode, prefill
from .timing import Case, alternate, ratio, row

ROWS = 8


def specialists(shape: Shape) -> Any:
    """One LoRA for each request; their names are 0, 1, …"""
    model = sides.lora(sides.base(shape), Rank())
    for i in range(ROWS):
        model.add_adapter(str(i), LoraConfig(r=Rank().total, init_lora_weights=False, target_modules="all-linear"))
    return model


def measured(shape: Shape, task: Callable[..., Callable[[], None]], options: dict[str, int], budget: float) -> Any:
    names = [str(i) for i in range(ROWS)]
    alone = specialists(shape)
    steps = []
    for name in names:
        alone.set_adapter(name)
        steps.append(task(alone, 1, **options))

    def one_after_another() -> None:
        for name, step in zip(names, steps, strict=True):
            alone.set_adapter(name)
            step()

    mixed, steered = specialists(shape), sides.panacea(sides.base(shape), Rank())
    preference = sides.random_rows(ROWS, Rank().m)
    turns = alternate(
        {
            "Panacea, rows": task(steered, ROWS, **options, preference=preference),
            "LoRAs, adapter_names": task(mixed, ROWS, **options, adapter_names=names),
            "LoRAs, one by one": one_after_another,
        },
        budget,
    )
    figures = {
        "than adapter_names": ratio(turns, "LoRAs, adapter_names", "Panacea, rows"),
        "than one by one": ratio(turns, "LoRAs, one by one", "Panacea, rows"),
    }
    return row(turns, **figures)


def cases(quick: bool) -> Iterator[Case]:
    for shape in sides.shapes(quick):
        if shape.width == 4096 and shape.device == "cpu":
            continue
        budget = 0 if quick else 10
        for name, task, options in (("decode", decode, {}), ("prefill", prefill, {"tokens": 32})):
            measure = partial(measured, shape, task, options, budget)
            yield f"mixed batch: {shape.name}, {name}", shape.device, measure
