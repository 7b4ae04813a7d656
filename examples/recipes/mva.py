r"""MVA: one objective after the other, each kept independent of those before; then free weights instead of a simplex.

    python examples/recipes/mva.py --config examples/storyteller/blocks.yaml --grid_steps 4 \
        --output_dir runs/storyteller/mva
    python examples/recipes/mva.py --config examples/chat/dpo.yaml --output_dir runs/chat/mva \
        --rewards runs/politeness tokens=30

After arXiv 2511.17579, not its code; docs/siblings.md says what differs. The same command again goes on where it was
stopped.
"""

from flags import answer_help

answer_help(__doc__, "DPO", "MVAArguments", "SearchArguments", "BlockArguments", "DecorrelationArguments")

from dataclasses import dataclass, field, replace
from typing import Any

from trl import DPOConfig

from arguments import in_one_sentence
from blocks import Blocks, BlockTrainer
from peft_panacea.training import DecorrelationArguments, DecorrelationMixin
from recipe import parse
from search import SearchArguments, free, search


class MVATrainer(DecorrelationMixin, BlockTrainer):
    pass


@dataclass
class MVAArguments(SearchArguments):
    """The flags of a search and those of MVA alone."""

    highest: float = field(default=1.0, metadata={"help": "C, the greatest weight of an objective, > 0."})


def main() -> None:
    recipe, preferences, args, decorrelation = parse(MVAArguments, DPOConfig, DecorrelationArguments)
    with in_one_sentence():
        grid = free(len(recipe.objectives), recipe.grid_steps, recipe.highest)
        if decorrelation.earlier:
            raise ValueError("`--earlier` must not be given, because they are those before in `--objectives`.")
    blocks = Blocks(recipe, preferences, args)

    def settings(earlier: list[str]) -> dict[str, Any]:
        return {"decorrelation_args": replace(decorrelation, earlier=earlier)}

    search(blocks, blocks.train("decorrelated", MVATrainer, settings), grid, blocks.output)


if __name__ == "__main__":
    main()
