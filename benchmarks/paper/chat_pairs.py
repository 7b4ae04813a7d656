"""DPO on TruthfulQA's pairs: people judged every answer as truthful or not, and as informative or not."""

from collections import defaultdict
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer

from chat import Chat, read
from experiment import under
from peft_panacea.completions import encode, log_probabilities
from peft_panacea.front import Front
from peft_panacea.simplex import simplex_grid
from peft_panacea.training import ObjectiveLossMixin
from prompting import asked_for
from public_data import CHAT_PAIRS

BETA, LENGTH, PROMPTS, ANSWERS, BATCH = 0.1, 128, 32, 6, 32


class PanaceaDPOTrainer(ObjectiveLossMixin, DPOTrainer):
    pass


class ChatPairs(Chat):
    """Scores are accuracies of the implicit reward on the pairs of held-out questions; chance is 0.5.

    A pair counts for the objectives on which its answers differ. Questions, not pairs, are split.
    """

    panacea, separate = PanaceaDPOTrainer, DPOTrainer
    learning_rate, steps, rows = 3e-3, 32, 12
    unit = "accuracy"

    def __init__(self, shared: Path) -> None:
        super().__init__(shared)
        self.objectives = ["truthful", "informative"]
        self.grid = self.coarse = simplex_grid(2, 4)
        self.answers: dict[str, dict[str, dict[str, list[int]]]] = {
            split: defaultdict(dict) for split in ("train", "dev", "test")
        }
        self.rows_of_pairs: list[dict[str, Any]] = []
        for row in read(shared / CHAT_PAIRS):
            if row["source"] != "truthfulqa_human":
                continue
            labels = [row["labels"][name] for name in self.objectives]
            known = self.answers[row["split"]][row["prompt"]]
            for i in (0, 1):
                known[row[f"response_{i}"]] = [label[i] for label in labels]
            signs = [int(np.sign(a - b)) for a, b in labels]
            if row["split"] == "train" and any(signs):
                user = [{"role": "user", "content": row["prompt"]}]
                first, second = ([{"role": "assistant", "content": row[f"response_{i}"]}] for i in (0, 1))
                self.rows_of_pairs.append(
                    {"prompt": user, "chosen": first, "rejected": second, "objective_labels": signs}
                )
        self.test, self.development = (self.questions(split) for split in ("test", "dev"))

    def questions(self, split: str) -> list[str]:
        """Those whose answers differ on both objectives, with at most `ANSWERS` answers each."""
        found = []
        for question, answers in self.answers[split].items():
            some = dict(list(answers.items())[:ANSWERS])
            if all(len({labels[i] for labels in some.values()}) == 2 for i in (0, 1)):
                self.answers[split][question] = some
                found.append(question)
        return found[:PROMPTS]

    def data(self, fixed: list[float] | None, steps: int, seed: int) -> Dataset:
        rng = np.random.default_rng(seed)
        if fixed is None:
            return Dataset.from_list(self.rows_of_pairs)
        owned = rng.choice(len(fixed), size=steps * self.rows, p=np.array(fixed) / sum(fixed))
        by_objective = [[row for row in self.rows_of_pairs if row["objective_labels"][i]] for i in range(len(fixed))]
        rows = []
        order = np.resize(rng.permutation(len(self.rows_of_pairs)), len(owned))
        for i, position in zip(owned, order, strict=True):
            row = by_objective[i][position % len(by_objective[i])]
            better, worse = ("chosen", "rejected") if row["objective_labels"][i] > 0 else ("rejected", "chosen")
            rows.append({"prompt": row["prompt"], "chosen": row[better], "rejected": row[worse]})
        return Dataset.from_list(rows)

    def arguments(self, fixed: list[float] | None, **common: Any) -> DPOConfig:
        return DPOConfig(beta=BETA, max_length=LENGTH, **common)

    def front(self, model: Any, preferences: Any, *, base: bool = False, prompts: list[str] | None = None) -> Front:
        """Accuracy of each question's pairs, [K, P, 2]; a model that is the base model tosses a coin."""
        prompts = prompts or self.test
        model.eval()
        with model.disable_adapter():
            reference = self._likelihood(model, prompts)
        each = [self._likelihood(model, prompts, preference=p) for p in np.asarray(preferences, dtype=float)]
        return self._front(prompts, preferences, [reference] * len(each), each, base)

    def prompted(self, wording: Any, preferences: Any, prompts: list[str] | None = None) -> Front:
        """The front of the base model with the preference in its system prompt."""
        prompts, model = prompts or self.test, self.base_model().eval()
        told = self._told(wording, preferences)
        each = [self._likelihood(model, prompts, system=text) for text in told]
        return self._front(prompts, preferences, [self._likelihood(model, prompts)] * len(each), each, base=False)

    def conditioned(self, model: Any, wording: Any, preferences: Any) -> Front:
        """The front of a model that was trained to read the preference; its reference reads it, too, untrained."""
        model.eval()
        told = self._told(wording, preferences)
        each = [self._likelihood(model, self.test, system=text) for text in told]
        with model.disable_adapter():
            references = [self._likelihood(model, self.test, system=text) for text in told]
        return self._front(self.test, preferences, references, each, base=False)

    def _told(self, wording: Any, preferences: Any) -> list[str]:
        return [wording(self.objectives, weights) for weights in np.asarray(preferences, dtype=float).tolist()]

    @torch.no_grad()
    def _likelihood(
        self, model: Any, prompts: list[str], preference: Any = None, system: str | None = None
    ) -> dict[tuple[str, str], float]:
        """Of each answer given its question, nats."""
        answers = {**self.answers["test"], **self.answers["dev"]}
        keys = [(question, text) for question in prompts for text in answers[question]]
        found = []
        for start in range(0, len(keys), BATCH):
            some = keys[start : start + BATCH]
            asked = [[{"role": "user", "content": question}] for question, _ in some]
            asked = asked if system is None else [asked_for(prompt, system) for prompt in asked]
            batch = encode(self.tokenizer, asked, [text for _, text in some])
            with torch.autocast(self.device, torch.bfloat16), under(model, preference):
                found.append(log_probabilities(model, batch).sum(1))
        return dict(zip(keys, torch.cat(found).tolist(), strict=True))

    def _front(
        self, prompts: list[str], preferences: Any, references: list[Any], each: list[Any], base: bool
    ) -> Front:
        answers = {**self.answers["test"], **self.answers["dev"]}
        scores = np.empty((len(each), len(prompts), 2))
        for k, (own, reference) in enumerate(zip(each, references, strict=True)):
            gain = {key: own[key] - reference[key] for key in reference}
            for p, question in enumerate(prompts):
                pairs = list(combinations(answers[question].items(), 2))
                for i in (0, 1):
                    scores[k, p, i] = np.mean([
                        float(np.sign(gain[question, a] - gain[question, b]) == np.sign(x[i] - y[i]))
                        for (a, x), (b, y) in pairs if x[i] != y[i]
                    ])  # fmt: skip
        coin = np.full(scores.shape[1:], 0.5) if base else None
        return Front(self.objectives, preferences, scores, base=coin)
