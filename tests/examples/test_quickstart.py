"""The quickstart runs, reports what it measured, and is short; the model it starts from can tell stories."""

import json
import subprocess
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from peft_panacea.completions import sample
from peft_panacea.front import Front

ROOT = Path(__file__).resolve().parents[2]
STORYTELLER = ROOT / "examples" / "storyteller"


def run(output: Path, *arguments: object) -> subprocess.CompletedProcess:
    command = ["examples/quickstart.py", "--steps", 2, "--samples", 1, "--output", output, *arguments]
    return subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_whole_quickstart_twice(tmp_path):
    runs = [run(tmp_path / name) for name in ("first", "second")]
    assert [one.returncode for one in runs] == [0, 0], runs[0].stderr
    assert "Warning" not in runs[0].stderr
    first, second = (tmp_path / name for name in ("first", "second"))
    for file in ("adapter_model.safetensors", "adapter_config.json", "front.png"):
        assert (first / file).read_bytes() == (second / file).read_bytes(), file
    assert runs[0].stdout.replace(str(first), "") == runs[1].stdout.replace(str(second), "")

    front = Front.from_json(first / "front.json")
    assert front.scores.shape == (11, 64, 2)
    assert (front.details["seed"], front.details["steps"], front.details["samples"]) == (0, 2, 1)
    low, high = front.metric_intervals()["hypervolume"]
    assert f"{front.metrics()['hypervolume']:.3f} [{low:.3f}, {high:.3f}]" in runs[0].stdout
    config = json.loads((first / "adapter_config.json").read_text())
    assert config["objectives"] == ["cheerful", "brief"]
    assert not Path(config["base_model_name_or_path"]).is_absolute()


def test_prompts_of_ones_own(tmp_path):
    prompts = [f"Story {i} began." for i in range(140)]
    (tmp_path / "prompts.json").write_text(json.dumps(prompts))
    finished = run(tmp_path / "out", "--prompts", tmp_path / "prompts.json")
    assert finished.returncode == 0, finished.stderr
    assert "\n  Story 76 began.\n" in finished.stdout, "the last 64 are held out"


def test_too_few_prompts_are_refused(tmp_path):
    (tmp_path / "prompts.json").write_text(json.dumps([f"Story {i} began." for i in range(127)]))
    finished = run(tmp_path / "out", "--prompts", tmp_path / "prompts.json")
    assert finished.returncode == 1
    assert finished.stderr.splitlines()[-1] == "`--prompts` must have at least 128 texts, but got 127."


def test_it_is_read_in_one_sitting():
    assert len((ROOT / "examples" / "quickstart.py").read_text().splitlines()) <= 120


def test_it_is_measured_on_prompts_that_nothing_is_trained_on():
    prompts, held_out = (json.loads((STORYTELLER / name).read_text()) for name in ("prompts.json", "held_out.json"))
    assert (len(set(prompts)), len(set(held_out))) == (512, 64)
    assert not set(prompts) & set(held_out)


def test_the_committed_model_reads_as_sentences():
    """It is good enough to learn from: most stories end, and sentences begin and end as they should."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(STORYTELLER / "model")
    tokenizer = AutoTokenizer.from_pretrained(STORYTELLER / "model")
    batch = sample(model, tokenizer, json.loads((STORYTELLER / "held_out.json").read_text()))
    ended = [text for text, mask in zip(batch.texts, batch.completion, strict=True) if text and not mask[-1]]
    assert len(ended) > 0.4 * len(batch.texts)
    assert sum(text.rstrip().endswith((".", '"', "!", "?")) for text in ended) > 0.95 * len(ended)
