"""Fine-tuning on ten styles: every story of the training set rewritten by ten rules."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from experiment import under
from peft_panacea.completions import encode, log_probabilities
from peft_panacea.front import Front
from peft_panacea.simplex import PreferenceSampler, simplex_grid
from peft_panacea.training import ObjectiveLossMixin
from stories import Stories

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


class StyledStories(Stories):
    """Scores are minus the loss on held-out stories in each style, nats per token.

    Args:
        shared: Folder with `models/` and `data/`.
        styles: Names of `STYLES`.
    """

    panacea, separate = PanaceaSFTTrainer, SFTTrainer
    learning_rate, steps = 1e-2, 100
    unit = "minus nats per token"

    def __init__(self, shared: Path, styles: list[str]) -> None:
        super().__init__(shared)
        m = len(styles)
        self.objectives, self.rows = styles, 40 // m * m
        corners = torch.cat([torch.eye(m), torch.full((1, m), 1 / m)])
        self.grid = simplex_grid(3, 4) if m == 3 else torch.cat([corners, PreferenceSampler(m, seed=2024)(20)])

    def completion(self, prompt: str, style: str) -> str:
        sentences = re.split(r"(?<=[.!?])\s+", self.stories[prompt].strip())[:SENTENCES]
        return " " + " ".join(STYLES[style](sentences))

    def data(self, fixed: list[float] | None, steps: int, seed: int) -> Dataset:
        m = len(self.objectives)
        if fixed is None:
            rows = [
                {"prompt": p, "completion": self.completion(p, style), "objective": i}
                for p in self.train for i, style in enumerate(self.objectives)
            ]  # fmt: skip
        else:
            rng = np.random.default_rng(seed)
            prompts = rng.permutation(self.train * m)[: steps * self.rows].tolist()
            owned = rng.choice(m, size=len(prompts), p=np.array(fixed) / sum(fixed))
            rows = [
                {"prompt": p, "completion": self.completion(p, self.objectives[i])}
                for p, i in zip(prompts, owned, strict=True)
            ]
        return Dataset.from_list(rows)

    def arguments(self, fixed: list[float] | None, **common: Any) -> SFTConfig:
        return SFTConfig(max_length=LENGTH, **common)

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
        columns = []
        for style in self.objectives:
            rows = encode(self.tokenizer, prompts, [self.completion(p, style) for p in prompts], max_length=LENGTH)
            with under(model, preference):
                log_p = log_probabilities(model, rows)
            columns.append((log_p.sum(1) / rows.completion.sum(1)).numpy())
        return np.stack(columns, axis=1)


class StoryStyles(StyledStories):
    """The first m styles."""

    def __init__(self, shared: Path, m: int) -> None:
        super().__init__(shared, list(STYLES)[:m])
