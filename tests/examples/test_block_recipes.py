"""The recipes that train each objective for itself go on where they stopped, and search beyond the simplex."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from conftest import load_script
from peft_panacea import PanaceaConfig, simplex_grid
from peft_panacea.front import Front
from peft_panacea.metrics import non_dominated

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "examples" / "storyteller" / "model"
FOLDER = ROOT / "examples" / "recipes"
WEIGHTS = "adapter_model.safetensors"

pytestmark = pytest.mark.filterwarnings("default")  # what TRL and the Trainer warn of is not ours


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Pairs of two objectives that disagree."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.json"
    happy, sad = " She laughed and laughed with her friend.", " She cried."
    both = {"happy": (happy, sad), "brief": (sad, happy)}
    rows = [
        {"prompt": f"{name} was a {animal}.", "chosen": chosen, "rejected": rejected, "objective": objective}
        for name in ("Lucy", "Emma", "Ruby", "Zoe")
        for animal in ("cat", "bee")
        for objective, (chosen, rejected) in both.items()
    ]
    path.write_text(json.dumps(rows))
    return path


@pytest.fixture
def recipe(monkeypatch, data):
    """Run a script on these pairs."""
    monkeypatch.syspath_prepend(str(FOLDER))

    def run(script: str, output: Path, *arguments: object) -> None:
        words = f"""--model_name_or_path {MODEL} --data {data} --objectives happy brief --output_dir {output}
            --preference_rank 2 --held_out 2 --validation 2 --max_steps 2 --save_steps 1 --warmup_steps 0
            --per_device_train_batch_size 4 --per_device_eval_batch_size 64 --max_new_tokens 8 --samples 2
            --report_to none --disable_tqdm true --bf16 false --gradient_checkpointing false --logging_steps 1
            --dataloader_pin_memory false"""
        monkeypatch.setattr(sys, "argv", [script, *words.split(), *map(str, arguments)])
        runpy.run_path(str(FOLDER / script), run_name="__main__")

    return run


def of_objective(folder: Path, i: int) -> dict[str, torch.Tensor]:
    """The directions and the scales of one of the two objectives, which have two directions each."""
    own = slice(2 * i, 2 * i + 2)
    parts = {"U": lambda t: t[:, own], "Vh": lambda t: t[own], "scale": lambda t: t[i]}
    return {k: parts[k.rpartition(".")[2]](t) for k, t in load_file(folder / WEIGHTS).items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_each_objective_is_trained_for_itself_and_only_once(recipe, tmp_path):
    recipe("soups.py", tmp_path, "--front_steps", 2)
    first, second = (tmp_path / "alone" / name for name in ("happy", "brief"))
    assert same(of_objective(first, 0), of_objective(second, 0))
    assert not same(of_objective(first, 1), of_objective(second, 1))
    front, whole = Front.from_json(tmp_path / "front.json"), (tmp_path / WEIGHTS).read_bytes()
    assert whole == (second / WEIGHTS).read_bytes()
    assert front.preferences.tolist() == [[1, 0], [0.5, 0.5], [0, 1]]
    assert (front.values.argmin(axis=0) == [0, 2]).all()  # losses
    assert not any(front.maximise)

    # As if it had been interrupted after the first step of the second: the same command ends with the same adapter.
    when = (first / WEIGHTS).stat().st_mtime_ns
    shutil.rmtree(second / "checkpoint-2")
    (second / "trainer_state.json").unlink()
    (second / WEIGHTS).unlink()
    recipe("soups.py", tmp_path, "--joint_steps", 1, "--front_steps", 1)
    assert (first / WEIGHTS).stat().st_mtime_ns == when
    assert (tmp_path / WEIGHTS).read_bytes() == whole
    with pytest.raises(SystemExit, match="`--objectives` must be those of "):
        recipe("soups.py", tmp_path, "--objectives", "brief", "happy")
    joint = tmp_path / "joint"
    assert not any(same(of_objective(joint, i), of_objective(tmp_path, i)) for i in range(2))
    assert len(Front.from_json(joint / "front.json").preferences) == 2


def test_a_soup_of_loras_that_there_are(recipe, tmp_path):
    for seed, name in enumerate(("happy", "brief")):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_pretrained(MODEL)
        config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
        get_peft_model(model, config).save_pretrained(tmp_path / name)
    loras = [f"{name}={tmp_path / name}" for name in ("brief", "happy")]
    recipe("soups.py", tmp_path / "run", "--front_steps", 1, "--loras", *loras)
    steered, lora = (
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(MODEL), tmp_path / folder)
        for folder in ("run", "brief")
    )
    tokens = torch.arange(5, 25)[None]
    with torch.no_grad():
        found = steered(tokens, preference={"happy": 0, "brief": 1}).logits
        torch.testing.assert_close(found, lora(tokens).logits)


def test_mva_penalises_what_comes_later_and_names_what_is_not_dominated(recipe, tmp_path):
    recipe("mva.py", tmp_path, "--grid_steps", 3, "--rewards", "length", "brevity=3")
    states = {
        name: json.loads((tmp_path / "decorrelated" / name / "trainer_state.json").read_text())["log_history"]
        for name in ("happy", "brief")
    }
    logged = {name: {key for entry in history for key in entry} for name, history in states.items()}
    assert "dependence/brief_happy" in logged["brief"]
    assert not [key for key in logged["happy"] if key.startswith("dependence/")]

    scored, front = (Front.from_json(tmp_path / f"{name}.json") for name in ("validation", "front"))
    assert len(scored.preferences) == 9
    kept = scored.preferences[non_dominated(scored.values)]
    assert front.preferences.tolist() == kept.tolist()
    assert scored.scores.shape[1] == front.scores.shape[1] == 2
    names = PanaceaConfig.from_pretrained(tmp_path).named_preferences
    assert list(names.values()) == kept.tolist()
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(MODEL), tmp_path)
    for name, weights in names.items():
        model.set_preference(name)
        torch.testing.assert_close(model.get_preference(), torch.tensor(weights))


def test_both_readings_of_peo_have_their_specialists_in_common(recipe, tmp_path):
    recipe("peo.py", tmp_path, "--grid_steps", 2)
    trained = {path: path.stat().st_mtime_ns for path in (tmp_path / "alone").rglob(WEIGHTS)}
    recipe("peo.py", tmp_path, "--grid_steps", 2, "--reading", "free")
    assert trained == {path: path.stat().st_mtime_ns for path in (tmp_path / "alone").rglob(WEIGHTS)}
    around, free = (Front.from_json(tmp_path / reading / "validation.json") for reading in ("around", "free"))
    assert around.preferences.tolist() == [[-0.5, 1.5], [0, 1], [0.5, 0.5], [1, 0], [1.5, -0.5]]
    assert free.preferences.tolist() == [[0.75, 0.75], [0.75, 1.5], [1.5, 0.75], [1.5, 1.5]]
    kept = Front.from_json(tmp_path / "around" / "front.json").preferences.tolist()
    assert kept == around.preferences[non_dominated(around.values, maximise=False)].tolist()


@pytest.fixture
def search(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return load_script(FOLDER / "search.py")


@pytest.mark.parametrize("m", [2, 3, 4])
@pytest.mark.parametrize("highest", [1, 1.3, 1.5, 2])
def test_combinations_around_a_generalist_sum_to_one_and_hold_the_simplex(m, highest, search):
    n = 4
    grid = search.around(m, n, highest)
    least = -(highest - 1) / (m - 1)
    torch.testing.assert_close(grid.sum(1), torch.ones(len(grid)))
    assert torch.equal(grid * n, (grid * n).round())
    assert grid.max() <= highest
    assert least - 1 / n < grid.min() <= 0
    assert grid.min() >= least - 1e-6
    assert {tuple(row) for row in simplex_grid(m, n).tolist()} <= {tuple(row) for row in grid.tolist()}
    assert len(grid.unique(dim=0)) == len(grid)


@pytest.mark.parametrize("m", [1, 2, 3])
def test_free_combinations_leave_nothing_out(m, search):
    grid = search.free(m, 5, 2.0)
    assert len(grid.unique(dim=0)) == len(grid) == 5**m
    torch.testing.assert_close(grid.unique(), torch.arange(1, 6) / 2.5)


@pytest.mark.parametrize("weights", [[0.25, -0.5], [1.0, 1 / 3], [0.0, 1.0]])
def test_names_are_ones_that_an_adapter_may_have(weights, search):
    name = search.name_of(["less toxic!", "b"], weights)
    assert PanaceaConfig(objectives=2, named_preferences={name: weights}).named_preferences == {name: weights}
