"""What must not change what is learned: checkpointing, accumulation, processes, being killed and resumed."""

import multiprocessing
import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import torch

import small_trainers as worker
from peft_panacea.training import PreferenceArguments
from peft_panacea.training.steering_log import SteeringLog
from small_trainers import BATCH, DPO, GRPO, KINDS, PROCESSES, ROW, SFT, Plain, adapter, difference, make, trained

pytestmark = pytest.mark.filterwarnings("default")  # what TRL and the Trainer warn of is not ours

TOLERANCE = 1e-6
SECONDS = 60  # a hang fails
# Not Adam, whose first steps are as long for a gradient of 1e-9 as for 1, nor with clipping, which hides a factor.
SGD = {"optim": "sgd", "learning_rate": 3e-3, "max_grad_norm": 0.0}
TCHEBYCHEFF = PreferenceArguments("batch", aggregation="tchebycheff")
SMOOTH = PreferenceArguments("batch", aggregation="smooth_tchebycheff")

OnEveryProcess = Callable[..., list[Any]]


def learned(folder, kind, **options) -> dict[str, torch.Tensor]:
    """The adapter after training, which must have changed it."""
    trainer = make(kind, folder, **options)
    before = adapter(trainer)
    trainer.train()
    assert trainer.model.get_base_model().is_gradient_checkpointing == trainer.args.gradient_checkpointing
    after = adapter(trainer)
    assert difference(after, before) > 1e-3
    return after


@pytest.mark.parametrize(
    ("kind", "preferences"), [(SFT, ROW), (SFT, BATCH), (DPO, ROW), (DPO, BATCH), (GRPO, ROW), (GRPO, BATCH)]
)
@pytest.mark.mechanics
def test_gradient_checkpointing_changes_nothing(kind, preferences, tmp_path):
    ends = [learned(tmp_path, kind, preferences=preferences, gradient_checkpointing=on, **SGD) for on in (False, True)]
    largest = difference(*ends)
    print(f"checkpointing, {kind.__name__} {preferences.preference_per}, largest difference: {largest:.1e}")
    assert largest <= TOLERANCE


@pytest.mark.mechanics
def test_accumulated_gradients_are_those_of_a_larger_batch(tmp_path):
    """Linear, with one preference for all: rows of several micro-batches are then drawn like those of one."""
    whole = learned(tmp_path, Plain, preferences=BATCH, per_device_train_batch_size=8, **SGD)
    parts = learned(tmp_path, Plain, preferences=BATCH, gradient_accumulation_steps=2, **SGD)
    print(f"accumulated, largest difference: {difference(parts, whole):.1e}")
    assert difference(parts, whole) <= TOLERANCE


