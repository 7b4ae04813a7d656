"""Tiny models made in code; nothing here needs a network."""

import importlib.util
import os
from pathlib import Path
from types import ModuleType

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from peft_panacea import PanaceaConfig

torch.set_num_threads(1)

collect_ignore = ["conformance"]  # PEFT's tests, with a configuration of their own


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Under `-m mechanics`, the figures that the tests print."""
    if config.option.markexpr != "mechanics":
        return
    terminalreporter.section("figures")
    for report in terminalreporter.stats.get("passed", []):
        for line in report.capstdout.splitlines():
            if not line.startswith("{"):  # which is what trainers log
                terminalreporter.line(line)


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    torch.manual_seed(0)


def llama(**overrides: object) -> LlamaForCausalLM:
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return LlamaForCausalLM(LlamaConfig(**{**sizes, **heads, **overrides})).eval()


def gpt2() -> GPT2LMHeadModel:
    """A model made of `Conv1D` layers."""
    no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=64, n_embd=32, n_layer=2, n_head=4, pad_token_id=0, bos_token_id=1, eos_token_id=2, **no_dropout
        )
    ).eval()


def t5() -> T5ForConditionalGeneration:
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=64,
            d_model=32,
            d_kv=8,
            d_ff=48,
            num_layers=2,
            num_heads=4,
            decoder_start_token_id=0,
            dropout_rate=0.0,
        )
    ).eval()


class MLP(nn.Module):
    """Not a transformers model."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(12, 20)
        self.out = nn.Linear(20, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.hidden(x)))


def load_script(path: Path) -> ModuleType:
    """Import a script that is not part of a package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every adapter of `model` a visible update, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".panacea_svd." in name:
                std = 0.5 if name.endswith(("sigma", "scale")) else 0.02
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
    return model


def steered(base: nn.Module, **config: object) -> PeftModel:
    """`base` with a random adapter of two objectives that share directions, unless `config` says otherwise; eval."""
    both = {"objectives": ["a", "b"], "r": 8, "preference_rank": 1}
    return randomise(get_peft_model(base, PanaceaConfig(**{**both, **config}))).eval()


@pytest.fixture
def base() -> PreTrainedModel:
    return llama()


@pytest.fixture
def model() -> PeftModel:
    return steered(llama(), task_type="CAUSAL_LM")


@pytest.fixture
def tokens() -> dict[str, Tensor]:
    """Four rows of ten tokens, the second and fourth padded on the left."""
    ids = torch.randint(3, 64, (4, 10), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    for row, padding in ((1, 3), (3, 6)):
        ids[row, :padding], mask[row, :padding] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}
