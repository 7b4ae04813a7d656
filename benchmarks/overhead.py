"""What a preference costs next to plain LoRA of the same rank.

    OMP_NUM_THREADS=1 python benchmarks/overhead.py

Times forward and backward of a two-layer Llama with PEFT's LoRA, with one preference and with one preference per row.
The sides take turns within one run; printed are the medians of the ratios to LoRA in the same turn, with quartiles.
"""

import argparse
import statistics
import time

import peft
import torch
from peft import LoraConfig, get_peft_model
from tqdm import trange
from transformers import LlamaConfig, LlamaForCausalLM

from peft_panacea import PanaceaConfig


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--turns", type=int, default=30)
    args = parser.parse_args()
    torch.manual_seed(0)

    def base() -> LlamaForCausalLM:
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=1000,
                hidden_size=args.width,
                intermediate_size=2 * args.width,
                num_hidden_layers=2,
                num_attention_heads=args.width // 64,
            )
        )

    tokens = torch.randint(0, 1000, (8, 64))
    lora = get_peft_model(base(), LoraConfig(r=10, target_modules="all-linear"))
    panacea = get_peft_model(base(), PanaceaConfig(objectives=2, r=8))
    first = torch.rand(8, 1)
    sides = {
        "LoRA r=10": (lora, {}),
        "one preference": (panacea, {"preference": [0.3, 0.7]}),
        "a preference per row": (panacea, {"preference": torch.cat([first, 1 - first], dim=1)}),
    }

    def seconds(side: str) -> float:
        model, options = sides[side]
        start = time.perf_counter()
        model(tokens, labels=tokens, **options).loss.backward()
        return time.perf_counter() - start

    for side in sides:
        seconds(side)
    turns = [{side: seconds(side) for side in sides} for _ in trange(args.turns, desc="turns")]
    print(
        f"width {args.width}, torch {torch.__version__}, peft {peft.__version__}, {torch.get_num_threads()} thread(s)"
    )
    print(f"LoRA r=10: median {statistics.median(t['LoRA r=10'] for t in turns) * 1e3:.0f} ms")
    for side in list(sides)[1:]:
        low, median, high = statistics.quantiles((t[side] / t["LoRA r=10"] for t in turns), n=4)
        print(f"{side}: {median:.3f} times LoRA (quartiles {low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
