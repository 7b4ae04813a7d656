"""Peak memory of a training step above what there was before it."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from . import sides
from .sides import Shape
from .steps import training_step
from .timing import Case


def peak(step: Callable[[], None], cuda: bool) -> float:
    """MB: on a GPU of torch's allocator, on a CPU the largest running total of the allocations that torch reports."""
    step()  # whatever is allocated once
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        step()
    events = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(accumulate(event.nbytes() for event in events)) / 1e6


def measured(shape: Shape) -> dict[str, Any]:
    found = {
        name: peak(training_step(model), shape.device == "cuda") for name, model in sides.beside(shape, 8).items()
    }
    ratios = {name: [found[name] / found["LoRA"]] * 3 for name in ("Panacea", "Panacea, rows")}
    figures = {"over LoRA": ratios["Panacea"], "rows over LoRA": ratios["Panacea, rows"]}
    return {"unit": "MB", "turns": 1, "sides": {name: [mb] * 3 for name, mb in found.items()}, "figures": figures}


def cases(quick: bool) -> Iterator[Case]:
    for shape in sides.shapes(quick):
        if shape.width < 4096 or shape.device == "cuda":  # on a CPU the profile of the widest says nothing more
            yield f"memory: {shape.name}", shape.device, partial(measured, shape)
