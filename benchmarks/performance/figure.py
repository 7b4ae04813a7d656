"""The figure of growth: a panel for each size, both axes logarithmic, slopes written at the lines."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import LogLocator

from peft_panacea.plots.style import COLOURS, FONT

TASKS = {"training": "training step", "prefill": "prefill", "decode": "decode"}
NAMES = {
    "width": "width",
    "depth": "layers",
    "batch": "rows of the batch",
    "r": "shared rank r",
    "m": "objectives m",
    "preference_rank": "ranks for each objective R",
    "points": "preferences of a front",
}

NOTE: dict[str, Any] = {"textcoords": "offset points", "fontsize": FONT - 1}


def slope(sizes: list[float], values: list[float]) -> float:
    """Of a line through the last three points, both axes logarithmic: what the cost grows with in the end."""
    return float(np.polyfit(np.log(sizes[-3:]), np.log(values[-3:]), 1)[0])


def draw(rows: dict[str, Any], path: Path) -> None:
    figure, axes = plt.subplots(2, 4, figsize=(9.6, 5.4), layout="constrained")
    for axis, (key, name) in zip(axes.flat, NAMES.items(), strict=False):
        row = rows[f"growth: {key}"]
        sizes = row["sizes"]

        def medians(what: str, row: dict[str, Any] = row) -> list[float]:
            return [row["sides"][f"{what}, {size}"][1] for size in row["sizes"]]

        if key == "points":
            _line(axis, sizes, medians("front"), "black")
        else:
            for (task, label), colour in zip(TASKS.items(), COLOURS, strict=False):
                axis.plot(sizes, medians(f"{task}, LoRA"), "x", color=colour, markersize=5, markeredgewidth=0.8)
                _line(axis, sizes, medians(f"{task}, Panacea"), colour)
                if key == "m":  # where the lines are the flattest
                    start = sizes[0], medians(f"{task}, Panacea")[0]
                    axis.annotate(label, start, (0, 6), color=colour, **NOTE)
        axis.set(xscale="log", yscale="log", ylabel="ms")
        axis.set_title(name, fontsize=FONT + 1, loc="left")
        axis.set_xticks(sizes, [str(size) for size in sizes])
        axis.minorticks_off()
        if key == "points":  # less than a decade or two
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.tick_params(labelsize=FONT - 1, length=2)
        axis.yaxis.label.set_size(FONT)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", linewidth=0.3, alpha=0.6)
        low, high = axis.get_xlim()
        axis.set_xlim(low, high * (high / low) ** 0.14)  # room for the slopes
    figure.get_layout_engine().set(hspace=0.06)
    steps = axes.flat[:-2]
    lowest, highest = min(axis.get_ylim()[0] for axis in steps), max(axis.get_ylim()[1] for axis in steps)
    for axis in steps:
        axis.set_ylim(lowest, highest)
    _key(axes.flat[-1])
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _line(axis: Any, sizes: list[float], values: list[float], colour: str) -> None:
    axis.plot(sizes, values, "-o", color=colour, markersize=3, linewidth=1.2)
    end = sizes[-1], values[-1]
    axis.annotate(f"{slope(sizes, values):.2f}", end, (6, 0), color=colour, va="center", weight="bold", **NOTE)


def _key(axis: Any) -> None:
    axis.axis("off")
    axis.plot([0.0, 0.12], [0.8, 0.8], "-o", color="black", markersize=3, linewidth=1.2)
    axis.plot([0.06], [0.65], "x", color="black", markersize=5, markeredgewidth=0.8)
    for y, text in ((0.8, "Panacea"), (0.65, "LoRA of the same total rank")):
        axis.text(0.2, y, text, fontsize=FONT, va="center")
    axis.text(0, 0.35, "At the end of a line its slope:\n1 is proportional, 0 is free.", fontsize=FONT, va="center")
    axis.set(xlim=(-0.05, 1.2), ylim=(0, 1))
