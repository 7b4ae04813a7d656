"""What makes the adapter steer: coordinates, ranks, vertices, dropout and averaging, one changed at a time.

    OMP_NUM_THREADS=1 python benchmarks/paper/coordinates.py --shared ../shared

Trains on stories260K, three seeds that the main results do not use, and measures on the prompts for development: the
defaults were chosen on these numbers. Writes `docs/results/coordinates.json`; resumable, what is in it is not run again.
`tables.py` makes the tables of `docs/coordinates.md` from it.
"""

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import disable_progress_bars
from tqdm.auto import tqdm

from experiment import Experiment
from methods import soup
from public_data import public_data
from story_pairs import StoryPairs
from story_rewards import StoryRewards
from story_styles import StyledStories, StoryStyles
from variants import Settings

SEEDS = (10, 11, 12)
REGULARISED = {"dropout": 0.4, "averaging": True}
ADAPTERS = {
    "r 8, R 1, raw (paper)": Settings(),
    "r 8, R 1, white": Settings(coordinates="white"),
    "r 4, R 4, raw": Settings(r=4, preference_rank=4),
    "r 4, R 4, white": Settings(r=4, preference_rank=4, coordinates="white"),
    "r 0, R 8, raw": Settings(r=0, preference_rank=8),
}
WHITE, APART = ADAPTERS["r 4, R 4, white"], ADAPTERS["r 0, R 8, raw"]
VERTICES = {
    "r 4, R 4, white, half of the preferences vertices": replace(WHITE, vertex_probability=0.5),
    "r 0, R 8, raw, half of the preferences vertices": replace(APART, vertex_probability=0.5),
}
SFT = {
    **{label: replace(s, learning_rate=3e-3, **REGULARISED) for label, s in ADAPTERS.items()},
    "r 4, R 4, white; neither": replace(WHITE, learning_rate=3e-3),
    "r 4, R 4, white; dropout alone": replace(WHITE, learning_rate=3e-3, dropout=0.4),
    "r 4, R 4, white; averaging alone": replace(WHITE, learning_rate=3e-3, averaging=True),
    "r 0, R 8, raw; neither": replace(APART, learning_rate=3e-3),
    "r 0, R 8, raw; dropout alone": replace(APART, learning_rate=3e-3, dropout=0.4),
    "r 0, R 8, raw; averaging alone": replace(APART, learning_rate=3e-3, averaging=True),
}
SOUPS = {"Rewarded Soups": Settings(), "Rewarded Soups, dropout .2": Settings(dropout=0.2)}
AVERAGED = {"Rewarded Soups, dropout .2, averaging": Settings(dropout=0.2, averaging=True)}
EXPERIMENTS: dict[str, tuple[Callable[[Path], Experiment], dict[str, Settings]]] = {
    "rl2": (lambda shared: StoryRewards(shared, ["valence", "brevity"]), {**ADAPTERS, **VERTICES}),
    "sft4": (lambda shared: StoryStyles(shared, 4, steps=200), {**SFT, **SOUPS, **AVERAGED}),
    "dpo": (StoryPairs, ADAPTERS),
    "rl3": (lambda shared: StoryRewards(shared, ["valence", "brevity", "dialogue"]), {**ADAPTERS, **VERTICES}),
    "sft2": (lambda shared: StyledStories(shared, ["brief", "spoken"]), {**SFT, **SOUPS, **AVERAGED}),
    "sft10": (lambda shared: StoryStyles(shared, 10, steps=200), {**SFT, **SOUPS, **AVERAGED}),
}


def run(name: str, label: str, seed: int, shared: Path) -> dict[str, Any]:
    make, settings = EXPERIMENTS[name]
    experiment = make(shared)
    steps, m, start = experiment.steps, len(experiment.objectives), time.perf_counter()
    if label.startswith("Rewarded Soups"):
        specialists = [experiment.train_one(v, settings[label], steps // m, seed) for v in np.eye(m).tolist()]
        model = soup(experiment, specialists)
    else:
        model = experiment.train_one(None, settings[label], steps, seed)
    seconds = time.perf_counter() - start
    front = experiment.front(model, experiment.grid, base=True, prompts=experiment.development)
    return {
        "experiment": name, "label": label, "seed": seed, "steps": steps, "seconds": round(seconds, 1),
        "preferences": front.preferences.round(4).tolist(), "values": front.values.round(5).tolist(),
        "base": front.base_values.round(5).tolist(),
        "unit": [1.0] * m if experiment.normalisation is None else experiment.normalisation[1].round(5).tolist(),
        "side effects": {effect: float(a.mean().round(4)) for effect, a in front.side_effects.items()},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--output", type=Path, default=Path("docs/results/coordinates.json"))
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--experiments", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS))
    args = parser.parse_args()
    shared = public_data(args.shared)
    warnings.filterwarnings("ignore", category=FutureWarning)
    disable_progress_bars()
    torch.set_num_threads(1)
    todo = [(name, label, seed) for seed in args.seeds for name in args.experiments for label in EXPERIMENTS[name][1]]
    for key in tqdm(todo, desc="runs"):
        if key in {(r["experiment"], r["label"], r["seed"]) for r in read(args.output)}:
            continue
        found = run(*key, shared)
        write(args.output, [*read(args.output), found])


def read(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8"))["runs"] if path.exists() else []


def write(path: Path, runs: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps({"command": "python benchmarks/paper/coordinates.py", "runs": runs}) + "\n")
    os.replace(partial, path)


if __name__ == "__main__":
    main()
