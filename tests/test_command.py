"""The command line says what an adapter is, exports it, and answers a mistake in one sentence."""

import json
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from conftest import llama, steered
from peft_panacea import get_objectives, playground
from peft_panacea.command import main
from peft_panacea.convert import export_gguf, export_lora, export_lora_basis, export_lora_grid
from small_fronts import front
from small_tokenizers import word_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base model, an adapter that knows it, and a LoRA adapter."""
    path = tmp_path_factory.mktemp("adapters")
    torch.manual_seed(0)
    llama().save_pretrained(path / "base")
    steered(base(path), objectives=["kind", "brief"], task_type="CAUSAL_LM").save_pretrained(path / "adapter")
    get_peft_model(base(path), LoraConfig(task_type="CAUSAL_LM")).save_pretrained(path / "lora")
    return path


def base(path):
    return AutoModelForCausalLM.from_pretrained(path / "base")


def test_info(folder, capsys):
    assert main(["info", str(folder / "adapter")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {"objectives:         kind, brief", "default preference: kind 0.5, brief 0.5"} <= set(lines)
    assert "rank as LoRA:       10" in lines
    assert main(["info", str(folder / "adapter"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["objectives"], found["default preference"]) == (["kind", "brief"], {"kind": 0.5, "brief": 0.5})


@pytest.mark.parametrize(
    ("flags", "export"),
    [
        (["--preference", "0.3", "0.7"], lambda model, path: export_lora(model, [0.3, 0.7], path)),
        (["--preference", "brief=0.7", "kind=0.3"], lambda model, path: export_lora(model, [0.3, 0.7], path)),
        (
            ["--preference", "1.5", "-0.5", "--extrapolate"],
            lambda model, path: export_lora(model, [1.5, -0.5], path, extrapolate=True),
        ),
        (["--grid", "2"], lambda model, path: export_lora_grid(model, [[0, 1], [0.5, 0.5], [1, 0]], path)),
        (["--basis"], export_lora_basis),
        (["--basis", "--gguf"], export_gguf),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_export_is_that_of_the_function(flags, export, folder, tmp_path, capsys):
    assert main(["export", str(folder / "adapter"), str(tmp_path / "command"), *flags, "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert all(Path(path).exists() for path in written)
    export(PeftModel.from_pretrained(base(folder), folder / "adapter"), tmp_path / "function")
    files = sorted(path.relative_to(tmp_path / "function") for path in (tmp_path / "function").rglob("*.*"))
    assert files == sorted(path.relative_to(tmp_path / "command") for path in (tmp_path / "command").rglob("*.*"))
    for file in files:
        one, other = (tmp_path / side / file for side in ("command", "function"))
        if file.suffix == ".safetensors":
            tensors, others = load_file(one), load_file(other)
            assert tensors.keys() == others.keys()
            assert all(torch.equal(tensors[key], others[key]) for key in tensors)
        elif file.suffix == ".gguf":
            assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["info", "nowhere"], "nowhere"),
        (["info", "lora"], "`PATH` must be a Panacea adapter, but .*lora is of .*LORA"),
        (["card", "lora"], "`PATH` must be a Panacea adapter"),
        (["export", "adapter", "out", "--preference", "0.3", "0.3"], "2 non-negative entries that sum to 1"),
        (["export", "adapter", "out", "--preference", "0.3"], "`preference` must have 2 non-negative entries"),
        (["export", "adapter", "out", "--preference", "a", "b"], "`--preference` must be numbers"),
        (["export", "adapter", "out", "--preference", "kind=0.3", "0.7"], "`--preference` must name every objective"),
        (["export", "adapter", "out", "--preference", "kind=1", "kind=0"], "`--preference` must name every objective"),
        (["export", "adapter", "out", "--preference", "kind=0.3", "long=0.7"], "must name exactly the objectives"),
        (["export", "adapter", "out", "--grid", "0"], "`--grid` must be at least 1, but got 0"),
        (["export", "adapter", "out", "--grid", "2", "--gguf"], "`--gguf` must come with `--basis`"),
        (["export", "adapter", "out", "--basis", "--extrapolate"], "`--extrapolate` must come with `--preference`"),
        (["export", "adapter", "adapter", "--preference", "1", "0"], "`path` must not hold another adapter"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_answered_in_one_sentence(words, sentence, folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    assert main(words) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("peft-panacea: ")
    assert re.search(sentence, said)
    assert not (folder / "out").exists()


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
    assert "`PATH` must be a Panacea adapter" in said(folder / "lora")
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


@pytest.mark.parametrize("words", [[], ["export", "a", "b"], ["export", "a", "b", "--basis", "--grid", "2"], ["play"]])
def test_a_wrong_command_is_answered_with_its_usage(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert "usage: peft-panacea" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["-h"], ["info", "-h"], ["export", "-h"]])
def test_help_has_examples(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 0
    assert (
        f"examples:\n  peft-panacea {words[0] if len(words) > 1 else 'info'} runs/chat/dpo" in capsys.readouterr().out
    )


def test_a_card_is_renewed(folder, capsys):
    path = folder / "adapter" / "README.md"
    text = path.read_text()
    path.write_text(text.replace("## Steering", "## Old"))
    assert main(["card", str(folder / "adapter")]) == 0
    assert capsys.readouterr().out == f"wrote {path}\n"
    assert path.read_text() == text


def test_it_is_a_module(folder):
    command = [sys.executable, "-m", "peft_panacea", "info", folder / "lora"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "must be a Panacea adapter" in done.stderr
