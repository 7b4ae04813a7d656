"""Folders of plain LoRA adapters: at one preference, at several, or as a basis for all of them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from ..tuner import PanaceaConfig, PanaceaLayer, PanaceaSVD, Preference, first_active, parse_preference
from .factors import Factors, as_basis, at_preference
from .readme import of_basis, of_preference

CONSTANT = "shared"
"""The name of what a basis has next to its objectives."""


def export_lora(
    model: PeftModel,
    preference: Preference,
    path: str | os.PathLike[str],
    adapter_name: str | None = None,
    *,
    extrapolate: bool = False,
) -> None:
    """Write the adapter at one preference as a LoRA adapter that PEFT, or a server, loads without this package.

    It is exact: ΔW(p) = B A, without a decomposition. Its rank is the largest r + m·R of any layer; layers of a lower
    one are filled up with zeros, because servers read one rank for all. Factors are float32 or better. Modules saved
    in full, biases and rows for tokens go along. `README.md` in the folder says how to load it.

    Args:
        model: With a Panacea adapter, from `get_peft_model` or `PeftModel.from_pretrained`. It is not changed.
        preference: m numbers ≥ 0 that sum to 1, in any of the forms of `set_preference`.
        path: Folder, made if need be. An earlier export in it is overwritten.
        adapter_name: The adapter; the first active one if None.
        extrapolate: Accept any finite numbers, also outside the simplex.

    Raises:
        TypeError, ValueError: an argument is not valid. Nothing is written then.
        RuntimeError: `model` has no Panacea adapter.
    """
    name = _adapter(model, adapter_name)
    config = _config(model, name)
    p = _one_preference(preference, config, extrapolate)
    folder = _checked_folder(path)
    factors = {layer: at_preference(svd, p) for layer, svd in _adapted(model, name).items()}
    _write(model, name, factors, folder, besides=True)
    weights = dict(zip(config.objective_names, p.tolist(), strict=True))
    (folder / "README.md").write_text(of_preference(config, weights), encoding="utf-8")


def export_lora_grid(
    model: PeftModel,
    preferences: Sequence[Preference] | Tensor,
    path: str | os.PathLike[str],
    adapter_name: str | None = None,
    *,
    extrapolate: bool = False,
) -> list[Path]:
    """Write a LoRA adapter for each of several preferences, such as those of `simplex_grid`.

    Args:
        model: As in `export_lora`.
        preferences: [n, m], or n preferences in any form.
        path: Folder of the n folders, which are called by their preference, as in `0.25,0.75`.
        adapter_name: As in `export_lora`.
        extrapolate: As in `export_lora`.

    Returns:
        The n folders, in the order of the preferences.

    Raises:
        As `export_lora`; all preferences are looked at before anything is written.
    """
    config = _config(model, _adapter(model, adapter_name))
    parsed = [_one_preference(p, config, extrapolate) for p in preferences]
    folders = [Path(path) / ",".join(f"{entry:.6g}" for entry in p.tolist()) for p in parsed]
    if len(set(folders)) < len(folders):
        raise ValueError(f"`preferences` must differ in six digits, but got {[p.tolist() for p in parsed]}.")
    for folder in folders:
        _checked_folder(folder)
    for p, folder in zip(parsed, folders, strict=True):
        export_lora(model, p, folder, adapter_name, extrapolate=extrapolate)
    return folders


def export_lora_basis(model: PeftModel, path: str | os.PathLike[str], adapter_name: str | None = None) -> list[str]:
    """Write LoRA adapters whose weighted sum is the adapter at any preference, for servers that weigh adapters.

    ΔW(p) = 1 · ΔW₀ + Σᵢ pᵢ ΔWᵢ, exact for all real weights, also outside the simplex: a server that weighs them
    cannot be told which preferences are allowed.

    Args:
        model: As in `export_lora`.
        path: Folder of the adapters' folders, of `basis.json`, which says the weight of each, and of `README.md`.
        adapter_name: As in `export_lora`.

    Returns:
        The names of the adapters and of their folders, in the order of the weights: `shared`, whose weight is always
        1, then the objectives, whose weights are the preference. Without shared directions, r = 0 with raw
        coordinates, there is no `shared`.

    Raises:
        As `export_lora`; and a ValueError if modules saved in full, biases or rows for tokens were trained next to the
        adapter, which no weighted sum has a place for.
    """
    name = _adapter(model, adapter_name)
    config = _config(model, name)
    others = {
        "modules_to_save": config.modules_to_save,
        "trainable_token_indices": config.trainable_token_indices,
        "bias": config.bias if config.bias != "none" else None,
    }
    if found := [option for option, value in others.items() if value]:
        raise ValueError(
            f"`model` must have nothing trained besides the adapter to be a weighted sum, but it has `{found[0]}`; "
            "`export_lora` takes that along."
        )
    names = [CONSTANT, *_folder_names(config.objective_names)]
    folders = [_checked_folder(Path(path) / part) for part in names]
    bases = {layer: as_basis(svd) for layer, svd in _adapted(model, name).items()}
    each: list[float | str] = [1.0, *config.objective_names]
    weights: dict[str, float | str] = {}
    for i, weight in enumerate(each):
        factors = {layer: basis[i] for layer, basis in bases.items() if len(basis[i].A)}
        if factors:
            _write(model, name, factors, folders[i], besides=False)
            weights[names[i]] = weight
    (Path(path) / "basis.json").write_text(json.dumps(weights, indent=2) + "\n", encoding="utf-8")
    (Path(path) / "README.md").write_text(of_basis(config, weights), encoding="utf-8")
    return list(weights)


def _folder_names(objectives: Sequence[str]) -> list[str]:
    names = [CONSTANT]
    for objective in objectives:
        name = re.sub(r"[^\w-]+", "-", objective).strip("-") or "objective"
        names.append(next(n for n in (name, *(f"{name}-{i}" for i in range(2, len(names) + 3))) if n not in names))
    return names[1:]


def _adapter(model: PeftModel, adapter_name: str | None) -> str:
    if not isinstance(model, PeftModel):
        raise TypeError(f"`model` must be a PeftModel, but got {type(model).__name__}.")
    return first_active(model, adapter_name)


def _config(model: PeftModel, name: str) -> PanaceaConfig:
    config = model.peft_config[name]
    assert isinstance(config, PanaceaConfig)
    return config


def _one_preference(preference: Preference, config: PanaceaConfig, extrapolate: bool) -> Tensor:
    parsed = parse_preference(preference, config.objective_names, extrapolate=extrapolate)
    if parsed.ndim == 2:
        raise ValueError(f"`preference` must be one preference, but got {len(parsed)} rows.")
    return parsed


def _checked_folder(path: str | os.PathLike[str]) -> Path:
    """Refused where the adapter of another method is: it may be the one that is exported."""
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"`path` must be a folder, but {folder} is a file.")
    config = folder / "adapter_config.json"
    if config.exists() and (kind := json.loads(config.read_text(encoding="utf-8")).get("peft_type")) != "LORA":
        raise ValueError(f"`path` must not hold another adapter, but {folder} has one of {kind}.")
    return folder


def _adapted(model: PeftModel, name: str) -> dict[str, PanaceaSVD]:
    """What an adapter has for each layer, by the layer's name in the base model."""
    found: dict[str, PanaceaSVD] = {}
    for layer, module in model.get_base_model().named_modules():
        if isinstance(module, PanaceaLayer) and name in module.panacea_svd:
            svd: Any = module.panacea_svd[name]
            found[layer] = svd
            if svd.U.is_meta or not svd.U.numel():
                raise ValueError(f"`model` must hold its whole parameters, but {layer} is sharded or not loaded.")
    return found


