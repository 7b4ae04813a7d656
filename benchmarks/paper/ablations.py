"""One thing changed at a time: four styles (sft4), one seed, measured on the prompts for development.

    OMP_NUM_THREADS=1 python benchmarks/paper/ablations.py --shared ../shared

Writes `docs/results/ablations.json`; resumable, finished runs are read from it. `tables.py` makes the tables of
`docs/open-questions.md` from it. Seed and prompts are others than those of the main results.
"""

import argparse
import json
import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import disable_progress_bars
from torch import Tensor
from tqdm.auto import tqdm

from methods import soup
from peft_panacea.simplex import PreferenceSampler
from public_data import public_data
from story_styles import STYLES, PanaceaSFTTrainer, StoryStyles
from variants import Settings

SEEDS = (10,)
OWN = Settings(r=2, preference_rank=8)
CHANGES: dict[str, dict[str, Settings]] = {
    "rank": {
        **{f"r = {r}, 1 for each objective": replace(OWN, r=r, preference_rank=1) for r in (0, 2, 8)},
        **{f"r = 2, {R} for each objective": replace(OWN, preference_rank=R) for R in (8, 16)},
        "r = 0, 8 for each objective": replace(OWN, r=0),
    },
    "scale": {
        "one for each matrix, the paper's": OWN,
        "one for each matrix and objective": replace(OWN, scale_per_objective=True),
    },
    "gain": {
        "linear in the preference, the paper's": OWN,
        "a learned power of it": replace(OWN, monotone=True),
        # Its 32 × 32 matrix moves 32 times as far in a step of Adam: at 1e-2 it diverges.
        "bilinear, after PARM, rate 1e-3": replace(OWN, bilinear=True, learning_rate=1e-3),
    },
    "initialisation": {
        "c by width": OWN,
        "c = 64, the paper's": replace(OWN, scaling="paper"),
    },
    "vertices": {f"{share:g} of the rows": replace(OWN, vertex_probability=share) for share in (0.0, 0.5)},
    "learning rate": {f"{rate:g}": replace(OWN, learning_rate=rate) for rate in (3e-3, 1e-2, 3e-2)},
}
REGIONS = ("everywhere", "vertices alone", "inner half")
METHODS, STEPS = ("Panacea", "Rewarded Soups"), (100, 200)
PAIRS = {"alike": ("cheerful", "gloomy"), "unlike": ("brief", "spoken")}


class InnerTrainer(PanaceaSFTTrainer):
    """Preferences half way between uniform ones and the centre, so that no entry exceeds (1 + 1/m) / 2."""

    def _draw(self, n: int | None, key: dict[str, int], objective: Tensor | None = None) -> Tensor:
        # With q = (p + 1/m) / 2, density ∝ q_i is half of it ∝ p_i, and half of it plain.
        assert n is not None
        sampler = PreferenceSampler(len(self.objectives), seed=self.args.seed)
        own, plain = sampler.given(objective, **key), sampler(n, **key)
        first = torch.rand(n, 1, generator=torch.Generator().manual_seed(key["step"])) < 0.5
        return (torch.where(first, own, plain) + 1 / len(self.objectives)) / 2


class Inner(StoryStyles):
    panacea = InnerTrainer


def settings_of(kind: str, label: str) -> Settings | None:
    """Of four styles and the usual steps, so that what stands in several tables is run once."""
    if (kind, label) in (("region", "everywhere"), ("steps", "100: Panacea")):
        return OWN
    return CHANGES.get(kind, {}).get(label)


def run(kind: str, label: str, seed: int, shared: Path) -> dict[str, Any]:
    first, _, method = label.partition(": ")
    experiment = (Inner if label == "inner half" else StoryStyles)(shared, 2 if kind == "conflict" else 4)
    if kind == "conflict":
        experiment.objectives = list(PAIRS[first])
    steps, m = int(first) if kind == "steps" else experiment.steps, len(experiment.objectives)
    if method == "Rewarded Soups":
        specialists = [experiment.train_one(v, OWN, steps // m, seed) for v in np.eye(m).tolist()]
        model = soup(experiment, specialists)
    else:
        settings = CHANGES.get(kind, {}).get(label, OWN)
        if label == "vertices alone":
            settings = replace(OWN, vertex_probability=1.0)
        model = experiment.train_one(None, settings, steps, seed)
    front = experiment.front(model, experiment.grid, base=True, prompts=experiment.development)
    return {
        "kind": kind, "label": label, "seed": seed, "preferences": front.preferences.round(4).tolist(),
        "values": front.values.round(5).tolist(), "base": front.base_values.round(5).tolist(),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--output", type=Path, default=Path("docs/results/ablations.json"))
    args = parser.parse_args()
    shared = public_data(args.shared)
    warnings.filterwarnings("ignore", category=FutureWarning)
    disable_progress_bars()
    torch.set_num_threads(1)
    runs = json.loads(args.output.read_text())["runs"] if args.output.exists() else []
    todo = []
    for seed in SEEDS:
        todo += [(kind, label, seed) for kind in CHANGES for label in CHANGES[kind]]
        todo += [("region", label, seed) for label in REGIONS]
        todo += [("steps", f"{steps}: {method}", seed) for steps in STEPS for method in METHODS]
        todo += [("conflict", f"{pair}: {method}", seed) for pair in PAIRS for method in METHODS]
    done = {(r["kind"], r["label"], r["seed"]) for r in runs}
    for key in tqdm([key for key in todo if key not in done], desc="runs"):
        kind, label, seed = key
        wanted = settings_of(kind, label)
        same = [r for r in runs if r["seed"] == seed and settings_of(r["kind"], r["label"]) == wanted is not None]
        runs.append({**same[0], "kind": kind, "label": label} if same else run(*key, shared))
        report = {"command": "python benchmarks/paper/ablations.py", "styles": list(STYLES)[:4], "runs": runs}
        partial = args.output.with_suffix(".partial")
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(report) + "\n")
        os.replace(partial, args.output)


if __name__ == "__main__":
    main()
