r"""DPO, or any other preference loss of TRL (`--loss_type`), on pairs that are labelled for each objective.

    python examples/recipes/dpo.py --config examples/storyteller/dpo.yaml
    accelerate launch examples/recipes/dpo.py --model_name_or_path Qwen/Qwen3-0.6B --data PKU-Alignment/PKU-SafeRLHF \
        --data_format pku_safe_rlhf --objectives helpful harmless --output_dir runs/safe

A pair may be labelled on several objectives that disagree, or on one (docs/data.md). The same command again goes on
from the last checkpoint.
"""

from flags import answer_help

answer_help(__doc__, "DPO")

from trl import DPOConfig, DPOTrainer

from arguments import RecipeArguments, in_one_sentence
from peft_panacea.training import ObjectiveLossMixin
from recipe import parse, run


class PanaceaDPOTrainer(ObjectiveLossMixin, DPOTrainer):
    pass


def main() -> None:
    recipe, preferences, args = parse(RecipeArguments, DPOConfig)
    tokenizer = recipe.tokenizer()
    with in_one_sentence():
        train, held_out = recipe.split(recipe.rows(), tokenizer)
        recipe.check_measurable("held_out", held_out)
    trainer = PanaceaDPOTrainer(
        model=recipe.model_name_or_path,
        args=args,
        train_dataset=train,
        eval_dataset=held_out,
        processing_class=tokenizer,
        peft_config=recipe.peft_config(),
        preference_args=preferences,
        callbacks=recipe.callbacks(),
    )
    run(trainer, recipe, held_out, "loss on held-out pairs, log 2 = 0.693 at the start")


if __name__ == "__main__":
    main()
