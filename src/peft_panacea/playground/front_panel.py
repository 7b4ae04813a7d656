"""The part of the page that shows a measured front and finds a preference on it."""

from __future__ import annotations

from typing import Any

import gradio as gr
import numpy as np

from .controls import PreferenceSliders
from .handlers import said
from .on_front import OnFront

FIRST, SECOND = "first preference", "second preference"


def front_panel(
    on_front: OnFront, comparing: gr.Checkbox, first: PreferenceSliders, second: PreferenceSliders
) -> None:
    """Draws the front, with the preferences of the sliders on it, and a wish that sets the first sliders."""
    front = on_front.front
    names, maximise = list(front.objectives), np.asarray(front.maximise).tolist()

    def draw(both: bool, *values: float) -> tuple[Any, str]:
        m = len(names)
        one = {FIRST: values[:m]} if both else {"your preference": values[:m]}
        return on_front.drawn({**one, SECOND: values[m:]} if both else one)

    def choose(best: str, *limits: str) -> list[Any]:
        with said():
            choice = on_front.choose(best, limits)
        return first.values([choice.preference[name] for name in names])

    with gr.Accordion("What each preference attains"):
        figure = gr.Plot(show_label=False, container=False)
        words = gr.Markdown()
    with gr.Accordion("Which preference do I want?", open=False):
        wanted = gr.Dropdown(names, value=names[0], label="As good as possible")
        with gr.Row():
            limits = [
                gr.Textbox(label=f"{name} at {'least' if up else 'most'}", placeholder="any", min_width=120)
                for name, up in zip(names, maximise, strict=True)
            ]
        find = gr.Button("Set the sliders")
    gr.on(
        None, draw, [comparing, *first.sliders, *second.sliders], [figure, words], trigger_mode="always_last",
        show_progress="hidden", concurrency_limit=1, api_visibility="private",
    )  # fmt: skip
    find.click(
        choose, [wanted, *limits], first.outputs, api_name="choose", concurrency_limit=1, show_progress="hidden"
    )
