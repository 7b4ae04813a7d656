"""Which learning rates train layers of which width, with the default constant c and with the paper's.

    OMP_NUM_THREADS=1 python benchmarks/width_sweep.py --output docs/results/initialisation.json

The update of one layer learns a teacher of its own kind, ΔW(p) x with r = 4, of about the size of a layer's output.
Every row of every batch has its own preference. Two kinds of input, both with entries of variance 1: `white`, all
directions alike, and `coloured`, 64 directions with a power-law spectrum, which is closer to what a language model's
layers see. The figure is the loss at the end relative to the loss of no update: 1 means that nothing was learned. 200
steps of AdamW on 128 fresh rows, 10 steps of warm-up, then linear decay; mean and standard deviation over the seeds.
"""

import argparse
import json
import statistics
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from peft_panacea import PanaceaConfig
from peft_panacea.tuner import PanaceaSVD
from peft_panacea.tuner.state import Held

WIDTHS = [64, 256, 1024, 4096]
LEARNING_RATES = [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1]
CONSTANTS: dict[str, float | str] = {"default": 1.0, "paper": "paper"}
STEPS, ROWS = 200, 128


def relative_loss(width: int, scaling: float | str, learning_rate: float, inputs: str, seed: int) -> float:
    """Final loss, mean of the last 20 steps, relative to that of no update."""
    torch.manual_seed(seed)
    teacher_left, teacher_right = torch.randn(width, 6), torch.randn(width, 6) / width**0.5
    spectrum = torch.randn(64, width) * torch.arange(1, 65).float()[:, None] ** -0.5
    spectrum /= spectrum.pow(2).sum(0).mean().sqrt()

    config = PanaceaConfig(objectives=2, r=8, preference_rank=1, scaling=scaling)
    student = PanaceaSVD(
        width, width, r=config.r, preference_rank=1, num_objectives=2, factor=config.factor(width), dropout=0.0
    )
    student.reset_parameters(**config.initial_std())
    optimizer = torch.optim.AdamW(student.parameters(), learning_rate, weight_decay=0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: min(1, (s + 1) / 10) * (1 - s / STEPS))
    losses: list[float] = []
    for _ in range(STEPS):
        x: Tensor = torch.randn(ROWS, width) if inputs == "white" else torch.randn(ROWS, 64) @ spectrum
        first = torch.rand(ROWS, 1)
        preference = torch.cat([first, 1 - first], dim=1)
        gain = torch.cat([torch.full((ROWS, 4), 0.25), 0.7 * preference], dim=1)
        update = ((x @ teacher_right) * gain) @ teacher_left.T
        found = student(torch.zeros_like(update), x, Held(preference))
        loss = (found - update).pow(2).mean() / update.pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return statistics.fmean(losses[-20:])


def table(results: dict[str, dict[str, list[float]]], inputs: str) -> str:
    """Markdown, one row per constant and width."""
    rows = ["| c | width | " + " | ".join(f"lr {lr:g}" for lr in LEARNING_RATES) + " |"]
    rows.append("|---|---:|" + "---:|" * len(LEARNING_RATES))
    for name in CONSTANTS:
        for width in WIDTHS:
            cells = [results[f"{inputs}/{name}/{width}"][f"{lr:g}"] for lr in LEARNING_RATES]
            shown = (f"{statistics.fmean(c):.3f} ± {statistics.stdev(c):.3f}" for c in cells)
            rows.append(f"| {name} | {width} | " + " | ".join(shown) + " |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    cases = [(i, n, w) for i in ("white", "coloured") for n in CONSTANTS for w in WIDTHS]
    results: dict[str, dict[str, list[float]]] = {}
    for inputs, name, width in tqdm(cases, desc="width sweep"):
        results[f"{inputs}/{name}/{width}"] = {
            f"{lr:g}": [relative_loss(width, CONSTANTS[name], lr, inputs, seed) for seed in range(args.seeds)]
            for lr in LEARNING_RATES
        }
    report = {"torch": torch.__version__, "seeds": args.seeds, "results": results}
    args.output.write_text(json.dumps(report, indent=1) + "\n")
    for inputs in ("white", "coloured"):
        print(f"\n{inputs} input\n\n{table(results, inputs)}")


if __name__ == "__main__":
    main()
