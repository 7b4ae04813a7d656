"""Supervised fine-tuning on one set of demonstrations per objective.

    python examples/recipes/sft.py --config examples/storyteller/sft.yaml

The rows of `--data` say which objective they belong to (docs/data.md). The same command again goes on from the last
checkpoint; with `accelerate launch` it runs on many GPUs.
"""

from flags import answer_help

answer_help(__doc__, "SFT")

from trl import SFTConfig, SFTTrainer

from arguments import RecipeArguments, in_one_sentence
from peft_panacea.training import ObjectiveLossMixin
from recipe import parse, run


class PanaceaSFTTrainer(ObjectiveLossMixin, SFTTrainer):
    pass


def main() -> None:
    recipe, preferences, args = parse(RecipeArguments, SFTConfig)
    tokenizer = recipe.tokenizer()
    with in_one_sentence():
        train, held_out = recipe.split(recipe.rows(), tokenizer)
        recipe.check_measurable("held_out", held_out)
    trainer = PanaceaSFTTrainer(
        model=recipe.model_name_or_path,
        args=args,
        train_dataset=train,
        eval_dataset=held_out,
        processing_class=tokenizer,
        peft_config=recipe.peft_config(),
        preference_args=preferences,
        callbacks=recipe.callbacks(),
    )
    run(trainer, recipe, held_out, "loss on held-out rows, nats per token")


if __name__ == "__main__":
    main()
