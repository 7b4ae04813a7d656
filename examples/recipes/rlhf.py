r"""RL with GRPO or RLOO: one reward per objective, one preference per prompt, or per batch as in the paper.

    python examples/recipes/rlhf.py rloo --config examples/storyteller/rlhf.yaml

Any causal language model will do. A reward is a function of `peft_panacea.rewards` or of your own
(`FILE.py:FUNCTION`), or a classifier in a folder or on the Hub:

    accelerate launch examples/recipes/rlhf.py grpo --model_name_or_path Qwen/Qwen3-0.6B --data trl-lib/tldr \
        --objectives faithful concise --rewards my-org/faithfulness-reward tokens=40 --output_dir runs/tldr

Rewards are aggregated in units of their standard deviation over the model's own completions before training, measured
once and stored as `reward_normalisation.json`. The same command again goes on from the last checkpoint.
"""

import sys

from flags import answer_help

ALGORITHM = sys.argv.pop(1) if sys.argv[1:2] in (["grpo"], ["rloo"]) else None
answer_help(__doc__, (ALGORITHM or "rloo").upper(), "RewardArguments")

from dataclasses import dataclass, field
from typing import Literal

from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from arguments import RecipeArguments, in_one_sentence
from peft_panacea.front import describe_work
from peft_panacea.rewards import load_reward
from peft_panacea.training import DegenerationGuard, ObjectiveRewardMixin
from recipe import parse, run


class PanaceaGRPOTrainer(ObjectiveRewardMixin, GRPOTrainer):
    pass


class PanaceaRLOOTrainer(ObjectiveRewardMixin, RLOOTrainer):
    pass


ALGORITHMS = {"grpo": (PanaceaGRPOTrainer, GRPOConfig), "rloo": (PanaceaRLOOTrainer, RLOOConfig)}


@dataclass
class RewardArguments(RecipeArguments):
    """The flags of every recipe and those of RL alone."""

    rewards: list[str] = field(
        kw_only=True, metadata={"help": "A reward per objective, see `peft_panacea.rewards.load_reward`."}
    )
    normalisation_prompts: int = field(
        default=64, metadata={"help": "Prompts for the rewards' mean and standard deviation; 0: rewards as they are."}
    )
    guard: Literal["stop", "warn", "off"] = field(
        default="stop", metadata={"help": "What to do when the completions degenerate (docs/training.md)."}
    )
    samples: int = field(default=8, metadata={"help": "Completions of a held-out prompt under a preference."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.rewards) != len(self.objectives):
            raise ValueError(f"`--rewards` must be one for each of {self.objectives}, but got {self.rewards}.")
        for name, lowest in (("samples", 1), ("normalisation_prompts", 0)):
            if getattr(self, name) < lowest:
                raise ValueError(f"`--{name}` must be at least {lowest}, but got {getattr(self, name)}.")

    def callbacks(self) -> list[TrainerCallback]:
        return super().callbacks() + ([] if self.guard == "off" else [DegenerationGuard(self.guard)])


def main() -> None:
    if ALGORITHM is None:
        raise SystemExit("usage: rlhf.py {grpo,rloo} [flags, see --help]")
    trainer_class, config = ALGORITHMS[ALGORITHM]
    recipe, preferences, args = parse(RewardArguments, config)
    tokenizer = recipe.tokenizer()
    with in_one_sentence():
        train, held_out = recipe.split(recipe.prompts(), tokenizer)
        rewards = [load_reward(spec, tokenizer) for spec in recipe.rewards]
    trainer = trainer_class(
        model=recipe.model_name_or_path,
        args=args,
        reward_funcs=rewards,
        train_dataset=train,
        eval_dataset=held_out,
        processing_class=tokenizer,
        peft_config=recipe.peft_config(),
        preference_args=preferences,
        callbacks=recipe.callbacks(),
    )
    if recipe.normalisation_prompts:
        some = train.select(range(min(recipe.normalisation_prompts, len(train))))
        if trainer.is_world_process_zero():
            sizes = args.num_generations, args.per_device_eval_batch_size, args.max_completion_length
            print("Mean and standard deviation of the rewards, unless reward_normalisation.json has them")
            print(f"(--normalisation_prompts 0: none):\n{describe_work(len(some), 0, *sizes)}.")
        trainer.normalise_rewards(some)
        if trainer.is_world_process_zero():
            columns = zip(recipe.objectives, *(c.tolist() for c in trainer.reward_normalisation), strict=True)
            print("Of the model: " + ", ".join(f"{name} {mean:.3g} ± {std:.3g}" for name, mean, std in columns))
    run(trainer, recipe, held_out, "mean reward of held-out prompts", samples=recipe.samples)


if __name__ == "__main__":
    main()
