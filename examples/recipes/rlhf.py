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
from dataclasses import dataclass, field

from transformers import AutoTokenizer
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from peft_panacea.rewards import load_reward
from peft_panacea.training import ObjectiveRewardMixin
from recipe import RecipeArguments, parse, run


class PanaceaGRPOTrainer(ObjectiveRewardMixin, GRPOTrainer):
    pass


class PanaceaRLOOTrainer(ObjectiveRewardMixin, RLOOTrainer):
    pass


ALGORITHMS = {"grpo": (PanaceaGRPOTrainer, GRPOConfig), "rloo": (PanaceaRLOOTrainer, RLOOConfig)}


@dataclass
class RewardArguments(RecipeArguments):
    """The flags of every recipe and those of RL alone."""

    rewards: list[str] = field(
        default_factory=list, metadata={"help": "A reward per objective, see `peft_panacea.rewards.load_reward`."}
    )
    normalisation_prompts: int = field(
        default=64, metadata={"help": "Prompts for the rewards' mean and standard deviation; 0: rewards as they are."}
    )
    samples: int = field(default=8, metadata={"help": "Completions of a held-out prompt under a preference."})


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in ALGORITHMS:
        raise SystemExit("usage: rlhf.py {grpo,rloo} [flags, see --help after the algorithm]")
    trainer_class, config = ALGORITHMS[sys.argv.pop(1)]
    recipe, preferences, args = parse(RewardArguments, config)
    tokenizer = AutoTokenizer.from_pretrained(recipe.model_name_or_path)
    train, held_out = recipe.split(recipe.prompts())
    trainer = trainer_class(
        model=recipe.model_name_or_path,
        args=args,
        reward_funcs=[load_reward(spec, tokenizer) for spec in recipe.rewards],
        train_dataset=train,
        eval_dataset=held_out,
        processing_class=tokenizer,
        peft_config=recipe.peft_config(),
        preference_args=preferences,
    )
    if recipe.normalisation_prompts:
        trainer.normalise_rewards(train.select(range(min(recipe.normalisation_prompts, len(train)))))
    run(trainer, recipe, "mean reward of held-out prompts", samples=recipe.samples)


if __name__ == "__main__":
    main()
