"""The constants of the rewards: measured on the base model, once, and again where they would be wrong."""

import json
import logging

import numpy as np
import pytest
import torch

from peft_panacea.front import evaluate_base
from peft_panacea.front.answers import SteeredModel
from peft_panacea.training import normalisation
from peft_panacea.training.identity import digest
from small_trainers import GRPO, few_a, length, make

pytestmark = pytest.mark.filterwarnings("default")  # what TRL and the Trainer warn of is not ours


def some_prompts(trainer, n: int = 4):
    return trainer.train_dataset.select(range(n))


def constants(folder, **options) -> torch.Tensor:
    trainer = make(GRPO, folder, **options)
    trainer.normalise_rewards(some_prompts(trainer))
    return torch.stack(trainer.reward_normalisation)


def test_constants_are_those_of_the_model_without_its_adapter(tmp_path):
    fresh = constants(tmp_path / "fresh", random_adapter=False)
    assert torch.equal(constants(tmp_path / "random"), fresh)
    trainer = make(GRPO, tmp_path, random_adapter=False)
    scores = evaluate_base(
        trainer.model,
        some_prompts(trainer)["prompt"][:],
        {"sunny": length, "rainy": few_a},
        tokenizer=trainer.processing_class,
        samples=4,  # completions of a prompt in training
        batch_size=8,
        seed=3,
        generation_config=trainer.generation_config,
    )
    each = torch.from_numpy(scores.reshape(-1, 2)).float()
    torch.testing.assert_close(fresh, torch.stack([each.mean(0), each.std(0)]))


def test_only_the_model_without_its_adapter_is_asked_for_constants(tmp_path, monkeypatch):
    asked = []
    answer = SteeredModel.__call__
    monkeypatch.setattr(
        SteeredModel, "__call__", lambda self, prompts, p: asked.append((len(prompts), p)) or answer(self, prompts, p)
    )
    constants(tmp_path)
    assert asked == [(8, None), (8, None)]  # four prompts, four completions of each


def test_constants_are_read_again_with_the_same_rewards_and_prompts(tmp_path, caplog, monkeypatch):
    measured = constants(tmp_path)
    stored = json.loads((tmp_path / "reward_normalisation.json").read_text())
    assert stored.keys() == {"rewards", "prompts", "mean", "std"}
    assert stored["rewards"] == {"sunny": f"length {digest(length)}", "rainy": f"few_a {digest(few_a)}"}
    assert torch.tensor(list(stored["std"].values())).tolist() == measured[1].tolist()
    monkeypatch.setattr(GRPO, "_measured_constants", lambda *_, **__: pytest.fail("measured again"))
    assert torch.equal(constants(tmp_path), measured)
    assert not caplog.records


def counting(letter):
    """Rewards of one name."""

    def few(completions, **_):
        return [-float(c.count(letter)) for c in completions]

    return few


def test_a_reward_that_changed_under_its_name_is_measured_anew(tmp_path, caplog):
    first = constants(tmp_path, reward_funcs=(length, counting("a")))
    with caplog.at_level(logging.WARNING, "peft_panacea"):
        second = constants(tmp_path, reward_funcs=(length, counting("b")))
    assert torch.equal(second[:, 0], first[:, 0])
    assert not torch.equal(second[:, 1], first[:, 1])
    (record,) = caplog.records
    assert record.getMessage().endswith("json is of other rewards; the rewards are measured anew.")


def few_b(completions, **_):
    return [-float(c.count("b")) for c in completions]


def test_another_reward_or_other_prompts_are_measured_anew(tmp_path, caplog):
    first = constants(tmp_path)
    with caplog.at_level(logging.WARNING, "peft_panacea"):
        second = constants(tmp_path, reward_funcs=(length, few_b))
    assert torch.equal(second[:, 0], first[:, 0])
    assert not torch.equal(second[:, 1], first[:, 1])
    trainer = make(GRPO, tmp_path, reward_funcs=(length, few_a))
    with caplog.at_level(logging.WARNING, "peft_panacea"):
        trainer.normalise_rewards(some_prompts(trainer, 5))
    path = tmp_path / "reward_normalisation.json"
    assert [record.getMessage() for record in caplog.records] == [
        f"{path} is of other rewards; the rewards are measured anew.",
        f"{path} is of other rewards and prompts; the rewards are measured anew.",
    ]
    assert json.loads(path.read_text())["rewards"]["rainy"].startswith("few_a ")


def test_a_reward_that_seldom_differs_is_said_to_weigh_much(caplog):
    scores = np.stack([np.arange(16.0), np.arange(16) < 3], axis=1)
    with caplog.at_level(logging.WARNING, "peft_panacea"):
        found = normalisation.constants(scores, ["long", "rare"])
    np.testing.assert_allclose([found["mean"]["rare"], found["std"]["rare"]], [3 / 16, scores[:, 1].std(ddof=1)])
    assert [record.getMessage().partition(". ")[0] for record in caplog.records] == [
        "The reward of 'rare' is the same for 81 % of the model's own completions"
    ]
    caplog.clear()
    normalisation.constants(scores[:12], ["long", "rare"])  # 75 %
    assert not caplog.records


def test_a_reward_that_never_differs_cannot_be_normalised(tmp_path):
    def constant(completions, **_):
        return [1.0] * len(completions)

    trainer = make(GRPO, tmp_path, reward_funcs=(length, constant))
    with pytest.raises(
        ValueError, match=r"Every reward must differ between completions .*, but of \['rainy'\] at least one did not"
    ):
        trainer.normalise_rewards(some_prompts(trainer, 2))
    assert [constant.tolist() for constant in trainer.reward_normalisation] == [[0, 0], [1, 1]]
    assert not list(tmp_path.iterdir())
