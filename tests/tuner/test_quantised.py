"""Quantised bases: forward, a training step, merging and unmerging, through PEFT's generic backends.

`make conformance` installs bitsandbytes and torchao, and runs PEFT's own tests on them as well.
"""

from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, TorchAoConfig

from conftest import llama, randomise
from peft_panacea import PanaceaConfig

pytestmark = pytest.mark.filterwarnings("default")  # bitsandbytes and torchao warn of torch 2.13


def quantised(kind: str, folder: Path) -> torch.nn.Module:
    pytest.importorskip("torchao" if kind == "torchao int8" else "bitsandbytes", reason="see `make conformance`")
    if kind == "torchao int8":
        from torchao.quantization import Int8WeightOnlyConfig

        config = TorchAoConfig(Int8WeightOnlyConfig())
    else:
        config = BitsAndBytesConfig(load_in_8bit=kind == "bnb 8-bit", load_in_4bit=kind == "bnb 4-bit")
    llama(hidden_size=64, intermediate_size=128).save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, device_map="cpu")


@pytest.mark.parametrize("kind", ["bnb 8-bit", "bnb 4-bit", "torchao int8"])
@pytest.mark.mechanics
def test_a_quantised_base(kind, tmp_path):
    base = quantised(kind, tmp_path)
    tokens = {"input_ids": torch.randint(3, 64, (2, 8))}
    with torch.no_grad():  # with gradients bitsandbytes takes another kernel
        plain = base(**tokens).logits.float()
    model = get_peft_model(base, PanaceaConfig(objectives=["a", "b"]))
    with torch.no_grad():
        assert torch.equal(model(**tokens).logits.float(), plain), "an update at first"
    randomise(model).eval()
    rows = [[1.0, 0.0], [0.0, 1.0]]
    with torch.no_grad():
        mixed = model(**tokens, preference=rows).logits.float()
        ids = tokens["input_ids"]
        singles = torch.cat([model(ids[i : i + 1], preference=p).logits.float() for i, p in enumerate(rows)])
    model.train()
    model(**tokens, labels=tokens["input_ids"], preference=rows).loss.backward()
    grads = [p.grad for n, p in model.named_parameters() if ".panacea_svd." in n]
    assert all(g is not None and torch.isfinite(g).all() for g in grads)

    errors = {"rows": (mixed - singles).norm() / singles.norm()}
    limit = 0.15  # merging quantises again, to 2^-8 of a weight; 0.03 to 0.14 over eight adapters
    if kind != "bnb 4-bit":  # which PEFT 0.21.2 cannot merge on a CPU, and does not test there
        model.eval().set_preference([0.3, 0.7])
        with torch.no_grad():
            expected = model(**tokens).logits.float()
            model.merge_adapter()
            errors["merged"] = (model(**tokens).logits.float() - expected).norm() / expected.norm()
            model.unmerge_adapter()
            errors["unmerged"] = (model(**tokens).logits.float() - expected).norm() / expected.norm()
        assert (expected - plain).norm() / plain.norm() > 5 * limit, "too small an update to see an error"
    print(kind, {name: f"{error:.1e}" for name, error in errors.items()})
    assert errors.pop("rows") <= 1e-2
    assert all(error <= limit for error in errors.values())
