"""Folders of plain LoRA adapters: at one preference, at several, or as a basis for all of them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from peft import LoraConfig, PeftModel
from safetensors.torch import save_file
from torch import Tensor

from ..tuner import Preference
from .model import ModelSource
from .readme import of_basis, of_preference
from .source import Part, Source, checked_folder


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
    source = ModelSource(model, adapter_name)
    p = source.one_preference(preference, extrapolate)
    write_lora(source, p, checked_folder(path))


def write_lora(source: Source, preference: Tensor, folder: Path) -> None:
    """What `export_lora` writes, of any source at a parsed preference, [m]."""
    _write(source, source.at(preference), folder, besides=True)
    weights = dict(zip(source.config.objective_names, preference.tolist(), strict=True))
    (folder / "README.md").write_text(of_preference(source.config, weights), encoding="utf-8")


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
    source = ModelSource(model, adapter_name)
    parsed = [source.one_preference(p, extrapolate) for p in preferences]
    folders = [Path(path) / ",".join(f"{entry:.6g}" for entry in p.tolist()) for p in parsed]
    if len(set(folders)) < len(folders):
        raise ValueError(f"`preferences` must differ in six digits, but got {[p.tolist() for p in parsed]}.")
    for folder in folders:
        checked_folder(folder)
    for p, folder in zip(parsed, folders, strict=True):
        write_lora(source, p, folder)
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
    source = ModelSource(model, adapter_name)
    parts = source.basis()
    folders = [checked_folder(checked_folder(path) / part.name) for part in parts]
    for part, folder in zip(parts, folders, strict=True):
        _write(source, part, folder, besides=False)
    weights = {part.name: part.weight for part in parts}
    (Path(path) / "basis.json").write_text(json.dumps(weights, indent=2) + "\n", encoding="utf-8")
    (Path(path) / "README.md").write_text(of_basis(source.config, weights), encoding="utf-8")
    return list(weights)


def _write(source: Source, part: Part, folder: Path, *, besides: bool) -> None:
    """A LoRA adapter, with what was trained besides or without."""
    config, layers = source.config, list(part.factors)
    tensors: dict[str, Tensor] = source.besides() if besides else {}
    for layer, (B, A) in part.factors.items():
        tensors[f"base_model.model.{layer}.lora_A.weight"] = A
        tensors[f"base_model.model.{layer}.lora_B.weight"] = B
    lora = LoraConfig(
        task_type=config.task_type,
        auto_mapping=config.auto_mapping,
        base_model_name_or_path=config.base_model_name_or_path,
        revision=config.revision,
        inference_mode=True,
        r=part.rank,
        lora_alpha=part.rank,
        target_modules=source.target_modules(layers),
        fan_in_fan_out=source.fan_in_fan_out(layers),
        bias="none" if not besides else "lora_only" if config.bias == "panacea_only" else config.bias,
        modules_to_save=config.modules_to_save if besides else None,
        trainable_token_indices=config.trainable_token_indices if besides else None,
    )
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "adapter_model.safetensors.partial"
    save_file(tensors, partial, metadata={"format": "pt"})
    os.replace(partial, folder / "adapter_model.safetensors")
    lora.save_pretrained(folder)
