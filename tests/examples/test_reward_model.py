"""`examples/data/reward_model.py` learns, and what it saves is a reward."""

import json
import math
import subprocess
import sys
from pathlib import Path

from peft_panacea.rewards import Classifier

ROOT = Path(__file__).resolve().parents[2]
STORYTELLER = str(ROOT / "examples" / "storyteller" / "model")


def run_example(tmp_path: Path, *arguments: str) -> str:
    """Train on made-up sentences that one word decides."""
    for name, word in (("positive", "lovely"), ("negative", "dreadful")):
        lines = [f"the {noun} was {word} , café {i % 7} ." for i, noun in enumerate(["soup", "film", "day"] * 34)]
        (tmp_path / name).write_text("\n".join([*lines, ""]), encoding="latin-1")
    command = [
        sys.executable,
        "examples/data/reward_model.py",
        "--encoding",
        "latin-1",
        "--output",
        str(tmp_path / "out"),
    ]
    for name in ("positive", "negative"):
        command += [f"--{name}", str(tmp_path / name)]
    run = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "Warning" not in run.stderr
    return run.stdout


def test_the_example_learns_and_its_model_is_a_reward(tmp_path):
    out = run_example(tmp_path, "--epochs", "12")
    assert "184 sentences to train on; accuracy on 20 held out: 1.000" in out
    reward = Classifier(str(tmp_path / "out"))
    low, none, high = reward(["It was DREADFUL!", "", "A lovely day."])
    assert low < none == 0.0 < high
    assert reward(["a lovely day . " * 1000])[0] > 0.0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    assert str(tmp_path) not in (tmp_path / "out" / "tokenizer_config.json").read_text()


def test_the_example_starts_from_a_model(tmp_path):
    assert "held out" in run_example(tmp_path, "--model", STORYTELLER, "--epochs", "0.1")
    assert math.isfinite(Classifier(str(tmp_path / "out"))(["A lovely day."])[0])
