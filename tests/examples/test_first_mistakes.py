"""What a user meets first: `--help` at once, and mistakes in one sentence, before a model is loaded."""

import ast
import dataclasses
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import load_script
from peft_panacea import PanaceaConfig
from peft_panacea.training import DecorrelationArguments, PreferenceArguments
from small_chat import conversations, save_chat_model

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
RECIPES = EXAMPLES / "recipes"
SCRIPTS = ["data/answers.py", "data/demonstrations.py", "data/reward_model.py"]
OWN_FLAGS = {
    "rlhf.py": "RewardArguments",
    "soups.py": "SoupArguments",
    "mva.py": "MVAArguments",
    "peo.py": "PEOArguments",
}
SLOW = ("torch", "transformers", "trl", "peft", "datasets")


def help_of(script: str, *words: str) -> str:
    """What a script prints with `--help`, which must import none of what takes seconds."""
    code = f"""if True:
        import runpy, sys
        sys.argv = {[str(EXAMPLES / script), *words, "--help"]}
        sys.path.insert(0, {str((EXAMPLES / script).parent)!r})
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        finally:
            assert not set({SLOW}) & set(sys.modules), set({SLOW}) & set(sys.modules)
    """
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_of_a_script_imports_nothing_slow(script):
    printed = help_of(script)
    assert "usage: " in printed
    assert "(default: " in printed


@pytest.mark.parametrize(
    ("script", "words", "config"),
    [("sft.py", [], "SFTConfig"), ("dpo.py", [], "DPOConfig"), ("rlhf.py", [], "RLOOConfig")]
    + [(script, [], "DPOConfig") for script in OWN_FLAGS if script != "rlhf.py"]
    + [("rlhf.py", [name], f"{name.upper()}Config") for name in ("grpo", "rloo")],
)
def test_help_of_a_recipe_lists_our_flags_and_their_defaults(script, words, config, monkeypatch):
    printed = help_of(f"recipes/{script}", *words)
    assert f"trl.{config}" in printed
    assert len(printed.splitlines()) < 120
    monkeypatch.syspath_prepend(str(RECIPES))
    listed = {line.split()[0][2:]: line for line in printed.splitlines() if line.startswith("  --")}
    classes = [load_script(RECIPES / "arguments.py").RecipeArguments, PreferenceArguments]
    if script in OWN_FLAGS:
        monkeypatch.setattr(sys, "argv", [script, *words])
        classes.append(getattr(load_script(RECIPES / script), OWN_FLAGS[script]))
    if script == "mva.py":
        classes.append(DecorrelationArguments)
    fields = {field.name: field.default for one in classes for field in dataclasses.fields(one)}
    lists = {field.name for one in classes for field in dataclasses.fields(one) if field.default_factory is list}
    assert listed.keys() == fields.keys()
    for name, default in fields.items():
        if default is None:
            default = getattr(PanaceaConfig, name, None)
        shown = listed[name].rpartition("  ")[2]
        if name in lists:
            assert shown == "[none]"
        else:
            assert shown == ("(must be given)" if default is dataclasses.MISSING else f"[{default!r}]")


def test_all_flags_are_listed_when_asked_for():
    command = [sys.executable, RECIPES / "sft.py", "--help_all"]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "--gradient_accumulation_steps" in finished.stdout
    assert "--preference_per" in finished.stdout


@pytest.fixture
def mistake(monkeypatch, tmp_path):
    """What a script says of these arguments; the model has no weights, so that loading it would say something else."""
    monkeypatch.syspath_prepend(str(RECIPES))
    monkeypatch.syspath_prepend(str(EXAMPLES / "data"))
    save_chat_model(tmp_path / "model", weights=False)
    (tmp_path / "prompts.json").write_text(json.dumps(conversations(4)))
    rows = [{"prompt": f"w{i}", "completion": "w4", "objective": "a"} for i in range(3, 9)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    (tmp_path / "empty.json").write_text("[]")
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "train.jsonl").write_text('{"text": "w3"}\n')
    monkeypatch.chdir(tmp_path)

    def mistake(script: str, words: str) -> str:
        monkeypatch.setattr(sys, "argv", [script, *words.split()])
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(str(EXAMPLES / script), run_name="__main__")
        return str(caught.value)

    return mistake


MODEL = "--model_name_or_path model --objectives a b --output_dir run"
BLOCKS = f"{MODEL} --data rows.json --held_out 2 --validation 2"
RL = f"rloo {MODEL} --held_out 2"


