"""The page: what is on it, and which handler has which of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import gradio as gr

from .controls import PreferenceSliders
from .front_panel import front_panel
from .handlers import Handlers
from .on_front import OnFront

AT_ONCE = 4
"""Answers that are written at a time, token by token in turn; more visitors wait."""
KEPT = 600
"""Seconds that a file waits to be downloaded."""
INTRODUCTION = """# {title}

One adapter answers under every preference over {objectives}. Move a slider and ask again; the others make room in
proportion, so that all sum to 1.
"""


def page(model: Any, tokenizer: Any, title: str, on_front: OnFront | None = None) -> gr.Blocks:
    """The playground of a model; `serve` shows it.

    Whatever belongs to a visitor is in the visitor's own page, and goes with each question: the model's preference is
    never set.

    Args:
        model: A decoder-only causal language model with a Panacea adapter, in eval mode.
        tokenizer: Its tokenizer.
        title: What stands above.
        on_front: Its front, if it was measured.
    """
    handlers = Handlers(model, tokenizer)
    objectives = handlers.objectives
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(KEPT, KEPT)) as blocks:
        named = ", ".join(f"**{name}**" for name in objectives)
        gr.Markdown(INTRODUCTION.format(title=title, objectives=named))
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                prompt = gr.Textbox(label="Prompt", lines=2, placeholder="What shall it answer, or continue?")
                with gr.Row():
                    ask = gr.Button("Ask", variant="primary")
                    ask_both = gr.Button("Ask both", variant="primary", visible=False)
                    stop = gr.Button("Stop", scale=0, min_width=100)
                comparing = gr.Checkbox(label="Compare with a second preference", container=False)
                with gr.Row():
                    with gr.Column(min_width=280):
                        first, text = _side(handlers.preference, objectives)
                    with gr.Column(min_width=280, visible=False) as other:
                        second, second_text = _side(handlers.other, objectives)
            with gr.Column(scale=2, min_width=320):
                if on_front is not None:
                    front_panel(on_front, comparing, first, second)
                with gr.Accordion("How it answers", open=on_front is None):
                    decoding = [
                        gr.Slider(0, 2, 0, step=0.05, label="Temperature", info="0: the likeliest token", buttons=[]),
                        gr.Slider(1, 1024, 128, step=1, label="At most so many tokens", buttons=[]),
                        gr.Number(0, label="Seed", precision=0, minimum=0, maximum=2**32 - 1),
                    ]
                with gr.Accordion("Take the preference along", open=False):
                    gr.Markdown("The first one as a plain LoRA, for programs that know no other kind of adapter.")
                    make = gr.Button("Make the file")
                    file = gr.File(label="LoRA", interactive=False)
        both, texts = [*first.sliders, *second.sliders], [text, second_text]
        instant: Any = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        in_turn: Any = {"concurrency_limit": AT_ONCE, "concurrency_id": "model", "show_progress": "hidden"}
        running = [
            ask.click(handlers.begin, first.sliders, [text, ask], **instant).then(
                handlers.answer, [prompt, *first.sliders, *decoding], text, api_name="answer", **in_turn
            ),
            ask_both.click(handlers.begin_both, both, [*texts, ask_both], **instant).then(
                handlers.compare, [prompt, *both, *decoding], texts, api_name="compare", **in_turn
            ),
        ]
        for ended in (running[0].then, running[1].then, partial(stop.click, cancels=running)):
            ended(_ready, None, [ask, ask_both], **instant)
        comparing.input(_compared, comparing, [ask, ask_both, other], **instant)
        make.click(handlers.export, first.sliders, file, api_name="export", concurrency_limit=1)
    return blocks


def _side(preference: Sequence[float], objectives: Sequence[str]) -> tuple[PreferenceSliders, gr.Textbox]:
    with gr.Group():
        sliders = PreferenceSliders(preference, objectives)
    return sliders, gr.Textbox(label="Answer", lines=8, max_lines=24, interactive=False, buttons=["copy"])


def _ready() -> list[Any]:
    return [gr.update(interactive=True)] * 2


def _compared(on: bool) -> list[Any]:
    return [gr.update(visible=not on), gr.update(visible=on), gr.update(visible=on)]
