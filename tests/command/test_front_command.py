"""`peft-panacea front` measures an adapter, and `choose` answers questions about what was measured."""

import json
import shutil
from hashlib import sha256
from pathlib import Path

import pytest

from peft_panacea.card import PICTURE
from peft_panacea.command import main
from peft_panacea.front import Front, describe_choice

ROOT = Path(__file__).resolve().parents[2]
STORYTELLER = ROOT / "examples" / "storyteller"
REWARDS = ("brief=brevity=8", "cheerful=examples/storyteller/styles.py:cheerful")


@pytest.fixture
def measure(monkeypatch, tmp_path):
    """Run the command on the committed adapter, three prompts and two preferences."""
    monkeypatch.chdir(ROOT)
    prompts = json.loads((STORYTELLER / "prompts.json").read_text())[:3]
    (tmp_path / "prompts.json").write_text(json.dumps(prompts))
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in prompts))

    def run(*words: object, adapter: object = STORYTELLER / "adapter", rewards: tuple[str, ...] = REWARDS) -> int:
        few = ["--prompts", tmp_path / "prompts.json", "--steps", 1, "--samples", 2, "--max_new_tokens", 24]
        return main(list(map(str, ["front", adapter, *few, *words, "--rewards", *rewards])))

    return run


def test_the_front_of_an_adapter(measure, tmp_path, capsys):
    assert measure("--output", tmp_path) == 0
    front = Front.from_json(tmp_path / "front.json")
    assert (list(front.objectives), front.scores.shape) == (["cheerful", "brief"], (2, 3, 2))
    assert front.details["command"].startswith("peft-panacea front ")
    assert (tmp_path / PICTURE).stat().st_size > 10_000
    captured = capsys.readouterr()
    assert f"{front.values[1, 0]:.3f} [" in captured.out
    assert "measuring" in captured.err
    assert not (tmp_path / "README.md").exists()

    # The same command again measures nothing, and answers another question.
    record = (tmp_path / "completions.jsonl").read_bytes()
    words = ["--prompts", tmp_path / "prompts.jsonl", "--compare", tmp_path / "front.json", "--output", tmp_path]
    assert measure(*words) == 0
    assert (tmp_path / "completions.jsonl").read_bytes() == record
    captured = capsys.readouterr()
    assert "+0.000 [+0.000, +0.000]" in captured.out
    assert "measuring" not in captured.err
    assert measure(*words, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["front"] == str(tmp_path / "front.json")
    assert found["metrics"]["hypervolume"] == pytest.approx(front.metrics()["hypervolume"])
    assert found["comparison"]["hypervolume"]["difference"] == 0


def test_an_adapter_in_a_folder_keeps_its_front_and_shows_it(measure, tmp_path):
    """On a card with what its owner has written."""
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(STORYTELLER / "adapter" / name, adapter)
    (adapter / "README.md").write_text("# Mine\n\n## Objectives\n\ncheerful: smiles\n")
    assert measure(adapter=adapter) == 0
    card = (adapter / "README.md").read_text()
    assert {"front.json", PICTURE, "completions.jsonl"} <= {path.name for path in adapter.iterdir()}
    assert f"]({PICTURE})" in card
    assert f"{Front.from_json(adapter / 'front.json').values[1, 0]:.3f} [" in card
    assert "cheerful: smiles" in card


def test_a_choice(tmp_path, capsys):
    adapter = STORYTELLER / "adapter"
    expected = Front.from_json(adapter / "front.json").choose("cheerful", {"brief": -20})
    for path in (adapter, adapter / "front.json"):
        assert main(["choose", str(path), "--objective", "cheerful", "--subject_to", "brief=-20"]) == 0
        assert capsys.readouterr().out == f"{describe_choice(expected)}\n"
    assert main(["choose", str(adapter), "--objective", "cheerful", "--subject_to", "brief=-20", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["preference"] == expected.preference
    assert found["expected"] == pytest.approx(expected.expected)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--objective", "cheer"], "must name ['cheerful', 'brief'], but got ['cheer']"),
        (["--objective", "brief", "--subject_to", "long=1"], "must name ['cheerful', 'brief'], but got ['long']"),
        (
            ["--objective", "brief", "--subject_to", "brief=much"],
            "must be OBJECTIVE=NUMBER for each, but got brief",
        ),
        (["--objective", "brief", "--subject_to", "brief=1", "brief=2"], "must name each objective once"),
        (["--objective", "cheerful", "--subject_to", "brief=1"], "`subject_to` must be attainable"),
        (["--objective", "cheerful", "--level", "2"], "`level` must be between 0 and 1, but got 2"),
    ],
)
def test_a_choice_that_cannot_be_made(words, sentence, capsys):
    assert main(["choose", str(STORYTELLER / "adapter"), *words]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert sentence in said


def test_what_is_no_front_is_refused_before_anything_is_measured(measure, tmp_path, capsys):
    for name, content in (("front", None), ("report", '{"objectives": ["a"], "measured": [[1]]}')):
        path = tmp_path / f"other {name}.json"
        if content is not None:
            path.write_text(content)
        assert measure("--compare", path, "--output", tmp_path / "out") == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert "No such file" in said or "must be a front that `Front.to_json` wrote" in said
        assert main(["choose", str(path), "--objective", "a"]) == 2
        assert capsys.readouterr().err.splitlines()[-1] == said
        assert not (tmp_path / "out").exists()


def test_the_committed_front_is_of_held_out_prompts():
    """Which `peft-panacea front` is shown with."""
    prompts = json.loads((STORYTELLER / "held_out.json").read_text())
    assert len(set(prompts)) == 64
    digest = sha256(json.dumps(prompts, sort_keys=True).encode()).hexdigest()[:16]
    assert digest == Front.from_json(STORYTELLER / "adapter" / "front.json").details["prompts"]
