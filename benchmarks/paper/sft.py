"""Fine-tuning on ten styles: every story of the training set rewritten by ten rules."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import PeftModel, get_peft_model
from transformers import set_seed
from trl import SFTConfig, SFTTrainer

from peft_panacea.front import Front
from peft_panacea.simplex import PreferenceSampler, simplex_grid
from peft_panacea.training import ObjectiveLossMixin, PreferenceArguments
from stories import QUIET, Settings, Stories
from variants import change

LENGTH, SENTENCES = 80, 2


def _swap(pairs: str) -> Callable[[list[str]], list[str]]:
    """Replace words: "old:new old:new"."""
    table = dict(pair.split(":") for pair in pairs.split())

    def word(match: re.Match[str]) -> str:
        found = match.group()
        new = table.get(found.lower(), found)
        return new.capitalize() if found[0].isupper() and found.lower() in table else new

    return lambda sentences: [re.sub(r"[A-Za-z]+", word, sentence) for sentence in sentences]


_GIRL = "he:she him:her his:her boy:girl man:woman dad:mom tim:Lily tom:Mia ben:Sue max:Anna timmy:Lucy jack:Jane"
_BOY = "she:he her:him girl:boy woman:man mom:dad lily:Tim mia:Tom sue:Ben anna:Max lucy:Timmy jane:Jack"
_GLOOMY = "happy:sad smiled:cried fun:pain good:bad loved:hated liked:feared nice:mean laughed:wept big:dark love:hate"
_CHEERFUL = "sad:happy cried:laughed scared:glad bad:good was:happily small:lovely old:merry big:wonderful day:holiday"

STYLES: dict[str, Callable[[list[str]], list[str]]] = {
    "exclaiming": lambda s: [re.sub(r"[.?]$", "!", x) for x in s],
    "brief": lambda s: s[:1],
    "spoken": lambda s: [f'"{x}" said Tom.' for x in s],
    "asking": lambda s: [re.sub(r"[.!]$", "", x) + ", right?" for x in s],
    "gloomy": _swap(_GLOOMY),
    "feminine": _swap(_GIRL),
    "masculine": _swap(_BOY),
    "small letters": lambda s: [x.lower() for x in s],
    "listing": lambda s: [f"Then {x[0].lower()}{x[1:]}" for x in s],
    "cheerful": _swap(_CHEERFUL),
}


class PanaceaSFTTrainer(ObjectiveLossMixin, SFTTrainer):
    pass


class SFT(Stories):
    """Scores are minus the loss on held-out stories in each style, nats per token."""

    trainer = PanaceaSFTTrainer
    learning_rate = 1e-2
    unit = "minus nats per token"
    cost = "rows"

    def __init__(self, shared: Path, m: int, steps: int = 100) -> None:
        super().__init__(shared)
        self.objectives, self.steps, self.rows = list(STYLES)[:m], steps, 40 // m * m
        self.normalisation = None
        corners = torch.cat([torch.eye(m), torch.full((1, m), 1 / m)])
        self.grid = simplex_grid(3, 4) if m == 3 else torch.cat([corners, PreferenceSampler(m, seed=2024)(20)])
        self.coarse = None

    def completion(self, prompt: str, style: str) -> str:
        sentences = re.split(r"(?<=[.!?])\s+", self.stories[prompt].strip())[:SENTENCES]
        return " " + " ".join(STYLES[style](sentences))

    def rows_of(self, prompts: list[str], objectives: list[int]) -> list[dict[str, Any]]:
        return [
            {"prompt": p, "completion": self.completion(p, self.objectives[i]), "objective": i}
            for p in prompts for i in objectives
        ]  # fmt: skip

    def train_one(self, fixed: list[float] | None, settings: Settings, steps: int, seed: int) -> PeftModel:
        """Panacea, or with a fixed preference one separate model on rows of style i in proportion to its weight."""
        set_seed(seed)
        m = len(self.objectives)
        rows = self.rows_of(self.train, list(range(m)))
        if fixed is not None:
            rng = np.random.default_rng(seed)
            prompts = rng.permutation(self.train * m)[: steps * self.rows].tolist()
            owned = rng.choice(m, size=len(prompts), p=np.array(fixed) / sum(fixed))
            rows = [
                {"prompt": p, "completion": self.completion(p, self.objectives[i])}
                for p, i in zip(prompts, owned, strict=True)
            ]
        args = SFTConfig(
            "runs/paper/unused", max_steps=steps, per_device_train_batch_size=self.rows, seed=seed, max_length=LENGTH,
            learning_rate=settings.learning_rate or self.learning_rate, warmup_steps=max(1, steps // 10), **QUIET,
        )  # fmt: skip
        common: dict[str, Any] = {"train_dataset": Dataset.from_list(rows), "processing_class": self.tokenizer}
        model = get_peft_model(self.base_model(), self.config(self.objectives, fixed, settings))
        if fixed is not None:
            trainer = SFTTrainer(model, args=args, **common)
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
        prompts = (prompts or self.test)[:32]
        model.eval()
        scores = np.stack([self._scores(model, prompts, p) for p in np.asarray(preferences, dtype=float)])
        own = None
        if base:
            with model.disable_adapter():
                own = self._scores(model, prompts, None)
        return Front(self.objectives, preferences, scores, base=own)

    @torch.no_grad()
    def _scores(self, model: Any, prompts: list[str], preference: Any) -> np.ndarray:
        """Minus the mean loss over a completion's tokens, [P, m]."""
        steered = {} if preference is None else {"preference": preference}
        columns = []
        for style in self.objectives:
            texts = [p + self.completion(p, style) + self.tokenizer.eos_token for p in prompts]
            batch = self.tokenizer(
                texts, return_tensors="pt", padding=True, padding_side="right", truncation=True, max_length=LENGTH
            )
            batch.pop("token_type_ids", None)
            log_p = model(**batch, **steered).logits[:, :-1].log_softmax(-1)
            own = log_p.gather(-1, batch["input_ids"][:, 1:, None])[..., 0]
            skip = torch.tensor([len(ids) for ids in self.tokenizer(prompts)["input_ids"]])
            kept = (torch.arange(1, own.shape[1] + 1) >= skip[:, None]) & batch["attention_mask"][:, 1:].bool()
            columns.append(((own * kept).sum(1) / kept.sum(1)).numpy())
        return np.stack(columns, axis=1)
