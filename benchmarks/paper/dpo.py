"""DPO on pairs of the model's own answers, each pair labelled by two rewards that mostly disagree."""

import json
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import PeftModel, get_peft_model
from transformers import set_seed
from trl import DPOConfig, DPOTrainer

from peft_panacea.completions import sample
from peft_panacea.front import Front
from peft_panacea.rewards import Brevity, Valence
from peft_panacea.simplex import simplex_grid
from peft_panacea.training import ObjectiveLossMixin, PreferenceArguments
from stories import QUIET, Settings, Stories
from variants import change

ROWS, ANSWERS, BETA = 16, 4, 0.1


class PanaceaDPOTrainer(ObjectiveLossMixin, DPOTrainer):
    pass


class DPO(Stories):
    """Scores are accuracies of the implicit reward on held-out pairs, as it seems the paper's are; chance is 0.5."""

    trainer = PanaceaDPOTrainer
    learning_rate = 3e-3
    unit = "accuracy"
    cost = "pairs"

    def __init__(self, shared: Path, steps: int = 80) -> None:
        super().__init__(shared)
        self.objectives, self.steps, self.rows = ["valence", "brevity"], steps, ROWS
        self.rewards = [Valence(shared / "data/vader/vader_lexicon.txt"), Brevity(8)]
        self.grid, self.coarse = simplex_grid(2, 8), simplex_grid(2, 4)
        self.normalisation = None

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
                texts = sample(model, self.tokenizer, several, max_new_tokens=48).texts
                for i, prompt in enumerate(some):
                    own = texts[i * ANSWERS : (i + 1) * ANSWERS]
                    scores = np.stack([reward(own) for reward in self.rewards], axis=1)
                    found[prompt] = {"texts": own, "scores": scores.tolist()}
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(found))
        return json.loads(path.read_text())

    def pairs(self, prompt: str) -> list[tuple[int, int, list[int]]]:
        """Pairs of answers, and for each objective 1 if the first is better, -1 if the second is; no ties."""
        scores = np.array(self.answers[prompt]["scores"])
        found = [
            (i, j, np.sign(scores[i] - scores[j]).astype(int).tolist()) for i, j in combinations(range(ANSWERS), 2)
        ]
        return [(i, j, label) for i, j, label in found if all(label)]

    def train_one(self, fixed: list[float] | None, settings: Settings, steps: int, seed: int) -> PeftModel:
        """Panacea, or with a fixed preference a separate model on pairs of objective i in proportion to its weight."""
        set_seed(seed)
        rows = [
            {"prompt": p, "chosen": self.answers[p]["texts"][i], "rejected": self.answers[p]["texts"][j],
             "objective_labels": label}
            for p in self.train for i, j, label in self.pairs(p)
        ]  # fmt: skip
        if fixed is not None:
            rng = np.random.default_rng(seed)
            rows = [rows[i] for i in rng.permutation(len(rows))[: steps * ROWS]]
            owned = rng.choice(len(fixed), size=len(rows), p=np.array(fixed) / sum(fixed))
            rows = [
                {"prompt": row["prompt"], "chosen": row["chosen" if label > 0 else "rejected"],
                 "rejected": row["rejected" if label > 0 else "chosen"]}
                for row, label in ((row, row["objective_labels"][i]) for row, i in zip(rows, owned, strict=True))
            ]  # fmt: skip
        args = DPOConfig(
            "runs/paper/unused", max_steps=steps, per_device_train_batch_size=ROWS, beta=BETA, seed=seed,
            learning_rate=settings.learning_rate or self.learning_rate, warmup_steps=max(1, steps // 10),
            max_length=112,
            **QUIET,
        )  # fmt: skip
        common: dict[str, Any] = {"train_dataset": Dataset.from_list(rows), "processing_class": self.tokenizer}
        model = get_peft_model(self.base_model(), self.config(self.objectives, fixed, settings))
        if fixed is not None:
            trainer = DPOTrainer(model, args=args, **common)
        else:
            change(model, settings)
            preferences = PreferenceArguments(
                preference_per=settings.way,
                vertex_probability=settings.vertex_probability,
                aggregation=settings.aggregation,
            )
            trainer = self.trainer(model, args=args, preference_args=preferences, **common)
        trainer.train()
        return trainer.model

    def front(self, model: Any, preferences: Any, *, base: bool = False, prompts: list[str] | None = None) -> Front:
        """Accuracy of each prompt's pairs, [K, P, 2]; a model that is the base model tosses a coin."""
        prompts = [p for p in prompts or self.test if self.pairs(p)]
        texts = [(p, p + text) for p in prompts for text in self.answers[p]["texts"]]
        model.eval()
        with model.disable_adapter():
            reference = self._log_probability(model, texts, None)
        scores = np.empty((len(preferences), len(prompts), 2))
        for k, preference in enumerate(np.asarray(preferences, dtype=float)):
            gain = (self._log_probability(model, texts, preference) - reference).reshape(len(prompts), ANSWERS)
            for p, prompt in enumerate(prompts):
                right = [
                    [float(np.sign(gain[p, i] - gain[p, j]) == s) for s in label] for i, j, label in self.pairs(prompt)
                ]
                scores[k, p] = np.mean(right, axis=0)
        coin = np.full(scores.shape[1:], 0.5) if base else None
        return Front(self.objectives, preferences, scores, base=coin)

    @torch.no_grad()
    def _log_probability(self, model: Any, texts: list[tuple[str, str]], preference: Any) -> np.ndarray:
        """Of each text's completion given its prompt, nats."""
        found = []
        steered = {} if preference is None else {"preference": preference}
        for start in range(0, len(texts), 128):
            some = texts[start : start + 128]
            batch = self.tokenizer([t for _, t in some], return_tensors="pt", padding=True, padding_side="right")
            batch.pop("token_type_ids", None)
            log_p = model(**batch, **steered).logits[:, :-1].log_softmax(-1)
            own = log_p.gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
            skip = torch.tensor([len(ids) for ids in self.tokenizer([p for p, _ in some])["input_ids"]])
            position = torch.arange(1, own.shape[1] + 1)
            kept = (position >= skip[:, None]) & batch["attention_mask"][:, 1:].bool()
            found.append((own * kept).sum(1).numpy())
        return np.concatenate(found)
