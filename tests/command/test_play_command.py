"""The playground from the command line."""

import json
import shutil
import socket
import sys
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from conftest import llama, steered
from peft_panacea import get_objectives, playground
from peft_panacea.command import main
from small_fronts import front
from small_tokenizers import word_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base model, an adapter that knows it, and a LoRA adapter."""
    path = tmp_path_factory.mktemp("adapters")
    torch.manual_seed(0)
    llama().save_pretrained(path / "base")
    base = AutoModelForCausalLM.from_pretrained(path / "base")
    steered(base, objectives=["kind", "brief"], task_type="CAUSAL_LM").save_pretrained(path / "adapter")
    base = AutoModelForCausalLM.from_pretrained(path / "base")
    get_peft_model(base, LoraConfig(task_type="CAUSAL_LM")).save_pretrained(path / "lora")
    return path


@pytest.fixture
def playable(folder, tmp_path):
    """The adapter with a tokenizer of its own."""
    shutil.copytree(folder / "adapter", tmp_path / "polite")
    word_tokenizer().save_pretrained(tmp_path / "polite")
    return tmp_path / "polite"


def test_play_shows_the_page_of_the_adapter(playable, monkeypatch):
    shown = []
    monkeypatch.setattr(playground, "page", lambda *arguments: arguments)
    monkeypatch.setattr(playground, "serve", lambda *arguments: shown.append(arguments))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert main(["play", str(playable), "--port", str(port)]) == 0
    replace(front(), objectives=["kind", "brief"]).to_json(playable / "front.json")
    config = json.loads((playable / "adapter_config.json").read_text())
    library = "transformers.models.llama.modeling_llama"
    of_llama = {"base_model_class": "LlamaForCausalLM", "parent_library": library}
    of_no_task = {**config, "task_type": None, "auto_mapping": of_llama}  # as a configuration without one is saved
    (playable / "adapter_config.json").write_text(json.dumps(of_no_task))
    assert main(["play", str(playable), "--port", str(port)]) == 0
    for (model, tokenizer, title, _), *address in shown:
        assert get_objectives(model) == ["kind", "brief"]
        assert len(tokenizer) == 64
        assert [title, *address] == ["polite", "127.0.0.1", port]
    assert shown[0][0][3] is None
    assert shown[1][0][3].front.objectives == ("kind", "brief")


def test_play_says_what_is_in_the_way(playable, folder, capsys):
    def said(*words):
        assert main(["play", *map(str, words)]) == 2
        return capsys.readouterr().err.splitlines()[-1]

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"peft-panacea: `--port` must be free on 127.0.0.1, but {port} is not: " in said(
            playable, "--port", port
        )
    assert "`--port` must be free on 127.0.0.1, but 70000 is not" in said(playable, "--port", 70000)
    front().to_json(playable / "front.json")
    assert "`front` must be over ['kind', 'brief'], but got one over ['a', 'b']" in said(playable, "--port", port)
    assert "`path` must be a Panacea adapter" in said(folder / "lora")
    config = json.loads((playable / "adapter_config.json").read_text())
    (playable / "adapter_config.json").write_text(json.dumps({**config, "task_type": "SEQ_CLS"}))
    assert "must be an adapter of a causal language model, but its task is SEQ_CLS" in said(playable)


def test_play_without_its_extra_says_how_to_install_it(playable, capsys, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("peft_panacea.playground")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["play", str(playable)]) == 2
    sentence = "`gradio` must be installed for this; `pip install peft-panacea[play]` does it."
    assert sentence in capsys.readouterr().err
