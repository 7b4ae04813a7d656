"""Figures of fronts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .few import plot_three, plot_two
from .many import plot_many
from .style import FONT, FrontLike, Methods, first, shorten


def plot_fronts(
    fronts: FrontLike | Mapping[str, FrontLike | Sequence[FrontLike]], *, title: str | None = None
) -> Figure:
    """Draw one front, or those of several methods.

    Two objectives: one plane. Three: three planes, and a triangle of preferences for every objective. More: a heat map
    of preferences and objectives, and each vertex as a line over the objectives.

    Args:
        fronts: A front, or a mapping of labels to fronts or to lists of fronts, one for each seed.
        title: Above the figure.

    Returns:
        The figure, 6.4 inches wide unless there is more to show; save it with `figure.savefig(path, dpi=150)`.

    Raises:
        TypeError: `fronts` holds something else.
        ValueError: there is no front or only one objective; fronts differ in objectives or directions; seeds of one
            label differ in preferences, or any fronts do where there are more than three objectives.
    """
    methods = _checked(fronts)
    m = len(first(methods).objectives)
    figure = (plot_two if m == 2 else plot_three if m == 3 else plot_many)(methods)
    if title is not None:
        figure.suptitle(shorten(title, 80, lines=3), fontsize=FONT + 2)
    return figure


def _checked(fronts: Any) -> Methods:
    methods = {"": [fronts]}
    if isinstance(fronts, Mapping):
        methods = {str(label): list(f) if isinstance(f, (list, tuple)) else [f] for label, f in fronts.items()}
    every = [front for seeds in methods.values() for front in seeds]
    if not every or not all(methods.values()):
        raise ValueError("`fronts` must hold at least one front for every label, but one has none.")
    for front in every:
        if not hasattr(front, "preferences") or not hasattr(front, "interval"):
            raise TypeError(
                f"`fronts` must be a front or a mapping of labels to fronts, but got {type(front).__name__}."
            )
        for name in ("objectives", "maximise"):
            one, other = list(getattr(every[0], name)), list(getattr(front, name))
            if one != other:
                raise ValueError(f"`fronts` must have the same {name}, but got {one} and {other}.")
    m = len(every[0].objectives)
    if m < 2:
        raise ValueError(f"`fronts` must have at least two objectives, but got {list(every[0].objectives)}.")
    for seeds in [every] if m > 3 else methods.values():
        if not all(np.array_equal(front.preferences, seeds[0].preferences) for front in seeds):
            whose = "more than three objectives" if m > 3 else "one label"
            raise ValueError(f"`fronts` of {whose} must have the same preferences in the same order.")
    return methods
