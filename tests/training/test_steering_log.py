"""What the log says of steering by rewards: against known slopes, and against a run's own rewards."""

import math

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoTokenizer
from trl import GRPOConfig

from peft_panacea import PanaceaConfig
from peft_panacea.simplex import PreferenceSampler
from peft_panacea.training import PreferenceArguments
from peft_panacea.training.steering_log import WINDOW, SteeringLog, is_steered, objectives_in, of_losses
from small_trainers import BATCH, GRPO, PROMPTS, RLOO, ROW, STORYTELLER, trained


def names(m: int) -> list[str]:
    return [f"reward {i}" for i in range(m)]


def logged(preferences: Tensor, rewards: Tensor) -> dict[str, float]:
    log = SteeringLog(names(preferences.shape[1]))
    for step in range(0, len(rewards), 8):
        log.add(preferences[step : step + 8], rewards[step : step + 8])
    return log.numbers()


def by_hand(weights: list[float], rewards: list[float]) -> tuple[float, float, float]:
    """Mean at low weight, at high weight, and the standard error of their difference; no two weights are equal."""
    pairs = [pair for pair in zip(weights, rewards, strict=True) if not math.isnan(pair[1])][-WINDOW:]
    pairs.sort()
    third = len(pairs) // 3
    low, high = (
        torch.tensor([reward for _, reward in end], dtype=torch.float64) for end in (pairs[:third], pairs[-third:])
    )
    return low.mean().item(), high.mean().item(), (low.var() / third + high.var() / third).sqrt().item()


@pytest.mark.parametrize("m", [2, 3, 10])
def test_a_known_slope_is_found_in_the_latest_preferences(m):
    preferences = PreferenceSampler(m)(80, step=1)
    slopes = torch.tensor([1.0, -2.0]).repeat(m)[:m]
    rewards = slopes * preferences + 0.01 * torch.randn(80, m) + 5
    numbers = logged(preferences, rewards)
    for i, name in enumerate(names(m)):
        low, high, error = by_hand(preferences[:, i].tolist(), rewards[:, i].tolist())
        found = [numbers[f"steering/{name}/{what}"] for what in ("low", "high", "gap", "error")]
        assert found == pytest.approx([low, high, high - low, error])
        assert is_steered(numbers, name) == (slopes[i] > 0)
    assert numbers["steering/steered"] == pytest.approx((slopes > 0).float().mean().item())


def test_what_was_before_the_latest_is_forgotten():
    preferences = PreferenceSampler(2)(2 * WINDOW)
    rewards = torch.cat([100 * preferences[:WINDOW], -preferences[WINDOW:]])
    assert logged(preferences, rewards) == logged(preferences[WINDOW:], rewards[WINDOW:])


def test_noise_alone_is_seldom_called_steering():
    found = []
    for seed in range(400):
        generator = torch.Generator().manual_seed(seed)
        preferences = PreferenceSampler(2, seed=seed)(WINDOW)
        found.append(is_steered(logged(preferences, torch.randn(WINDOW, 2, generator=generator)), "reward 0"))
    assert 0.005 < sum(found) / 400 < 0.05


@pytest.mark.parametrize("m", [2, 10])
def test_vertices_are_one_against_none(m):
    preferences = PreferenceSampler(m, vertex_probability=1.0)(WINDOW, step=2)
    numbers = logged(preferences, 3 * preferences + 1)
    for i, name in enumerate(names(m)):
        if preferences[:, i].sum() < 6:
            assert f"steering/{name}/gap" not in numbers
        else:
            assert [numbers[f"steering/{name}/{what}"] for what in ("low", "high", "gap")] == [1.0, 4.0, 3.0]
    assert numbers["steering/steered"] == 1


