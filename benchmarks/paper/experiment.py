"""The common ground of all experiments: what one says about itself, and how one adapter is trained."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset
from peft import PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, Trainer, TrainingArguments, set_seed

from peft_panacea import PanaceaConfig
from peft_panacea.front import Front
from peft_panacea.training.averaging import IterateAverage
from variants import Settings, change

QUIET = {
    "gradient_checkpointing": False,
    "dataloader_pin_memory": False,
    "save_strategy": "no",
    "logging_strategy": "no",
    "report_to": [],
    "disable_tqdm": True,
}


class Experiment:
    """A model and its prompts; a kind of experiment adds objectives, data, trainers and how a model is measured.

    Args:
        model: Folder of the base model.
        test, development, train: Prompts for the results, for choosing, and for training.
    """

    objectives: list[str]
    unit: str  # of the scores
    steps: int  # of Panacea's one run
    rows: int  # in a step
    learning_rate: float
    grid: Tensor  # what Panacea and soups are measured at
    coarse: Tensor | None = None  # what separate models are trained for, if they are
    normalisation: tuple[np.ndarray, np.ndarray] | None = None
    precision: ClassVar[dict[str, bool]] = {"bf16": False}
    panacea: Callable[..., Trainer]
    separate: Callable[..., Trainer]

    def __init__(self, model: Path, test: list[Any], development: list[Any], train: list[Any]) -> None:
        self.model, self.tokenizer = model, AutoTokenizer.from_pretrained(model)
        self.test, self.development, self.train = test, development, train

    def data(self, fixed: list[float] | None, steps: int, seed: int) -> Dataset:
        """The rows of all objectives, or those of a separate model, of objective i in proportion to `fixed[i]`."""
        raise NotImplementedError

    def arguments(self, fixed: list[float] | None, **common: Any) -> TrainingArguments:
        raise NotImplementedError

    def front(self, model: PeftModel, preferences: Any, *, base: bool = False, prompts: Any = None) -> Front:
        """Measured on the prompts for testing, unless others are given; with `base` also without the adapter."""
        raise NotImplementedError

    def base_model(self) -> PreTrainedModel:
        return AutoModelForCausalLM.from_pretrained(self.model, dtype=torch.float32)

    def adapted(self, fixed: list[float] | None, settings: Settings) -> PeftModel:
        """With Panacea's adapter, or a separate model's: the same under one preference."""
        own = {
            "r": settings.r,
            "preference_rank": settings.preference_rank,
            "scaling": settings.scaling,
            "coordinates": settings.coordinates,
        }
        separate = {"r": 8 + len(self.objectives) - 1, "preference_rank": 1, "default_preference": fixed}
        config = PanaceaConfig(
            objectives=self.objectives,
            task_type="CAUSAL_LM",
            panacea_dropout=settings.dropout,
            **(own if fixed is None else separate),
        )
        model = get_peft_model(self.base_model(), config)
        if fixed is None:
            change(model, settings)
        return model

    def train_one(self, fixed: list[float] | None, settings: Settings, steps: int, seed: int) -> PeftModel:
        """Panacea, or with a fixed preference one separate model, trained with TRL's own trainer."""
        options = self.options(fixed, settings, steps, seed)
        set_seed(seed)
        model = self.adapted(fixed, settings)
        if fixed is None:
            trainer = self.panacea(model, preference_args=settings.preferences(), **options)
        else:
            trainer = self.separate(model, **options)
        trainer.train()
        return trainer.model

    def options(self, fixed: list[float] | None, settings: Settings, steps: int, seed: int) -> dict[str, Any]:
        """What every trainer is given but the model."""
        return {
            "args": self.arguments(
                fixed,
                output_dir="runs/paper/unused",
                max_steps=steps,
                per_device_train_batch_size=self.rows,
                learning_rate=settings.learning_rate or self.learning_rate,
                warmup_steps=max(1, steps // 10),
                seed=seed,
                **({} if settings.beta is None else {"beta": settings.beta}),
                **self.precision,
                **QUIET,
            ),
            "train_dataset": self.data(fixed, steps, seed),
            "processing_class": self.tokenizer,
            "callbacks": [IterateAverage()] if settings.averaging else [],
        }


def under(model: PeftModel, preference: Any) -> AbstractContextManager[None]:
    """Within the block a steerable adapter is at this preference, off the simplex too."""
    return nullcontext() if preference is None else model.preference(preference, extrapolate=True)
