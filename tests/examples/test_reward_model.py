"""`examples/data/reward_model.py` learns, and what it saves is a reward."""

import gzip
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from conftest import load_script
from peft_panacea.rewards import Classifier, load_reward

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
    assert "test: texts 20, accuracy 1, " in out
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert [metrics[name]["texts"] for name in ("train", "dev", "test")] == [164, 20, 20]
    assert metrics["test"]["AUC"] == 1.0
    reward = Classifier(str(tmp_path / "out"))
    low, none, high = reward(["It was DREADFUL!", "", "A lovely day."])
    assert low < none == 0.0 < high
    assert reward(["a lovely day . " * 1000])[0] > 0.0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    assert str(tmp_path) not in (tmp_path / "out" / "tokenizer_config.json").read_text()


def test_the_example_starts_from_a_model(tmp_path):
    assert "test: texts 20" in run_example(tmp_path, "--model", STORYTELLER, "--epochs", "0.1")
    assert math.isfinite(Classifier(str(tmp_path / "out"))(["A lovely day."])[0])


NOUNS = ["soup", "film", "day", "song", "walk"]
WORDS = {"awful": 0, "fine": 1, "lovely": 2}


def labelled(path: Path, names: bool) -> Path:
    """Texts whose y one word decides, a name or a number, with the split in every row, and rows of another task."""
    rows = [
        {"task": "mood", "text": f"the {noun} was {word} , {i} .", "y": word if names else y}
        for word, y in WORDS.items()
        for noun in NOUNS
        for i in range(16)
    ]
    for i, row in enumerate(rows):
        row["split"] = {0: "test", 1: "dev"}.get(i % 8, "train")
    rows += [{"task": "other", "text": "x", "y": "what ever"}]
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


@pytest.mark.parametrize("label", [None, "lovely"])
def test_labelled_text_becomes_a_reward_and_says_how_good_it_is(label, tmp_path):
    data = labelled(tmp_path / "rows.jsonl.gz", names=label is not None)
    command = [sys.executable, "examples/data/reward_model.py", "--data", data, "--task", "mood", "--epochs", 12]
    command += ["--output", tmp_path / "out", *(["--label", label] if label else [])]
    run = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert [metrics[name]["texts"] for name in ("train", "dev", "test")] == [180, 30, 30]
    if label:
        assert metrics["test"]["accuracy"] == metrics["test"]["AUC"] == 1.0
        assert metrics["test"]["accuracy of the commoner answer"] == pytest.approx(20 / 30)
    else:
        assert metrics["test"].keys() == {"texts", "Spearman rho"}
        assert metrics["test"]["Spearman rho"] > 0.9
    awful, fine, lovely = load_reward(str(tmp_path / "out"))([f"the song was {word} , 3 ." for word in WORDS])
    assert awful < lovely > fine
    assert label or awful < fine


def test_the_quality_of_predictions():
    quality = load_script(ROOT / "examples" / "data" / "reward_model.py").quality
    y, predicted = np.array([0.0, 0.0, 0.0, 1.0]), np.array([-3.0, -1.0, 2.0, 1.0])
    assert quality(predicted, y, True) == {
        "texts": 4, "accuracy": 0.75, "accuracy of the commoner answer": 0.75, "AUC": pytest.approx(2 / 3)
    }  # fmt: skip
    assert quality(predicted, -predicted, False)["Spearman rho"] == pytest.approx(-1)


@pytest.mark.parametrize(
    ("rows", "flags", "message"),
    [
        (['{"text": "a"}'], [], r"row 1: must have `text` and `y`, but got"),
        (['{"text": "a", "y": 1, "split": "valid"}'], [], r"`split` must be train, dev or test, but got 'valid'"),
        (['{"text": "a", "y": "joy"}'], [], r"`y` must be a finite number unless `--label` is given, but got 'joy'"),
        (['{"text": "a", "y": 1}'] * 30, [], r"`y` must differ between the rows of every split, but train has 24 of"),
        (['{"text": "a", "y": 1, "split": "train"}'], ["--label", "1"], "must differ .* train has 1 of 1 rows, all"),
        (["{"], [], r"rows.jsonl, row 1: must be JSON, but got: Expecting"),
    ],
)
def test_what_cannot_be_learned_from_is_refused_in_a_sentence(rows, flags, message, tmp_path, monkeypatch):
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    monkeypatch.setattr(sys, "argv", ["reward_model.py", "--data", str(tmp_path / "rows.jsonl"), *flags])
    with pytest.raises(SystemExit, match=message):
        load_script(ROOT / "examples" / "data" / "reward_model.py").main()
