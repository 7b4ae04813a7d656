"""Where `generate` repeats the rows of a batch, for beams and `num_return_sequences`, preferences are repeated, too.

transformers alone knows the factor and the moment, which differ between decoding methods and between encoder and
decoder, so its own method is wrapped. The wrapper stays on the model and acts on the preference of the running call
alone: calls in several threads do not meet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from .state import PreferenceState

METHOD = "_expand_inputs_for_generation"


class _RepeatPreferences:
    """transformers' `_expand_inputs_for_generation` of one model, and of its preferences."""

    def __init__(self, expand: Callable[..., Any], state: PreferenceState) -> None:
        self.expand = expand
        self.state = state

    def __call__(self, expand_size: int = 1, *args: Any, **kwargs: Any) -> Any:
        self.state.repeat_rows(expand_size)
        return self.expand(expand_size, *args, **kwargs)


def repeat_preferences_with_rows(model: nn.Module, state: PreferenceState) -> None:
    """Make a transformers `model` that can generate repeat the rows of a call's preference with its inputs."""
    expand = getattr(model, METHOD, None)
    if expand is not None and not isinstance(expand, _RepeatPreferences):
        setattr(model, METHOD, _RepeatPreferences(expand, state))


def stop_repeating_preferences(model: nn.Module) -> None:
    """Undo `repeat_preferences_with_rows`."""
    if isinstance(vars(model).get(METHOD), _RepeatPreferences):
        delattr(model, METHOD)