def test_some_vertices_among_ten_objectives():
    """Nearly half of the weights are 0: all of them are low."""
    preferences = PreferenceSampler(10, vertex_probability=0.5)(WINDOW, step=3)
    numbers = logged(preferences, preferences)
    assert len(objectives_in(numbers)) == 10
    for name, weights in zip(names(10), preferences.T, strict=True):
        assert (weights == 0).sum() > WINDOW / 3
        assert numbers[f"steering/{name}/low"] == 0
        highest = weights.sort().values[-WINDOW // 3 :].mean().item()
        assert numbers[f"steering/{name}/high"] == pytest.approx(highest, rel=1e-6)


def test_missing_rewards_are_left_out():
    preferences = PreferenceSampler(2)(40)
    rewards = preferences + 0.1 * torch.randn(40, 2)
    rewards[::3, 0] = math.nan
    rewards[5:, 1] = math.nan
    numbers = logged(preferences, rewards)
    low, high, error = by_hand(preferences[:, 0].tolist(), rewards[:, 0].tolist())
    assert numbers["steering/reward 0/gap"] == pytest.approx(high - low)
    assert numbers["steering/reward 0/error"] == pytest.approx(error)
    assert objectives_in(numbers) == ["reward 0"]


@pytest.mark.parametrize(
    "preferences",
    [torch.empty(0, 2), PreferenceSampler(2)(17), torch.tensor([[0.3, 0.7]]).repeat(48, 1), torch.ones(48, 1)],
    ids=["none", "few", "equal", "one objective"],
)
def test_where_there_is_nothing_to_say_nothing_is_said(preferences):
    assert logged(preferences, torch.randn(preferences.shape)) == {}


def test_losses_steer_where_they_fall_noticeably():
    numbers = of_losses(low={"a": 2.0, "b/c": 2.0, "d": 1.0}, high={"a": 1.5, "b/c": 1.99, "d": 1.2})
    assert numbers["steering/a/gap"] == 0.5
    assert objectives_in(numbers) == ["a", "b/c", "d"]
    assert [is_steered(numbers, name) for name in objectives_in(numbers)] == [True, False, False]
    assert numbers["steering/steered"] == pytest.approx(1 / 3)
    assert of_losses({}, {}) == {}


# Within a trainer


class Remembering:
    """Remembers preferences and rewards of all completions, in their order."""

    def __init__(self, *args, **kwargs):
        self.seen = []
        super().__init__(*args, **kwargs)

    def _calculate_rewards(self, *args, **kwargs):
        found = super()._calculate_rewards(*args, **kwargs)
        if self.model.training:
            self.seen.append((self._preferences, found[:, :2]))
        return found


def half_missing(completions, **_):
    return [None if i % 8 < 2 else float(len(c)) for i, c in enumerate(completions)]


def few_e(completions, **_):
    return [-float(c.count("e")) for c in completions]


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("preferences", [ROW, BATCH], ids=["row", "batch"])
@pytest.mark.parametrize("kind", [GRPO, RLOO])
def test_a_trainer_logs_its_own_rewards_by_objective(kind, preferences, tmp_path):
    """Four completions of a prompt, of which the first reward has two or four."""
    steps = 18 if preferences is BATCH else 5
    trainer = trained(
        type(f"Remembering{kind.__name__}", (Remembering, kind), {}), tmp_path, preferences, max_steps=steps,
        reward_funcs=(half_missing, few_e), per_device_train_batch_size=16, eval_strategy="steps", eval_steps=3,
        eval_data={"prompt": ["One day"] * 8}, per_device_eval_batch_size=8,
    )  # fmt: skip
    together = 4 if preferences is ROW else 16
    drawn = torch.cat([rows[::together] for rows, _ in trainer.seen])
    rewards = torch.cat([found.view(-1, together, 2).nanmean(dim=1) for _, found in trainer.seen])
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(entries) == steps
    assert "steering/sunny/gap" not in entries[0]
    assert not any("steering" in key for entry in trainer.state.log_history if "loss" not in entry for key in entry)
    for i, name in enumerate(["sunny", "rainy"]):
        low, high, error = by_hand(drawn[:, i].tolist(), rewards[:, i].tolist())
        found = [entries[-1][f"steering/{name}/{what}"] for what in ("low", "high", "gap", "error")]
        assert found == pytest.approx([low, high, high - low, error], rel=1e-5)
    assert 0 <= entries[-1]["steering/steered"] <= 1
    assert {"completions/mean_length", "completions/clipped_ratio"} <= entries[-1].keys()
    assert ("kl" in entries[-1]) == (kind is RLOO)


def letter(character):
    return lambda completions, **_: [float(c.count(character)) for c in completions]


@pytest.mark.filterwarnings("default")
def test_ten_objectives_with_vertices_are_logged_by_name(tmp_path):
    objectives = [f"letter {c}" for c in "abcdefghij"]
    trainer = GRPO(
        model=STORYTELLER,
        args=GRPOConfig(
            str(tmp_path), max_steps=3, per_device_train_batch_size=32, num_generations=2, max_completion_length=4,
            logging_steps=1, report_to=[], use_cpu=True, bf16=False, save_strategy="no", disable_tqdm=True,
        ),
        reward_funcs=[letter(name[-1]) for name in objectives],
        train_dataset=Dataset.from_dict({"prompt": PROMPTS}),
        processing_class=AutoTokenizer.from_pretrained(STORYTELLER),
        peft_config=PanaceaConfig(objectives=objectives, task_type="CAUSAL_LM"),
        preference_args=PreferenceArguments(vertex_probability=0.5),
    )  # fmt: skip
    trainer.train()
    assert objectives_in(trainer.state.log_history[2]) == objectives
