"""The recipes run with their committed configurations, go on where they stopped, and end with a front."""

import json
import random
import runpy
import shutil
import sys
from pathlib import Path

import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM

from conftest import load_script
from peft_panacea.front import Front, describe
from small_tokenizers import word_tokenizer

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
STORYTELLER = EXAMPLES / "storyteller"
FOLDER = EXAMPLES / "recipes"

pytestmark = pytest.mark.filterwarnings("default")  # what TRL and the Trainer warn of is not ours


@pytest.fixture
def recipe(monkeypatch):
    """Run a script as `python examples/recipes/SCRIPT ARGUMENTS` from the root of the repository."""
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(FOLDER))

    def run(script: str, *arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", [f"examples/recipes/{script}", *map(str, arguments)])
        runpy.run_path(str(FOLDER / script), run_name="__main__")

    return run


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Data as `answers.py` makes it, of twelve prompts."""
    folder = tmp_path_factory.mktemp("answers")
    prompts = json.loads((STORYTELLER / "prompts.json").read_text())[:12]
    (folder / "prompts.json").write_text(json.dumps(prompts))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        config, data = STORYTELLER / "answers.yaml", folder / "prompts.json"
        command = ["--config", config, "--data", data, "--output_dir", folder, "--max_new_tokens", 16]
        patch.setattr(sys, "argv", ["examples/data/answers.py", *map(str, command)])
        runpy.run_path(str(EXAMPLES / "data" / "answers.py"), run_name="__main__")
    return folder


SMALL = ("--report_to", "none", "--disable_tqdm", "true", "--per_device_train_batch_size")
RECIPES = {
    "sft": ("sft.py", "--config", STORYTELLER / "sft.yaml", "--held_out", 4, *SMALL, 6),
    "dpo": ("dpo.py", "--config", STORYTELLER / "dpo.yaml", "--held_out", 2, *SMALL, 4),
    "rloo": ("rlhf.py", "rloo", "--config", STORYTELLER / "rlhf.yaml", "--held_out", 4, *SMALL, 8),
    "grpo": ("rlhf.py", "grpo", "--config", STORYTELLER / "rlhf.yaml", "--held_out", 4, *SMALL, 8),
}
DATA = {"sft": "best.jsonl", "dpo": "answers.jsonl", "rloo": "prompts.json", "grpo": "prompts.json"}


def flags(name: str, answers: Path, output: Path) -> list[object]:
    extra = ["--max_completion_length", 8, "--num_generations", 4] if name in ("rloo", "grpo") else []
    extra += ["--eval_steps", 1] if name == "sft" else []
    return [*RECIPES[name], "--data", answers / DATA[name], "--output_dir", output, "--save_steps", 1, *extra]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_resumes_and_measures(name, recipe, answers, tmp_path, capsys):
    arguments = [*flags(name, answers, tmp_path / "run"), "--max_steps", 2, "--front_steps", 2]
    recipe(*arguments)
    front = Front.from_json(tmp_path / "run" / "front.json")
    m = len(front.objectives)
    assert describe(front) in capsys.readouterr().out
    assert len(front.preferences) == m * (m + 1) // 2
    assert front.scores.shape[1] == (4 if name in ("rloo", "grpo") else 1)
    assert front.maximise == (name in ("rloo", "grpo"),) * m
    assert front.base is not None
    assert {"command", "seed", "unit", "versions"} <= set(front.details)
    base = AutoModelForCausalLM.from_pretrained(STORYTELLER / "model")
    PeftModel.from_pretrained(base, tmp_path / "run").set_preference([1 / m] * m)

    # As if it had been interrupted after its first step: the same command ends with the same adapter.
    whole = (tmp_path / "run" / "adapter_model.safetensors").read_bytes()
    shutil.rmtree(tmp_path / "run" / "checkpoint-2")
    (tmp_path / "run" / "adapter_model.safetensors").unlink()
    recipe(*arguments)
    assert (tmp_path / "run" / "adapter_model.safetensors").read_bytes() == whole
    assert (Front.from_json(tmp_path / "run" / "front.json").scores == front.scores).all()


@pytest.mark.parametrize("aggregation", ["tchebycheff", "smooth_tchebycheff"])
@pytest.mark.parametrize("name", RECIPES)
def test_the_papers_way(name, aggregation, recipe, answers, tmp_path):
    paper = ["--preference_per", "batch", "--aggregation", aggregation, "--vertex_probability", 0.2]
    if name in ("rloo", "grpo"):
        paper += ["--ideal_point", 3, 3]
    recipe(*flags(name, answers, tmp_path), *paper, "--max_steps", 1, "--front_steps", 1, "--save_strategy", "no")
    assert (tmp_path / "front.json").exists()


def test_curves_of_each_objective_are_logged(recipe, answers, tmp_path):
    recipe(*flags("sft", answers, tmp_path), "--max_steps", 2, "--front_steps", 1, "--logging_steps", 1)
    history = json.loads((tmp_path / "checkpoint-2" / "trainer_state.json").read_text())["log_history"]
    for objective in ("cheerful", "brief", "spoken"):
        assert sum(f"eval_{objective}_loss" in entry for entry in history) == 2


def test_ten_objectives(recipe, answers, tmp_path):
    config = STORYTELLER / "ten_rlhf.yaml"
    recipe(
        "rlhf.py", "rloo", "--config", config, "--data", answers / "prompts.json", "--held_out", 2, *SMALL, 16,
        "--max_completion_length", 24, "--max_steps", 1, "--save_strategy", "no", "--output_dir", tmp_path,
    )  # fmt: skip
    assert Front.from_json(tmp_path / "front.json").scores.shape == (10, 2, 10)


def test_held_out_prompts_are_not_trained_on(answers):
    module = load_script(FOLDER / "arguments.py")
    arguments = module.RecipeArguments(
        "m", ["cheerful", "brief", "spoken"], str(answers / "answers.jsonl"), held_out=3
    )
    train, held_out = arguments.split(arguments.rows(), word_tokenizer(chat_template=None))
    assert len(set(held_out["prompt"])) == 3
    assert not set(train["prompt"]) & set(held_out["prompt"])
    assert len(train) + len(held_out) == len(arguments.rows())
    parts = arguments.split(arguments.rows(), word_tokenizer(chat_template=None), 4)
    prompts = [set(part["prompt"]) for part in parts]
    assert parts[1].to_list() == held_out.to_list()
    assert len(prompts[2]) == 4
    assert sum(map(len, prompts)) == len(set().union(*prompts))
    assert sum(map(len, parts)) == len(arguments.rows())


def test_the_lexicon_is_the_grammars():
    grammar = load_script(STORYTELLER / "grammar.py")
    rows = dict(line.split("\t") for line in (STORYTELLER / "lexicon.txt").read_text().splitlines())
    assert {word for word, value in rows.items() if value == "1.0"} == grammar.CHEERFUL
    assert {word for word, value in rows.items() if value == "-1.0"} == grammar.GLOOMY


@pytest.mark.parametrize("script", ["sft.py", "dpo.py", "rlhf.py", "soups.py", "mva.py", "peo.py"])
def test_recipes_are_read_in_one_sitting(script):
    lines = len((FOLDER / script).read_text().splitlines())
    assert lines < 150
    assert f"| `examples/recipes/{script}` | {lines} |" in (ROOT / "docs" / "training.md").read_text(encoding="utf-8")


def test_the_prompts_are_the_grammars():
    grammar = load_script(STORYTELLER / "grammar.py")
    rng = random.Random(0)
    prompts = list(dict.fromkeys(grammar.prompt(rng) for _ in range(900)))
    assert json.loads((STORYTELLER / "prompts.json").read_text()) == prompts[:512]
    assert json.loads((STORYTELLER / "held_out.json").read_text()) == prompts[512:576]
