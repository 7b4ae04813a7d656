r"""PEO: a specialist for each objective, a generalist between them, and extrapolation beyond, found by a search.

    python examples/recipes/peo.py --config examples/storyteller/blocks.yaml --grid_steps 4 \
        --output_dir runs/storyteller/peo
    python examples/recipes/peo.py --config examples/chat/dpo.yaml --output_dir runs/chat/peo \
        --rewards runs/politeness tokens=30 --reading free

After arXiv 2503.01233, whose formulas we know from others only; docs/siblings.md says how they can be read. Each
reading has a folder of its own and the specialists in common. The same command again goes on where it was stopped.
"""

from flags import answer_help

answer_help(__doc__, "DPO", "PEOArguments", "SearchArguments", "BlockArguments")

from dataclasses import dataclass, field
from typing import Literal

from trl import DPOConfig

from arguments import in_one_sentence
from blocks import Blocks
from recipe import parse
from search import SearchArguments, around, free, search


@dataclass
class PEOArguments(SearchArguments):
    """The flags of a search and those of PEO alone."""

    reading: Literal["around", "free"] = field(
        default="around",
        metadata={
            "help": "'around': from the generalist towards and away from specialists, so that weights sum to 1. "
            "'free': from the model before training, each weight for itself."
        },
    )
    highest: float = field(default=1.5, metadata={"help": "The greatest weight; around: at least 1, the soup alone."})


def main() -> None:
    recipe, preferences, args = parse(PEOArguments, DPOConfig)
    with in_one_sentence():
        combinations = around if recipe.reading == "around" else free
        grid = combinations(len(recipe.objectives), recipe.grid_steps, recipe.highest)
    blocks = Blocks(recipe, preferences, args)
    search(blocks, blocks.train(), grid, blocks.output / recipe.reading)


if __name__ == "__main__":
    main()
