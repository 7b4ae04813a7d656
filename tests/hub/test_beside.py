"""An adapter is asked with the tokenizer it was trained with, from a folder and from the Hub."""

import json
import shutil

import pytest

from conftest import llama, steered
from peft_panacea.hub import folder_of, load_tokenizer
from small_tokenizers import CHAT, PLAIN_CHAT, word_tokenizer

COMMIT = "0" * 40


@pytest.fixture
def adapter(tmp_path):
    """Of a base model whose tokenizer has the plain template."""
    steered(llama(), task_type="CAUSAL_LM").save_pretrained(tmp_path / "adapter")
    word_tokenizer().save_pretrained(tmp_path / "base")
    llama().config.save_pretrained(tmp_path / "base")
    configured(tmp_path / "adapter", base_model_name_or_path=str(tmp_path / "base"))
    return tmp_path / "adapter"


def configured(folder, **entries):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """What puts a folder into the cache of the Hub, as a repository's revision."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))

    def put(folder, name, revision="main"):
        repository = tmp_path / "cache" / f"models--{name.replace('/', '--')}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / revision).write_text(COMMIT)
        shutil.copytree(folder, repository / "snapshots" / COMMIT)
        return name

    return put


@pytest.mark.parametrize("on_the_hub", [False, True])
def test_its_own_or_that_of_the_base_model(on_the_hub, adapter, cached):
    with_own = adapter.with_name("own")
    shutil.copytree(adapter, with_own)
    word_tokenizer(CHAT).save_pretrained(with_own)
    paths = [cached(adapter, "user/adapter"), cached(with_own, "user/own")] if on_the_hub else [adapter, with_own]
    assert [load_tokenizer(path).chat_template for path in paths] == [PLAIN_CHAT, CHAT]
    assert all((folder_of(path) / "adapter_config.json").is_file() for path in paths)


def test_that_of_the_base_model_is_of_its_revision(adapter, cached):
    name = cached(adapter.with_name("base"), "org/base", revision="v1")
    configured(adapter, base_model_name_or_path=name, revision="v1")
    assert load_tokenizer(adapter).chat_template == PLAIN_CHAT


def test_there_is_always_something_to_pad_with(adapter):
    word_tokenizer(eos_token="[EOS]").save_pretrained(adapter)
    assert load_tokenizer(adapter).pad_token == "[EOS]"


def test_an_adapter_without_a_base_model_has_none(adapter):
    configured(adapter, base_model_name_or_path=None)
    with pytest.raises(ValueError, match=r"`base_model_name_or_path` must be in the configuration of .*, but is not"):
        load_tokenizer(adapter)
