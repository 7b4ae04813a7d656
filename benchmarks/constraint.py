"""Does a chosen preference keep its constraint? `Front.choose` on small fronts, verified on other prompts.

    OMP_NUM_THREADS=1 python benchmarks/constraint.py --output docs/results/constraint.json

Each repetition measures the embedded adapter's front on 48 prompts of its own, 11 preferences, 1 completion each,
chooses the most cheerful preference whose brevity is at least 0.5 at 95 %, and measures that preference on 512 other
prompts. Reported: how often the constraint holds there, how often each held-out mean lies in the stated interval
(the held-out mean has an error of its own, too), and what is lost in cheerfulness to the best preference in truth.
"""

import argparse
import json
import random
import sys
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import trange

import embedded
import peft_panacea
from embedded import REWARDS
from peft_panacea.front import evaluate_front
from peft_panacea.simplex import simplex_grid

ROOT = Path(__file__).resolve().parent.parent
PROMPTS, HELD_OUT, LIMIT, LEVEL = 48, 512, 0.5, 0.95


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--output", type=Path, default=ROOT / "docs/results/constraint.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = embedded.load()
    rng = random.Random(2026)
    prompts = embedded.prompts(20_000, rng)
    rng.shuffle(prompts)
    held_out, prompts = prompts[:HELD_OUT], prompts[HELD_OUT:]
    needed = args.repetitions * PROMPTS
    if len(prompts) < needed:
        raise SystemExit(f"`--repetitions` must leave {needed} prompts, but the grammar gives {len(prompts)}.")
    runs = []
    for i in trange(args.repetitions, desc="repetitions"):
        own = prompts[i * PROMPTS : (i + 1) * PROMPTS]
        options = {"tokenizer": tokenizer, "batch_size": 256, "base": False}
        record = ROOT / f"runs/constraint/{i}.jsonl"
        front = evaluate_front(model, own, REWARDS, simplex_grid(2, 10), seed=i, record=record, **options)
        choice = front.choose("cheerful", subject_to={"brief": LIMIT}, level=LEVEL)
        there = [list(choice.preference.values())]
        seen = evaluate_front(model, held_out, REWARDS, there, seed=10_000 + i, **options).values[0]
        runs.append({
            "preference": choice.preference, "expected": choice.expected, "interval": choice.interval,
            "held out": dict(zip(REWARDS, seen.tolist(), strict=True)),
        })  # fmt: skip
    held = np.mean([run["held out"]["brief"] >= LIMIT for run in runs])
    inside = {
        name: float(
            np.mean([low <= run["held out"][name] <= high for run in runs for low, high in [run["interval"][name]]])
        )
        for name in REWARDS
    }
    report = {
        "command": " ".join(["python", *sys.argv]),
        "version": peft_panacea.__version__,
        "limit": LIMIT,
        "level": LEVEL,
        "constraint held": float(held),
        "held-out mean in the interval": inside,
        "runs": runs,
    }
    args.output.write_text(json.dumps(report, indent=1) + "\n")
    print(f"brief ≥ {LIMIT} held on {HELD_OUT} other prompts in {held:.0%} of {len(runs)} repetitions")
    print(", ".join(f"{name}: held-out mean in the interval in {share:.0%}" for name, share in inside.items()))


if __name__ == "__main__":
    main()
