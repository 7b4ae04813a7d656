"""Steering a model: setting its preference for good, for a block, for one call."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from .layer import PanaceaLayer
from .state import Preferences, PreferenceState, parse_preference


def find_layer(model: nn.Module) -> PanaceaLayer | None:
    """The first Panacea layer of `model`, or None. All layers share one `PreferenceState`, so any will do."""
    return next((module for module in model.modules() if isinstance(module, PanaceaLayer)), None)


def _first_layer(model: nn.Module) -> PanaceaLayer:
    layer = find_layer(model)
    if layer is None or not layer.preference_state.objectives:
        raise RuntimeError("`model` must have a Panacea adapter, but none of its layers has one.")
    return layer


def _select(state: PreferenceState, adapter_name: str | list[str] | None) -> list[str]:
    if adapter_name is None:
        return list(state.objectives)
    names = [adapter_name] if isinstance(adapter_name, str) else adapter_name
    for name in names:
        if name not in state.objectives:
            raise ValueError(
                f"`adapter_name` must be one of the Panacea adapters {list(state.objectives)}, but got {name!r}."
            )
    return names


def set_preference(
    model: nn.Module,
    preference: Preferences,
    adapter_name: str | list[str] | None = None,
    *,
    extrapolate: bool = False,
) -> None:
    """Steer `model` to `preference` from the next forward on. Costs nothing and never copies weights.

    Works on a `PeftModel` and on models that got the adapter by `inject_adapter_in_model` or by transformers'
    `add_adapter`.

    Args:
        model: A model with at least one Panacea adapter.
        preference: m numbers ≥ 0 that sum to 1 (within 1e-4), in the order of the config's `objectives`, as list,
            tuple, NumPy array, tensor [m] or mapping from objective name to weight. A tensor or array [B, m], or a
            list of B preferences, gives every row of the batch its own.
        adapter_name: The adapter or adapters to steer; all of the model's Panacea adapters if None.
        extrapolate: Accept any finite numbers, also outside the simplex.

    Raises:
        TypeError, ValueError: `preference` or `adapter_name` is not valid. The model is then unchanged.
        RuntimeError: `model` has no Panacea adapter.
    """
    layer = _first_layer(model)
    state = layer.preference_state
    parsed = {
        name: parse_preference(preference, state.objectives[name], extrapolate=extrapolate)
        for name in _select(state, adapter_name)
    }
    if layer.merged_adapters:
        warnings.warn(
            f"Adapters {layer.merged_adapters} are merged with the preference they had then; the new preference "
            "takes effect once `unmerge_adapter` was called.",
            stacklevel=2,
        )
    state.set(parsed)


def get_preference(model: nn.Module, adapter_name: str | None = None) -> Tensor:
    """The current preference of an adapter.

    Args:
        model: A model with at least one Panacea adapter.
        adapter_name: The adapter to ask; the first active one if None.

    Returns:
        A float32 CPU tensor [m], or [B, m] if every row of the batch has its own. Writing into it changes nothing.
    """
    layer = _first_layer(model)
    state = layer.preference_state
    if adapter_name is None:
        adapter_name = next((name for name in layer.active_adapters if name in state.objectives), None)
    return state.get(_select(state, adapter_name)[0]).clone()


def get_objectives(model: nn.Module, adapter_name: str | None = None) -> list[str]:
    """The names of the m objectives of an adapter, in the order in which a preference lists them.

    Args:
        model: A model with at least one Panacea adapter.
        adapter_name: The adapter to ask; the first active one if None.
    """
    layer = _first_layer(model)
    if adapter_name is None:
        known = layer.preference_state.objectives
        adapter_name = next(name for name in (*layer.active_adapters, *known) if name in known)
    return list(layer.preference_state.objectives[_select(layer.preference_state, adapter_name)[0]])


@contextmanager
def preference_kept(model: nn.Module) -> Iterator[None]:
    """On leaving the block, `set_preference` calls within it are undone."""
    state = _first_layer(model).preference_state
    before = state.snapshot()
    try:
        yield
    finally:
        state.restore(before)


@contextmanager
def preference(
    model: nn.Module,
    preference: Preferences,
    adapter_name: str | list[str] | None = None,
    *,
    extrapolate: bool = False,
) -> Iterator[None]:
    """Steer `model` within a `with` block; on leaving it, also by an exception, the preferences are as before.

    Arguments and errors are those of `set_preference`.
    """
    state = _first_layer(model).preference_state
    before = state.snapshot()
    set_preference(model, preference, adapter_name, extrapolate=extrapolate)
    try:
        yield
    finally:
        state.restore(before)
