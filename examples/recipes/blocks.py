"""What `soups.py`, `mva.py` and `peo.py` share: one adapter, each objective of which was trained for itself by DPO."""

import copy
import gc
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import set_peft_model_state_dict
from peft.utils import load_peft_weights
from torch import Tensor
from transformers import AutoModelForCausalLM, set_seed
from trl import DPOTrainer

from arguments import RecipeArguments, in_one_sentence
from peft_panacea import PanaceaConfig
from peft_panacea.convert import stack_loras
from peft_panacea.front import Front, describe_work, evaluate_front
from peft_panacea.rewards import load_reward
from peft_panacea.training import ObjectiveLossMixin, PreferenceArguments
from peft_panacea.training.batches import by_objective
from recipe import train


class BlockTrainer(ObjectiveLossMixin, DPOTrainer):
    pass


@dataclass
class BlockArguments(RecipeArguments):
    """The flags of recipes that train one objective after the other."""

    rewards: list[str] = field(
        default_factory=list,
        metadata={"help": "A reward per objective, by which completions are scored; none: held-out losses are."},
    )
    samples: int = field(default=4, metadata={"help": "Completions of a prompt under a preference."})
    max_new_tokens: int = field(default=64, metadata={"help": "Of a completion, at most."})
    validation: int = field(
        default=64, metadata={"help": "Prompts kept from training besides those held out, to watch it, and to search."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rewards and len(self.rewards) != len(self.objectives):
            raise ValueError(f"`--rewards` must be one for each of {self.objectives}, but got {self.rewards}.")
        for name in ("held_out", "validation", "samples", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"`--{name}` must be at least 1 in this recipe, but got {getattr(self, name)}.")
        if (r := self.peft_config().r) > 0:
            raise ValueError(f"`--r` must be 0 where each objective is trained for itself, but got {r}.")

    def peft_config(self) -> PanaceaConfig:
        config = super().peft_config()
        config.scale_per_objective = True
        return config


class Blocks:
    """The training of each objective's own directions, and what combinations of them attain."""

    def __init__(self, recipe: BlockArguments, preferences: PreferenceArguments, args: Any) -> None:
        self.recipe, self.preferences, self.args = recipe, preferences, args
        self.output, self.tokenizer = Path(args.output_dir), recipe.tokenizer()
        with in_one_sentence():
            if preferences.trained_objectives is not None:
                raise ValueError("`--trained_objectives` must not be given, because this recipe trains one by one.")
            rows, names = recipe.rows(), recipe.objectives
            self.train_rows, self.test, self.validation = recipe.split(rows, self.tokenizer, recipe.validation)
            if recipe.rewards and "prompt" not in rows.column_names:
                raise ValueError(f"`--rewards` must be none for rows without `prompt`, but got {recipe.rewards}.")
            if not recipe.rewards:
                recipe.check_measurable("held_out", self.test)
                recipe.check_measurable("validation", self.validation)
            loaded = (load_reward(spec, self.tokenizer) for spec in recipe.rewards)
            self.rewards = dict(zip(names, loaded, strict=False))

    def trainer(
        self, output: Path, start: Path | None, rows: Dataset, kind: type[BlockTrainer] = BlockTrainer, **settings: Any
    ) -> BlockTrainer:
        """A trainer of a new adapter, or of the one in `start`; the reference is the model without it.

        `rows` are for training; one that only measures has as few as need be.
        """
        args, config = copy.copy(self.args), self.recipe.peft_config()
        args.output_dir = str(output)
        args.dataloader_persistent_workers = False  # loaders would be kept by name, and each name has two splits
        if start is not None:
            config, names = PanaceaConfig.from_pretrained(start), self.recipe.objectives
            config.inference_mode = False
            if config.objective_names != names:
                raise SystemExit(
                    f"`--objectives` must be those of {start}, {config.objective_names}, but got {names}."
                )
        set_seed(args.seed)  # of a new adapter
        trainer = kind(
            model=self.recipe.model_name_or_path,
            args=args,
            train_dataset=rows,
            eval_dataset={"test": self.test, "validation": self.validation},
            processing_class=self.tokenizer,
            peft_config=config,
            callbacks=self.recipe.callbacks(),
            **{"preference_args": self.preferences, **settings},
        )
        if start is not None:
            set_peft_model_state_dict(trainer.model, load_peft_weights(str(start), device="cpu"))
        trainer.splits = {name: by_objective(d, trainer.objectives) for name, d in trainer.eval_dataset.items()}
        trainer.eval_dataset = trainer.splits["validation"]
        return trainer

    def train(
        self,
        where: str = "alone",
        kind: type[BlockTrainer] = BlockTrainer,
        settings: Callable[[list[str]], Any] = lambda earlier: {},
    ) -> Path:
        """Train one objective after the other, and return the folder of the adapter that has them all.

        In the folder `where` each has one of its own; what is finished there is not trained again. `settings` are
        further arguments of the trainer, given which objectives were trained before.
        """
        names, last = self.recipe.objectives, None
        for i, name in enumerate(names):
            folder = self.output / where / name
            if not (folder / "trainer_state.json").exists():  # which is written last
                if self.args.process_index == 0:
                    print(f"\nTraining {name}, {i + 1} of {len(names)}, in {folder}")
                only = replace(self.preferences, trained_objectives=[name])
                further = {"preference_args": only, **settings(names[:i])}
                trainer = self.trainer(folder, last, self.train_rows, kind, **further)
                train(trainer)
                trainer.save_state()
                trainer.accelerator.wait_for_everyone()  # all read what one has written
                del trainer
                gc.collect()  # trainers are full of cycles, and the next one loads a model beside this one's
            last = folder
        return last

    def stack(self, loras: dict[str, str]) -> Path:
        """LoRA adapters that there are in place of training, and the folder of the adapter that has them all."""
        folder = self.output / "loras"
        with in_one_sentence():
            if self.args.process_index == 0:
                base = AutoModelForCausalLM.from_pretrained(self.recipe.model_name_or_path, dtype=self.recipe.dtype)
                stack_loras(base, loras).save_pretrained(folder)
        self.args.distributed_state.wait_for_everyone()
        return folder

    def score(self, trainer: BlockTrainer, preferences: Tensor, split: str) -> Front:
        """What combinations attain on "validation" or "test"; completions are kept, so that it can go on."""
        rows = self.test if split == "test" else self.validation
        work = f"the losses of {len(rows)} rows under {len(preferences)} preferences and without the adapter"
        if self.rewards:
            prompts = list({str(prompt): prompt for prompt in rows["prompt"]}.values())
            sizes = self.recipe.samples, self.args.per_device_eval_batch_size, self.recipe.max_new_tokens
            work = describe_work(len(prompts), len(preferences), *sizes)
        if trainer.is_world_process_zero():
            print(f"\nMeasuring on {split}: {work}.")
        if not self.rewards:
            trainer.eval_dataset = trainer.splits[split]
            return trainer.measure(preferences, extrapolate=True)
        with in_one_sentence():
            return evaluate_front(
                trainer.accelerator.unwrap_model(trainer.model),
                prompts,
                self.rewards,
                preferences,
                tokenizer=self.tokenizer,
                samples=self.recipe.samples,
                batch_size=self.args.per_device_eval_batch_size,
                seed=self.args.seed,
                extrapolate=True,
                record=Path(trainer.args.output_dir) / f"completions-{split}.jsonl",
                max_new_tokens=self.recipe.max_new_tokens,
            )

    @property
    def unit(self) -> str:
        loss = "loss on held-out pairs, log 2 = 0.693 at the start"
        return "mean reward of held-out prompts" if self.rewards else loss
