"""What the three recipes share: their own flags, the data, the end of a run."""

import json
import random
import re
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import accelerate
import peft
import torch
import transformers
import trl
from datasets import Dataset, load_dataset
from torch import Tensor
from transformers import Trainer
from transformers.trainer_utils import get_last_checkpoint
from trl import TrlParser

import peft_panacea
from peft_panacea import PanaceaConfig, data
from peft_panacea.simplex import simplex_grid
from peft_panacea.training import PreferenceArguments

# TRL 1.16 and PEFT 0.21.2 use names that transformers 5.23 has renamed; nothing that these scripts could change.
warnings.filterwarnings("ignore", message="`(is_)?gradient_checkpointing.*is deprecated", category=FutureWarning)


@dataclass
class RecipeArguments:
    """Flags of every recipe, next to those of `PreferenceArguments` and of the TRL trainer."""

    model_name_or_path: str = field(metadata={"help": "Causal language model, on the Hub or in a folder."})
    objectives: list[str] = field(metadata={"help": "Names of the objectives, in the order of all else."})
    data: str = field(metadata={"help": "A JSON file (docs/data.md), or a data set of the Hub with --data_format."})
    data_format: str | None = field(
        default=None, metadata={"help": "The function of `peft_panacea.data` that converts it, such as pku_safe_rlhf."}
    )
    held_out: int = field(default=64, metadata={"help": "Prompts kept from training, for the front."})
    r: int = field(default=8, metadata={"help": "Rank that all objectives share."})
    preference_rank: int = field(default=1, metadata={"help": "Rank that each objective has for itself."})
    front_steps: int = field(default=4, metadata={"help": "Steps from one objective to another in the final front."})

    def peft_config(self) -> PanaceaConfig:
        return PanaceaConfig(
            objectives=self.objectives, r=self.r, preference_rank=self.preference_rank, task_type="CAUSAL_LM"
        )

    def split(self, dataset: Dataset) -> tuple[Dataset, Dataset]:
        """The rows for training, and those of the held-out prompts (rows, where there are none), always the same."""
        keys = list(map(str, dataset["prompt"] if "prompt" in dataset.column_names else range(len(dataset))))
        unique = list(dict.fromkeys(keys))
        if not 0 < self.held_out < len(unique):
            raise SystemExit(f"`--held_out` must be between 1 and {len(unique) - 1}, but got {self.held_out}.")
        random.Random(0).shuffle(unique)
        test = set(unique[: self.held_out])
        train, held_out = ([i for i, key in enumerate(keys) if (key in test) == wanted] for wanted in (False, True))
        return dataset.select(train), dataset.select(held_out)

    def rows(self) -> Dataset:
        """The rows of `--data`, with `objective` or `objective_labels`."""
        if self.data_format is None:
            return data.json_preferences(self.data, self.objectives)
        return getattr(data, self.data_format)(load_dataset(self.data, split="train"))

    def prompts(self) -> Dataset:
        """The different first sentences of a JSON list of texts, or the column `prompt` of a data set of the Hub."""
        if Path(self.data).suffix != ".json":
            return load_dataset(self.data, split="train").select_columns("prompt")
        texts = json.loads(Path(self.data).read_text(encoding="utf-8"))
        return Dataset.from_dict(
            {"prompt": list(dict.fromkeys(re.split(r"(?<=[.!?])\s", t.strip())[0] for t in texts))}
        )


def parse(recipe: type[RecipeArguments], config: type[Any]) -> tuple[Any, PreferenceArguments, Any]:
    """The flags, by TRL's own parser; with `--config FILE` also from a YAML file."""
    parser = TrlParser((recipe, PreferenceArguments, config))
    # Panacea starts at ΔW = 0 and wants a higher rate than full fine-tuning, see docs/initialisation.md.
    parser.set_defaults(learning_rate=3e-3)
    return parser.parse_args_and_config()


def run(trainer: Trainer, recipe: RecipeArguments, unit: str) -> None:
    """Train, going on from the last checkpoint if there is one; save the adapter; measure and write its front."""
    output = Path(trainer.args.output_dir)
    if trainer.model.num_parameters() < 10_000_000:
        torch.set_num_threads(1)  # on matrices this small a second thread costs more than it gives
    trainer.train(resume_from_checkpoint=get_last_checkpoint(output) if output.is_dir() else None)
    trainer.save_model()
    grid = simplex_grid(len(recipe.objectives), recipe.front_steps).flip(0)
    measured = trainer.measure(grid)
    with trainer.accelerator.unwrap_model(trainer.model).disable_adapter():
        base = trainer.measure(grid[:1])
    if not trainer.is_world_process_zero():
        return
    print(table(recipe.objectives, grid, measured, base, unit))
    report = {
        "command": " ".join(sys.argv),
        "versions": {m.__name__: m.__version__ for m in (peft_panacea, torch, transformers, peft, trl, accelerate)},
        "seed": trainer.args.seed,
        "objectives": recipe.objectives,
        "unit": unit,
        "preferences": grid.tolist(),
        "measured": measured.tolist(),
        "base_model": base[0].tolist(),
    }
    (output / "front.json").write_text(json.dumps(report, indent=2) + "\n")
    print(f"\nWrote the adapter and front.json to {output}")


def table(objectives: list[str], preferences: Tensor, measured: Tensor, base: Tensor, unit: str) -> str:
    """One line per preference, its weights and what was measured for each objective, and one for the base model."""
    labels = [
        ", ".join(f"{name} {p:.2f}" for name, p in zip(objectives, row, strict=True) if p)
        for row in preferences.tolist()
    ]
    left, width = max(map(len, [*labels, "base model"])), max(8, *map(len, objectives))
    rows = zip([*labels, "base model"], [*measured.tolist(), base[0].tolist()], strict=True)
    lines = ["", unit, " ".join([" " * left, *(f"{name:>{width}}" for name in objectives)])]
    return "\n".join(
        [*lines, *(" ".join([f"{label:{left}}", *(f"{x:{width}.3f}" for x in row)]) for label, row in rows)]
    )
