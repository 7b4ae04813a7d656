"""The common ground of the experiments: the tiny language model, its prompts, how one adapter is trained."""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from peft import PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, Trainer, TrainingArguments, set_seed

from peft_panacea import PanaceaConfig
from peft_panacea.front import Front
from peft_panacea.training.averaging import IterateAverage
from public_data import MODEL, STORIES
from variants import Settings, change

QUIET = {
    "bf16": False,
    "gradient_checkpointing": False,
    "dataloader_pin_memory": False,
    "save_strategy": "no",
    "logging_strategy": "no",
    "report_to": [],
    "disable_tqdm": True,
}


class Stories:
    """stories260K and TinyStories; the prompts are first sentences, their order is fixed.

    An experiment adds its objectives, its data, its trainers and how a model is measured.

    Args:
        shared: Folder with `models/` and `data/`.
    """

    TEST, DEVELOPMENT = 128, 64

    objectives: list[str]
    unit: str  # of the scores
    steps: int  # of Panacea's one run
    rows: int  # in a step
    learning_rate: float
    grid: Tensor  # what Panacea and soups are measured at
    coarse: Tensor | None = None  # what separate models are trained for, if they are
    normalisation: tuple[np.ndarray, np.ndarray] | None = None
    panacea: Callable[..., Trainer]
    separate: Callable[..., Trainer]

    def __init__(self, shared: Path) -> None:
        self.shared = shared
        self.tokenizer = AutoTokenizer.from_pretrained(shared / MODEL)
        texts = json.loads((shared / STORIES).read_text(encoding="utf-8"))
        stories = {}
        for text in texts:
            first, _, rest = re.sub(r"\s+", " ", text.strip()).partition(". ")
            if rest and len(first) < 160:
                stories.setdefault(first + ".", " " + rest)
        prompts = list(stories)
        random.Random(0).shuffle(prompts)
        self.stories = stories
        self.test = prompts[: self.TEST]
        self.development = prompts[self.TEST :][: self.DEVELOPMENT]
        self.train = prompts[self.TEST + self.DEVELOPMENT :]

    def data(self, fixed: list[float] | None, steps: int, seed: int) -> Dataset:
        """The rows of all objectives, or those of a separate model, of objective i in proportion to `fixed[i]`."""
        raise NotImplementedError

    def arguments(self, fixed: list[float] | None, **common: Any) -> TrainingArguments:
        raise NotImplementedError

    def front(self, model: PeftModel, preferences: Any, *, base: bool = False, prompts: Any = None) -> Front:
        """Measured on the prompts for testing, unless others are given; with `base` also without the adapter."""
        raise NotImplementedError

    def base_model(self) -> PreTrainedModel:
        return AutoModelForCausalLM.from_pretrained(self.shared / MODEL)

    def adapted(self, fixed: list[float] | None, settings: Settings) -> PeftModel:
        """With Panacea's adapter, or a separate model's: the same under one preference, of no smaller rank."""
        own = {"r": settings.r, "preference_rank": settings.preference_rank, "scaling": settings.scaling,
               "coordinates": settings.coordinates}
        separate = {"r": 8 + len(self.objectives) - 1, "default_preference": fixed, "coordinates": "raw"}
        config = PanaceaConfig(
            objectives=self.objectives, task_type="CAUSAL_LM", panacea_dropout=settings.dropout,
            **(own if fixed is None else separate),
        )
        model = get_peft_model(self.base_model(), config)
        if fixed is None:
            change(model, settings)
        return model

    def train_one(self, fixed: list[float] | None, settings: Settings, steps: int, seed: int) -> PeftModel:
        """Panacea, or with a fixed preference one separate model, trained with TRL's own trainer."""
        options = {
            "args": self.arguments(
                fixed,
                output_dir="runs/paper/unused",
                max_steps=steps,
                per_device_train_batch_size=self.rows,
                learning_rate=settings.learning_rate or self.learning_rate,
                warmup_steps=max(1, steps // 10),
                seed=seed,
                **QUIET,
            ),
            "train_dataset": self.data(fixed, steps, seed),
            "processing_class": self.tokenizer,
            "callbacks": [IterateAverage()] if settings.averaging else [],
        }
        set_seed(seed)
        model = self.adapted(fixed, settings)
        if fixed is None:
            trainer = self.panacea(model, preference_args=settings.preferences(), **options)
        else:
            trainer = self.separate(model, **options)
        trainer.train()
        return trainer.model
