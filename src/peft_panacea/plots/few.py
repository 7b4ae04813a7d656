"""Two and three objectives: planes of two objectives, and triangles of preferences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ..extras import needs
from .style import (
    BASE,
    COLOURS,
    DOT,
    FONT,
    LINES,
    MARKERS,
    WIDTH,
    Methods,
    axis_label,
    bars,
    colour_bar,
    first,
    is_single,
    shorten,
    summary,
)


def plot_two(methods: Methods) -> Figure:
    """One plane; below it, if methods have seeds, a small plane for each method, where they cannot hide each other."""
    front = first(methods)
    each = _has_small_planes(methods)
    rows = math.ceil(len(methods) / 4) if each else 0
    figure = Figure(figsize=(WIDTH, 4.2 + 1.7 * rows), layout="constrained")
    grid = figure.add_gridspec(1 + rows, min(len(methods), 4), height_ratios=[3.8] + [1.7] * rows)
    axes = figure.add_subplot(grid[0, :])
    points = _draw_plane(axes, methods, 0, 1, joined=True)
    axes.set_xlabel(axis_label(front, 0, 70), fontsize=FONT)
    axes.set_ylabel(axis_label(front, 1, 40), fontsize=FONT)
    if points is not None:
        colour_bar(figure, points, [axes], "weight of " + shorten(front.objectives[0], 40))
    for k, label in enumerate(methods if each else []):
        panel = figure.add_subplot(grid[1 + k // 4, k % 4], xlim=axes.get_xlim(), ylim=axes.get_ylim())
        for other in methods.values():
            panel.plot(*_in_order(other, summary(other)[0]).T, color="0.4", linewidth=1, linestyle=":")
        _draw_seeds(panel, methods, k, 0, 1, joined=True)
        panel.set_title(shorten(label, 20), fontsize=FONT)
        panel.tick_params(labelsize=FONT, labelleft=k % 4 == 0)
        panel.xaxis.set_major_locator(MaxNLocator(3))
    _draw_legend(figure, methods, joined=True)
    return figure


def plot_three(methods: Methods) -> Figure:
    """Three planes, and below them a triangle for every objective and method."""
    with needs("eval"):
        import mpltern  # noqa: F401  (makes matplotlib know triangles)

    front, rows = first(methods), len(methods)
    heights = [2.3, 1.0 + 1.75 * rows]
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.4), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=heights)
    upper, lower = parts
    planes = list(upper.subplots(1, 3))
    for axes, (i, j) in zip(planes, [(0, 1), (0, 2), (1, 2)], strict=True):
        points = _draw_plane(axes, methods, i, j, joined=False)
        axes.set_xlabel(axis_label(front, i, 24, lines=1), fontsize=FONT)
        axes.set_ylabel(axis_label(front, j, 24, lines=1), fontsize=FONT)
    if points is not None:
        colour_bar(upper, points, planes, "weight of the\nhorizontal objective")
    attained = {label: summary(seeds)[0] for label, seeds in methods.items()}
    grid = lower.add_gridspec(rows, 3)
    for i in range(3):
        column = np.concatenate([values[:, i] for values in attained.values()])
        triangles = []
        for row, (label, seeds) in enumerate(methods.items()):
            axes = lower.add_subplot(grid[row, i], projection="ternary")
            dots = axes.scatter(
                *np.asarray(seeds[0].preferences).T,
                c=attained[label][:, i],
                cmap="viridis" if front.maximise[i] else "viridis_r",  # bright is better
                norm=Normalize(column.min(), column.max()),
                clip_on=False,
                **DOT,
            )
            _style_triangle(axes, front.objectives)
            if i == 1:
                axes.set_title(shorten(label, 40) if rows > 1 else " ", fontsize=FONT + 1, pad=21)
            triangles.append(axes)
        colour_bar(lower, dots, triangles, axis_label(front, i, 30, lines=1), location="bottom")
    lower.suptitle("A corner: all weight on that objective. Colour: what the preference attains.", fontsize=FONT)
    _draw_legend(figure, methods, joined=False)
    return figure


def _style_triangle(axes: Any, objectives: Sequence[str]) -> None:
    corners = [(1.1, -0.05, -0.05), (-0.12, 1.06, 0.06), (-0.12, 0.06, 1.06)]
    names = [shorten(objectives[0], 20), *(shorten(name, 12, lines=2) for name in objectives[1:])]
    for corner, name, side in zip(corners, names, ["bottom", "top", "top"], strict=True):
        axes.text(*corner, name, fontsize=FONT, ha="center", va=side)
    for axis in (axes.taxis, axes.laxis, axes.raxis):
        axis.set_ticks([0.25, 0.5, 0.75], labels=[])
    axes.tick_params(length=0)
    axes.grid(color="0.85")


def _draw_plane(axes: Axes, methods: Methods, i: int, j: int, *, joined: bool) -> Any:
    """Draw all fronts over objectives `i` and `j`. Returns the coloured points of a single front, else None."""
    points = None
    single = is_single(methods)
    for k, seeds in enumerate(methods.values()):
        colour = "0.6" if single else COLOURS[k % len(COLOURS)]
        values, low, high = (_in_order(seeds, array) for array in summary(seeds))
        x, y = values[:, i], values[:, j]
        reach = np.maximum([values - low, high - values], 0)
        if reach.any():
            axes.errorbar(
                x, y, reach[:, :, j], reach[:, :, i], fmt="none", ecolor=colour, elinewidth=0.8, alpha=0.6, zorder=1
            )
        if single:
            axes.plot(x, y, color="0.7", linewidth=1 if joined else 0, zorder=1)
            weights = _in_order(seeds, np.asarray(seeds[0].preferences))[:, i]
            points = axes.scatter(x, y, c=weights, cmap="viridis", vmin=0, vmax=1, **DOT)
        else:
            line, marker = LINES[k % len(LINES)] if joined else "none", MARKERS[k % len(MARKERS)]
            axes.plot(x, y, color=colour, linestyle=line, linewidth=1.3, marker=marker, markersize=5.5, mfc="none")
        if len(methods) == 1 or not joined:
            _draw_seeds(axes, methods, k, i, j, joined=joined)
    bases = [np.mean(front.base, axis=0) for seeds in methods.values() for front in seeds if front.base is not None]
    if bases:
        axes.scatter(*np.unique(bases, axis=0)[:, [i, j]].T, **BASE)
    axes.tick_params(labelsize=FONT)
    return points


def _draw_seeds(axes: Axes, methods: Methods, k: int, i: int, j: int, *, joined: bool) -> None:
    """Draw every seed of the method number `k` thinly; nothing if there is but one front."""
    seeds = list(methods.values())[k]
    style: dict[str, Any] = {"linewidth": 1} if joined else {"linestyle": "none", "marker": ".", "markersize": 3}
    for seed in [] if is_single(methods) else seeds:
        points = _in_order(seeds, np.asarray(seed.values))[:, [i, j]]
        if joined or len(seeds) > 1:
            axes.plot(*points.T, color=COLOURS[k % len(COLOURS)], alpha=0.6, zorder=2, **style)


def _has_small_planes(methods: Methods) -> bool:
    return len(methods) > 1 and any(len(seeds) > 1 for seeds in methods.values())


def _in_order(seeds: Any, rows: np.ndarray) -> np.ndarray:
    """Rows that belong to preferences, by the weight of the first objective."""
    return rows[np.argsort(np.asarray(seeds[0].preferences)[:, 0], kind="stable")]


def _draw_legend(figure: Figure, methods: Methods, *, joined: bool) -> None:
    """Below the axes, where it hides nothing."""
    handles, labels = [], []
    single = is_single(methods)
    for k, label in enumerate([] if single else methods):
        line: Any = LINES[k % len(LINES)] if joined else "none"
        marker = MARKERS[k % len(MARKERS)]
        handles.append(Line2D([], [], color=COLOURS[k % len(COLOURS)], linestyle=line, marker=marker, mfc="none"))
        labels.append(shorten(label, 30))
    if single and (label := next(iter(methods))):
        handles.append(Line2D([], [], color="0.7", linestyle="-" if joined else "none", marker="o", mec="black"))
        labels.append(shorten(label, 30))
    if any(front.base is not None for seeds in methods.values() for front in seeds):
        handles.append(Line2D([], [], color="black", linestyle="none", marker="*", markersize=9, mfc="none"))
        labels.append("base model")
    if bars(methods):
        handles.append(Line2D([], [], color="0.5", linestyle="none", marker="+", markersize=10))
        labels.append(bars(methods))
    if joined and _has_small_planes(methods):
        handles.append(Line2D([], [], color="0.4", linewidth=1, linestyle=":"))
        labels.append("means, in the small panels")
    if not handles:
        return
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=3 if max(map(len, labels)) <= 28 else 2,
        fontsize=FONT,
        frameon=False,
    )
