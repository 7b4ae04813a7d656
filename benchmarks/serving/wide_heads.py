"""An equal model with wider attention heads, for servers that compute narrow ones nowhere; Llama's architecture.

Rotary frequencies of a head of width d are θ^(-2i/d), so pair i of a head is pair 2i of one that is twice as wide. The
other pairs are 0. What attention divides by grows by √2, and so do the queries.
"""

import math
from pathlib import Path
from typing import Any

import torch
from peft import AutoPeftModelForCausalLM, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from peft_panacea import PanaceaConfig


def write_wide(adapter: str, folder: Path) -> tuple[Path, Path]:
    """Write the model of an adapter and the adapter itself with heads of twice the width.

    Returns:
        The folders of the model, with its tokenizer, and of the adapter.
    """
    model = AutoPeftModelForCausalLM.from_pretrained(adapter, dtype=torch.float32)
    name = model.peft_config["default"].base_model_name_or_path
    narrow = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
    settings = {**narrow.config.to_dict(), "head_dim": 2 * narrow.config.head_dim}
    wide = LlamaForCausalLM(LlamaConfig(**settings))
    wide.generation_config = narrow.generation_config
    tensors = {key: widened(key, tensor, narrow.config) for key, tensor in narrow.state_dict().items()}
    wide.load_state_dict(tensors)
    wide.save_pretrained(folder / "model")
    AutoTokenizer.from_pretrained(name).save_pretrained(folder / "model")

    config = PanaceaConfig(**{**model.peft_config["default"].to_dict(), "inference_mode": False})
    adapted = get_peft_model(wide, config)
    old = model.state_dict()
    with torch.no_grad():
        for key, parameter in adapted.named_parameters():
            if ".panacea_svd." in key:
                parameter.copy_(widened_factor(key, old[key], narrow.config))
    adapted.save_pretrained(folder / "adapter")
    return folder / "model", folder / "adapter"


def widened(key: str, tensor: Tensor, config: Any) -> Tensor:
    """A weight of the model: rows of what goes into the heads, columns of what takes from them."""
    layer = key.split(".")[-2]
    if layer in ("q_proj", "k_proj", "v_proj"):
        return _rows(tensor, config.head_dim) * (math.sqrt(2) if layer == "q_proj" else 1)
    return _rows(tensor.T, config.head_dim).T if layer == "o_proj" else tensor


def widened_factor(key: str, tensor: Tensor, config: Any) -> Tensor:
    """The same for U and V of the update; the constant c of the layer that takes from them shrinks by √2."""
    layer, name = key.split(".")[-4], key.split(".")[-1]
    if name == "U" and layer in ("q_proj", "k_proj", "v_proj"):
        return _rows(tensor, config.head_dim) * (math.sqrt(2) if layer == "q_proj" else 1)
    if layer == "o_proj":
        return _rows(tensor.T, config.head_dim).T if name == "Vh" else tensor * math.sqrt(2) if name == "U" else tensor
    return tensor


def _rows(weight: Tensor, d: int) -> Tensor:
    """Rows of heads of width d, [heads · d, k], at every second place of heads of width 2d."""
    heads = weight.view(-1, 2, d // 2, weight.shape[1])
    wide = torch.stack([heads, torch.zeros_like(heads)], dim=3)
    return wide.reshape(2 * len(weight), weight.shape[1]).contiguous()
