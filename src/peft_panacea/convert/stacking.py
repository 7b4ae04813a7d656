"""Plain LoRA adapters as one Panacea adapter, whose preference weighs them."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.quantization_utils import get_quantization_kwargs, resolve_quantization_backend
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ..tuner import PanaceaConfig, PanaceaLayer, PanaceaSVD
from .factors import Factors
from .model import names_of
from .source import CONSTANT

Location = str | os.PathLike[str]

UNCHANGED = (True, False, "gaussian", "eva", "orthogonal")
"""The initialisations of LoRA that leave the base model's weights alone."""

OTHERS = ("bias", "lora_bias", "modules_to_save", "trainable_token_indices", "layer_replication", "target_parameters")
"""What a LoRA configuration may have besides products on linear layers."""


def stack_loras(base_model: nn.Module, loras: Mapping[str, Location], *, shared: Location | None = None) -> PeftModel:
    """One steerable adapter of several LoRA adapters, each of which becomes an objective's own directions.

    At a preference p it adds Σᵢ pᵢ sᵢ Bᵢ Aᵢ to every weight, up to the rounding of float32: one LoRA at its vertex,
    their soup within, and beyond with `extrapolate`. The LoRAs may have different ranks, scales (alpha, rsLoRA,
    patterns) and layers. What one lacks in rank or layers is there to be trained, and adds nothing before.

    A layer's scale, U and V of an objective get one magnitude, so that one learning rate moves them alike.

    Args:
        base_model: The model that the LoRAs were trained on, without adapters. It gets the adapter.
        loras: Objective → folder or name on the Hub, in the order of a preference.
        shared: One more LoRA that is added at any preference, with weight 1.

    Returns:
        The model with the adapter; `r` is the rank of `shared` or 0, `preference_rank` the greatest of the others.

    Raises:
        TypeError: an argument of another kind.
        ValueError: an adapter is no LoRA, has something that a sum of products has no place for (DoRA and other
            variants, biases, modules saved in full, layers that are not linear), was made by changing the base
            model's weights (PiSSA and others), or has tensors that do not fit the model. `base_model` is unchanged.
        OSError: there is no adapter.
    """
    if isinstance(base_model, PeftModel) or any(isinstance(m, BaseTunerLayer) for m in base_model.modules()):
        raise ValueError("`base_model` must be without adapters, but has one; call `unload` first.")
    if not isinstance(loras, Mapping) or not loras:
        raise TypeError(f"`loras` must map objectives to folders or names on the Hub, but got {loras!r}.")
    configs = {f"`loras[{name!r}]`": _checked(f"`loras[{name!r}]`", path) for name, path in loras.items()}
    of_objectives = [
        _factors(base_model, what, path, config)
        for path, (what, config) in zip(loras.values(), configs.items(), strict=True)
    ]
    of_shared = {} if shared is None else _factors(base_model, "`shared`", shared, _checked("`shared`", shared))
    layers = [
        name for name, _ in base_model.named_modules() if any(name in found for found in (*of_objectives, of_shared))
    ]
    config = PanaceaConfig(
        objectives=list(loras),
        r=max((len(of_one.A) for of_one in of_shared.values()), default=0),
        preference_rank=max(len(of_one.A) for found in of_objectives for of_one in found.values()),
        scale_per_objective=True,
        target_modules=names_of(base_model, layers),
        task_type=next(iter(configs.values())).task_type,
    )
    model = get_peft_model(base_model, config)
    for name, module in model.get_base_model().named_modules():
        if isinstance(module, PanaceaLayer):
            svd: Any = module.panacea_svd["default"]
            _fill(svd, of_shared.get(name), [found.get(name) for found in of_objectives])
    return model


def stack_basis(base_model: nn.Module, path: Location) -> PeftModel:
    """The adapter that `export_lora_basis` wrote, up to the rounding of float32.

    Args:
        base_model: As for `stack_loras`.
        path: The folder.

    Raises:
        As `stack_loras`; an OSError if there is no `basis.json`.
    """
    folder = Path(path)
    weights = json.loads((folder / "basis.json").read_text(encoding="utf-8"))
    loras = {weight: folder / name for name, weight in weights.items() if isinstance(weight, str)}
    return stack_loras(base_model, loras, shared=folder / CONSTANT if CONSTANT in weights else None)


