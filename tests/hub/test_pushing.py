"""To the Hub and back, in processes of their own, on a Hub that stands in for it on the loopback address."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from huggingface_hub import ModelCard
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

import hub_client
from conftest import llama, steered
from peft_panacea.card import BEGIN, END
from small_fronts import front
from stand_in_hub import StandInHub

EDITED = "I have told what this is for."


def client(environment, *steps):
    """A fresh process that does these steps, each a list of words and options; what came of each."""
    command = [sys.executable, hub_client.__file__, json.dumps([[words, options] for words, options in steps])]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def without_plugin(environment, code):
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Base models, an adapter with a front, and what a run leaves beside it."""
    path = tmp_path_factory.mktemp("home")
    torch.manual_seed(0)
    llama().save_pretrained(path / "base")
    (path / "base" / "README.md").write_text("---\nlicense: other\nlicense_name: mine\n---\n# Base\n")
    base = AutoModelForCausalLM.from_pretrained(path / "base")
    steered(base, objectives=["kind", "brief"], task_type="CAUSAL_LM").save_pretrained(path / "adapter")
    config = path / "adapter" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": "user/base"}))
    replace(front(), objectives=["kind", "brief"]).to_json(path / "adapter" / "front.json")
    (path / "adapter" / "front.png").write_bytes(b"a picture")
    (path / "adapter" / "held_out.json").write_text('["private"]')
    (path / "adapter" / "checkpoint-1").mkdir()
    (path / "adapter" / "checkpoint-1" / "tokenizer.json").write_text("{}")
    get_peft_model(llama(), LoraConfig(task_type="CAUSAL_LM")).save_pretrained(path / "lora")
    llama(hidden_size=64).save_pretrained(path / "wide")
    return path


@pytest.fixture(scope="module")
def hub(home):
    with StandInHub() as hub:
        hub.repos["user/base"] = files_of(home / "base")
        yield hub


@pytest.fixture(scope="module")
def pushed(hub, home):
    """By the owner: from a loaded model, and from the folder."""
    adapter = str(home / "adapter")
    steps = [["push", adapter, "user/folder"], {}], [["push model", adapter, "user/model"], {"tags": ["tagged"]}]
    folder, model = client(hub.environment(home / "owner"), *steps)
    assert folder == f"{hub.url}/user/folder"
    assert model.startswith(f"{hub.url}/user/model/commit/")
    return {name: dict(hub.repos[name]) for name in ("user/model", "user/folder")}


def test_a_pushed_adapter_is_the_one_in_the_folder(pushed, hub, home):
    local = files_of(home / "adapter")
    model, folder = pushed["user/model"], pushed["user/folder"]
    assert set(model) == {"adapter_config.json", "adapter_model.safetensors", "README.md"}
    assert set(folder) == {*model, "front.json", "front.png"}
    for name in set(folder) - {"README.md"}:
        assert folder[name] == local[name]
    assert model["adapter_model.safetensors"] == local["adapter_model.safetensors"]

    base = AutoModelForCausalLM.from_pretrained(home / "base")
    expected = hub_client.logits(PeftModel.from_pretrained(base, home / "adapter"))
    found = client(hub.environment(home / "stranger"), [["load", "user/model"], {}], [["load", "user/folder"], {}])
    assert found == [expected, expected]


@pytest.mark.parametrize("name", ["user/model", "user/folder"])
def test_a_pushed_card_tells_a_stranger(name, pushed):
    card = ModelCard(pushed[name]["README.md"].decode())
    assert card.data.base_model == "user/base"
    assert (card.data.license, card.data.license_name) == ("other", "mine")
    assert (card.data.library_name, card.data.pipeline_tag) == ("peft", "text-generation")
    assert {"peft-panacea", "steerable"} <= set(card.data.tags)
    assert ("tagged" in card.data.tags) is (name == "user/model")
    assert f'peft_panacea.load("{name}")' in card.text
    assert "The base model is `user/base`" in card.text
    assert "The licence of the base model (mine)" in card.text
    assert "More Information Needed" not in card.text
    assert ("![What each preference attains](front.png)" in card.text) is (name == "user/folder")


