"""`load` gives the model that PEFT's classes give, and says what is wrong in one sentence."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, T5ForConditionalGeneration

import peft_panacea
from conftest import llama, steered, t5
from peft_panacea.hub import load_config

IDS = torch.arange(12).view(1, 12) + 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base model, one of another width, and adapters."""
    path = tmp_path_factory.mktemp("adapters")
    torch.manual_seed(0)
    llama().save_pretrained(path / "base")
    llama(hidden_size=64).save_pretrained(path / "wide")
    steered(base(path), objectives=["kind", "brief"], task_type="CAUSAL_LM").save_pretrained(path / "adapter")
    get_peft_model(base(path), LoraConfig(task_type="CAUSAL_LM")).save_pretrained(path / "lora")
    return path


def base(path):
    return AutoModelForCausalLM.from_pretrained(path / "base")


def copy(folder, name, **config):
    """The adapter with other entries in its configuration."""
    shutil.copytree(folder / "adapter", folder / name, dirs_exist_ok=True)
    path = folder / name / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return folder / name


def test_it_is_the_model_of_peft(folder):
    model = peft_panacea.load(folder / "adapter")
    expected = PeftModel.from_pretrained(base(folder), folder / "adapter")
    assert not model.training
    assert model.get_preference().tolist() == [0.5, 0.5]
    for preference in ([1.0, 0.0], [0.3, 0.7]):
        found = model(input_ids=IDS, preference=preference).logits
        assert torch.equal(found, expected(input_ids=IDS, preference=preference).logits)


def test_options_go_where_they_belong(folder):
    model = peft_panacea.load(folder / "adapter", dtype="bfloat16", adapter_name="mine", is_trainable=True)
    assert model.get_base_model().dtype == torch.bfloat16
    assert list(model.peft_config) == ["mine"]
    assert any(parameter.requires_grad for parameter in model.parameters())
    assert peft_panacea.load(folder / "adapter", device_map="cpu").device.type == "cpu"


def test_other_tasks_have_other_classes(tmp_path):
    t5().save_pretrained(tmp_path / "base")
    model = T5ForConditionalGeneration.from_pretrained(tmp_path / "base")
    steered(model, task_type="SEQ_2_SEQ_LM").save_pretrained(tmp_path / "adapter")
    assert type(peft_panacea.load(tmp_path / "adapter")).__name__ == "PeftModelForSeq2SeqLM"
    steered(T5ForConditionalGeneration.from_pretrained(tmp_path / "base")).save_pretrained(tmp_path / "no task")
    assert isinstance(peft_panacea.load(tmp_path / "no task").get_base_model(), T5ForConditionalGeneration)


@pytest.fixture
def mistakes(folder):
    """Folders with something wrong in them."""
    weights = "adapter_model.safetensors"
    cut = copy(folder, "cut") / weights
    cut.write_bytes(cut.read_bytes()[:-9])
    (copy(folder, "torn") / "adapter_config.json").write_text('{"peft_type": ')
    shutil.copytree(folder / "base", folder / "cut base", dirs_exist_ok=True)
    damaged = folder / "cut base" / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    (folder / "empty").mkdir(exist_ok=True)
    for name, where in {"wide": "wide", "cut base": "cut base", "empty": "empty", "gone": "gone"}.items():
        copy(folder, f"on {name}", base_model_name_or_path=str(folder / where))
    copy(folder, "on nothing", base_model_name_or_path=None)
    copy(folder, "unknown", peft_type="FUTURE")
    return folder


@pytest.mark.parametrize(
    ("name", "error", "sentence"),
    [
        (
            "nowhere",
            FileNotFoundError,
            "`path` must be a folder or a repository of the Hub that the token may see, but",
        ),
        ("base", ValueError, "`path` must hold an adapter, but .*base has no adapter_config.json"),
        ("lora", ValueError, "`path` must be a Panacea adapter, but .*lora is of .*LORA"),
        ("unknown", ValueError, "`path` must be a Panacea adapter, but .*unknown is of no kind that PEFT knows"),
        ("torn", ValueError, "adapter_config.json in .*torn must be JSON, but is not: Expecting value"),
        ("cut", ValueError, "The weights in .*/cut must be whole safetensors files, but got: "),
        ("on cut base", ValueError, "The weights in .*/cut base must be whole safetensors files, but got: "),
        ("on wide", ValueError, r"must have shape \(.*, as the configuration and the base model say, but got \("),
        ("on empty", ValueError, "`base_model_name_or_path` of .* must be a model of transformers, but got '.*empty'"),
        ("on gone", FileNotFoundError, "`base_model_name_or_path` of .*on gone must be a folder or a repository"),
        (
            "on nothing",
            ValueError,
            "`base_model_name_or_path` must be in the configuration of .*on nothing, but is not",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(name, error, sentence, mistakes):
    with pytest.raises(error, match=sentence) as caught:
        peft_panacea.load(mistakes / name)
    assert "\n" not in str(caught.value)


def test_what_is_not_in_the_cache_is_not_there_without_a_network():
    """The tests are offline."""
    with pytest.raises(
        ConnectionError,
        match="The Hub must be reachable for `path` 'user/adapter', which is not on this machine, but HF",
    ):
        load_config("user/adapter")
