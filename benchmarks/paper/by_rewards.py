"""What experiments whose objectives are rewards have in common."""

from collections.abc import Callable
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from trl import RLOOTrainer

from experiment import Experiment
from peft_panacea.training import ObjectiveRewardMixin


class PanaceaRLOOTrainer(ObjectiveRewardMixin, RLOOTrainer):
    """Keeps the preference and the rewards of every completion, from which one sees from which step on it steers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.history: list[list[Any]] = []

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Tensor:
        found = super()._calculate_rewards(*args, **kwargs)
        self.history.append([self._preferences.tolist(), found[:, : len(self.objectives)].tolist()])
        return found


class ByRewards(Experiment):
    """RLOO on the training prompts; the rewards are aggregated in the base model's standard deviations."""

    rewards: dict[str, Callable[..., list[float]]]
    history: list[Any]  # of the last run of Panacea

    def data(self, fixed: list[float] | None, steps: int, seed: int) -> Dataset:
        return Dataset.from_dict({"prompt": self.train})

    def panacea(self, model: Any, **options: Any) -> PanaceaRLOOTrainer:
        trainer = PanaceaRLOOTrainer(model, list(self.rewards.values()), **options)
        mean, std = (torch.tensor(constant).float() for constant in self.normalisation)
        trainer.reward_normalisation = mean, std
        self.history = trainer.history
        return trainer

    def separate(self, model: Any, **options: Any) -> RLOOTrainer:
        return RLOOTrainer(model, list(self.rewards.values()), **options)
