"""The same frozen base on every side, and what stands on it; all sides share the base's tensors."""

import copy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from peft import AdaLoraConfig, LoraConfig, PeftConfig, get_peft_model
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

from peft_panacea import PanaceaConfig
from peft_panacea.tuner.product import add_update


@dataclass(frozen=True)
class Shape:
    """A Llama with random weights; `heads` of width 64 if unset, feed-forward layers of twice the width."""

    name: str
    width: int
    layers: int
    inner: int | None = None
    heads: tuple[int, int] | None = None  # of queries, of keys and values
    vocabulary: int = 1000
    tied: bool = False
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    four_bit: bool = False

    def __str__(self) -> str:
        return f"{self.name}, {str(self.dtype).removeprefix('torch.')}"


@dataclass(frozen=True)
class Rank:
    """Panacea has r + m·R directions, the others as many."""

    r: int = 8
    m: int = 2
    R: int = 1

    @property
    def total(self) -> int:
        return self.r + self.m * self.R


CPU = [Shape("width 256", 256, 4), Shape("width 1024", 1024, 4), Shape("width 4096", 4096, 1)]
TINY = [Shape("width 64", 64, 1)]
_GPU: dict[str, Any] = {"device": "cuda", "dtype": torch.bfloat16}
QWEN_05B = Shape("0.5B", 896, 24, 4864, (14, 2), 151936, tied=True)
GPU = [
    replace(QWEN_05B, **_GPU),
    Shape("1.5B", 1536, 28, 8960, (12, 2), 151936, tied=True, **_GPU),
    Shape("8B", 4096, 32, 14336, (32, 8), 128256, **_GPU),
]


def shapes(quick: bool) -> list[Shape]:
    return TINY if quick else CPU + GPU


@lru_cache(maxsize=1)
def base(shape: Shape) -> LlamaForCausalLM:
    heads, kv_heads = shape.heads or (max(1, shape.width // 64),) * 2
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.inner or 2 * shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        tie_word_embeddings=shape.tied,
    )
    torch.manual_seed(0)
    with torch.device(shape.device):
        model = LlamaForCausalLM._from_config(config, dtype=shape.dtype)
    if shape.four_bit:  # transformers quantises what it loads
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            del model
            options = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=shape.dtype)
            model = AutoModelForCausalLM.from_pretrained(
                folder, quantization_config=options, device_map=shape.device, dtype=shape.dtype
            )
    return model.requires_grad_(False)


def share(model: nn.Module) -> Any:
    """A copy with modules of its own and the same parameters."""
    return copy.deepcopy(model, {id(p): p for p in model.parameters()})


def adapted(model: nn.Module, config: PeftConfig) -> Any:
    config.target_modules, config.task_type = "all-linear", "CAUSAL_LM"
    return get_peft_model(share(model), config, autocast_adapter_dtype=False)


def lora(model: nn.Module, rank: Rank) -> Any:
    return adapted(model, LoraConfig(r=rank.total, init_lora_weights=False))


def panacea(model: nn.Module, rank: Rank) -> Any:
    return adapted(model, PanaceaConfig(objectives=rank.m, r=rank.r, preference_rank=rank.R, init_weights=False))


def panacea_rows(model: nn.Module, rank: Rank, rows: int) -> Any:
    steered = panacea(model, rank)
    steered.set_preference(random_rows(rows, rank.m))
    return steered


def adalora(model: nn.Module, rank: Rank) -> Any:
    return adapted(model, AdaLoraConfig(init_r=rank.total, target_r=rank.total, total_step=1000))


def replaced(model: nn.Module, layer_type: Callable[[nn.Linear, Rank], nn.Module], rank: Rank) -> Any:
    """With a layer of another type around every linear layer but the output layer."""
    steered = share(model)
    for name, module in list(steered.named_modules()):
        if isinstance(module, nn.Linear) and name != "lm_head":
            steered.set_submodule(name, layer_type(module, rank))
    return steered


class Products(nn.Module):
    """What every adapter of this rank must do: a product, a gain, and a product that adds to the base's output."""

    def __init__(self, layer: nn.Linear, rank: Rank) -> None:
        super().__init__()
        like: dict[str, Any] = {"device": layer.weight.device, "dtype": layer.weight.dtype}
        self.layer = layer
        self.U = nn.Parameter(0.02 * torch.randn(layer.out_features, rank.total, **like))
        self.Vh = nn.Parameter(0.02 * torch.randn(rank.total, layer.in_features, **like))
        self.gain = nn.Parameter(torch.randn(rank.total, device=layer.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        return add_update(self.layer(x), x, self.U, self.Vh, self.gain, in_place=True)


class DenseDelta(nn.Module):
    """Steered as PARM's PBLoRA is, with ΔW(p) = B·diag(W₁, W₂(p))·A formed whole in every call; W₂ is linear in p."""

    def __init__(self, layer: nn.Linear, rank: Rank) -> None:
        super().__init__()
        like: dict[str, Any] = {"device": layer.weight.device, "dtype": layer.weight.dtype}
        own = rank.m * rank.R
        self.layer = layer
        self.B = nn.Parameter(0.02 * torch.randn(layer.out_features, rank.total, **like))
        self.A = nn.Parameter(0.02 * torch.randn(rank.total, layer.in_features, **like))
        self.shared = nn.Parameter(torch.randn(rank.r, rank.r, **like))
        self.steered = nn.Parameter(torch.randn(own, own, rank.m, **like))
        self.preference = torch.full((rank.m,), 1 / rank.m, **like)

    def forward(self, x: Tensor) -> Tensor:
        core = torch.block_diag(self.shared, self.steered @ self.preference)
        return self.layer(x) + linear(x, self.B @ core @ self.A)


def beside(shape: Shape, rows: int) -> dict[str, Any]:
    """The sides of a step: the base, PEFT's forms of the same rank, one preference, and one for each of the rows."""
    under, rank = base(shape), Rank()
    return {
        "base": under,
        "LoRA": lora(under, rank),
        "Panacea": panacea(under, rank),
        "Panacea, rows": panacea_rows(under, rank, rows),
        "AdaLoRA": adalora(under, rank),
        **({} if shape.four_bit else {"products alone": replaced(under, Products, rank)}),
    }


def random_rows(rows: int, m: int) -> Tensor:
    """[rows, m], uniform on the simplex."""
    return torch.distributions.Dirichlet(torch.ones(m)).sample((rows,))
