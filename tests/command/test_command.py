"""The command line says what an adapter is, answers, exports it, and answers a mistake in one sentence."""

import ast
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import peft_panacea
from conftest import llama, steered
from peft_panacea import PanaceaConfig
from peft_panacea.command import COMMANDS, _parser, main
from peft_panacea.convert import export_gguf, export_lora, export_lora_basis, export_lora_grid
from small_chat import save_chat_model
from small_tokenizers import word_tokenizer

FRONT = ["front", "--prompts", "prompts.json"]
BOTH = ["--rewards", "kind=length", "brief=length"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base model, an adapter that knows it, and a LoRA adapter."""
    path = tmp_path_factory.mktemp("adapters")
    torch.manual_seed(0)
    llama().save_pretrained(path / "base")
    word_tokenizer().save_pretrained(path / "base")
    steered(base(path), objectives=["kind", "brief"], task_type="CAUSAL_LM").save_pretrained(path / "adapter")
    get_peft_model(base(path), LoraConfig(task_type="CAUSAL_LM")).save_pretrained(path / "lora")
    # Enough for what is refused before any weights are loaded, and not for more.
    chat = save_chat_model(path / "chat", weights=False)
    early = {"peft_type": "PANACEA", "task_type": "CAUSAL_LM", "objectives": ["kind", "brief"]}
    write(path / "early" / "adapter_config.json", {**early, "base_model_name_or_path": str(chat)})
    write(path / "lost" / "adapter_config.json", {**early, "base_model_name_or_path": str(path / "nothing")})
    (path / "torn").mkdir()
    (path / "torn" / "adapter_config.json").write_text("{")
    cut = path / "cut"
    shutil.copytree(path / "adapter", cut)
    (cut / "adapter_model.safetensors").write_bytes(b"")
    write(path / "prompts.json", ["w3 w4", "w5 w6"])
    write(path / "no prompts.json", [])
    write(path / "numbers.json", [1, 2])
    return path


def write(path, content):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


def base(path):
    return AutoModelForCausalLM.from_pretrained(path / "base")


def test_info(folder, capsys):
    assert main(["info", str(folder / "adapter")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {"objectives:         kind, brief", "default preference: kind 0.5, brief 0.5"} <= set(lines)
    assert {"rank as LoRA:       10", "bounds:             none"} <= set(lines)
    assert main(["info", str(folder / "adapter"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["objectives"], found["default preference"]) == (["kind", "brief"], {"kind": 0.5, "brief": 0.5})


def test_info_says_the_largest_rank_of_any_layer(tmp_path, capsys):
    PanaceaConfig(objectives=3, r=1, preference_rank=2, rank_pattern={"q_proj": 5}).save_pretrained(tmp_path)
    assert main(["info", str(tmp_path)]) == 0
    assert "rank as LoRA:       11" in capsys.readouterr().out.splitlines()


def test_info_says_the_bounds(tmp_path, capsys):
    PanaceaConfig(objectives=["kind", "brief"], preference_bounds={"kind": (0.25, 1)}).save_pretrained(tmp_path)
    assert main(["info", str(tmp_path)]) == 0
    assert "bounds:             kind 0.25 to 1" in capsys.readouterr().out.splitlines()


def test_the_chat_template_is_given_what_it_is_to_be_given(folder, capsys, tmp_path):
    shutil.copytree(folder / "adapter", tmp_path / "chat")
    word_tokenizer("[BOS] {{ 'w' ~ number }}").save_pretrained(tmp_path / "chat")  # the prompt is what the flag says
    few = ["--preference", "1", "0", "--max_new_tokens", "4", "--greedy", "--json"]
    answers = []
    for number in (5, 9):
        flag = ["--chat_template_kwargs", json.dumps({"number": number})]
        assert main(["answer", str(tmp_path / "chat"), "w3", *few, *flag]) == 0
        assert main(["answer", str(folder / "adapter"), f"w{number}", *few, "--plain"]) == 0
        said = [json.loads(line)[0]["answers"][0]["text"] for line in capsys.readouterr().out.splitlines()]
        assert said[0] == said[1]
        answers.append(said[0])
    assert answers[0] != answers[1]


def test_a_grid_is_kept_to_the_bounds(folder, capsys, tmp_path):
    model = PeftModel.from_pretrained(base(folder), folder / "adapter")
    model.peft_config["default"].preference_bounds = {"kind": (0.25, 1.0)}
    model.save_pretrained(tmp_path / "bounded")
    assert main(["answer", str(tmp_path / "bounded"), "w3 w4", "--steps", "2", "--max_new_tokens", "2", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert [answer["preference"]["kind"] for answer in found["answers"]] == [1.0, 0.5, 0.25]
    assert main(["export", str(tmp_path / "bounded"), str(tmp_path / "grid"), "--grid", "1"]) == 0
    assert sorted(path.name for path in (tmp_path / "grid").iterdir() if path.is_dir()) == ["0.25,0.75", "1,0"]


def test_a_name_of_a_preference_is_known_to_every_command(folder, capsys, tmp_path):
    model = PeftModel.from_pretrained(base(folder), folder / "adapter")
    model.peft_config["default"].named_preferences = {"both": [1.0, 0.75]}
    model.save_pretrained(tmp_path / "named")
    path = str(tmp_path / "named")
    assert main(["info", path]) == 0
    assert "named preferences:  both (1, 0.75)" in capsys.readouterr().out.splitlines()
    assert main(["export", path, str(tmp_path / "lora"), "--preference", "both"]) == 0
    assert "kind 1, brief 0.75" in (tmp_path / "lora" / "README.md").read_text()
    capsys.readouterr()
    assert main(["answer", path, "w3 w4", "--preference", "both", "--max_new_tokens", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["answers"][0]["preference"] == {"kind": 1.0, "brief": 0.75}
    assert main(["answer", path, "w3 w4", "--preference", "best"]) == 2
    assert "one of the adapter's `named_preferences` ['both'], but got 'best'" in capsys.readouterr().err


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
        (["info", "lora"], "`path` must be a Panacea adapter, but .*lora is of .*LORA"),
        (["card", "lora"], "`path` must be a Panacea adapter"),
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
        (["info", "torn"], "adapter_config.json in torn must be JSON"),
        (
            ["info", "user/adapter"],
            "The Hub must be reachable for `path` 'user/adapter', which is not on",
        ),
        (["export", "lost", "out", "--basis"], "`base_model_name_or_path` of lost must be a folder or a repository"),
        (["export", "cut", "out", "--basis"], "The weights in cut must be whole safetensors files"),
        (
            [*FRONT, "early", "--rewards", "kind=length"],
            r"must name the adapter's objectives, \['kind', 'brief'\]",
        ),
        ([*FRONT, "early", "--rewards", "kind=length", "brief=long"], "`spec` must be one of"),
        ([*FRONT, "early", "--rewards", "kind=length", "kind=length"], "`--rewards` must name each objective once"),
        (
            [*FRONT, "lost", *BOTH],
            "`base_model_name_or_path` of lost must be a folder or a repo|The Hub must be",
        ),
        ([*FRONT, "lora", *BOTH], "`path` must be a Panacea adapter"),
        ([*FRONT, "early", *BOTH, "--samples", "0"], "`--samples` must be at least 1, but got 0"),
        ([*FRONT, "early", *BOTH, "--temperature", "0"], "`--temperature` must be positive"),
        (["front", "early", "--prompts", "none.json", *BOTH], "No such file or directory: 'none.json'"),
        (["front", "early", "--prompts", "no prompts.json", *BOTH], "must have at least one prompt"),
        (["front", "early", "--prompts", "numbers.json", *BOTH], "numbers.json, row 1: `prompt` must be"),
        (["choose", "adapter", "--objective", "kind"], "No such file or directory: 'adapter/front.json'"),
        (["choose", "prompts.json", "--objective", "kind"], "must be a front that `Front.to_json` wrote"),
        (["push", "early", "user/new"], "`folder` must hold .*, but early lacks adapter_model.safetensors"),
        (["push", "adapter", "user/new"], "The Hub must be reachable for `repo_id` 'user/new'"),
        (["answer", "early"], "`PROMPT` must be given directly after PATH, or a file as `--prompts`"),
        (["answer", "early", "w3", "--preference", "0.3", "0.3"], "2 non-negative entries that sum to 1"),
        (["answer", "early", "w3", "--preference", "kind=1", "long=0"], "must name exactly the objectives"),
        (["answer", "early", "w3", "--max_new_tokens", "0"], "`--max_new_tokens` must be at least 1, but got 0"),
        (["answer", "early", "w3", "--plain", "--system_prompt", "w4"], "`system_prompt` must be None for texts that"),
        (["answer", "early", "--prompts", "none.json"], "No such file or directory: 'none.json'"),
        (["answer", "nowhere", "w3"], "`path` must be a folder or a repository of the Hub|The Hub must be reachable"),
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


def test_a_missing_extra_is_missed_with_the_command_that_installs_it(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    for name in [*(name for name in sys.modules if name.startswith("peft_panacea.plots")), "matplotlib"]:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main([*FRONT, "early", *BOTH]) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("`pip install peft-panacea[eval]` does it.")


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["export", "a", "b"],
        ["export", "a", "b", "--basis", "--grid", "2"],
        ["dance"],
        ["front", "a", "--prompts", "b"],
        ["front", "a", "--rewards", "b=c"],
        ["front", "a", "--prompts", "b", "--rewards", "c"],
        ["choose", "a"],
        ["answer", "a", "b", "--steps", "2", "--preference", "1", "0"],
    ],
)
def test_a_wrong_command_is_answered_with_its_usage(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert "usage: peft-panacea" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["-h"], *([name, "-h"] for name in COMMANDS)])
def test_help_has_examples(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 0
    first = words[0] if len(words) > 1 else "info"
    assert f"examples:\n  peft-panacea {first} runs/chat/dpo" in capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_are_commands(name):
    for line in COMMANDS[name].EXAMPLES:
        program, *words = shlex.split(line.replace("…", "--prompts p.json --rewards a=length"))
        assert program == "peft-panacea"
        assert _parser().parse_args(words).run is COMMANDS[name].run


def test_the_commands_import_nothing_slow_but_the_package():
    """`--help` takes no longer than `import peft_panacea` does."""
    for path in Path(peft_panacea.command.__file__).parent.glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ImportFrom) and node.level > 1:
                assert node.module == "written", path
            elif isinstance(node, ast.Import | ast.ImportFrom) and not getattr(node, "level", 0):
                names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names, path


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
