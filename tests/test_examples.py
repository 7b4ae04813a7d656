"""The quickstart's parts do what their docstrings say, and the whole runs; so does the measuring of an adapter."""

import hashlib
import json
import random
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from conftest import load_script
from peft_panacea.completions import sample
from peft_panacea.front import Front

ROOT = Path(__file__).resolve().parent.parent
STORYTELLER = ROOT / "examples" / "storyteller" / "model"
HELD_OUT = ROOT / "examples" / "storyteller" / "held_out.json"


@pytest.fixture(scope="module")
def quickstart():
    return load_script(ROOT / "examples" / "quickstart.py")


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(STORYTELLER)


@pytest.fixture
def storyteller():
    return AutoModelForCausalLM.from_pretrained(STORYTELLER)


def test_rewards(quickstart):
    texts = ["A happy, HAPPY day; then tears and a happy smile.", "", "One two three four five six seven eight."]
    rewards = quickstart.make_rewards(None)
    assert rewards["cheerful"](texts, prompts=texts) == [3.0, 0.0, 0.0]
    assert rewards["brief"](texts, prompts=texts) == [-2.0, -8.0, 0.0]
    assert quickstart.score(texts, rewards).tolist() == [[3.0, -2.0], [0.0, -8.0], [0.0, 0.0]]


def test_prompts_for_training_and_test_differ(quickstart):
    train, test = quickstart.load_prompts(None, random.Random(0))
    assert (len(train), len(test)) == (512, 64)
    assert not set(train) & set(test)


def test_first_sentences_are_prompts(quickstart, tmp_path):
    path = tmp_path / "stories.json"
    path.write_text(json.dumps([f'Story {i} began. "Why?" it said.' for i in range(130)]))
    train, test = quickstart.load_prompts(path, random.Random(0))
    assert (len(train), len(test)) == (66, 64)
    assert set(train + test) == {f"Story {i} began." for i in range(130)}


def test_too_few_prompts_are_refused(quickstart, tmp_path):
    path = tmp_path / "stories.json"
    path.write_text(json.dumps(["One. Two."] * 200))
    with pytest.raises(SystemExit, match=r"`--prompts` must give at least 128 different first sentences, .* gives 1"):
        quickstart.load_prompts(path, random.Random(0))


def test_the_committed_model_reads_as_sentences(storyteller, tokenizer):
    """It is good enough to learn from: most stories end, and sentences begin and end as they should."""
    torch.manual_seed(0)
    batch = sample(storyteller, tokenizer, json.loads(HELD_OUT.read_text()))
    ended = [text for text, mask in zip(batch.texts, batch.completion, strict=True) if not mask[-1]]
    assert len(ended) > 0.4 * len(batch.texts)
    assert sum(text.rstrip().endswith((".", '"', "!", "?")) for text in ended if text) > 0.95 * len(
        [t for t in ended if t]
    )


def test_the_whole_quickstart(tmp_path):
    command = [sys.executable, "examples/quickstart.py", "--steps", "2", "--samples", "1", "--output", str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "largest difference of the logits over 11 preferences: 0" in run.stdout
    assert "Warning" not in run.stderr
    assert (tmp_path / "front.png").stat().st_size > 10_000
    front = Front.from_json(tmp_path / "front.json")
    assert front.scores.shape == (11, 64, 2)
    assert (front.details["seed"], front.details["steps"], front.details["samples"]) == (0, 2, 1)
    low, high = front.metric_intervals()["hypervolume"]
    assert f"{front.metrics()['hypervolume']:.3f} [{low:.3f}, {high:.3f}]" in run.stdout
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["objectives"] == ["cheerful", "brief"]
    assert not Path(config["base_model_name_or_path"]).is_absolute()


@pytest.fixture
def measure(monkeypatch, tmp_path):
    """Run `examples/front.py` on the committed adapter, three prompts and two preferences."""
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    prompts = json.loads((ROOT / "examples" / "storyteller" / "prompts.json").read_text())[:3]
    (tmp_path / "prompts.json").write_text(json.dumps(prompts))
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in prompts))

    def run(*arguments: object, rewards: tuple[str, ...] = ("brief=brevity=8", "cheerful=styles.cheerful")) -> None:
        few = ["--prompts", tmp_path / "prompts.json", "--steps", 1, "--samples", 2, "--max_new_tokens", 24]
        command = ["examples/front.py", "examples/storyteller/adapter", *few, "--output", tmp_path, *arguments]
        monkeypatch.setattr(sys, "argv", list(map(str, [*command, "--rewards", *rewards])))
        runpy.run_path(str(ROOT / "examples" / "front.py"), run_name="__main__")

    return run


