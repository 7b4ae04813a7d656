"""What the recipes share: how flags are read, how a run goes on, and its end."""

import json
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset
from transformers import Trainer
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import is_torch_bf16_gpu_available
from trl import TrlParser

import peft_panacea
from arguments import RecipeArguments, in_one_sentence
from peft_panacea import simplex_grid
from peft_panacea.card import write_card
from peft_panacea.front import Front, describe, describe_work
from peft_panacea.training import PreferenceArguments, print_lines_only

# TRL 1.16 and PEFT 0.21.2 use names that transformers 5.23 has renamed; nothing that these scripts could change.
warnings.filterwarnings("ignore", message="`(is_)?gradient_checkpointing.*is deprecated", category=FutureWarning)


def parse(recipe: type[RecipeArguments], config: type[Any], *others: type[Any]) -> tuple[Any, ...]:
    """The flags, by TRL's own parser; with `--config FILE` also from a YAML file. Those of preferences come second."""
    parser = TrlParser((recipe, PreferenceArguments, config, *others))
    # Panacea starts at ΔW = 0 and wants a higher rate than full fine-tuning, see docs/initialisation.md.
    # TRL turns bf16 on unless it is told, and stops where there is none.
    has_bf16 = is_torch_bf16_gpu_available()
    parser.set_defaults(learning_rate=3e-3, bf16=None if has_bf16 else False)
    with in_one_sentence():
        arguments, preferences, args, *rest = parser.parse_args_and_config()
    if arguments.paper:
        preferences = replace(preferences, preference_per="batch")
    args.model_init_kwargs = {"dtype": arguments.dtype, **(args.model_init_kwargs or {})}
    if not (has_bf16 or args.bf16) and args.process_index == 0:
        print(f"bf16 autocast is off: torch finds no accelerator that has it. Frozen weights: {arguments.dtype}.")
    return arguments, preferences, args, *rest


def train(trainer: Trainer) -> None:
    """Go on from the last checkpoint if there is one, and save the adapter."""
    output = Path(trainer.args.output_dir)
    if trainer.model.num_parameters() < 10_000_000:
        torch.set_num_threads(1)  # on matrices this small a second thread costs more than it gives
    print_lines_only(trainer)
    trainer.train(resume_from_checkpoint=get_last_checkpoint(output) if output.is_dir() else None)
    trainer.save_model()


def keep_held_out(trainer: Trainer, held_out: Dataset) -> None:
    """Write the held-out rows next to the adapter."""
    if trainer.is_world_process_zero():
        output = Path(trainer.args.output_dir)
        output.mkdir(parents=True, exist_ok=True)
        (output / "held_out.json").write_text(json.dumps(held_out.to_list(), indent=1) + "\n", encoding="utf-8")


def write_front(trainer: Trainer, front: Front, unit: str, **details: Any) -> None:
    """Write the front of the adapter that was saved, with its card, and print it; `unit` is what was measured."""
    if not trainer.is_world_process_zero():
        return
    output = Path(trainer.args.output_dir)
    versions = {module.__name__: module.__version__ for module in (peft_panacea, trl)}
    details |= {"command": " ".join(sys.argv), "seed": trainer.args.seed, "unit": unit}
    known = {**front.details, "versions": {**front.details.get("versions", {}), **versions}}
    replace(front, details={**known, **details}).to_json(output / "front.json")
    written = Front.from_json(output / "front.json")  # the digits that it has are those that are printed
    write_card(output)
    print(f"\n{unit}\n\n{describe(written)}\n\nWrote the adapter, held_out.json and front.json to {output}")


def run(trainer: Trainer, recipe: RecipeArguments, held_out: Dataset | None, unit: str, **measuring: Any) -> None:
    """Train, going on from the last checkpoint if there is one; save the adapter; measure and write its front.

    `unit` is what is measured, in words, and `measuring` goes to the trainer's `measure`.
    """
    output, is_main = Path(trainer.args.output_dir), trainer.is_world_process_zero()
    if held_out is not None:
        keep_held_out(trainer, held_out)
    train(trainer)
    if held_out is None or not recipe.front_steps:
        if is_main:
            print(f"\nWrote the adapter to {output}")
        return
    grid = simplex_grid(len(recipe.objectives), recipe.front_steps).flip(0)
    if measuring:  # completions, which are kept, so that measuring goes on where it was stopped, too
        measuring["record"] = output / f"completions-{trainer.state.global_step}.jsonl"
        sizes = measuring["samples"], trainer.args.per_device_eval_batch_size, trainer.args.max_completion_length
        work = describe_work(len(held_out), len(grid), *sizes)
    else:
        work = f"the losses of {len(held_out)} held-out rows under {len(grid)} preferences and without the adapter"
    if is_main:
        print(f"\nThe adapter is in {output}. Now its front, which --front_steps 0 leaves out:\n{work}.")
    write_front(trainer, trainer.measure(grid, **measuring), unit)
