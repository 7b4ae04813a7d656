"""`examples/front.py` measures an adapter, answers questions about it, and refuses what it cannot compare."""

import hashlib
import json
import runpy
import sys
from pathlib import Path

import pytest

from conftest import load_script
from peft_panacea.front import Front

ROOT = Path(__file__).resolve().parents[2]
STORYTELLER = ROOT / "examples" / "storyteller"
REWARDS = ("brief=brevity=8", "cheerful=examples/storyteller/styles.py:cheerful")


@pytest.fixture
def measure(monkeypatch, tmp_path):
    """Run `examples/front.py` on the committed adapter, three prompts and two preferences."""
    monkeypatch.chdir(ROOT)
    prompts = json.loads((STORYTELLER / "prompts.json").read_text())[:3]
    (tmp_path / "prompts.json").write_text(json.dumps(prompts))
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in prompts))

    def run(*arguments: object, rewards: tuple[str, ...] = REWARDS) -> None:
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
        measure(rewards=REWARDS[1:])


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
    adapter = STORYTELLER / "adapter"
    prompts = json.loads(script.find_prompts(None, str(adapter)).read_text())
    assert len(set(prompts)) == 64
    digest = hashlib.sha256(json.dumps(prompts, sort_keys=True).encode()).hexdigest()[:16]
    assert digest == Front.from_json(adapter / "front.json").details["prompts"]
    with pytest.raises(SystemExit, match=r"`--prompts` must be given for an adapter .*storyteller"):
        script.find_prompts(None, "another/adapter")


def test_the_front_script_is_read_in_one_sitting():
    assert len((ROOT / "examples" / "front.py").read_text().splitlines()) <= 130
