"""Gradient checkpointing: the second forward must see the preference of the first.

A block under gradient checkpointing runs again during the backward pass. By then the current preference may be another
one, because two preferences share a backward or because the `with` block was left, and on a GPU it runs in a thread of
autograd's. The gradient would silently be that of a model that never ran.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .state import PreferenceState


class _PreservePreference:
    """A checkpointing function of transformers, whose recomputation runs under the preference of the forward."""

    def __init__(self, checkpoint: Callable[..., Any], state: PreferenceState) -> None:
        self.checkpoint = checkpoint
        self.state = state

    def __call__(self, function: Callable[..., Any], *args: Any) -> Any:
        if torch.compiler.is_compiling():  # a compiled graph holds the preference as an input
            return self.checkpoint(function, *args)
        state, seen = self.state, self.state.seen()

        def function_under_preference(*args: Any) -> Any:
            with state.as_seen(seen):
                return function(*args)

        return self.checkpoint(function_under_preference, *args)


class _WrapCheckpointFunction:
    """A forward pre-hook, because checkpointing can be switched on, or on again, at any time."""

    def __init__(self, state: PreferenceState) -> None:
        self.state = state

    def __call__(self, module: Any, args: tuple[Any, ...]) -> None:
        checkpoint = module.__dict__.get("_gradient_checkpointing_func")
        if checkpoint is not None and not isinstance(checkpoint, _PreservePreference):
            module._gradient_checkpointing_func = _PreservePreference(checkpoint, self.state)


def preserve_preference_in_recomputation(model: nn.Module, state: PreferenceState) -> None:
    """Make every block of a transformers `model` that can be checkpointed recompute under the right preference."""
    for module in model.modules():
        hooked = any(isinstance(hook, _WrapCheckpointFunction) for hook in module._forward_pre_hooks.values())
        if hasattr(module, "gradient_checkpointing") and not hooked:
            module.register_forward_pre_hook(_WrapCheckpointFunction(state))


def stop_preserving_preference(model: nn.Module) -> None:
    """Undo `preserve_preference_in_recomputation`."""
    for module in model.modules():
        for key, hook in list(module._forward_pre_hooks.items()):
            if isinstance(hook, _WrapCheckpointFunction):
                del module._forward_pre_hooks[key]
        checkpoint = module.__dict__.get("_gradient_checkpointing_func")
        if isinstance(checkpoint, _PreservePreference):
            module.__dict__["_gradient_checkpointing_func"] = checkpoint.checkpoint
