"""DPO for `family_run.py`, on both models."""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chat_pairs import ChatPairs
from peft_panacea.completions import sample
from peft_panacea.front import Front, evaluate_front
from peft_panacea.simplex import simplex_grid
from prompting import asked_for, percent
from story_pairs import TOKENS, StoryPairs
from variants import Settings

MEASURED = {"samples": 2, "batch_size": 256}


class ChatFamily(ChatPairs):
    """Measured by the accuracy of the implicit reward on held-out questions."""

    def __init__(self, shared: Path) -> None:
        super().__init__(shared)
        self.development = self.development[:12]  # sixteen forwards of all their answers

    def asked(self, prompt: Any, preference: list[float]) -> Any:
        """The prompt with the preference in it."""
        return asked_for(prompt, percent(self.objectives, preference))

    def conditioned(self, model: Any) -> Front:
        return super().conditioned(model, percent, self.grid)


class StoryFamily(StoryPairs):
    """Measured by the rewards that labelled the pairs, of 2 completions of each held-out prompt."""

    unit = "reward"

    def __init__(self, shared: Path) -> None:
        super().__init__(shared)
        self.by_name = dict(zip(self.objectives, self.rewards, strict=True))
        self.grid = simplex_grid(2, 10)

    @cached_property
    def normalisation(self) -> tuple[np.ndarray, np.ndarray]:
        """Of the base model's completions of training prompts."""
        return evaluate_front(
            self.adapted(None, Settings()), self.train[:128], self.by_name, [[0.5, 0.5]],
            tokenizer=self.tokenizer, samples=2, seed=1, max_new_tokens=TOKENS,
        ).normalisation  # fmt: skip

    def front(self, model: Any, preferences: Any, *, base: bool = False, prompts: list[str] | None = None) -> Front:
        return evaluate_front(
            model, (prompts or self.test)[:64], self.by_name, preferences, tokenizer=self.tokenizer,
            base=base, extrapolate=True, max_new_tokens=TOKENS, **MEASURED,
        )  # fmt: skip

    def asked(self, prompt: str, preference: list[float]) -> str:
        told = ", ".join(f"{name} {round(100 * p)}" for name, p in zip(self.objectives, preference, strict=True))
        return f"{told}. {prompt}"

    def conditioned(self, model: Any) -> Front:
        """The front of a model that reads the preference."""

        def answer(prompts: list[str], preferences: np.ndarray | None) -> list[str]:
            with torch.no_grad():
                if preferences is None:
                    with model.disable_adapter():
                        return sample(model, self.tokenizer, prompts, max_new_tokens=TOKENS).texts
                told = [self.asked(prompt, p) for prompt, p in zip(prompts, preferences.tolist(), strict=True)]
                return sample(model, self.tokenizer, told, max_new_tokens=TOKENS).texts

        return evaluate_front(answer, self.test[:64], self.by_name, self.grid, base=True, **MEASURED)
