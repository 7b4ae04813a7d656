"""A front that is concave throughout: linear, Tchebycheff and smooth Tchebycheff aggregation with one adapter.

    OMP_NUM_THREADS=1 python benchmarks/concave.py --output docs/results/concave.json

Fonseca and Fleming's two losses, Lᵢ(x) = 1 - exp(-‖x ∓ 1/√8‖²), x in eight dimensions, whose Pareto set is the line
between the two minima and whose front no line supports but at its ends. x(p) = W(p) · 1 is the output of a Panacea
layer on an empty base layer. Each step draws 64 preferences and aggregates the losses of each row. Reported for 21
preferences: the hypervolume below the point (1, 1), next to that of 21 points evenly along the true front, and the
largest gap between neighbours among these points.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from peft import get_peft_model
from torch import Tensor, nn
from tqdm.auto import tqdm

import peft_panacea
from peft_panacea import PanaceaConfig
from peft_panacea.aggregation import linear, smooth_tchebycheff, tchebycheff
from peft_panacea.metrics import hypervolume
from peft_panacea.simplex import PreferenceSampler, simplex_grid

ROOT = Path(__file__).resolve().parent.parent
DIMENSIONS, STEPS, ROWS, SEEDS = 8, 1500, 64, range(5)
AGGREGATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "linear": linear,
    "Tchebycheff": tchebycheff,
    "smooth Tchebycheff": smooth_tchebycheff,
}


class Empty(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, DIMENSIONS, bias=False)
        nn.init.zeros_(self.layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def losses(x: Tensor) -> Tensor:
    """[B, 2] of points [B, n]."""
    centre = DIMENSIONS**-0.5
    return torch.stack([1 - (-(x - sign * centre).square().sum(dim=1)).exp() for sign in (1, -1)], dim=1)


def front(aggregation: Callable[[Tensor, Tensor], Tensor], seed: int) -> Tensor:
    """The losses of the trained adapter under 21 preferences, [21, 2]."""
    torch.manual_seed(seed)
    config = PanaceaConfig(objectives=2, r=1, preference_rank=1, target_modules=["layer"], scaling=1.0)
    model = get_peft_model(Empty(), config)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    sampler = PreferenceSampler(2, seed=seed)
    for step in range(STEPS):
        preference = sampler(ROWS, step=step)
        aggregation(losses(model(torch.ones(ROWS, 1), preference=preference)), preference).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        grid = simplex_grid(2, 20)
        return losses(model(torch.ones(21, 1), preference=grid))


def summary(values: Tensor) -> tuple[float, float]:
    ordered = values[values[:, 0].argsort()]
    return hypervolume(values, [1, 1], maximise=False), float(ordered.diff(dim=0).norm(dim=1).max())


def table(report: dict) -> str:
    """Mean ± standard deviation over the seeds."""
    lines = ["| aggregation | hypervolume | largest gap |", "|---|---|---|"]
    for name, fronts in report["fronts"].items():
        cells = [
            f"{statistics.fmean(column):.3f} ± {statistics.stdev(column):.3f}"
            for column in zip(*(summary(torch.tensor(values)) for values in fronts), strict=True)
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    ideal = summary(torch.tensor(report["true front"]))
    return "\n".join([*lines, f"| the true front | {ideal[0]:.3f} | {ideal[1]:.3f} |"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "docs/results/concave.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    line = torch.linspace(-1, 1, 21)[:, None] * torch.full((1, DIMENSIONS), DIMENSIONS**-0.5)
    report = {
        "command": " ".join(["python", *sys.argv]),
        "versions": {module.__name__: module.__version__ for module in (peft_panacea, torch)},
        "true front": losses(line).tolist(),
        "fronts": {
            name: [front(aggregation, seed).tolist() for seed in tqdm(SEEDS, desc=name)]
            for name, aggregation in AGGREGATIONS.items()
        },
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(report) + "\n")
    print(table(report))


if __name__ == "__main__":
    main()
