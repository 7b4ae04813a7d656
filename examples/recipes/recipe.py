"""What the three recipes share: their own flags, the data, the end of a run."""

import random
import sys
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset, load_dataset
from transformers import Trainer
from transformers.trainer_utils import get_last_checkpoint
from trl import TrlParser

import peft_panacea
from peft_panacea import PanaceaConfig, data, simplex_grid
from peft_panacea.front import Front, describe
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
        """The prompts of a JSON file, or the column `prompt` of a data set of the Hub."""
        if Path(self.data).suffix not in (".json", ".jsonl"):
            return load_dataset(self.data, split="train").select_columns("prompt")
        return Dataset.from_dict({"prompt": data.json_prompts(self.data)})


def parse(recipe: type[RecipeArguments], config: type[Any]) -> tuple[Any, PreferenceArguments, Any]:
    """The flags, by TRL's own parser; with `--config FILE` also from a YAML file."""
    parser = TrlParser((recipe, PreferenceArguments, config))
    # Panacea starts at ΔW = 0 and wants a higher rate than full fine-tuning, see docs/initialisation.md.
    parser.set_defaults(learning_rate=3e-3)
    return parser.parse_args_and_config()


def run(trainer: Trainer, recipe: RecipeArguments, unit: str, **measuring: Any) -> None:
    """Train, going on from the last checkpoint if there is one; save the adapter; measure and write its front.

    `unit` is what is measured, in words, and `measuring` goes to the trainer's `measure`.
    """
    output = Path(trainer.args.output_dir)
    if trainer.model.num_parameters() < 10_000_000:
        torch.set_num_threads(1)  # on matrices this small a second thread costs more than it gives
    trainer.train(resume_from_checkpoint=get_last_checkpoint(output) if output.is_dir() else None)
    trainer.save_model()
    grid = simplex_grid(len(recipe.objectives), recipe.front_steps).flip(0)
    if measuring:  # completions, which are kept, so that measuring goes on where it was stopped, too
        measuring["record"] = output / f"completions-{trainer.state.global_step}.jsonl"
    front = trainer.measure(grid, **measuring)
    if not trainer.is_world_process_zero():
        return
    versions = {module.__name__: module.__version__ for module in (peft_panacea, trl)}
    details = {"command": " ".join(sys.argv), "seed": trainer.args.seed, "unit": unit}
    known = {**front.details, "versions": {**front.details.get("versions", {}), **versions}}
    replace(front, details={**known, **details}).to_json(output / "front.json")
    written = Front.from_json(output / "front.json")  # the digits that it has are those that are printed
    print(f"\n{unit}\n\n{describe(written)}\n\nWrote the adapter and front.json to {output}")
