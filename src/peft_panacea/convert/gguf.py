"""The basis as GGUF adapters, which llama.cpp weighs anew for every request."""

from __future__ import annotations

import json
import os
from typing import Any

from peft import PeftModel
from torch import Tensor

from ..extras import needs
from .model import ModelSource
from .readme import of_gguf
from .source import Part, checked_folder

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma2": "gemma2"}
"""Model type → llama.cpp's name of it; those of whose linear layers its converter changes no more than the names, and
in `llama` the order of the rows that are rotated."""


def export_gguf(model: PeftModel, path: str | os.PathLike[str], adapter_name: str | None = None) -> list[str]:
    """Write the adapters of `export_lora_basis` as GGUF files, for llama.cpp beside the base model's own GGUF.

    `llama-server --lora shared.gguf,helpful.gguf,harmless.gguf` then takes the weights with each request, as the field
    `lora`. The numbers are float32.

    Args:
        model: As in `export_lora`; its base model is of a type in `ARCHITECTURES`.
        path: Folder of the files, of `basis.json`, which says the weight of each, and of `README.md`.
        adapter_name: As in `export_lora`.

    Returns:
        The names of the files, without `.gguf`, in the order of the weights: as of `export_lora_basis`.

    Raises:
        As `export_lora_basis`; a ValueError for another type of base model, or for an adapted layer that llama.cpp has
            no name for.
        ModuleNotFoundError: `gguf` is not installed, which the extra `gguf` does.
    """
    with needs("gguf"):
        import gguf
    source = ModelSource(model, adapter_name)
    config: Any = source.base_model.config
    kind = getattr(config, "model_type", type(source.base_model).__name__)
    if kind not in ARCHITECTURES:
        raise ValueError(f"`model` must be of one of the types {list(ARCHITECTURES)} for GGUF, but got {kind!r}.")
    architecture = ARCHITECTURES[kind]
    codes = {name: code for code, name in gguf.MODEL_ARCH_NAMES.items()}
    known = gguf.get_tensor_name_map(codes[architecture], config.num_hidden_layers)
    parts, folder = source.basis(), checked_folder(path)
    names = {layer: known.get_name(layer) or "" for part in parts for layer in part.factors}
    if unknown := [layer for layer, name in names.items() if not name]:
        raise ValueError(f"`model` must have adapters on layers that llama.cpp has, but it has no {unknown[0]}.")
    folder.mkdir(parents=True, exist_ok=True)
    for part in parts:
        partial = folder / f"{part.name}.gguf.partial"
        writer = gguf.GGUFWriter(partial, architecture)
        _write(writer, part, names, config)
        os.replace(partial, folder / f"{part.name}.gguf")
    weights = {part.name: part.weight for part in parts}
    (folder / "basis.json").write_text(json.dumps(weights, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(of_gguf(source.config, weights), encoding="utf-8")
    return list(weights)


def _write(writer: Any, part: Part, names: dict[str, str], config: Any) -> None:
    writer.add_type("adapter")
    writer.add_name(part.name)
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(part.rank))
    for layer, (B, A) in part.factors.items():
        if writer.arch == "llama":
            B = rotated(layer, B, config)
        writer.add_tensor(f"{names[layer]}.weight.lora_a", A.float().numpy())
        writer.add_tensor(f"{names[layer]}.weight.lora_b", B.float().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def rotated(layer: str, B: Tensor, config: Any) -> Tensor:
    """The rows of queries and keys, [out, k], in the order of llama.cpp's rotary embedding.

    It rotates neighbours, rows 2i and 2i + 1 of a head; transformers rotates rows i and i + d/2.
    """
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(layer.rpartition(".")[2])
    return B if heads is None else B.view(heads, 2, -1, B.shape[1]).transpose(1, 2).reshape(B.shape)
