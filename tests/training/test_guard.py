"""The guard: when it speaks, what it says, and where it takes the beginning from."""

import json
import logging
from types import SimpleNamespace

import pytest
from transformers import TrainerControl, TrainerState

from peft_panacea.training import DegenerationGuard
from small_trainers import GRPO, RLOO, adapter, make

ARGS = SimpleNamespace(beta=0.0, learning_rate=0.003, max_completion_length=36)
HEALTHY = {"entropy": 2.5, "base_log_perplexity": 2.6, "completions/clipped_ratio": 0.2}


class Run:
    """Steps of a training, without a trainer."""

    def __init__(self, guard: DegenerationGuard, main: bool = True) -> None:
        self.guard, self.control = guard, TrainerControl()
        self.state = TrainerState(stateful_callbacks=[guard], is_world_process_zero=main)
        guard.on_train_begin(ARGS, self.state, self.control)

    def step(self, *seen: dict[str, float]) -> bool:
        """Whether training is to stop after a step with these numbers."""
        self.state.global_step += 1
        for numbers in seen:
            self.guard.see(numbers)
        self.guard.on_step_end(ARGS, self.state, self.control)
        return self.control.should_training_stop


def test_it_says_what_rose_from_where_by_which_step_and_what_to_change(caplog):
    run = Run(DegenerationGuard())
    assert not run.step(HEALTHY)
    assert not run.step({"entropy": 3.49, "base_log_perplexity": 4.09, "completions/clipped_ratio": 0.69})
    assert not caplog.records
    assert run.step({**HEALTHY, "entropy": 4.1})
    assert run.control.should_log
    assert [record.getMessage() for record in caplog.records] == [
        "The completions degenerate: `entropy` went from 2.50 to 4.10 (at most 1.0 more is allowed) by step 3. "
        "Training stops; the adapter stays as it is. What to change: raise `beta` (now 0.0), which holds the model "
        "near the base model; lower `learning_rate` (now 0.003); take fewer steps; read what the rewards pay for, "
        "since words that are no words may please a count."
    ]


@pytest.mark.parametrize(("name", "limit"), [("entropy", 3.5), ("base_log_perplexity", 4.1)])
def test_each_number_has_its_limit(name, limit, caplog):
    for number, spoken in ((limit - 0.01, False), (limit + 0.01, True)):
        run = Run(DegenerationGuard())
        run.step(HEALTHY)
        assert run.step({**HEALTHY, name: number}) == spoken
    assert f"`{name}` went from" in caplog.text
    assert "max_completion_length" not in caplog.text


def test_answers_that_are_cut_off_may_need_more_tokens(caplog):
    run = Run(DegenerationGuard())
    run.step(HEALTHY)
    assert run.step({"completions/clipped_ratio": 0.71})
    assert "`completions/clipped_ratio` went from 0.20 to 0.71 (at most 0.5 more is allowed) by step 2" in caplog.text
    assert "raise `max_completion_length` (now 36) if answers are meant to be that long." in caplog.text


def test_a_warning_comes_once_for_each_number_and_training_goes_on(caplog):
    run = Run(DegenerationGuard("warn"))
    run.step(HEALTHY)
    for entropy, perplexity in ((4.0, 2.6), (4.2, 2.6), (4.2, 5.0), (2.5, 2.6), (4.2, 5.0)):
        assert not run.step({"entropy": entropy, "base_log_perplexity": perplexity})
    assert [("`entropy`" in r.getMessage(), "`base_log" in r.getMessage()) for r in caplog.records] == [
        (True, False),
        (False, True),
    ]
    assert all("Training goes on." in record.getMessage() for record in caplog.records)


def test_numbers_of_one_step_are_averaged_and_a_step_may_have_none():
    run = Run(DegenerationGuard())
    assert not run.step({"entropy": 2.0}, {"entropy": 3.0})
    assert run.guard.beginning == {"entropy": 2.5}
    assert not run.step()
    assert not run.step({"entropy": 1.0}, {"entropy": 5.9})
    assert run.step({"entropy": 1.1}, {"entropy": 6.0})


@pytest.mark.parametrize("numbers", [dict.fromkeys(HEALTHY, 0.0), dict.fromkeys(HEALTHY, float("nan"))])
def test_a_fall_and_what_is_not_known_are_not_degenerate(numbers):
    run = Run(DegenerationGuard())
    run.step(HEALTHY)
    assert not run.step(numbers)


