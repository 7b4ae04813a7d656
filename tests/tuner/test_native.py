"""transformers' own adapter methods, without a `PeftModel`."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

import peft_panacea
from conftest import llama, randomise, steered
from peft_panacea import PanaceaConfig


@pytest.fixture
def native():
    model = llama()
    model.add_adapter(PanaceaConfig(objectives=["a", "b"]))
    return randomise(model).eval()


def test_disabling_gives_the_base_model(tokens, native):
    native.disable_adapters()
    disabled = native(**tokens).logits
    native.enable_adapters()
    assert torch.equal(disabled, llama_with_weights_of(native)(**tokens).logits)
    assert not torch.equal(disabled, native(**tokens).logits)


def llama_with_weights_of(native):
    base = llama()
    state = {name.replace(".base_layer", ""): p for name, p in native.state_dict().items() if "panacea_" not in name}
    base.load_state_dict(state)
    return base


def test_checkpoints_are_interchangeable(tokens, native, tmp_path):
    base = llama_with_weights_of(native)
    base.save_pretrained(tmp_path / "base")
    peft_panacea.set_preference(native, [0.3, 0.7])
    expected = native(**tokens).logits

    native.save_pretrained(tmp_path / "native")
    loaded = PeftModel.from_pretrained(base, tmp_path / "native").eval()
    assert torch.equal(loaded(**tokens, preference=[0.3, 0.7]).logits, expected)

    loaded.save_pretrained(tmp_path / "peft")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "base").eval()
    again.load_adapter(tmp_path / "peft")
    peft_panacea.set_preference(again, [0.3, 0.7])
    assert torch.equal(again(**tokens).logits, expected)


def test_a_model_is_loaded_from_an_adapter_folder(tokens, tmp_path):
    llama().save_pretrained(tmp_path / "base")
    model = steered(AutoModelForCausalLM.from_pretrained(tmp_path / "base"))
    model.save_pretrained(tmp_path / "adapter")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "adapter").eval()
    peft_panacea.set_preference(loaded, [1, 0])
    assert torch.equal(loaded(**tokens).logits, model(**tokens, preference=[1, 0]).logits)


def test_several_adapters_share_one_state(tokens, native):
    three = PanaceaConfig(objectives=["x", "y", "z"], init_weights=False)
    with pytest.warns(UserWarning, match="Already found a `peft_config` attribute"):  # as with LoRA
        native.add_adapter(three, adapter_name="other")
    native.set_adapter("other")
    peft_panacea.set_preference(native, {"x": 1, "y": 0, "z": 0}, adapter_name="other")
    first = native(**tokens).logits
    peft_panacea.set_preference(native, [0, 0, 1], adapter_name="other")
    assert not torch.equal(native(**tokens).logits, first)
    native.set_adapter("default")
    assert peft_panacea.get_preference(native).tolist() == [0.5, 0.5]
    native.delete_adapter("other")
    peft_panacea.set_preference(native, [1, 0])


def test_hotswap_is_refused(native, tmp_path):
    native.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="Hotswapping is currently only supported for LoRA"):
        native.load_adapter(tmp_path, hotswap=True, adapter_name="default")


def test_pipeline_is_steered():
    folder = Path(__file__).resolve().parents[2] / "examples" / "storyteller" / "model"
    model = steered(AutoModelForCausalLM.from_pretrained(folder), task_type="CAUSAL_LM")
    generator = pipeline("text-generation", model=model, tokenizer=AutoTokenizer.from_pretrained(folder))
    options = {"max_new_tokens": 8, "do_sample": False, "return_full_text": False}
    answers = {p: generator("One day", preference=list(p), **options)[0]["generated_text"] for p in ((1, 0), (0, 1))}
    assert answers[1, 0] != answers[0, 1]
    model.set_preference([1, 0])
    assert generator("One day", **options)[0]["generated_text"] == answers[1, 0]
