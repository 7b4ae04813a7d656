"""Figures of training logs."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .style import COLOURS, FONT, WIDTH, shorten

CURVES = re.compile(r"(^|[/_])(loss(es)?|rewards?|kl)($|[/_])")


def plot_training(log_history: Sequence[Mapping[str, Any]], names: Sequence[str] | None = None) -> Figure:
    """Draw what a trainer logged, a panel for every name, over the steps.

    Args:
        log_history: `trainer.state.log_history`: mappings with a "step" and numbers.
        names: Which numbers; by default the losses, rewards and KL divergences that were logged at least twice.

    Raises:
        ValueError: a name was never logged, or there is none to draw.
    """
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in log_history:
        for name, value in row.items():
            if "step" in row and isinstance(value, numbers.Real) and not isinstance(value, bool):
                curves.setdefault(name, []).append((float(row["step"]), float(value)))
    if names is None:
        names = [
            name
            for name, curve in curves.items()
            if len(curve) > 1 and CURVES.search(name) and not name.endswith("std")
        ]
    for name in names:
        if name not in curves:
            raise ValueError(f"`names` must be of numbers that were logged, {[*curves]}, but got {name!r}.")
    if not names:
        raise ValueError(
            f"`log_history` must have a loss, reward or kl twice, or `names` must name some of {[*curves]}."
        )
    columns = min(2, len(names))
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(WIDTH, 0.5 + 1.3 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, squeeze=False).flatten()
    for k, (axes, name) in enumerate(zip(panels, names, strict=False)):
        lowest = k + columns >= len(names)
        steps, values = np.array(curves[name]).T
        axes.plot(steps, values, color=COLOURS[0], linewidth=1, marker="." if len(steps) < 40 else None)
        axes.set_title(shorten(name, 45), fontsize=FONT, loc="left")
        axes.set_xlabel("step" if lowest else "", fontsize=FONT)
        axes.tick_params(labelsize=FONT, labelbottom=lowest)
        axes.grid(color="0.9")
    for axes in panels[len(names) :]:
        axes.remove()
    return figure
