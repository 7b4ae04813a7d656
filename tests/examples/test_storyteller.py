"""The embedded model's corpus is what its rewards need, and its training script runs."""

import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from conftest import load_script

STORYTELLER = Path(__file__).resolve().parents[2] / "examples" / "storyteller"


@pytest.fixture(scope="module")
def grammar():
    return load_script(STORYTELLER / "grammar.py")


def test_a_seed_gives_a_story(grammar):
    assert grammar.story(random.Random(3)) == grammar.story(random.Random(3))
    assert grammar.story(random.Random(3)) != grammar.story(random.Random(4))


def test_moods_are_disjoint_and_openings_have_none(grammar):
    assert not grammar.CHEERFUL & grammar.GLOOMY
    rng = random.Random(0)
    for _ in range(500):
        assert not set(re.findall(r"[a-z]+", grammar.prompt(rng).lower())) & (grammar.CHEERFUL | grammar.GLOOMY)


def test_mood_length_and_dialogue_vary_independently(grammar):
    rng = random.Random(0)
    mood, length, dialogue = [], [], []
    for _ in range(2000):
        story = grammar.story(rng)
        words = re.findall(r"[a-z]+", story.lower())
        moody = [w in grammar.CHEERFUL for w in words if w in grammar.CHEERFUL | grammar.GLOOMY]
        if moody:
            mood.append(np.mean(moody))
            length.append(len(words))
            dialogue.append(sum(map(len, re.findall(r'"[^"]*"', story))) / len(story))
    correlation = np.corrcoef([mood, length, dialogue])
    assert abs(correlation[0, 1]) < 0.1
    assert abs(correlation[0, 2]) < 0.1
    assert abs(correlation[1, 2]) < 0.35  # spoken sentences are somewhat longer
    assert min(map(np.std, (mood, dialogue))) > 0.15
    assert np.std(length) > 15


def test_the_training_script_runs(tmp_path):
    command = [
        sys.executable,
        STORYTELLER / "train.py",
        "--steps",
        "2",
        "--rows",
        "4",
        "--hidden",
        "16",
        "--heads",
        "2",
    ]
    run = subprocess.run([*command, "--output", tmp_path], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "held-out loss per token" in run.stdout
    assert (tmp_path / "model.safetensors").exists()
    assert (tmp_path / "tokenizer.json").exists()


def test_the_committed_model_is_small_enough_to_commit():
    assert sum(path.stat().st_size for path in STORYTELLER.rglob("*") if path.is_file()) < 2 * 1024**2
