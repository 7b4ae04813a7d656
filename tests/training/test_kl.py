"""What β multiplies in TRL's GRPO and RLOO, as docs/training.md says."""

import pytest
import torch
from torch import Tensor

from peft_panacea.completions import log_probabilities
from peft_panacea.completions.batch import Completions
from small_trainers import GRPO, RLOO, make

pytestmark = pytest.mark.filterwarnings("default")  # what TRL and the Trainer warn of is not ours

BETA = 0.3
GROUP = 4


def rollout(kind: type, folder, **options):
    """A trainer, and a generation that is one batch; rewards are in units of about one, as normalised ones are."""
    common = {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 1, "steps_per_generation": 1}
    trainer = make(kind, folder, beta=BETA, **common, **options)
    trainer.reward_normalisation = torch.tensor([15.0, -2.0]), torch.tensor([4.0, 0.5])
    rewards = []
    calculate = trainer._calculate_rewards
    trainer._calculate_rewards = lambda *args: rewards.append(calculate(*args)) or rewards[-1]
    trainer.current_gradient_accumulation_steps = 1  # as in a training loop
    trainer.model.train()
    inputs = trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))
    return trainer, inputs, rewards[0][:, -1]


def likelihoods(trainer, inputs, *, base: bool = False) -> Tensor:
    """Of every token of the completions, [B, T], 0 after the end."""
    ids, mask = (torch.cat([inputs[f"prompt_{part}"], inputs[f"completion_{part}"]], 1) for part in ("ids", "mask"))
    batch = Completions(ids, mask, inputs["completion_mask"].bool(), [], [])
    if not base:
        return log_probabilities(trainer.model, batch, inputs["preference"])
    with torch.no_grad(), trainer.model.disable_adapter():
        return log_probabilities(trainer.model, batch)


def gradient(trainer, loss: Tensor) -> Tensor:
    trainer.model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for n, p in trainer.model.named_parameters() if ".panacea_svd." in n])


def less_the_mean(rewards: Tensor) -> Tensor:
    groups = rewards.view(-1, GROUP)
    return (groups - groups.mean(dim=1, keepdim=True)).flatten()


@pytest.mark.parametrize("scale", ["none", "group"])
def test_grpo_weighs_each_token_by_its_advantage_less_beta_times_its_own_log_ratio(scale, tmp_path):
    """In units of the rewards, or of their standard deviation among the completions of the prompt."""
    trainer, inputs, rewards = rollout(GRPO, tmp_path, scale_rewards=scale)
    advantages = less_the_mean(rewards)
    if scale == "group":
        advantages /= rewards.view(-1, GROUP).std(dim=1).repeat_interleave(GROUP) + 1e-4
    found = gradient(trainer, trainer._compute_loss(trainer.model, inputs))
    steered = likelihoods(trainer, inputs)
    ratios = steered.detach() - likelihoods(trainer, inputs, base=True)
    weights = advantages[:, None] - BETA * ratios
    expected = gradient(trainer, -(weights * steered).sum() / inputs["completion_mask"].sum())
    assert (BETA * ratios).abs().max() > 0.1, "the KL must count"
    assert (found - expected).norm() < 1e-3 * expected.norm()


def test_rloo_subtracts_beta_times_the_log_ratio_of_the_whole_completion_from_its_reward(tmp_path):
    """In units of the rewards, before the baseline; each token has the weight of its completion."""
    trainer, inputs, rewards = rollout(RLOO, tmp_path)
    steered = likelihoods(trainer, inputs)
    ratios = steered.detach() - likelihoods(trainer, inputs, base=True)
    advantages = less_the_mean(rewards - BETA * ratios.sum(1)) * GROUP / (GROUP - 1)  # of the others alone
    torch.testing.assert_close(inputs["advantages"], advantages, atol=1e-4, rtol=1e-4)
    assert (advantages - less_the_mean(rewards) * GROUP / (GROUP - 1)).abs().max() > 0.1, "the KL must count"
    found = gradient(trainer, trainer._compute_loss(trainer.model, inputs))
    expected = gradient(trainer, -(advantages * steered.sum(1)).mean())
    assert (found - expected).norm() < 1e-3 * expected.norm()
