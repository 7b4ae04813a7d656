"""Where single preferences lie on a front, small enough for a page beside text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .few import plot_two
from .style import BASE, COLOURS, FONT, FrontLike, shorten

WIDTH_BESIDE = 4.4  # inches
HERE: dict[str, Any] = {"s": 110, "linewidths": 2, "zorder": 5}


def plot_positions(front: FrontLike, positions: Mapping[str, np.ndarray]) -> Figure:
    """Two objectives: the plane of `plot_fronts`. More: a line for each, from the worst to the best measured value.

    Args:
        front: What was measured.
        positions: Label → expected values, [m], of at most three preferences.

    Returns:
        The figure, 4.4 inches wide.
    """
    figure = _plane(front, positions) if len(front.objectives) == 2 else _ranges(front, positions)
    figure.set_dpi(160)
    if figure.axes[0].get_legend_handles_labels()[0]:
        figure.legend(loc="outside upper left", ncols=4, fontsize=FONT + 1, frameon=False)
    return figure


def _plane(front: FrontLike, positions: Mapping[str, np.ndarray]) -> Figure:
    figure = plot_two({"": [front]})
    figure.set_size_inches(WIDTH_BESIDE, 3.5)
    for k, (label, values) in enumerate(positions.items()):
        figure.axes[0].scatter(*values, facecolors="none", edgecolors=COLOURS[1 - k], label=label, **HERE)
    return figure


def _ranges(front: FrontLike, positions: Mapping[str, np.ndarray]) -> Figure:
    """Every line is of the same length, and better is right; the numbers at its ends are the values."""
    m = len(front.objectives)
    figure = Figure(figsize=(WIDTH_BESIDE, 0.6 + 0.42 * m), layout="constrained")
    axes = figure.add_subplot()
    worst, best = front.values.min(axis=0), front.values.max(axis=0)
    worst, best = np.where(front.maximise, worst, best), np.where(front.maximise, best, worst)
    length = np.where(best == worst, 1.0, best - worst)
    rows = np.arange(m)
    axes.hlines(rows, 0, 1, color="0.75", linewidth=4, zorder=1)
    for row, low, high in zip(range(m), worst, best, strict=True):
        axes.text(-0.02, row, f"{low:.3g}", ha="right", va="center", fontsize=FONT, color="0.35")
        axes.text(1.02, row, f"{high:.3g}", ha="left", va="center", fontsize=FONT, color="0.35")
    if front.base is not None:
        at = (np.mean(front.base, axis=0) - worst) / length
        inside = (at >= 0) & (at <= 1)  # numbers stand where it may lie else
        axes.scatter(at[inside], rows[inside], label="base model" if inside.any() else None, **BASE)
    for k, (label, values) in enumerate(positions.items()):
        axes.scatter(
            (values - worst) / length, rows, facecolors="none", edgecolors=COLOURS[1 - k], label=label, **HERE
        )
    axes.set_yticks(rows, [shorten(name, 22) for name in front.objectives], fontsize=FONT + 1)
    axes.set(xlim=(-0.36, 1.26), ylim=(m - 0.4, -0.6), xticks=[])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure
