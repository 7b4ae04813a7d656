"""GGUF adapters hold the basis, under llama.cpp's names and in its order of rows; `make serving` asks llama.cpp."""

import builtins
import json

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from transformers import Qwen2Config, Qwen2ForCausalLM

from conftest import gpt2, llama, steered
from peft_panacea.convert import export_gguf, export_lora_basis
from peft_panacea.convert.factors import as_basis

OPTIONS = [
    {"r": 0, "preference_rank": 8},
    {"r": 4, "preference_rank": 2, "coordinates": "white"},
    {"r": 4, "preference_rank": 2, "rank_pattern": {r".*\.0\..*": 1}},
]


def read(path):
    reader = GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    return fields, {tensor.name: np.array(tensor.data) for tensor in reader.tensors}


def order_of_llama_cpp(weight, heads):
    """As its converter reorders the rows of queries and keys, written anew from what the rotation needs."""
    size = len(weight) // heads
    rows = [head * size + half * (size // 2) + i for head in range(heads) for i in range(size // 2) for half in (0, 1)]
    return weight[rows]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_files_add_up_to_the_update(options, tmp_path):
    model = steered(llama(), **options)
    names = export_gguf(model, tmp_path)
    assert names == (["shared"] if options["r"] else []) + ["a", "b"]
    assert json.loads((tmp_path / "basis.json").read_text()) == {n: 1.0 if n == "shared" else n for n in names}
    parts = [read(tmp_path / f"{name}.gguf") for name in names]
    known = {
        "self_attn.q_proj": ("attn_q", 4), "self_attn.k_proj": ("attn_k", 2), "self_attn.v_proj": ("attn_v", None),
        "self_attn.o_proj": ("attn_output", None), "mlp.gate_proj": ("ffn_gate", None),
        "mlp.up_proj": ("ffn_up", None), "mlp.down_proj": ("ffn_down", None),
    }  # fmt: skip
    for weights in ([0.3, 0.7], [1.4, -0.4]):
        for block in (0, 1):
            for theirs, (ours, heads) in known.items():
                layer = model.get_submodule(f"base_model.model.model.layers.{block}.{theirs}")
                expected = layer._delta_weight("default", torch.tensor(weights)).detach().numpy()
                expected = expected if heads is None else order_of_llama_cpp(expected, heads)
                total = np.zeros_like(expected)
                for weight, (fields, tensors) in zip([1.0, *weights][-len(names) :], parts, strict=True):
                    key = f"blk.{block}.{ours}.weight.lora_"
                    if f"{key}a" in tensors:
                        a, b = tensors[f"{key}a"], tensors[f"{key}b"]
                        total += weight * fields["adapter.lora.alpha"] / len(a) * (b @ a)
                np.testing.assert_allclose(total, expected, rtol=1e-4, atol=1e-5)


def test_what_llama_cpp_looks_for(tmp_path):
    export_gguf(steered(llama(), r=0, preference_rank=8), tmp_path)
    fields, tensors = read(tmp_path / "a.gguf")
    expected = {"general.architecture": "llama", "general.type": "adapter", "adapter.type": "lora"}
    assert expected.items() <= fields.items()
    assert fields["adapter.lora.alpha"] == 8
    assert len(tensors) == 2 * 2 * 7
    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype("float32")}
    assert not list(tmp_path.glob("*.partial"))
    text = (tmp_path / "README.md").read_text()
    assert "--lora a.gguf,b.gguf" in text
    assert '"lora": [{"id": 0, "scale": 0.5}, {"id": 1, "scale": 0.5}]' in text


def test_other_architectures_keep_the_order_of_rows(tmp_path):
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    base = Qwen2ForCausalLM(Qwen2Config(**sizes, num_attention_heads=4, num_key_value_heads=2))
    model = steered(base, r=0, preference_rank=2)
    export_gguf(model, tmp_path)
    fields, tensors = read(tmp_path / "b.gguf")
    assert fields["general.architecture"] == "qwen2"
    svd = model.get_submodule("base_model.model.model.layers.1.self_attn.q_proj").panacea_svd["default"]
    np.testing.assert_array_equal(tensors["blk.1.attn_q.weight.lora_b"], as_basis(svd)[2].B.numpy())


def test_half_precision_is_written_in_float32(tmp_path):
    model = steered(llama().to(torch.bfloat16), r=0, preference_rank=2)
    export_gguf(model, tmp_path)
    assert {tensor.dtype for tensor in read(tmp_path / "a.gguf")[1].values()} == {np.dtype("float32")}


def test_what_llama_cpp_does_not_know_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`model` must be of one of the types .*'llama'.*, but got 'gpt2'"):
        export_gguf(steered(gpt2()), tmp_path / "out")
    model = steered(llama(), bias="all")
    for export in (export_gguf, export_lora_basis):
        with pytest.raises(ValueError, match=r"nothing trained besides.*`bias`"):
            export(model, tmp_path / "out")
    model = llama()
    model.model.layers[0].extra = torch.nn.Linear(4, 4)
    with pytest.raises(ValueError, match=r"layers that llama\.cpp has, but it has no model\.layers\.0\.extra"):
        export_gguf(steered(model), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "gguf":
            raise ModuleNotFoundError("No module named 'gguf'", name="gguf")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModuleNotFoundError, match=r"`gguf` must be installed.*peft-panacea\[gguf\]"):
        export_gguf(steered(llama()), tmp_path)