def test_every_process_stops_and_the_main_one_speaks(caplog):
    run = Run(DegenerationGuard(), main=False)
    run.step(HEALTHY)
    assert run.step({"entropy": 9.0})
    assert not caplog.records


def test_another_training_begins_anew():
    guard = DegenerationGuard()
    first = Run(guard)
    first.step(HEALTHY)
    first.step({"entropy": 9.0})
    again = Run(guard)
    assert guard.beginning == {}
    assert not again.step({"entropy": 9.0})
    assert again.step({"entropy": 10.1})


def test_an_action_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match=r"`action` must be one of \['stop', 'warn'\], but got 'raise'"):
        DegenerationGuard("raise")


# Within a trainer


def rare(completion_ids, **_):
    """Pays for tokens late in the vocabulary, which are rare."""
    return [sum(ids) / len(ids) for ids in completion_ids]


def various(completion_ids, **_):
    return [float(len(set(ids))) for ids in completion_ids]


def guarded(kind, folder, guard, **options):
    """Nothing is logged by itself, and every generation serves one step."""
    options = {"max_steps": 10, "logging_steps": 100, "per_device_train_batch_size": 16, "beta": 0.0, **options}
    trainer = make(kind, folder, random_adapter=False, reward_funcs=(rare, various), **options)
    if guard is not None:
        trainer.add_callback(guard)
    return trainer


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("kind", [GRPO, RLOO])
def test_a_run_that_is_driven_to_gibberish_is_stopped(kind, tmp_path, caplog):
    guard = DegenerationGuard()
    trainer = guarded(kind, tmp_path, guard, learning_rate=3e-2)
    trainer.train()
    step = trainer.state.global_step
    assert 1 < step < 10
    (message,) = [r.getMessage() for r in caplog.records if r.name == "peft_panacea.training.guard"]
    assert "`base_log_perplexity` went from 1.0" in message
    assert f"by step {step}. Training stops" in message
    assert "raise `beta` (now 0.0)" in message
    (entry,) = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert entry["step"] == step
    assert any(parameter.abs().max() > 0 for name, parameter in adapter(trainer).items() if name.endswith("scale"))
    trainer.save_model()
    assert (tmp_path / "adapter_model.safetensors").exists()


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("kind", [GRPO, RLOO])
def test_a_healthy_run_hears_nothing(kind, tmp_path, caplog):
    trainer = guarded(kind, tmp_path, DegenerationGuard(), learning_rate=1e-3)
    trainer.train()
    assert trainer.state.global_step == 10
    assert not [record for record in caplog.records if record.name == "peft_panacea.training.guard"]


@pytest.mark.filterwarnings("default")
def test_a_run_that_goes_on_remembers_the_beginning(tmp_path, caplog):
    """It was warned and went on; what it goes on from is gibberish."""
    options = {"learning_rate": 3e-2, "max_steps": 6, "save_strategy": "steps", "save_steps": 6}
    before = DegenerationGuard("warn")
    guarded(GRPO, tmp_path, before, **options).train()
    stored = json.loads((tmp_path / "checkpoint-6" / "trainer_state.json").read_text())["stateful_callbacks"]
    assert stored["DegenerationGuard"]["attributes"]["beginning"] == before.beginning
    caplog.clear()
    guard = DegenerationGuard()
    resumed = guarded(GRPO, tmp_path, guard, **{**options, "max_steps": 10})
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert guard.beginning == before.beginning
    assert resumed.state.global_step == 7
    assert "by step 7. Training stops" in caplog.text


@pytest.mark.filterwarnings("default")
def test_a_run_that_goes_on_from_a_checkpoint_without_a_guard_says_so(tmp_path, caplog):
    """Transformers writes the state of a callback only where the checkpoint before had a place for it."""
    options = {"learning_rate": 1e-3, "save_strategy": "steps", "save_steps": 2}
    guarded(GRPO, tmp_path, None, max_steps=2, **options).train()
    resumed = guarded(GRPO, tmp_path, DegenerationGuard(), max_steps=4, **options)
    with caplog.at_level(logging.WARNING, "peft_panacea"):
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert "The checkpoint was trained without a guard; completions are compared with those of step 3." in caplog.text
    stored = json.loads((tmp_path / "checkpoint-4" / "trainer_state.json").read_text())["stateful_callbacks"]
    assert stored["DegenerationGuard"]["attributes"]["beginning"].keys() == HEALTHY.keys()
