r"""Rewarded Soups: one adapter for each objective, averaged by the preference; and joint training from there on.

    python examples/recipes/soups.py --config examples/storyteller/blocks.yaml --output_dir runs/storyteller/soups
    python examples/recipes/soups.py --config examples/chat/dpo.yaml --output_dir runs/chat/soups --joint_steps 50

Each objective is trained alone, by DPO on its pairs (docs/siblings.md). LoRA adapters that there are already need no
training, `--loras polite=FOLDER brief=FOLDER`. The same command again goes on where it was stopped.
"""

from flags import answer_help

answer_help(__doc__, "DPO", "SoupArguments", "BlockArguments")

from dataclasses import dataclass, field

from trl import DPOConfig

from blocks import BlockArguments, Blocks, BlockTrainer
from peft_panacea import simplex_grid
from recipe import keep_held_out, parse, train, write_front


@dataclass
class SoupArguments(BlockArguments):
    """The flags of blocks and those of soups alone."""

    loras: list[str] = field(
        default_factory=list,
        metadata={"help": "NAME=FOLDER for each objective, LoRA adapters that there are, whose ranks are kept."},
    )
    joint_steps: int = field(
        default=0, metadata={"help": "Steps in which all objectives are then trained together, in the folder `joint`."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.folders = dict(pair.split("=", 1) for pair in self.loras if "=" in pair)
        if self.loras and (len(self.loras) > len(self.folders) or set(self.folders) != set(self.objectives)):
            raise ValueError(f"`--loras` must be NAME=FOLDER for each of {self.objectives}, but got {self.loras}.")
        self.folders = {name: self.folders[name] for name in self.objectives if self.loras}


def main() -> None:
    recipe, preferences, args = parse(SoupArguments, DPOConfig)
    blocks = Blocks(recipe, preferences, args)
    last = blocks.stack(recipe.folders) if recipe.loras else blocks.train()
    trainer = blocks.trainer(blocks.output, last, blocks.validation)
    trainer.save_model()
    measure(blocks, trainer)
    if recipe.joint_steps:
        joint = blocks.trainer(blocks.output / "joint", last, blocks.train_rows)
        joint.args.max_steps = recipe.joint_steps
        train(joint)
        measure(blocks, joint)


def measure(blocks: Blocks, trainer: BlockTrainer) -> None:
    """The front of an adapter that was saved."""
    keep_held_out(trainer, blocks.test)
    if blocks.recipe.front_steps:
        grid = simplex_grid(len(trainer.objectives), blocks.recipe.front_steps).flip(0)
        write_front(trainer, blocks.score(trainer, grid, "test"), blocks.unit)


if __name__ == "__main__":
    main()