@pytest.mark.parametrize(
    ("script", "words", "sentence"),
    [
        ("recipes/rlhf.py", "", "usage: rlhf.py {grpo,rloo}"),
        ("recipes/rlhf.py", f"{RL} --data prompts.json --rewards length", "`--rewards` must be one for each of"),
        (
            "recipes/rlhf.py",
            f"{RL} --data none.json --rewards length length",
            "No such file or directory: 'none.json'",
        ),
        ("recipes/rlhf.py", f"{RL} --data empty.json --rewards length length", "must have at least one prompt"),
        ("recipes/rlhf.py", f"{RL} --data prompts.json --rewards length long", "`spec` must be one of"),
        ("recipes/rlhf.py", f"{RL} --data prompts.json --rewards length length --held_out 4", "`--held_out` must be"),
        ("recipes/rlhf.py", f"{RL} --data prompts.json --rewards length length --held_out -1", "`--held_out` must be"),
        ("recipes/rlhf.py", f"{RL} --data hub --rewards length length", "`--data` must have a column `prompt`"),
        ("recipes/sft.py", f"{MODEL} --data none.json", "No such file or directory: 'none.json'"),
        (
            "recipes/sft.py",
            "--model_name_or_path model --objectives c b --data rows.json",
            "must be one of ['c', 'b']",
        ),
        ("recipes/sft.py", f"{MODEL} --data x/y --data_format pku", "`--data_format` must be one of"),
        (
            "recipes/dpo.py",
            f"{MODEL} --data x/y --data_format pku_safe_rlhf",
            "`--objectives` must be those of pku_safe_rlhf in their order, ['helpful', 'harmless'], but",
        ),
        (
            "recipes/dpo.py",
            f"{MODEL} --data x/y --data_format xstest --objectives harmless helpful",
            "`--objectives` must be those of xstest in their order, ['helpful', 'harmless'], but got ['harmless', 'h",
        ),
        ("recipes/dpo.py", f"{MODEL} --data hub --data_format helpsteer2", "['prompt', 'response', 'a', 'b']"),
        (
            "recipes/sft.py",
            f"{MODEL} --data rows.json --held_out 2",
            "`--held_out` must keep rows of every objective for the front (--front_steps 0: no front), but of 2 rows "
            "none is of ['b']",
        ),
        ("recipes/soups.py", BLOCKS, "`--held_out` must keep rows of every objective for the front"),
        ("recipes/soups.py", f"{BLOCKS} --rewards length length --samples 0", "`--samples` must be at least 1"),
        (
            "recipes/rlhf.py",
            f"{RL} --data prompts.json --rewards length length --samples 0",
            "`--samples` must be at least 1, but got 0",
        ),
        (
            "recipes/rlhf.py",
            f"{RL} --data prompts.json --rewards length length --normalisation_prompts -1",
            "`--normalisation_prompts` must be at least 0, but got -1",
        ),
        (
            "recipes/sft.py",
            f"{MODEL} --data rows.json --held_out 2 --plain --system_prompt w3",
            "`system_prompt` must be None",
        ),
        ("recipes/dpo.py", f"{MODEL} --data rows.json --average 2", "`--average` must be between 0 and 1, but got 2"),
        (
            "recipes/dpo.py",
            f"{MODEL} --data rows.json --scaling big",
            "`scaling` must be a positive number or 'paper'",
        ),
        ("recipes/dpo.py", f"{MODEL} --data rows.json --preference_per step", ""),
        ("recipes/soups.py", f"{BLOCKS} --rewards length", "`--rewards` must be one for each of ['a', 'b'], but got"),
        ("recipes/soups.py", f"{BLOCKS} --paper", "`--r` must be 0 where each objective is trained for itself, but"),
        (
            "recipes/soups.py",
            f"{BLOCKS} --validation 0",
            "`--validation` must be at least 1 in this recipe, but got 0",
        ),
        (
            "recipes/soups.py",
            f"{BLOCKS} --validation 4",
            "`--held_out` must be below 2, of which it is kept, but got 2",
        ),
        ("recipes/soups.py", f"{BLOCKS} --trained_objectives a", "`--trained_objectives` must not be given"),
        ("recipes/soups.py", f"{BLOCKS} --loras a=x", "`--loras` must be NAME=FOLDER for each of ['a', 'b'], but got"),
        ("recipes/mva.py", f"{BLOCKS} --earlier a", "`--earlier` must not be given"),
        ("recipes/mva.py", f"{BLOCKS} --grid_steps 0", "`--grid_steps` must be at least 1, but got 0"),
        ("recipes/mva.py", f"{BLOCKS} --highest 0", "`--highest` must be above 0, but got 0.0"),
        (
            "recipes/peo.py",
            f"{BLOCKS} --highest 0.5",
            "`--highest` must be at least 1, of at least two objectives, but",
        ),
        ("recipes/peo.py", f"{BLOCKS} --objectives 3d b", "`named_preferences` must have names of letters"),
        ("data/answers.py", f"{MODEL} --data prompts.json --rewards length", ""),
        (
            "data/demonstrations.py",
            "--model_name_or_path model --data none.json --objectives a b --instructions one two",
            "No such file or directory",
        ),
        (
            "data/demonstrations.py",
            "--model_name_or_path model --data prompts.json --objectives a b --instructions one",
            "",
        ),
        ("data/answers.py", f"{MODEL} --data none.json --rewards length length", "No such file or directory"),
        ("data/answers.py", f"{MODEL} --data prompts.json --rewards length long", "`spec` must be one of"),
    ],
)
def test_a_mistake_is_answered_in_one_sentence(script, words, sentence, mistake, capsys):
    said = mistake(script, words)
    if not sentence:  # argparse's own errors end with status 2, their text is on stderr
        assert said == "2"
        assert "must be one for each of" in capsys.readouterr().err or "--preference_per" in words
        return
    assert sentence in said


def test_no_script_repeats_a_default_of_the_configuration():
    """The adapter's flags have none of their own, so that a changed default of `PanaceaConfig` changes the recipes."""
    tree = ast.parse((RECIPES / "arguments.py").read_text())
    (flags,) = (one for one in tree.body if isinstance(one, ast.ClassDef) and one.name == "RecipeArguments")
    ours = {field.name for field in dataclasses.fields(PanaceaConfig)} - {"objectives"}
    defaults = {
        node.target.id: ast.unparse(next(k.value for k in node.value.keywords if k.arg == "default"))
        for node in flags.body
        if isinstance(node, ast.AnnAssign) and node.target.id in ours
    }
    assert set(defaults.values()) == {"None"}
    assert len(defaults) == 6
