"""The paper's experiments in miniature, all methods by one recipe: trains, measures, writes raw results as JSON.

    OMP_NUM_THREADS=1 python benchmarks/paper/run.py rl2 --shared ../shared

EXPERIMENT is rl2, rl3, dpo, sft3, sft4, sft5 or sft10. For every seed and method it writes one JSON file to
`runs/paper/EXPERIMENT/` and at the end all of them to `docs/results/EXPERIMENT.json`. Resumable: what is in either is
not run again. `--jobs` seeds run side by side, one thread each.

All methods of a comparison train on the same number of rows in total ("cost" 1); "each …" means that each separate
model trains as long as Panacea's one. Fixed before the first run: everything in these files but what `docs/results.md`
lists as tuned, which was tuned on other seeds and on the prompts for development.
"""

import argparse
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers
import trl
from datasets import disable_progress_bars
from tqdm.auto import tqdm

import peft_panacea
from experiment import Experiment
from methods import soup, soup_of_factors
from peft_panacea.front import Front
from public_data import public_data
from story_pairs import StoryPairs
from story_rewards import StoryRewards
from story_styles import StoryStyles
from variants import Settings

EXPERIMENTS: dict[str, Callable[[Path], Experiment]] = {
    "rl2": lambda shared: StoryRewards(shared, ["valence", "brevity"]),
    "rl3": lambda shared: StoryRewards(shared, ["valence", "brevity", "dialogue"]),
    "dpo": StoryPairs,
    "sft3": lambda shared: StoryStyles(shared, 3),
    "sft4": lambda shared: StoryStyles(shared, 4),
    "sft5": lambda shared: StoryStyles(shared, 5),
    "sft10": lambda shared: StoryStyles(shared, 10),
}
SEEDS = range(5)
CEILING_SEEDS = range(3)  # one model per preference takes as long as all other methods together


class Seed:
    """The methods of an experiment for one seed, each as a function that trains what it needs and measures its front.

    Models are kept, so that those of two methods are trained once.
    """

    def __init__(self, name: str, experiment: Experiment, seed: int) -> None:
        self.name, self.experiment, self.seed = name, experiment, seed
        self.models: dict[Any, tuple[Any, float]] = {}

    def methods(self) -> dict[str, tuple[float, Callable[[], tuple[Front, float]]]]:
        """Label → cost in units of Panacea's, and the function; it also returns the seconds of training."""
        experiment, m = self.experiment, len(self.experiment.objectives)
        vertices, steps = np.eye(m).tolist(), experiment.steps
        found: dict[str, Any] = {label: (1, partial(self.panacea, settings)) for label, settings in self.variants()}
        ceiling = experiment.coarse is not None and self.seed in CEILING_SEEDS
        shares = {"": 1 / m, ", each": 1.0} if ceiling else {"": 1 / m}
        for suffix, share in shares.items():
            each = round(steps * share)
            found[f"Rewarded Soups{suffix}"] = m * share, partial(self.soup, each)
            if self.name in ("rl2", "dpo", "sft4"):
                found[f"Rewarded Soups of A and B{suffix}"] = m * share, partial(self.soup_of_factors, each)
            found[f"one per objective{suffix}"] = m * share, partial(self.separate, vertices, each)
        if ceiling:
            coarse = experiment.coarse.tolist()
            for suffix, share in {"": 1 / len(coarse), ", each": 1.0}.items():
                method = partial(self.separate, coarse, round(steps * share))
                found[f"one per preference{suffix}"] = len(coarse) * share, method
        return found

    def variants(self) -> list[tuple[str, Settings]]:
        paper = Settings(way="batch", vertex_probability=0.1)
        own = Settings(r=2, preference_rank=8)
        found = {"Panacea, as in the paper": paper, "Panacea, per row, rank 8 each": own}
        found["Panacea, default"] = Settings(r=0, preference_rank=8)
        if self.name == "sft4":
            found["Panacea, per row"] = Settings()
        if self.name == "dpo":
            found["Panacea, as in the paper, Tchebycheff"] = replace(paper, aggregation="tchebycheff")
        return list(found.items())

    def train(self, fixed: list[float] | None, settings: Settings, steps: int) -> tuple[Any, float]:
        key = (None if fixed is None else tuple(fixed), settings, steps)
        if key not in self.models:
            start = time.perf_counter()
            model = self.experiment.train_one(fixed, settings, steps, self.seed)
            self.models[key] = model, time.perf_counter() - start
        return self.models[key]

    def panacea(self, settings: Settings) -> tuple[Front, float]:
        model, seconds = self.train(None, settings, self.experiment.steps)
        first = settings == self.variants()[0][1]
        return self.experiment.front(model, self.experiment.grid, base=first), seconds

    def specialists(self, steps: int) -> tuple[list[Any], float]:
        trained = [
            self.train(vertex, Settings(), steps) for vertex in np.eye(len(self.experiment.objectives)).tolist()
        ]
        return [model for model, _ in trained], sum(seconds for _, seconds in trained)

    def soup(self, steps: int) -> tuple[Front, float]:
        specialists, seconds = self.specialists(steps)
        return self.experiment.front(soup(self.experiment, specialists), self.experiment.grid), seconds

    def soup_of_factors(self, steps: int) -> tuple[Front, float]:
        specialists, seconds = self.specialists(steps)
        grid = self.experiment.grid.tolist()
        models = (soup_of_factors(self.experiment, specialists, preference) for preference in grid)
        first = np.eye(len(specialists))[0].tolist()
        return self.one_by_one([(model, first) for model in models], grid), seconds

    def separate(self, preferences: list[list[float]], steps: int) -> tuple[Front, float]:
        trained = [self.train(p, Settings(), steps) for p in preferences]
        models = [(model, p) for (model, _), p in zip(trained, preferences, strict=True)]
        return self.one_by_one(models, preferences), sum(seconds for _, seconds in trained)

    def one_by_one(self, models: list[tuple[Any, list[float]]], preferences: list[list[float]]) -> Front:
        """The front whose points are those of different models, each at a preference of its own adapter."""
        fronts = [self.experiment.front(model, [at]) for model, at in models]
        effects = {name: np.concatenate([f.side_effects[name] for f in fronts]) for name in fronts[0].side_effects}
        scores = np.concatenate([f.scores for f in fronts])
        return replace(fronts[0], preferences=preferences, scores=scores, side_effects=effects)


