"""DPO on pairs of the model's own answers, each pair labelled by two rewards that mostly disagree."""

import json
import os
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from experiment import under
from peft_panacea.completions import encode, log_probabilities, sample
from peft_panacea.front import Front
from peft_panacea.rewards import Brevity, Valence
from peft_panacea.simplex import simplex_grid
from peft_panacea.training import ObjectiveLossMixin
from public_data import LEXICON
from stories import Stories

ANSWERS, TOKENS, LENGTH, BETA = 4, 48, 112, 0.1


class PanaceaDPOTrainer(ObjectiveLossMixin, DPOTrainer):
    pass


class StoryPairs(Stories):
    """Scores are accuracies of the implicit reward on held-out pairs, as it seems the paper's are; chance is 0.5."""

    panacea, separate = PanaceaDPOTrainer, DPOTrainer
    learning_rate, steps, rows = 3e-3, 80, 16
    unit = "accuracy"

    def __init__(self, shared: Path) -> None:
        super().__init__(shared)
        self.objectives = ["valence", "brevity"]
        self.rewards = [Valence(shared / LEXICON), Brevity(8)]
        self.grid, self.coarse = simplex_grid(2, 8), simplex_grid(2, 4)

    @cached_property
    def answers(self) -> dict[str, dict[str, Any]]:
        """Prompt → four answers of the base model and their scores [4, m]; made once."""
        path = Path("runs/paper/dpo_answers.json")
        if not path.exists():
            torch.manual_seed(0)
            model = self.base_model()
            found = {}
            prompts = [*self.test, *self.development, *self.train]
            for start in range(0, len(prompts), 64):
                some = prompts[start : start + 64]
                several = [p for p in some for _ in range(ANSWERS)]
                texts = sample(model, self.tokenizer, several, max_new_tokens=TOKENS).texts
                for i, prompt in enumerate(some):
                    own = texts[i * ANSWERS : (i + 1) * ANSWERS]
                    scores = np.stack([reward(own) for reward in self.rewards], axis=1)
                    found[prompt] = {"texts": own, "scores": scores.tolist()}
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(f".{os.getpid()}")  # seeds that run side by side all make them
            partial.write_text(json.dumps(found))
            os.replace(partial, path)
        return json.loads(path.read_text())

    def pairs(self, prompt: str) -> list[tuple[int, int, list[int]]]:
        """Pairs of answers, and for each objective 1 if the first is better, -1 if the second is; no ties."""
        scores = np.array(self.answers[prompt]["scores"])
        found = [
            (i, j, np.sign(scores[i] - scores[j]).astype(int).tolist()) for i, j in combinations(range(ANSWERS), 2)
        ]
        return [(i, j, label) for i, j, label in found if all(label)]

    def data(self, fixed: list[float] | None, steps: int, seed: int) -> Dataset:
        rows = [
            {"prompt": p, "chosen": self.answers[p]["texts"][i], "rejected": self.answers[p]["texts"][j],
             "objective_labels": label}
            for p in self.train for i, j, label in self.pairs(p)
        ]  # fmt: skip
        if fixed is not None:
            rng = np.random.default_rng(seed)
            rows = [rows[i] for i in rng.permutation(len(rows))[: steps * self.rows]]
            owned = rng.choice(len(fixed), size=len(rows), p=np.array(fixed) / sum(fixed))
            rows = [
                {"prompt": row["prompt"], "chosen": row["chosen" if label > 0 else "rejected"],
                 "rejected": row["rejected" if label > 0 else "chosen"]}
                for row, label in ((row, row["objective_labels"][i]) for row, i in zip(rows, owned, strict=True))
            ]  # fmt: skip
        return Dataset.from_list(rows)

    def arguments(self, fixed: list[float] | None, **common: Any) -> DPOConfig:
        return DPOConfig(beta=BETA, max_length=LENGTH, **common)

    @torch.no_grad()
    def front(self, model: Any, preferences: Any, *, base: bool = False, prompts: list[str] | None = None) -> Front:
        """Accuracy of each prompt's pairs, [K, P, 2]; a model that is the base model tosses a coin."""
        prompts = [p for p in prompts or self.test if self.pairs(p)]
        batches = [
            encode(
                self.tokenizer, [p for p in some for _ in range(ANSWERS)],
                [text for p in some for text in self.answers[p]["texts"]], end=False,
            )
            for some in (prompts[start : start + 32] for start in range(0, len(prompts), 32))
        ]  # fmt: skip

        def likelihood(preference: Any = None) -> np.ndarray:
            """Of each answer given its prompt, nats, [P, answers]."""
            with under(model, preference):
                found = [log_probabilities(model, batch).sum(1) for batch in batches]
            return torch.cat(found).reshape(len(prompts), ANSWERS).numpy()

        model.eval()
        with model.disable_adapter():
            reference = likelihood()
        scores = np.empty((len(preferences), len(prompts), 2))
        for k, preference in enumerate(np.asarray(preferences, dtype=float)):
            gain = likelihood(preference) - reference
            for p, prompt in enumerate(prompts):
                right = [
                    [float(np.sign(gain[p, i] - gain[p, j]) == s) for s in label] for i, j, label in self.pairs(prompt)
                ]
                scores[k, p] = np.mean(right, axis=0)
        coin = np.full(scores.shape[1:], 0.5) if base else None
        return Front(self.objectives, preferences, scores, base=coin)
