"""More than three objectives: a heat map, and the vertices as lines over the objectives."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .style import COLOURS, FONT, LINES, MARKERS, WIDTH, Methods, bars, colour_bar, first, shorten, summary


def plot_many(methods: Methods) -> Figure:
    front, n = first(methods), len(methods)
    order, vertices = _sorted_rows(np.asarray(front.preferences))
    K, m = len(order), len(front.objectives)
    left, row = 0.145 * m, 0.17 if K <= 40 else 0.1  # inches, like the rest
    each = max((WIDTH - 1.6 - left) / n, 0.145 * m)
    heights = [row * K + 2.1, 1.3 + 1.4 * n] if vertices else [row * K + 2.1]
    figure = Figure(figsize=(1.6 + left + each * n, sum(heights)), layout="constrained")
    upper, *lower = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    gains, unit = _gains(methods)
    names = [
        shorten(name, 18) + ("" if up else "*") for name, up in zip(front.objectives, front.maximise, strict=True)
    ]
    star = "" if all(front.maximise) else "\n* lower is better: what is lost counts as a gain"

    panels = upper.subplots(1, 1 + n, sharey=True, width_ratios=[left] + [each] * n)
    image = panels[0].imshow(np.asarray(front.preferences)[order], cmap="Greys", vmin=0, vmax=1, aspect="auto")
    colour_bar(upper, image, [panels[0]], "weight", location="bottom")
    panels[0].images[0].colorbar.set_ticks([0, 1])
    limit = max(float(np.abs(gain[0]).max()) for gain in gains.values()) or 1.0
    for axes, (label, (gain, _, _)) in zip(panels[1:], gains.items(), strict=True):
        image = axes.imshow(gain[order], cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
        axes.set_xlabel(shorten(label, 20, lines=2), fontsize=FONT)
        if each / m >= 0.3 and row >= 0.15:
            for (k, i), value in np.ndenumerate(gain[order]):
                colour = "white" if abs(value) > 0.6 * limit else "black"
                axes.text(i, k, _signed(value), fontsize=FONT, ha="center", va="center", color=colour)
    colour_bar(upper, image, list(panels[1:]), unit + star, location="bottom")
    rows = {k: f"only {names[i]}" for k, i in enumerate(vertices)}
    for k in np.flatnonzero(np.ptp(np.asarray(front.preferences)[order], axis=1) < 1e-6):
        rows[int(k)] = "equal weights"
    for axes in panels:
        axes.set_xticks(range(m), names, rotation=90, fontsize=FONT)
        axes.set_yticks(list(rows), list(rows.values()), fontsize=FONT)
        axes.tick_params(length=0, labeltop=True, labelbottom=False)
        axes.axhline(len(vertices) - 0.5, color="black", linewidth=1)

    if lower:
        _draw_vertices(lower[0], gains, order, vertices, names, bars(methods))
    return figure


def _draw_vertices(
    figure: Any,
    gains: dict[str, tuple[np.ndarray, ...]],
    order: np.ndarray,
    vertices: list[int],
    names: list[str],
    reach: str,
) -> None:
    panels = figure.subplots(len(gains), sharex=True, sharey=True, squeeze=False)[:, 0]
    for axes, (label, summaries) in zip(panels, gains.items(), strict=True):
        gain, low, high = (array[order] for array in summaries)
        axes.axhline(0, color="0.6", linewidth=1)
        for k, i in enumerate(vertices):
            colour, marker = COLOURS[k % len(COLOURS)], MARKERS[k % len(MARKERS)]
            axes.plot(gain[k], linewidth=0.9, alpha=0.7, color=colour, linestyle=LINES[k % len(LINES)])
            bar = np.maximum([[gain[k, i] - low[k, i]], [high[k, i] - gain[k, i]]], 0)
            drawn = {"yerr": bar} if reach else {}
            axes.errorbar(i, gain[k, i], color=colour, marker=marker, markersize=6, mfc="none", capsize=3, **drawn)
        axes.grid(axis="x", color="0.9")
        axes.set_title(shorten(label, 80), fontsize=FONT)
        axes.set_ylabel("gain", fontsize=FONT)
        axes.tick_params(labelsize=FONT)
    panels[-1].set_xticks(range(len(names)), names, rotation=90)
    said = f" Bar: {reach}." if reach else ""
    figure.suptitle(f"A line: all weight on the objective with its marker.{said}", fontsize=FONT)


def _gains(methods: Methods) -> tuple[dict[str, tuple[np.ndarray, ...]], str]:
    """`summary` of every method in units in which objectives compare, more being better, and the name of the unit."""
    fronts = [front for seeds in methods.values() for front in seeds]
    bases = [front.base for front in fronts if front.base is not None]
    scale = np.concatenate(bases) if len(bases) == len(fronts) else np.zeros((1, 1))
    if (np.ptp(scale, axis=0) > 1e-9 * np.abs(scale).max(axis=0)).all():  # more than rounding
        unit = "gain over the base model,\nin its standard deviations over prompts"
    else:
        scale = np.concatenate([front.values for front in fronts])
        unit = "gain over the mean of the column,\nin its standard deviations"
    spread = scale.std(axis=0)
    up = np.where(first(methods).maximise, 1, -1) / np.where(spread > 0, spread, 1)
    gains: dict[str, tuple[np.ndarray, ...]] = {}
    for label, seeds in methods.items():
        value, low, high = ((array - scale.mean(axis=0)) * up for array in summary(seeds))
        gains[label] = value, np.minimum(low, high), np.maximum(low, high)
    return gains, unit


def _sorted_rows(preferences: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """An order of the preferences, vertices first, then by the largest weight; and the objectives of the vertices."""
    top, largest = preferences.argmax(axis=1), preferences.max(axis=1)
    vertex = largest > 1 - 1e-6
    order = np.lexsort((-largest, top, ~vertex))
    return order, top[order][: vertex.sum()].tolist()


def _signed(value: float) -> str:
    return f"{round(value, 1) + 0.0:+.1f}".replace("-", "−")