@pytest.fixture(scope="module")
def processes() -> Any:
    """Fork from a server that has imported all there is to import; threads would wait for each other's cores."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["trl.trainer.sft_trainer", "trl.trainer.dpo_trainer", "trl.trainer.grpo_trainer", "peft_panacea.training"]
    )
    return context


@pytest.fixture(scope="module")
def on_every_process(processes, tmp_path_factory) -> Iterator[OnEveryProcess]:
    """Call `function(rank, *arguments)` in every process of one group; the results by rank."""
    rendezvous = (tmp_path_factory.mktemp("group") / "rendezvous").as_uri()
    with ExitStack() as pools:  # which end their processes also when these hang
        ranks = [
            pools.enter_context(processes.Pool(1, worker.join_group, (rank, rendezvous))) for rank in range(PROCESSES)
        ]

        def call(function: Callable[..., Any], *arguments: Any) -> list[Any]:
            pending = [pool.apply_async(function, (rank, *arguments)) for rank, pool in enumerate(ranks)]
            return [result.get(timeout=SECONDS) for result in pending]

        yield call


def tensors(arrays: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


@pytest.mark.parametrize(
    ("kind", "preferences", "alone"),
    [
        ("SFT", ROW, {"gradient_accumulation_steps": PROCESSES}),
        ("DPO", ROW, {"gradient_accumulation_steps": PROCESSES}),
        ("plain", BATCH, {"per_device_train_batch_size": 4 * PROCESSES}),
        ("plain", SMOOTH, {"per_device_train_batch_size": 4 * PROCESSES}),
        ("DPO", TCHEBYCHEFF, {"per_device_train_batch_size": 4 * PROCESSES}),
    ],
    ids=["SFT-row", "DPO-row", "linear", "smooth", "DPO-tchebycheff"],
)
@pytest.mark.mechanics
def test_two_processes_train_like_one(on_every_process, kind, preferences, alone, tmp_path):
    """With a preference for each row, the micro-batches of two processes are those that one accumulates.

    With one for all, they are the parts of a batch twice as large; its losses are means over rows, as DPO's are and
    the Trainer's where rows are equally long.
    """
    options = {"preferences": preferences, **SGD}
    ranks = [tensors(end) for end in on_every_process(worker.train_together, kind, tmp_path, options)]
    expected = learned(tmp_path, KINDS[kind], **{**options, **alone})
    largest = max(difference(end, expected) for end in ranks)
    name = f"{kind} {preferences.preference_per} {preferences.aggregation}"
    print(f"two processes, {name}, largest difference: {largest:.1e}")
    assert difference(*ranks) == 0
    assert largest <= TOLERANCE


@pytest.mark.parametrize("preferences", [ROW, BATCH], ids=["row", "batch"])
@pytest.mark.mechanics
def test_two_processes_share_the_preference_of_a_prompt(on_every_process, preferences, tmp_path):
    """Three completions for each process, so that those of the second prompt are spread over both."""
    options = {
        "preferences": preferences, "per_device_train_batch_size": 3, "num_generations": 2, "max_steps": 4,
        "steps_per_generation": 1, "num_iterations": 2,
    }  # fmt: skip
    ranks = on_every_process(worker.generate_together, tmp_path, options)
    largest = difference(*(tensors(rank["adapter"]) for rank in ranks))
    print(f"two processes, GRPO {preferences.preference_per}, between their parameters: {largest:.1e}")
    assert largest == 0
    rollouts = list(zip(*(rank["rollouts"] for rank in ranks), strict=True))
    assert len(rollouts) == 2
    for (prompts_0, rows_0, advantages_0), (prompts_1, rows_1, advantages_1) in rollouts:
        prompts, rows = prompts_0 + prompts_1, rows_0 + rows_1
        assert prompts[::2] == prompts[1::2]
        assert len(set(prompts)) == 3
        assert rows[::2] == rows[1::2]
        assert len(set(map(tuple, rows))) == (3 if preferences is ROW else 1)
        groups = torch.tensor(advantages_0 + advantages_1).view(3, 2)
        torch.testing.assert_close(groups.sum(dim=1), torch.zeros(3), rtol=0, atol=1e-4)
    assert rollouts[0][0][1] != rollouts[1][0][1]


@pytest.mark.parametrize("preferences", [ROW, BATCH], ids=["row", "batch"])
def test_two_processes_log_the_steering_of_all_completions(on_every_process, preferences, tmp_path):
    """As one would by hand, from the completions of both. Three of each, so that one prompt is spread over both."""
    steps, together = (8, 2) if preferences is ROW else (18, 6)
    options = {
        "preferences": preferences, "per_device_train_batch_size": 3, "num_generations": 2, "max_steps": steps,
        "learning_rate": 3e-2,
    }  # fmt: skip
    ranks = on_every_process(worker.steer_together, tmp_path, options)
    by_hand = SteeringLog(worker.OBJECTIVES)
    for (rows_0, lengths_0), (rows_1, lengths_1) in zip(*(rank["seen"] for rank in ranks), strict=True):
        rewards = torch.tensor(lengths_0 + lengths_1).view(-1, together).mean(dim=1)
        by_hand.add(torch.tensor(rows_0 + rows_1)[::together], rewards[:, None].expand(-1, 2))
    expected = {key: value for key, value in by_hand.numbers().items() if "sunny" in key}
    assert expected.keys() == {f"steering/sunny/{what}" for what in ("low", "high", "gap", "error")}
    for rank in ranks:
        assert {key: rank["log"][key] for key in expected} == pytest.approx(expected, rel=1e-5)
    assert ranks[0]["log"]["base_log_perplexity"] == ranks[1]["log"]["base_log_perplexity"]


def test_two_processes_have_the_same_constants_of_the_rewards(on_every_process, tmp_path):
    """Also where only the first one sees the file: then none measures."""
    first, second = on_every_process(worker.normalise_twice, tmp_path)
    assert first == second
    assert first[0] == first[1]
    assert [(tmp_path / str(rank) / "reward_normalisation.json").exists() for rank in (0, 1)] == [True, False]


SAVED = {"save_strategy": "steps", "save_steps": 2, "max_steps": 6}


@pytest.mark.parametrize("kind", ["SFT", "DPO", "GRPO"])
@pytest.mark.mechanics
def test_a_killed_run_ends_where_an_uninterrupted_one_does(processes, kind, tmp_path):
    """GRPO generates for two steps at once, and saves after both."""
    options = SAVED | ({"steps_per_generation": 2, "gradient_accumulation_steps": 1} if kind == "GRPO" else {})
    at = random.Random(f"killed {kind}").randrange(2, 6)
    process = processes.Process(target=worker.killed, args=(kind, tmp_path / "parts", at, options))
    process.start()
    whole = trained(KINDS[kind], tmp_path / "whole", **options)
    process.join(SECONDS)
    assert process.exitcode == -signal.SIGKILL
    resumed = make(KINDS[kind], tmp_path / "parts", random_adapter=False, **options)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == whole.state.global_step == 6
    assert resumed.state.log_history[0]["step"] == 1
    largest = difference(adapter(resumed), adapter(whole))
    print(f"resumed, {kind} killed in step {at}, largest difference: {largest}")
    assert largest == 0