def _target_modules(model: PeftModel, layers: Sequence[str]) -> list[str]:
    """The last parts of the layers' names, if no other layer has one of them, else the whole names."""
    endings = sorted({layer.rpartition(".")[2] for layer in layers})
    found = [layer for layer, _ in model.get_base_model().named_modules() if layer.rpartition(".")[2] in endings]
    return endings if len(found) == len(layers) else sorted(layers)


def _write(model: PeftModel, name: str, factors: Mapping[str, Factors], folder: Path, *, besides: bool) -> None:
    """A LoRA adapter, with what was trained besides or without."""
    config, rank = _config(model, name), max(len(of_one.A) for of_one in factors.values())
    base_layers = [model.get_base_model().get_submodule(layer).get_base_layer() for layer in factors]
    tensors: dict[str, Tensor] = {}
    if besides:
        saved = get_peft_model_state_dict(model, adapter_name=name)
        tensors = {key: tensor.cpu().contiguous() for key, tensor in saved.items() if ".panacea_svd." not in key}
    for layer, of_one in factors.items():
        B, A = of_one.filled(rank)
        tensors[f"base_model.model.{layer}.lora_A.weight"] = A
        tensors[f"base_model.model.{layer}.lora_B.weight"] = B.contiguous()
    lora = LoraConfig(
        task_type=config.task_type,
        auto_mapping=config.auto_mapping,
        base_model_name_or_path=config.base_model_name_or_path,
        revision=config.revision,
        inference_mode=True,
        r=rank,
        lora_alpha=rank,
        target_modules=_target_modules(model, list(factors)),
        fan_in_fan_out=all(isinstance(base_layer, Conv1D) for base_layer in base_layers),
        bias="lora_only" if besides and config.bias == "panacea_only" else config.bias if besides else "none",
        modules_to_save=config.modules_to_save if besides else None,
        trainable_token_indices=config.trainable_token_indices if besides else None,
    )
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "adapter_model.safetensors.partial"
    save_file(tensors, partial, metadata={"format": "pt"})
    os.replace(partial, folder / "adapter_model.safetensors")
    lora.save_pretrained(folder)