def one_seed(name: str, shared: Path, seed: int, folder: Path, known: set[tuple[str, int]]) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=FutureWarning)
    disable_progress_bars()
    todo = Seed(name, EXPERIMENTS[name](shared), seed)
    for label, (cost, method) in todo.methods().items():
        path = folder / f"{label}_{seed}.json"
        if not path.exists() and (label, seed) not in known:
            front, seconds = method()
            details = {"method": label, "seed": seed, "cost": cost, "seconds": round(seconds, 1)}
            replace(front, details=details).to_json(path)


def compact(path: Path) -> dict[str, Any]:
    """Of a front, means over the prompts."""
    front = Front.from_json(path)
    report = {
        **front.details,
        "preferences": np.round(front.preferences, 4).tolist(),
        "values": np.round(front.values, 5).tolist(),
        "side effects": {name: np.round(a.mean(axis=1), 4).tolist() for name, a in front.side_effects.items()},
    }
    if front.base_values is not None:
        report["base"] = np.round(front.base_values, 5).tolist()
        report["base side effects"] = {name: float(a.mean().round(4)) for name, a in front.base_side_effects.items()}
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder with models/ and data/")
    parser.add_argument("--runs", type=Path, default=Path("runs/paper"))
    parser.add_argument("--results", type=Path, default=Path("docs/results"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, help="only this seed, in this process")
    args = parser.parse_args()
    folder, shared = args.runs / args.experiment, public_data(args.shared)
    output = args.results / f"{args.experiment}.json"
    done = json.loads(output.read_text(encoding="utf-8"))["fronts"] if output.exists() else []
    if args.seed is not None:
        one_seed(args.experiment, shared, args.seed, folder, {(front["method"], front["seed"]) for front in done})
        return

    def start(seed: int) -> None:
        command = [sys.executable, __file__, args.experiment, "--shared", shared, "--runs", args.runs]
        command += ["--results", args.results, "--seed", str(seed)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode:
            raise RuntimeError(ended.stderr[-3000:])

    with ThreadPoolExecutor(args.jobs) as pool:
        list(tqdm(pool.map(start, SEEDS), total=len(SEEDS), desc=args.experiment, unit="seed"))
    experiment = EXPERIMENTS[args.experiment](shared)
    done += [compact(path) for path in sorted(folder.glob("*.json"))]
    fronts = {(front["method"], front["seed"]): front for front in done}
    result = {
        "command": f"python benchmarks/paper/run.py {args.experiment}",
        "versions": {m.__name__: m.__version__ for m in (peft_panacea, torch, transformers, peft, trl)},
        "objectives": experiment.objectives,
        "unit": experiment.unit,
        "steps": experiment.steps,
        "rows per step": experiment.rows,
        "normalisation": None if experiment.normalisation is None else np.round(experiment.normalisation, 5).tolist(),
        "fronts": [fronts[key] for key in sorted(fronts)],
    }
    args.results.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