def test_the_front_of_an_adapter(measure, tmp_path, capsys):
    measure("--choose", "cheerful", "--subject_to", "brief=-1000")
    front = Front.from_json(tmp_path / "front.json")
    assert (list(front.objectives), front.scores.shape) == (["cheerful", "brief"], (2, 3, 2))
    assert (tmp_path / "front.png").stat().st_size > 10_000
    printed = capsys.readouterr().out
    assert f"{front.values[1, 0]:.3f} [" in printed
    choice = front.choose("cheerful", {"brief": -1000})
    assert f"Chosen: cheerful {choice.preference['cheerful']:.3f}, brief {choice.preference['brief']:.3f}" in printed

    # The same command again measures nothing, and answers another question.
    record = (tmp_path / "completions.jsonl").read_bytes()
    measure("--prompts", tmp_path / "prompts.jsonl", "--compare", tmp_path / "front.json")
    assert (tmp_path / "completions.jsonl").read_bytes() == record
    captured = capsys.readouterr()
    assert "+0.000 [+0.000, +0.000]" in captured.out
    assert "measuring" not in captured.err
    with pytest.raises(SystemExit, match="`subject_to` must be attainable"):
        measure("--choose", "cheerful", "--subject_to", "brief=1")


def test_rewards_that_are_not_the_adapters_are_refused(measure):
    with pytest.raises(SystemExit, match=r"must name the adapter's objectives, \['cheerful', 'brief'\], but got"):
        measure(rewards=("cheerful=styles.cheerful",))


def test_what_is_no_front_is_not_compared_with(measure, tmp_path):
    """The measurement is there before, and the answer is a sentence."""
    for name, content in (("front", None), ("report", '{"objectives": ["a"], "measured": [[1]]}')):
        path = tmp_path / f"other {name}.json"
        if content is not None:
            path.write_text(content)
        with pytest.raises(SystemExit, match=r"No such file|must be a front that .* wrote, but .* is not"):
            measure("--compare", path)
        assert Front.from_json(tmp_path / "front.json").scores.shape == (2, 3, 2)


def test_the_front_is_measured_on_held_out_prompts(monkeypatch):
    """Those that the committed adapter's front was measured on."""
    script = load_script(ROOT / "examples" / "front.py")
    adapter = ROOT / "examples" / "storyteller" / "adapter"
    prompts = script.read_prompts(None, str(adapter))
    assert len(set(prompts)) == 64
    digest = hashlib.sha256(json.dumps(prompts, sort_keys=True).encode()).hexdigest()[:16]
    assert digest == Front.from_json(adapter / "front.json").details["prompts"]
    with pytest.raises(SystemExit, match=r"`--prompts` must be given for an adapter .*storyteller"):
        script.read_prompts(None, "another/adapter")


def test_the_quickstart_trains_on_none_of_the_held_out_prompts(quickstart):
    """The recipes' list is another one, and has twelve of them, as the model's README says."""
    held_out = set(json.loads(HELD_OUT.read_text()))
    assert not held_out & set(quickstart.load_prompts(None, random.Random(0))[0])
    of_recipes = set(json.loads((HELD_OUT.parent / "prompts.json").read_text()))
    assert len(held_out & of_recipes) == 12


def test_the_front_script_is_read_in_one_sitting():
    assert len((ROOT / "examples" / "front.py").read_text().splitlines()) <= 110
