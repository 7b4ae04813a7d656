"""RL on the chat model with rewards that conflict: short answers, cheerful words, and a learned one."""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from trl import RLOOConfig

from by_rewards import ByRewards
from chat import Chat
from peft_panacea.completions import sample
from peft_panacea.front import Front, evaluate_front
from peft_panacea.rewards import TokenLength, Valence, load_reward
from peft_panacea.simplex import simplex_grid
from prompting import asked_for
from public_data import LEXICON
from variants import Settings

GROUP, TOKENS, BETA = 4, 40, 0.1
PROMPTS, BATCH = 96, 128
# Without it hardly an answer ends within so few tokens, and a length that never changes teaches nothing.
SYSTEM = {"role": "system", "content": "Answer in one short sentence."}
POLITENESS = Path("runs/politeness")


class ChatRewards(ByRewards, Chat):
    """Scores are rewards of sampled completions, 2 for each prompt, in the base model's standard deviations."""

    learning_rate, steps, rows = 3e-3, 16, 24
    unit = "reward"

    def __init__(self, shared: Path, objectives: list[str]) -> None:
        super().__init__(shared)
        makers = {
            "brief": lambda: TokenLength(6, self.tokenizer),
            "cheerful": lambda: Valence(shared / LEXICON),
            "polite": lambda: load_reward(str(POLITENESS)),
        }
        self.objectives, self.rewards = objectives, {name: makers[name]() for name in objectives}
        self.grid = simplex_grid(2, 4) if len(objectives) == 2 else simplex_grid(3, 3)
        self.coarse = simplex_grid(2, 4) if len(objectives) == 2 else None
        asked = ([[SYSTEM, *prompt] for prompt in prompts] for prompts in (self.test, self.development, self.train))
        self.test, self.development, self.train = asked
        self.test, self.development = self.test[:PROMPTS], self.development[:PROMPTS]

    @cached_property
    def normalisation(self) -> tuple[np.ndarray, np.ndarray]:
        """Of the base model's completions of training prompts."""
        path = Path("runs/paper") / f"chat_{len(self.objectives)}_base.json"
        if not path.exists():
            m = len(self.objectives)
            front = evaluate_front(
                self.adapted(None, Settings()), self.train[:48], self.rewards, [[1 / m] * m],
                tokenizer=self.tokenizer, samples=2, seed=1, batch_size=BATCH, max_new_tokens=TOKENS,
            )  # fmt: skip
            front.to_json(path)
        return Front.from_json(path).normalisation

    def arguments(self, fixed: list[float] | None, **common: Any) -> RLOOConfig:
        weights = None if fixed is None else (np.array(fixed) / self.normalisation[1]).tolist()
        own = {"num_generations": GROUP, "max_completion_length": TOKENS, "top_k": 0, "beta": BETA}
        return RLOOConfig(reward_weights=weights, **{**own, **common})

    def prompted(self, wording: Any, preferences: Any, prompts: list[Any] | None = None) -> Front:
        """The front of the base model with the preference in its system prompt."""
        model = self.base_model()

        known: dict[str, Any] = {}

        def answer(asked: list[Any], weights: Any) -> list[str]:
            rows = zip(asked, weights.tolist(), strict=True)
            told = [asked_for(prompt, wording(self.objectives, weight)) for prompt, weight in rows]
            found = sample(model, self.tokenizer, told, max_new_tokens=TOKENS)
            known.update(completion_ids=found.token_ids, ended=found.ended)  # of which a function says nothing
            return found.texts

        rewards = {name: lambda texts, _f=f, **_: _f(texts, **known) for name, f in self.rewards.items()}
        return evaluate_front(
            answer, prompts or self.test, rewards, preferences, samples=2, batch_size=BATCH, base=False
        )

    def front(self, model: Any, preferences: Any, *, base: bool = False, prompts: list[Any] | None = None) -> Front:
        return evaluate_front(
            model, prompts or self.test, self.rewards, preferences,
            tokenizer=self.tokenizer, samples=2, batch_size=BATCH, base=base, max_new_tokens=TOKENS,
        )  # fmt: skip
