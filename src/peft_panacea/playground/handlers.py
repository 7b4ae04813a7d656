"""What happens when a button is pressed, and how a mistake is said."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import gradio as gr

from ..tuner import first_active
from ..tuner.bounds import limits, nearest
from .answers import stream
from .download import zipped_lora


@contextmanager
def said() -> Iterator[None]:
    """Within the block a refusal is shown in the page, as the sentence that it is."""
    try:
        yield
    except (RuntimeError, TypeError, ValueError) as error:
        raise gr.Error(html.escape(str(error), quote=False), print_exception=False) from error


class Handlers:
    """Those of one model. What a visitor has set comes with each call, and nothing is kept.

    Args:
        model: A decoder-only causal language model with a Panacea adapter, in eval mode.
        tokenizer: Its tokenizer.

    Attributes:
        objectives: The m names.
        preference: The adapter's own at first, [m].
        other: For comparison, as much of the first objective as is allowed, [m].
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model, self._tokenizer = model, tokenizer
        config = model.peft_config[first_active(model)]
        self.objectives: list[str] = config.objective_names
        self.preference: list[float] = config.initial_preference
        bounds = limits(config.preference_bounds or {}, self.objectives)
        self.other = nearest([1.0, *[0.0] * (len(self.objectives) - 1)], *bounds)

    def answer(self, prompt: str, *values: float) -> Iterator[str]:
        """Under one preference: m weights, then temperature, tokens and seed."""
        m = len(self.objectives)
        for texts in self._stream(prompt, [values[:m]], *values[m:]):
            yield texts[0]

    def compare(self, prompt: str, *values: float) -> Iterator[list[str]]:
        """Under two."""
        m = len(self.objectives)
        yield from self._stream(prompt, [values[:m], values[m : 2 * m]], *values[2 * m :])

    def export(self, *preference: float) -> Iterator[str]:
        """The path of a file that is there until the next step, when the page has a copy."""
        with said(), zipped_lora(self._model, preference) as path:
            yield str(path)

    def begin(self, *preference: float) -> list[Any]:
        """An empty answer that says what it is asked under, and a button that has to wait.

        Sliders may be moved while it is written, but nothing else asked: that would stand below the wrong preference.
        """
        return [self._empty(preference), gr.update(interactive=False)]

    def begin_both(self, *preferences: float) -> list[Any]:
        """Two of them, and the button."""
        m = len(self.objectives)
        return [self._empty(preferences[:m]), *self.begin(*preferences[m:])]

    def _empty(self, preference: Sequence[float]) -> Any:
        weights = (f"{name} {w:.4g}" for name, w in zip(self.objectives, preference, strict=True) if w)
        return gr.update(value="", label=f"Answer at {', '.join(weights)}")

    def _stream(
        self, prompt: str, preferences: list[Sequence[float]], temperature: float, tokens: float, seed: float | None
    ) -> Iterator[list[str]]:
        options: Any = {"temperature": temperature, "max_new_tokens": int(tokens), "seed": int(seed or 0)}
        with said():
            yield from stream(self._model, self._tokenizer, prompt, preferences, **options)
