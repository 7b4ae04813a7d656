"""Saved tensors are compared with the adapter before any of them is loaded, so that no adapter is loaded by half."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

PREFIX = "base_model.model."
"""What PEFT writes before every key of a checkpoint; models without a `PeftModel` around them do not have it."""


def check_state_dict(model: nn.Module, adapter_name: str, state_dict: Mapping[str, Tensor]) -> None:
    """Refuse a checkpoint that does not hold the tensors of an adapter, all of them and no others of its kind.

    Args:
        model: The model with the adapter in place.
        adapter_name: The adapter to load.
        state_dict: The checkpoint, its keys already those of the model.

    Raises:
        ValueError: A tensor is missing, does not belong, has another shape or is not floating point. Nothing was
            loaded.
    """
    in_model = model.state_dict()
    marker = f".panacea_svd.{adapter_name}."
    expected = {key: tensor for key, tensor in in_model.items() if marker in key}
    if not expected:  # on the ranks of a sharded model that do not hold it
        return
    unknown = [key for key in state_dict if key not in in_model and key.removeprefix(PREFIX) not in in_model]
    extra = [key for key in unknown if ".panacea_" in key]
    missing = [key.replace(marker, ".panacea_svd.") for key in expected if key not in state_dict]
    faults = [_count(keys, what) for keys, what in ((missing, "missing"), (extra, "no part of it")) if keys]
    if faults:
        raise ValueError(
            f"The checkpoint of adapter {adapter_name!r} must hold its {len(expected)} tensors and no others, "
            f"but {' and '.join(faults)}; its configuration or the base model may be another one."
        )
    for key, tensor in expected.items():
        _check_tensor(key.replace(marker, ".panacea_svd."), tensor, state_dict[key], adapter_name)
    if unknown:
        warnings.warn(
            f"The checkpoint of adapter {adapter_name!r} has tensors that the model has no place for: "
            f"{_count(unknown, 'ignored')}.",
            stacklevel=2,
        )


def _count(keys: Sequence[str], what: str) -> str:
    return f"1 is {what}, `{keys[0]}`" if len(keys) == 1 else f"{len(keys)} are {what}, first `{keys[0]}`"


def _check_tensor(name: str, expected: Tensor, loaded: Tensor, adapter_name: str) -> None:
    of_adapter = f"in the checkpoint of adapter {adapter_name!r}"
    if not loaded.is_floating_point():
        raise ValueError(f"`{name}` must hold floating-point numbers {of_adapter}, but got {loaded.dtype}.")
    plain = type(expected) in (Tensor, nn.Parameter) and type(loaded) in (Tensor, nn.Parameter)
    if plain and expected.numel() and expected.shape != loaded.shape:  # else it may be one shard of the parameter
        raise ValueError(
            f"`{name}` must have shape {tuple(expected.shape)} {of_adapter}, as the configuration and the base model "
            f"say, but got {tuple(loaded.shape)}."
        )
