"""Steering a model: setting its preference for everyone, or for a block of one thread or task."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from .bounds import limits, nearest_rows
from .layer import PanaceaLayer
from .preferences import Preferences, parse_preference
from .state import PreferenceState


def find_layer(model: nn.Module) -> PanaceaLayer | None:
    """The first Panacea layer of `model`, or None. All layers share one `PreferenceState`, so any will do."""
    # Every change comes by here: `modules()` and the `isinstance` of an abstract class take longer than all the rest.
    if PanaceaLayer in type(model).__mro__:
        return model  # type: ignore[return-value]
    for child in model._modules.values():
        if child is not None and (layer := find_layer(child)) is not None:
            return layer
    return None


def first_layer(model: nn.Module) -> PanaceaLayer:
    """The same, for a model that must have an adapter."""
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


def first_active(model: nn.Module, adapter_name: str | None = None) -> str:
    """The adapter of that name, or the first active one; refused if it is no Panacea adapter of the model."""
    layer = first_layer(model)
    state = layer.preference_state
    if adapter_name is None:
        adapter_name = next((name for name in layer.active_adapters if name in state.objectives), None)
    return _select(state, adapter_name)[0]


def parse_for(
    layer: PanaceaLayer, preference: Preferences, adapter_name: str | list[str] | None, *, extrapolate: bool = False
) -> dict[str, Tensor]:
    """The preference of each of the adapters, checked; a warning if it will have to wait because they are merged."""
    state = layer.preference_state
    parsed = {
        name: parse_preference(
            preference,
            state.objectives[name],
            extrapolate=extrapolate,
            bounds=state.bounds[name],
            names=state.names[name],
        )
        for name in _select(state, adapter_name)
    }
    if layer.merged_adapters:
        warnings.warn(
            f"Adapters {layer.merged_adapters} are merged with the preference they had then; the new preference "
            "takes effect once `unmerge_adapter` was called.",
            stacklevel=4,
        )
    return parsed


def set_preference(
    model: nn.Module,
    preference: Preferences,
    adapter_name: str | list[str] | None = None,
    *,
    extrapolate: bool = False,
) -> None:
    """Steer `model` to `preference` from the next call on, for everyone. Costs nothing and never copies weights.

    A `with` block of `preference` and `preference=` in a call go before it, in their own thread or asyncio task. A
    call of a `PeftModel` that is running keeps the preference that it began with. Models that got the adapter by
    `inject_adapter_in_model` or by transformers' `add_adapter` are steered as well.

    Args:
        model: A model with at least one Panacea adapter.
        preference: m numbers ≥ 0 that sum to 1 (within 1e-4), in the order of the config's `objectives`, as list,
            tuple, NumPy array, tensor [m] or mapping from objective name to weight; or one of the config's
            `named_preferences`. A tensor or array [B, m], or a
            list of B preferences, gives every row of the batch its own, one of [B, T, m] every token.
        adapter_name: The adapter or adapters to steer; all of the model's Panacea adapters if None.
        extrapolate: Accept any finite numbers, also outside the simplex, but not outside `preference_bounds`.

    Raises:
        TypeError, ValueError: `preference` or `adapter_name` is not valid. The model is then unchanged.
        RuntimeError: `model` has no Panacea adapter.
    """
    layer = first_layer(model)
    state = layer.preference_state
    parsed = parse_for(layer, preference, adapter_name, extrapolate=extrapolate)
    if any(map(state.overridden, parsed)):
        warnings.warn(
            "A block or call of this thread steers the model; the new preference takes effect here once it is left.",
            stacklevel=2,
        )
    state.set(parsed)


def get_preference(model: nn.Module, adapter_name: str | None = None) -> Tensor:
    """The preference of an adapter as the calling thread or asyncio task sees it.

    Args:
        model: A model with at least one Panacea adapter.
        adapter_name: The adapter to ask; the first active one if None.

    Returns:
        A float32 CPU tensor [m], [B, m] if every row of the batch has its own, or [B, T, m] if every token has.
        Writing into it changes nothing.
    """
    return first_layer(model).preference_state.get(first_active(model, adapter_name)).clone()


def nearest_preference(model: nn.Module, preference: Preferences, adapter_name: str | None = None) -> Tensor:
    """The nearest preference, by Euclidean distance, on the simplex and within the adapter's `preference_bounds`.

    Args:
        model: A model with at least one Panacea adapter.
        preference: Any finite numbers in any form of `set_preference`.
        adapter_name: The adapter whose bounds they are; the first active one if None.

    Returns:
        A float32 CPU tensor of the preference's shape, which `set_preference` accepts.

    Raises:
        TypeError, ValueError: `preference` or `adapter_name` is not valid.
        RuntimeError: `model` has no Panacea adapter.
    """
    name, state = first_active(model, adapter_name), first_layer(model).preference_state
    parsed = parse_preference(preference, state.objectives[name], extrapolate=True, names=state.names[name])
    allowed = limits(state.bounds[name], state.objectives[name])
    return nearest_rows(parsed, *allowed)


def steer_everyone(model: nn.Module, preference: Tensor) -> None:
    """What training draws, [m], [B, m] or [B, T, m], for everyone: `set_preference` without bounds and questions."""
    state = first_layer(model).preference_state
    state.set({name: preference.detach().to("cpu", torch.float32) for name in state.objectives})


def get_objectives(model: nn.Module, adapter_name: str | None = None) -> list[str]:
    """The names of the m objectives of an adapter, in the order in which a preference lists them.

    Args:
        model: A model with at least one Panacea adapter.
        adapter_name: The adapter to ask; the first active one if None.
    """
    return list(first_layer(model).preference_state.objectives[first_active(model, adapter_name)])


@contextmanager
def preference(
    model: nn.Module,
    preference: Preferences,
    adapter_name: str | list[str] | None = None,
    *,
    extrapolate: bool = False,
) -> Iterator[None]:
    """Steer `model` within a `with` block, for the calling thread or asyncio task alone.

    Tasks that are started within the block keep its preference, as they keep every context variable; threads do not.

    Arguments and errors are those of `set_preference`.
    """
    layer = first_layer(model)
    with layer.preference_state.block(parse_for(layer, preference, adapter_name, extrapolate=extrapolate)):
        yield


@contextmanager
def preference_read(model: nn.Module, preference: Tensor, adapter_name: str | None = None) -> Iterator[None]:
    """What is read of an adapter to be reckoned with, not answered, [m]: `preference` without bounds and questions."""
    state = first_layer(model).preference_state
    with state.block({first_active(model, adapter_name): preference}):
        yield


def preference_kept(model: nn.Module) -> AbstractContextManager[None]:
    """Within the block `set_preference` takes effect even inside another block; on leaving it, it is undone."""
    return first_layer(model).preference_state.as_everyone()
