"""The figure of growth: a panel for each size, both axes logarithmic, slopes written at the lines."""

import math
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

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


def slope(sizes: list[float], values: list[float]) -> float:
    """Of a line through the last three points, both axes logarithmic: what the cost grows with in the end."""
    return float(np.polyfit(np.log(sizes[-3:]), np.log(values[-3:]), 1)[0])


def draw(rows: dict[str, Any], path: Path) -> None:
    figure, axes = plt.subplots(2, 4, figsize=(9.6, 5.0), layout="constrained")
    for axis, (key, name) in zip(axes.flat, NAMES.items(), strict=False):
        of_key = sorted((row for row in rows.values() if row.get("axis") == key), key=lambda row: row["size"])
        sizes = [row["size"] for row in of_key]
        for task, label, colour in zip(TASKS, TASKS.values(), COLOURS, strict=False):
            if key == "points":
                if task == "training":
                    _line(axis, sizes, [row["sides"]["evaluate_front"][1] for row in of_key], "a front, s", "black")
                continue
            own, lora = ([row["sides"][f"{task}, {side}"][1] for row in of_key] for side in ("Panacea", "LoRA"))
            axis.plot(sizes, lora, "x", color=colour, markersize=4, markeredgewidth=0.9, alpha=0.8)
            _line(axis, sizes, own, label, colour)
        axis.set(xscale="log", yscale="log")
        axis.set_title(name, fontsize=FONT + 1, loc="left")
        axis.set_xticks(sizes, [str(size) for size in sizes])
        axis.minorticks_off()
        axis.tick_params(labelsize=FONT - 1, length=2)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", linewidth=0.3, alpha=0.6)
        axis.margins(x=0.08, y=0.16)
    for axis in axes[:, 0]:
        axis.set_ylabel("ms", fontsize=FONT)
    _key(axes.flat[-1])
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _line(axis: Any, sizes: list[float], values: list[float], label: str, colour: str) -> None:
    axis.plot(sizes, values, "-o", color=colour, markersize=3, linewidth=1.2)
    text = f"{label}  {slope(sizes, values):+.2f}"
    middle = math.sqrt(sizes[0] * sizes[-1])
    height = np.exp(np.interp(math.log(middle), np.log(sizes), np.log(values)))
    axis.annotate(text, (middle, height), (0, 5), textcoords="offset points", fontsize=FONT - 1, color=colour,
                  ha="center")  # fmt: skip


def _key(axis: Any) -> None:
    axis.axis("off")
    for y, marker, text in ((0.8, "-o", "Panacea"), (0.62, "x", "LoRA of the same total rank")):
        axis.plot([0.0, 0.12], [y, y], marker, color="black", markersize=4, linewidth=1.2)
        axis.text(0.2, y, text, fontsize=FONT, va="center")
    axis.text(0, 0.3, "numbers: slope at the end,\n+1 is proportional, 0 is free", fontsize=FONT, va="center")
    axis.set(xlim=(-0.05, 1.2), ylim=(0, 1))
