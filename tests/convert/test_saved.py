"""A saved adapter is exported without its base model, as the one in the model is."""

import json
import re

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from conftest import gpt2, llama, steered, t5
from peft_panacea.convert import export_lora
from peft_panacea.convert.lora import write_lora
from peft_panacea.convert.saved import SavedSource

BASES = {"llama": llama, "gpt2": gpt2, "t5": t5}
CONFIGS = {
    "default": {"r": 0, "preference_rank": 8},
    "paper": {"r": 8, "preference_rank": 1, "scaling": "paper"},
    "white": {"r": 4, "preference_rank": 4, "coordinates": "white"},
    "ranks": {"r": 4, "preference_rank": 3, "rank_pattern": {r".*\.0\..*": 0, r".*\.1\..*": 9}},
    "some": {"target_modules": r".*\.0\..*(q_proj|c_attn|\.q)"},
}


def tensors(folder):
    return load_file(folder / "adapter_model.safetensors")


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("options", CONFIGS)
def test_bit_by_bit_the_export_of_the_model(base, options, tmp_path):
    model = steered(BASES[base](), **CONFIGS[options])
    model.save_pretrained(tmp_path / "saved")
    export_lora(model, [0.3, 0.7], tmp_path / "expected")
    source = SavedSource(tmp_path / "saved")
    write_lora(source, source.one_preference([0.3, 0.7], False), tmp_path / "found")
    expected, found = tensors(tmp_path / "expected"), tensors(tmp_path / "found")
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    one, other = (LoraConfig.from_pretrained(tmp_path / name).to_dict() for name in ("expected", "found"))
    for name in ("target_modules", "fan_in_fan_out", "auto_mapping"):  # the last is set by saving
        del one[name], other[name]
    assert one == other
    assert (tmp_path / "expected/README.md").read_text() == (tmp_path / "found/README.md").read_text()


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False but the target module is `Conv1D`:UserWarning")
@pytest.mark.parametrize("base", BASES)
def test_peft_loads_it(base, tokens, tmp_path):
    torch.manual_seed(0)
    model = steered(BASES[base]())
    model.save_pretrained(tmp_path / "saved")
    source = SavedSource(tmp_path / "saved")
    write_lora(source, torch.tensor([0.3, 0.7]), tmp_path / "lora")
    torch.manual_seed(0)
    loaded = PeftModel.from_pretrained(BASES[base](), tmp_path / "lora").eval()
    more = {"decoder_input_ids": tokens["input_ids"]} if base == "t5" else {}
    with torch.no_grad():
        expected = model(**tokens, **more, preference=[0.3, 0.7]).logits
        torch.testing.assert_close(loaded(**tokens, **more).logits, expected, rtol=1e-4, atol=1e-4)


def test_what_was_trained_besides_is_named_and_goes_along(tmp_path):
    model = steered(llama(), modules_to_save=["lm_head"], bias="panacea_only")
    model.save_pretrained(tmp_path)
    source = SavedSource(tmp_path)
    assert source.trained_besides() == ["modules_to_save", "bias"]
    assert list(source.besides()) == ["base_model.model.lm_head.weight"]


def test_the_digest_is_of_what_is_served(model, tmp_path):
    model.save_pretrained(tmp_path)
    before = SavedSource(tmp_path).digest
    (tmp_path / "README.md").write_text("other words")
    assert SavedSource(tmp_path).digest == before
    saved = tensors(tmp_path)
    key = next(key for key in saved if key.endswith(".scale"))
    save_file({**saved, key: saved[key] + 1}, tmp_path / "adapter_model.safetensors")
    other = SavedSource(tmp_path).digest
    assert other != before
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "scaling": 2.0}))
    assert SavedSource(tmp_path).digest not in (before, other)


def test_half_precision_keeps_its_diagonal_in_float32(tmp_path):
    steered(llama()).save_pretrained(tmp_path)
    saved = tensors(tmp_path)
    save_file({k: t.to(torch.bfloat16) for k, t in saved.items()}, tmp_path / "adapter_model.safetensors")
    svd = next(iter(SavedSource(tmp_path).layers().values()))
    assert (svd.U.dtype, svd.scale.dtype, svd.sigma.dtype) == (torch.bfloat16, torch.float32, torch.float32)


def test_no_folder_of_ours_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`path` must be the folder of a saved adapter.*no adapter_config\.json"):
        SavedSource(tmp_path)
    get_peft_model(llama(), LoraConfig()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"`path` must hold a Panacea adapter, but .* has one of PeftType\.LORA"):
        SavedSource(tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"no adapter_model\.safetensors"):
        SavedSource(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda tensors, key: tensors.pop(f"{key}.scale"),
        lambda tensors, key: tensors.pop(f"{key}.sigma"),
        lambda tensors, key: tensors.pop(f"{key}.U"),
        lambda tensors, key: tensors.update({f"{key}.more": torch.zeros(1)}),
        lambda tensors, key: tensors.update({f"{key}.Vh": torch.zeros(11, 32)}),
        lambda tensors, key: tensors.update({f"{key}.Vh": torch.zeros(10)}),
        lambda tensors, key: tensors.update({f"{key}.U": torch.zeros(32, 10, dtype=torch.int32)}),
    ],
)
def test_what_is_not_whole_is_refused(damage, model, tmp_path):
    model.save_pretrained(tmp_path)
    saved = tensors(tmp_path)
    layer = "model.layers.0.self_attn.q_proj"
    damage(saved, f"base_model.model.{layer}.panacea_svd")
    save_file(saved, tmp_path / "adapter_model.safetensors")
    message = f"`path` must hold tensors as its configuration says, but {tmp_path} has .* for {re.escape(layer)}"
    with pytest.raises(ValueError, match=message):
        SavedSource(tmp_path).layers()


def test_no_layers_at_all(model, tmp_path):
    model.save_pretrained(tmp_path)
    save_file({"base_model.model.lm_head.weight": torch.zeros(1)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="`path` must hold the layers of an adapter"):
        SavedSource(tmp_path).layers()
