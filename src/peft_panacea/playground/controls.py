"""What a visitor moves: a slider for each objective."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import gradio as gr

from .sliders import STEPS, moved, shown


class PreferenceSliders:
    """Sliders of one preference of one visitor, which stay on the simplex.

    What they show is rounded. The page also keeps the preference before rounding, so that proportions outlast a slider
    that is moved up and down again.

    Args:
        preference: At first, [m].
        names: Of the objectives.

    Attributes:
        sliders: The components, whose values are a preference.
        outputs: The components that a handler sets with `values`.
    """

    def __init__(self, preference: Sequence[float], names: Sequence[str]) -> None:
        exact = gr.State(list(preference))
        start = zip(names, shown(preference), strict=True)
        self.sliders = [
            gr.Slider(0, 1, weight, step=1 / STEPS, label=name, interactive=len(names) > 1, buttons=[])
            for name, weight in start
        ]
        self.outputs = [exact, *self.sliders]
        for i, slider in enumerate(self.sliders):
            slider.input(
                partial(self._move, i), [exact, slider], self.outputs, queue=False, trigger_mode="always_last",
                show_progress="hidden", api_visibility="private",
            )  # fmt: skip

    @staticmethod
    def values(preference: Sequence[float]) -> list[Any]:
        """For `outputs`."""
        return [list(preference), *shown(preference)]

    def _move(self, i: int, exact: Sequence[float], value: float) -> list[Any]:
        values = self.values(moved(exact, i, value))
        values[1 + i] = gr.skip()  # it is under the visitor's finger, and may have gone on
        return values
