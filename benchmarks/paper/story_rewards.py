"""RL with two or three rewards: VADER valence, brevity, and the share of dialogue."""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from trl import RLOOConfig

from by_rewards import ByRewards
from peft_panacea.front import Front, evaluate_front
from peft_panacea.rewards import Brevity, Valence, dialogue_share
from peft_panacea.simplex import simplex_grid
from public_data import LEXICON
from stories import Stories
from variants import Settings

GROUP, TOKENS, BETA = 4, 48, 0.1


class StoryRewards(ByRewards, Stories):
    """Scores are rewards of sampled completions, 4 for each prompt, in the base model's standard deviations."""

    learning_rate, steps, rows = 3e-3, 50, 64
    unit = "reward"

    def __init__(self, shared: Path, objectives: list[str]) -> None:
        super().__init__(shared)
        rewards = {"valence": Valence(shared / LEXICON), "brevity": Brevity(8), "dialogue": dialogue_share}
        self.objectives, self.rewards = objectives, {name: rewards[name] for name in objectives}
        self.grid = simplex_grid(2, 8) if len(objectives) == 2 else simplex_grid(3, 4)
        self.coarse = simplex_grid(2, 4) if len(objectives) == 2 else None

    @cached_property
    def normalisation(self) -> tuple[np.ndarray, np.ndarray]:
        """Of the base model's completions of training prompts."""
        centre = [[1 / len(self.objectives)] * len(self.objectives)]
        return evaluate_front(
            self.adapted(None, Settings()), self.train[:128], self.rewards, centre,
            tokenizer=self.tokenizer, samples=2, seed=1, max_new_tokens=TOKENS,
        ).normalisation  # fmt: skip

    def arguments(self, fixed: list[float] | None, **common: Any) -> RLOOConfig:
        weights = None if fixed is None else (np.array(fixed) / self.normalisation[1]).tolist()
        return RLOOConfig(
            num_generations=GROUP, max_completion_length=TOKENS, top_k=0, beta=BETA, reward_weights=weights, **common
        )

    def front(self, model: Any, preferences: Any, *, base: bool = False, prompts: list[str] | None = None) -> Front:
        return evaluate_front(
            model, prompts or self.test[:64], self.rewards, preferences,
            tokenizer=self.tokenizer, samples=4, batch_size=256, base=base, extrapolate=True, max_new_tokens=TOKENS,
        )  # fmt: skip