def _checked(what: str, path: Location) -> LoraConfig:
    """The configuration of a LoRA that is a sum of products and nothing else."""
    config = PeftConfig.from_pretrained(os.fspath(path))
    if not isinstance(config, LoraConfig):
        raise ValueError(f"{what} must be a LoRA adapter, but {path} is one of {config.peft_type.value}.")
    variants = [field.name for field in dataclasses.fields(config) if field.metadata.get("is_lora_variant")]
    for option in (*variants, *OTHERS):
        if (value := getattr(config, option)) not in (None, False, "none") and value != []:
            raise ValueError(
                f"{what} must be a LoRA adapter of products on linear layers alone, but {path} has `{option}`."
            )
    if config.init_lora_weights not in UNCHANGED:
        raise ValueError(
            f"{what} must be a LoRA adapter for the base model as it is, but {path} was initialised by "
            f"{config.init_lora_weights!r}, which changes the base model's weights; convert it with PEFT's "
            "`path_initial_model_for_weight_conversion`."
        )
    return config


def _factors(base_model: nn.Module, what: str, path: Location, config: LoraConfig) -> dict[str, Factors]:
    """Of each layer the products of a LoRA, s B and A, as PEFT loads them."""
    # A model of the same parameters, in modules of its own, into which PEFT may put what it likes.
    tensors = [*base_model.parameters(), *base_model.buffers()]
    trained = [tensor for tensor in tensors if tensor.requires_grad]
    twin = copy.deepcopy(base_model, {id(tensor): tensor for tensor in tensors})
    config.inference_mode = True
    try:
        model = PeftModel(twin, config, "lora", low_cpu_mem_usage=True)
        loaded = model.load_adapter(os.fspath(path), "lora", low_cpu_mem_usage=True)
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise ValueError(f"{what} must fit `base_model`, but of {path} there is a {first}") from None
    finally:
        for tensor in trained:
            tensor.requires_grad_(True)
    if unplaced := [*loaded.missing_keys, *loaded.unexpected_keys]:
        raise ValueError(
            f"{what} must have the tensors that its configuration says on `base_model`, but in {path} {len(unplaced)} "
            f"are missing or have no place, first {unplaced[0]}."
        )
    found = {}
    for name, module in twin.named_modules():
        if isinstance(module, LoraLayer):
            base_layer = module.get_base_layer()
            backend = resolve_quantization_backend(base_layer, **get_quantization_kwargs(base_model))
            if not (isinstance(base_layer, nn.Linear | Conv1D) or (backend and backend.layer_type == "linear")):
                raise ValueError(
                    f"{what} must adapt linear layers alone, but in {path} {name} is a {type(base_layer).__name__}."
                )
            B, A = module.lora_B["lora"].weight, module.lora_A["lora"].weight
            found[name] = Factors((module.scaling["lora"] * B.detach().float()).cpu(), A.detach().float().cpu())
    return found


@torch.no_grad()
def _fill(svd: PanaceaSVD, shared: Factors | None, objectives: list[Factors | None]) -> None:
    """Give a new adapter's layer these directions; where there are none it stays new, and adds nothing."""
    R = svd.preference_rank
    r = svd.U.shape[1] - svd.num_objectives * R
    for i, factors in enumerate(objectives):
        directions = slice(r + i * R, r + (i + 1) * R)
        if factors is not None and factors.A.any() and factors.B.any():
            svd.scale[i] = _write(svd.U[:, directions], svd.Vh[directions], factors, svd.factor)
    if shared is not None and svd.sigma is not None and shared.A.any() and shared.B.any():
        svd.sigma.fill_(_write(svd.U[:, :r], svd.Vh[:r], shared, svd.factor))


def _write(U: Tensor, Vh: Tensor, factors: Factors, c: float) -> float:
    """Write U and Vh, and return the gain g, so that c · g · U Vh = B A and all three have one magnitude."""
    B, A = factors
    k, b, a = len(A), B.square().mean().sqrt(), A.square().mean().sqrt()
    magnitude = (a * b / c) ** (1 / 3)
    U.zero_()
    U[:, :k] = B * (magnitude / b)
    Vh[:k] = A * (magnitude / a)
    return float(magnitude)
