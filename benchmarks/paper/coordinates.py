"""What makes the adapter steer: coordinates, ranks, vertices, dropout and averaging, one changed at a time.

    OMP_NUM_THREADS=1 python benchmarks/paper/coordinates.py --shared ../shared

Trains on stories260K, three seeds that the main results do not use, and measures on the prompts for development: the
defaults were chosen on these numbers. Writes `docs/results/coordinates.json`; what is in it is not run again.
`--tables` writes the tables of `docs/coordinates.md` from it.
"""

import argparse
import json
import os
import re
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

import first_steps
import gradient_shares
from experiment import Experiment
from methods import soup
from peft_panacea import metrics
from public_data import public_data
from story_pairs import StoryPairs
from story_rewards import StoryRewards
from story_styles import StoryStyles, StyledStories
from variants import Settings

ROOT = Path(__file__).resolve().parents[2]
RESULTS, PAGE = ROOT / "docs/results", ROOT / "docs/coordinates.md"
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


class LongerStyles(StoryStyles):
    steps = 200


EXPERIMENTS: dict[str, tuple[Callable[[Path], Experiment], dict[str, Settings]]] = {
    "rl2": (lambda shared: StoryRewards(shared, ["valence", "brevity"]), {**ADAPTERS, **VERTICES}),
    "sft4": (lambda shared: LongerStyles(shared, 4), {**SFT, **SOUPS, **AVERAGED}),
    "dpo": (StoryPairs, ADAPTERS),
    "rl3": (lambda shared: StoryRewards(shared, ["valence", "brevity", "dialogue"]), {**ADAPTERS, **VERTICES}),
    "sft2": (lambda shared: StyledStories(shared, ["brief", "spoken"]), {**SFT, **SOUPS, **AVERAGED}),
    "sft10": (lambda shared: LongerStyles(shared, 10), {**SFT, **SOUPS, **AVERAGED}),
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


def conditions(one: dict[str, Any]) -> dict[str, float]:
    """Of one run: hypervolume above the base and above a point below it, and Σ pᵢ Jᵢ at two kinds of preferences.

    Above the base, in standard deviations of the base model's rewards where there are any.
    """
    margin = 2.0 if one["experiment"].startswith("rl") else 0.5
    preferences = np.array(one["preferences"])
    values = (np.array(one["values"]) - one["base"]) / one["unit"]
    weighted, m = (values * preferences).sum(axis=1), values.shape[1]
    vertices = preferences.max(axis=1) > 1 - 1e-6
    return {
        "above the base": metrics.hypervolume(values, np.zeros(m)),
        f"above the base - {margin:g}": metrics.hypervolume(values, np.full(m, -margin)),
        "vertices": weighted[vertices].mean(),
        "between": weighted[~vertices].mean(),
    }


def table(runs: list[dict[str, Any]], labels: list[str]) -> str:
    """Mean ± standard deviation over the seeds; in brackets their number where some are missing."""
    found = {label: [conditions(r) for r in runs if r["label"] == label] for label in labels}
    columns = list(next(iter(found.values()))[0])
    lines = [f"| | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
    for label, of_seeds in found.items():
        cells = []
        for column in columns:
            numbers = np.array([one[column] for one in of_seeds])
            digits = 3 if abs(numbers.mean()) < 1 else 2
            spread = f" ± {numbers.std(ddof=1):.{digits}f}" if len(numbers) > 1 else ""
            cells.append(f"{numbers.mean():.{digits}f}{spread}")
        note = "" if len(of_seeds) == len(SEEDS) else f" ({len(of_seeds)} seed{'s' * (len(of_seeds) > 1)})"
        lines.append(f"| {label}{note} | {' | '.join(cells)} |")
    return "\n".join(lines)


def tables() -> dict[str, str]:
    """By the name of the marker in the page; what has not run is not there."""
    found = {"gradient shares": gradient_shares.table(), "first steps": first_steps.table()}
    runs = read(RESULTS / "coordinates.json")
    for name, (_, settings) in EXPERIMENTS.items():
        own = [r for r in runs if r["experiment"] == name]
        labels = [label for label in settings if label in {r["label"] for r in own}]
        if labels:
            found[name] = table(own, labels)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--output", type=Path, default=RESULTS / "coordinates.json")
    parser.add_argument("--tables", action="store_true", help="run nothing, write the tables")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--experiments", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS))
    parser.add_argument("--labels", nargs="+", help="some rows of the tables, by their whole names")
    args = parser.parse_args()
    if args.tables:
        text = PAGE.read_text(encoding="utf-8")
        for name, content in tables().items():
            new = f"<!-- {name} -->\n{content}\n<!-- end -->"
            text = re.sub(rf"<!-- {name} -->\n.*?<!-- end -->", lambda match, new=new: new, text, flags=re.DOTALL)
        PAGE.write_text(text, encoding="utf-8")
        return
    shared = public_data(args.shared)
    warnings.filterwarnings("ignore", category=FutureWarning)
    disable_progress_bars()
    torch.set_num_threads(1)
    todo = [
        (name, label, seed)
        for seed in args.seeds
        for name in args.experiments
        for label in EXPERIMENTS[name][1]
        if not args.labels or label in args.labels
    ]
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
