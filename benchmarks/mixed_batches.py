"""A front of 11 preferences: mixed batches against one preference after another.

    OMP_NUM_THREADS=1 python benchmarks/mixed_batches.py --prompts 128 --batch_size 128

The embedded adapter, one completion of at most 64 tokens each; the sides take turns within one run. Both sides have
the same largest batch; one preference alone has no more rows to fill it with than there are prompts.
"""

import argparse
import random
import statistics
import time

import torch
from tqdm.auto import trange

import embedded
from peft_panacea.front import evaluate_front
from peft_panacea.simplex import simplex_grid

TURNS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=128)
    parser.add_argument("--batch_size", type=int, default=128)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = embedded.load()
    prompts = embedded.prompts(1000, random.Random(0))[: args.prompts]
    grid = simplex_grid(2, 10)

    def seconds(parts: list[torch.Tensor]) -> float:
        start = time.perf_counter()
        for part in parts:
            evaluate_front(
                model, prompts, embedded.REWARDS, part, tokenizer=tokenizer, batch_size=args.batch_size, base=False
            )
        return time.perf_counter() - start

    turns = [(seconds([grid]), seconds(list(grid.split(1)))) for _ in trange(TURNS, desc="turns")]
    low, median, high = statistics.quantiles((mixed / alone for mixed, alone in turns), n=4)
    mixed, alone = (statistics.median(column) for column in zip(*turns, strict=True))
    print(
        f"{args.prompts} prompts, batches of at most {args.batch_size}: mixed {mixed:.1f} s, one after another "
        f"{alone:.1f} s, ratio {median:.2f} (quartiles {low:.2f} to {high:.2f})"
    )
    print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s)")


if __name__ == "__main__":
    main()