def test_what_was_written_on_the_hub_survives_the_next_push(pushed, hub, home):
    for name in pushed:
        text = hub.repos[name]["README.md"].decode()
        text = text.replace("- **kind**:", f"- **kind**: {EDITED}").replace("base_model: user/base", "base_model: o/b")
        text = text.replace("tags:\n", "language: en\ntags:\n- mine\n").replace("## Steering", "## Old")
        hub.repos[name]["README.md"] = text.encode()
    client(hub.environment(home / "owner"), [["push model", str(home / "adapter"), "user/model"], {}],
           [["push", str(home / "adapter"), "user/folder"], {}])  # fmt: skip
    for name in pushed:
        card = ModelCard(hub.repos[name]["README.md"].decode())
        assert f"- **kind**: {EDITED}" in card.text
        assert "## Steering" in card.text
        assert "## Old" not in card.text
        assert card.text.count(BEGIN) == card.text.count(END) == 1
        assert (card.data.base_model, card.data.language, card.data.license_name) == ("o/b", "en", "mine")
        assert {"mine", "peft-panacea"} <= set(card.data.tags)


def test_what_is_said_when_it_goes_wrong(hub, home):
    adapter = files_of(home / "adapter")
    config = json.loads(adapter["adapter_config.json"])

    def with_base(name):
        return {**adapter, "adapter_config.json": json.dumps({**config, "base_model_name_or_path": name}).encode()}

    base, weights = hub.repos["user/base"], "adapter_model.safetensors"
    hub.repos |= {
        "user/closed": adapter, "user/unknown": adapter, "user/story": {"README.md": b"# Story"},
        "user/lora": files_of(home / "lora"), "user/cut": {**adapter, weights: adapter[weights][:-9]},
        "user/cut_base": {**base, "model.safetensors": base["model.safetensors"][:-9]},
        "user/wide": files_of(home / "wide"), "user/on_cut_base": with_base("user/cut_base"),
        "user/on_wide": with_base("user/wide"), "user/on_nothing": with_base(None),
        "user/on_lost": with_base("user/lost"), "user/good": adapter,
    }  # fmt: skip
    hub.refusing |= {"user/closed": 403, "user/unknown": 401}
    expected = [
        (["load", "user/nowhere"], {}, "FileNotFoundError: `path` must be .* may see, but 'user/nowhere' is neither"),
        (["load", "user/closed"], {}, r"PermissionError: `path` must be open to the token, .* 'user/closed' \(403\)"),
        (
            ["load", "user/unknown"],
            {},
            r"PermissionError: `path` must be open to the token, .* 'user/unk.*' \(401\)",
        ),
        (["load", "user/story"], {}, "ValueError: `path` must hold an adapter, but user/story has no adapter_config"),
        (["load", "user/lora"], {}, "ValueError: `path` must be a Panacea adapter, but user/lora is of .*LORA"),
        (["load", "user/cut"], {}, "ValueError: The weights in user/cut must be whole safetensors files, but got: "),
        (["load", "user/on_cut_base"], {}, "ValueError: The weights in user/cut_base must be whole safetensors"),
        (["load", "user/on_wide"], {}, "ValueError: `.*` must have shape .*, as the configuration and the base model"),
        (["load", "user/on_nothing"], {}, "ValueError: `base_model_name_or_path` must be in .* user/on_nothing, but"),
        (["load", "user/on_lost"], {}, "FileNotFoundError: `base_model_name_or_path` of user/on_lost .*'user/lost'"),
        (["load", "user/good"], {"revision": "v9"}, "ValueError: `revision` must be .* of 'user/good'"),
        (["push", str(home / "adapter"), "user/closed"], {}, r"PermissionError: `repo_id` must be open .* \(403\)"),
        (["push", str(home / "wide"), "user/new"], {}, "ValueError: `folder` must hold adapter_config.json and "),
    ]
    found = client(hub.environment(home / "stranger"), *[[words, options] for words, options, _ in expected])
    for said, (_, _, sentence) in zip(found, expected, strict=True):
        assert re.match(sentence, str(said)), said
        assert "\n" not in said
    assert "user/new" not in hub.repos


def test_the_card_says_what_is_said_without_the_plugin(pushed, hub, home):
    code = "from peft import AutoPeftModelForCausalLM as A; A.from_pretrained('user/model')"
    done = without_plugin(hub.environment(home / "stranger"), code)
    assert done.stderr.splitlines()[-1] == "KeyError: 'PANACEA'"
    first = (
        ModelCard(pushed["user/model"]["README.md"].decode()).text.partition(f"{BEGIN}\n")[2].strip().split("\n\n")[0]
    )
    assert "import peft_panacea" in first
    assert done.stderr.splitlines()[-1] in first
