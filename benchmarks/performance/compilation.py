"""Graphs and graph breaks of `torch.compile` as preferences change."""

import shutil
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch._dynamo.utils import counters

from . import sides
from .sides import Rank
from .timing import Case


def measured(backend: str) -> dict[str, Any]:
    model = sides.panacea(sides.base(sides.TINY[0]), Rank()).eval()
    ids = torch.zeros(4, 8, dtype=torch.long)
    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(model, backend=backend)

    @torch.no_grad()
    def graphs(preferences: list[Any], block: bool = False) -> int:
        """How many more these make."""
        before = counters["stats"]["unique_graphs"]
        for preference in preferences:
            if block:
                with model.preference(preference):
                    compiled(ids)
            else:
                model.set_preference(preference)
                compiled(ids)
        return counters["stats"]["unique_graphs"] - before

    found = {
        "the first preference": graphs([[0.5, 0.5]]),
        "four others": graphs([[0.0, 1.0], [0.2, 0.8], [0.9, 0.1], [1.0, 0.0]]),
        "the first rows": graphs([sides.random_rows(4, 2)]),
        "three other rows": graphs([sides.random_rows(4, 2) for _ in range(3)]),
        "the first block": graphs([[0.5, 0.5]], block=True),
        "three other blocks": graphs([[0.0, 1.0], [0.2, 0.8], [0.9, 0.1]], block=True),
    }
    torch._dynamo.reset()
    changes = sum(found[name] for name in ("four others", "three other rows", "three other blocks"))
    figures = {"more graphs": [changes] * 3, "graph breaks": [sum(counters["graph_break"].values())] * 3}
    return {"unit": "graphs", "turns": 1, "sides": {k: [n] * 3 for k, n in found.items()}, "figures": figures}


def cases(quick: bool) -> Iterator[Case]:
    backend = "eager" if quick else "inductor" if shutil.which("g++") else "aot_eager"  # inductor needs a C++ compiler
    yield f"compilation: {backend}", "cpu", partial(measured, backend)
