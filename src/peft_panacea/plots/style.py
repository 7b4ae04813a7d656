"""What the figures share: type sizes, colours, and what is read of a front."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

WIDTH = 6.4  # inches, the text width of a page
FONT = 8
# Okabe and Ito's colours but the yellow, which paper swallows; markers and lines tell them apart without colour.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "X", "P", "p")
LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)))
DOT: dict[str, Any] = {"s": 40, "edgecolors": "black", "linewidths": 0.6, "alpha": 0.85, "zorder": 3}
BASE: dict[str, Any] = {"marker": "*", "s": 80, "facecolors": "none", "edgecolors": "black", "zorder": 4}


class FrontLike(Protocol):
    """What is read of a front; `peft_panacea.front.Front` has it."""

    @property
    def objectives(self) -> Sequence[str]: ...
    @property
    def preferences(self) -> np.ndarray: ...
    @property
    def scores(self) -> np.ndarray: ...
    @property
    def maximise(self) -> Any: ...  # [m]
    @property
    def base(self) -> np.ndarray | None: ...
    @property
    def values(self) -> np.ndarray: ...
    def interval(self, level: float = 0.95) -> np.ndarray: ...


Methods: TypeAlias = "dict[str, list[FrontLike]]"


def first(methods: Methods) -> FrontLike:
    return next(iter(methods.values()))[0]


def is_single(methods: Methods) -> bool:
    return len(methods) == 1 and all(len(seeds) == 1 for seeds in methods.values())


def summary(seeds: list[FrontLike]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values and their lower and upper bounds, [K, m] each.

    Of several seeds these are mean and range, of one its interval, which is nothing around a front of one prompt.
    """
    values = np.stack([np.asarray(front.values) for front in seeds])
    low, high = values.min(axis=0), values.max(axis=0)
    if len(seeds) == 1 and _has_interval(seeds[0]):
        low, high = np.asarray(seeds[0].interval())
    return values.mean(axis=0), low, high


def bars(methods: Methods) -> str:
    """What the bars are; empty if there are none."""
    kinds = set()
    for seeds in methods.values():
        if len(seeds) > 1:
            kinds.add("range over seeds")
        elif _has_interval(seeds[0]):
            kinds.add("95 % interval over prompts")
    return " or ".join(sorted(kinds))


def _has_interval(front: FrontLike) -> bool:
    return np.shape(front.scores)[1] > 1


def colour_bar(figure: Any, image: Any, axes: list[Axes], label: str, location: str = "right") -> None:
    below = location == "bottom"
    ticks = MaxNLocator(3) if below else None
    bar = figure.colorbar(image, ax=axes, location=location, shrink=0.85 if below else 1, ticks=ticks)
    bar.set_label(label, fontsize=FONT)
    bar.ax.tick_params(labelsize=FONT)


def axis_label(front: FrontLike, i: int, width: int, lines: int = 2) -> str:
    return shorten(front.objectives[i], width, lines) + ("" if front.maximise[i] else "\n(lower is better)")


def shorten(text: str, width: int, lines: int = 1) -> str:
    """Break into lines, leave out of the middle what does not fit, and keep dollars from being mathematics."""
    text = " ".join(text.split())
    for n in range(min(len(text), width * lines), 0, -1):
        cut = text if n == len(text) else text[: n * 2 // 3] + "…" + text[len(text) - (n - 1 - n * 2 // 3) :]
        broken = textwrap.wrap(cut, width)
        if len(broken) <= lines:
            return "\n".join(broken).replace("$", r"\$")
    return text
