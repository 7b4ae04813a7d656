"""The line that a person reads: what it says, where it is printed, and what is no longer printed beside it."""

from types import SimpleNamespace

import pytest
from tqdm.auto import tqdm
from transformers import PrinterCallback, ProgressCallback

from peft_panacea.training import SteeringLine, print_lines_only
from peft_panacea.training.line import describe
from peft_panacea.training.steering_log import of_losses
from small_trainers import DATA, GRPO, SFT, make, parent


def of_reward(name: str, low: float, high: float, error: float) -> dict[str, float]:
    numbers = {"low": low, "high": high, "gap": high - low, "error": error}
    return {f"steering/{name}/{what}": number for what, number in numbers.items()}


HELPFUL, BRIEF = of_reward("helpful", 0.12, 0.55, 0.1), of_reward("brief", -15.21, -6.84, 1.0)
COMPLETIONS = {"completions/mean_length": 36.4, "completions/clipped_ratio": 0.19}


@pytest.mark.parametrize(
    ("logs", "line"),
    [
        (
            {**HELPFUL, **BRIEF, "kl": 3.1, **COMPLETIONS},
            "helpful 0.12 → 0.55  brief -15.2 → -6.84  (reward, low → high own weight)  KL 3.100  36 tokens  "
            "ended 81 %  steers",
        ),
        (
            {**of_reward("helpful", 0.12, 0.55, 0.3), **BRIEF, "kl": None},
            "helpful 0.12 → 0.55  brief -15.2 → -6.84  (reward, low → high own weight)  steers, not yet in helpful",
        ),
        (
            of_reward("a", 1.0, 0.5, 0.01),
            "a 1 → 0.5  (reward, low → high own weight)  does not steer yet",
        ),
        (COMPLETIONS, "36 tokens  ended 81 %  too early to say whether it steers"),
        (
            of_losses({"sunny": 2.31}, {"sunny": 1.92}),
            "sunny 2.31 → 1.92  (loss, low → high own weight)  steers",
        ),
        ({"loss": 1.0, "epoch": 2.0}, ""),
        ({f"eval_{key}": value for key, value in {**BRIEF, **COMPLETIONS}.items()}, ""),
    ],
    ids=["all", "some", "none", "early", "losses", "nothing", "evaluation"],
)
def test_a_log_is_one_line(logs, line):
    assert describe(logs) == line


@pytest.mark.parametrize("main", [True, False])
def test_the_main_process_prints_past_the_progress_bar(main, monkeypatch):
    written = []
    monkeypatch.setattr(tqdm, "write", written.append)
    state = SimpleNamespace(global_step=16, is_world_process_zero=main)
    for logs in ({**COMPLETIONS}, {"loss": 1.0}):
        SteeringLine().on_log(None, state, None, logs=logs)
    assert written == ["step 16  36 tokens  ended 81 %  too early to say whether it steers"] * main


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("bar", [False, True], ids=["", "bar"])
@pytest.mark.parametrize(("kind", "says"), [(GRPO, " tokens  ended "), (SFT, "(loss, low → high own weight)")])
def test_a_trainer_prints_a_line_beside_its_numbers_or_in_their_place(kind, says, bar, tmp_path, capsys):
    options = {"eval_data": DATA[parent(kind)], "disable_tqdm": not bar, "max_steps": 2}
    for only in (False, True):
        trainer = make(kind, tmp_path, **options)
        if only:
            print_lines_only(trainer)
        capsys.readouterr()
        trainer.train()
        printed = capsys.readouterr()
        lines = printed.out.splitlines()
        steps = [line for line in lines if line.startswith("step ")]
        assert [line.split()[1] for line in steps] == ["1", "2"]
        assert all(says in line for line in steps)
        assert any(line.startswith("{") for line in lines) == (not only)
        assert ("2/2" in printed.err) == bar
        assert sum("loss" in entry for entry in trainer.state.log_history) == 2
        kinds = [type(callback) for callback in trainer.callback_handler.callbacks]
        assert kinds.count(SteeringLine) == 1
        assert (ProgressCallback if bar else PrinterCallback) in kinds
