"""RL with two or three rewards: VADER valence, brevity, and the share of dialogue."""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import PeftModel, get_peft_model
from transformers import set_seed
from trl import RLOOConfig, RLOOTrainer

from peft_panacea.front import Front, evaluate_front
from peft_panacea.rewards import Brevity, Valence, dialogue_share
from peft_panacea.simplex import simplex_grid
from peft_panacea.training import ObjectiveRewardMixin, PreferenceArguments
from stories import QUIET, Settings, Stories
from variants import change

ROWS, GROUP, TOKENS, BETA = 64, 4, 48, 0.1


class PanaceaRLOOTrainer(ObjectiveRewardMixin, RLOOTrainer):
    pass


class RL(Stories):
    """Scores are rewards of sampled completions, 4 for each prompt, in the base model's standard deviations."""

    trainer = PanaceaRLOOTrainer
    learning_rate = 3e-3
    unit = "reward"
    cost = f"completions of at most {TOKENS} tokens, sampled and trained on once"

    def __init__(self, shared: Path, objectives: list[str], steps: int = 50) -> None:
        super().__init__(shared)
        rewards = {
            "valence": Valence(shared / "data/vader/vader_lexicon.txt"),
            "brevity": Brevity(8),
            "dialogue": dialogue_share,
        }
        self.rewards = {name: rewards[name] for name in objectives}
        self.objectives, self.steps = objectives, steps
        self.rows = ROWS
        self.grid = simplex_grid(2, 8) if len(objectives) == 2 else simplex_grid(3, 4)
        self.coarse = simplex_grid(2, 4) if len(objectives) == 2 else None

    @cached_property
    def normalisation(self) -> tuple[np.ndarray, np.ndarray]:
        """Of the base model's completions of training prompts."""
        model = get_peft_model(self.base_model(), self.config(self.objectives, None, Settings()))
        ones = [[1 / len(self.objectives)] * len(self.objectives)]
        front = evaluate_front(
            model,
            self.train[:128],
            self.rewards,
            ones,
            tokenizer=self.tokenizer,
            samples=2,
            seed=1,
            max_new_tokens=TOKENS,
        )
        return front.normalisation

    def train_one(self, fixed: list[float] | None, settings: Settings, steps: int, seed: int) -> PeftModel:
        """Panacea, or with a fixed preference one separate model, trained with TRL's own trainer."""
        set_seed(seed)
        mean, std = self.normalisation
        args = {
            "output_dir": "runs/paper/unused",
            "max_steps": steps,
            "per_device_train_batch_size": ROWS,
            "num_generations": GROUP,
            "max_completion_length": TOKENS,
            "top_k": 0,
            "beta": BETA,
            "learning_rate": settings.learning_rate or self.learning_rate,
            "warmup_steps": max(1, steps // 10),
            "seed": seed,
            **QUIET,
        }
        common: dict[str, Any] = {
            "reward_funcs": list(self.rewards.values()),
            "train_dataset": Dataset.from_dict({"prompt": self.train}),
            "processing_class": self.tokenizer,
        }
        config = self.config(self.objectives, fixed, settings)
        model = get_peft_model(self.base_model(), config)
        if fixed is not None:
            weights = (np.array(fixed) / std).tolist()
            trainer = RLOOTrainer(model, args=RLOOConfig(**args, reward_weights=weights), **common)
        else:
            change(model, settings)
            preferences = PreferenceArguments(
                preference_per=settings.way,
                vertex_probability=settings.vertex_probability,
                aggregation=settings.aggregation,
                ideal_point=settings.ideal_point and list(settings.ideal_point),
            )
            trainer = self.trainer(model, args=RLOOConfig(**args), preference_args=preferences, **common)
            trainer.reward_normalisation = torch.tensor(mean).float(), torch.tensor(std).float()
        trainer.train()
        return trainer.model

    def front(self, model: Any, preferences: Any, *, base: bool = False, prompts: list[str] | None = None) -> Front:
        found = evaluate_front(
            model, prompts or self.test[:64], self.rewards, preferences,
            tokenizer=self.tokenizer, samples=4, batch_size=256, base=base, max_new_tokens=TOKENS,
        )  # fmt: skip
        return found
