"""The quickstart's parts do what their docstrings say, and the whole runs."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from conftest import load_script, steered

ROOT = Path(__file__).resolve().parent.parent
STORYTELLER = ROOT / "examples" / "storyteller" / "model"


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
    cheerful, brief = quickstart.make_rewards(None)
    assert cheerful("A happy, HAPPY day; then tears and a happy smile.") == 3.0
    assert cheerful("") == 0.0
    assert brief("One two three four five six seven eight.") == 0.0


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


def test_log_probabilities_are_those_of_the_completion_alone(quickstart, storyteller, tokenizer):
    """Row by row without padding, from the texts that were sampled."""
    model = steered(storyteller, task_type="CAUSAL_LM")
    prompts = ["One morning Zoe the sheep was by the mill.", "There was once a fox."]
    preference = [[1.0, 0.0], [0.2, 0.8]]
    batch, texts = quickstart.sample(model, tokenizer, prompts, preference=preference)
    with torch.no_grad():
        actual = quickstart.log_probabilities(model, batch, preference=preference)
        for i, prompt in enumerate(prompts):
            n = int(batch["completion"][i].sum())
            row = batch["input_ids"][i][batch["attention_mask"][i].bool()]
            log_p = model(row[None], preference=preference[i]).logits[0].log_softmax(-1)
            expected = log_p[len(row) - n - 1 : -1].gather(1, row[-n:, None])[:, 0]
            torch.testing.assert_close(actual[i, :n], expected, atol=1e-4, rtol=1e-4)
            assert actual[i, n:].abs().max() == 0 if n < actual.shape[1] else True
            assert tokenizer.decode(row, skip_special_tokens=True) == prompt + texts[i]


def test_the_committed_model_reads_as_sentences(quickstart, storyteller, tokenizer):
    """It is good enough to learn from: most stories end, and sentences begin and end as they should."""
    torch.manual_seed(0)
    prompts = quickstart.load_prompts(None, random.Random(0))[1]
    batch, texts = quickstart.sample(storyteller, tokenizer, prompts)
    ended = [text for text, mask in zip(texts, batch["completion"], strict=True) if not mask[-1]]
    assert len(ended) > 0.4 * len(texts)
    assert sum(text.rstrip().endswith((".", '"', "!", "?")) for text in ended if text) > 0.95 * len(
        [t for t in ended if t]
    )


def test_the_whole_quickstart(tmp_path):
    command = [sys.executable, "examples/quickstart.py", "--steps", "2", "--output", str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "largest difference of the logits over 11 preferences: 0" in run.stdout
    assert "Warning" not in run.stderr
    assert (tmp_path / "front.png").stat().st_size > 10_000
    report = json.loads((tmp_path / "front.json").read_text())
    assert len(report["mean"]) == 11
    assert report["seed"] == 0
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["objectives"] == ["cheerful", "brief"]
    assert not Path(config["base_model_name_or_path"]).is_absolute()
