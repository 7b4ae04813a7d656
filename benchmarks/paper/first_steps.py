"""From which step on the two ends of an adapter differ: the paper's ranks and coordinates against others.

    OMP_NUM_THREADS=1 python benchmarks/paper/first_steps.py --shared ../shared

RLOO on stories260K with two rewards, as rl2 of `run.py`. Writes `docs/results/first_steps.json`, what is in it is not
run again; `coordinates.py --tables` makes a table of `docs/coordinates.md` from it. A line is fitted to the mean
rewards of the latest `WINDOW` steps' prompts over their own weights: its slope is the difference between the ends.
"""

import argparse
import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import disable_progress_bars

from public_data import public_data
from story_rewards import StoryRewards
from variants import Settings

RESULT = Path(__file__).resolve().parents[2] / "docs/results/first_steps.json"
SEEDS, STEPS, WINDOW = (10, 11, 12), 40, 4
ADAPTERS = {
    "r 8, R 1, raw (paper)": Settings(),
    "r 4, R 4, raw": Settings(r=4, preference_rank=4),
    "r 4, R 4, white": Settings(r=4, preference_rank=4, coordinates="white"),
    "r 0, R 8, raw (default)": Settings(r=0, preference_rank=8),
}


def first_steps(history: list[Any], deviations: Any, window: int = WINDOW, apart: float = 1.0) -> list[int | None]:
    """For each objective the first step at which the ends were `apart` standard deviations of the base model or more.

    Args:
        history: For each step preferences and rewards, [n, m] each.
        deviations: Of the base model's rewards, [m].
        window: Steps that are looked back on.
        apart: In standard deviations.
    """
    found: list[int | None] = []
    for i, deviation in enumerate(deviations):
        steps = range(window, len(history) + 1)
        slopes = [_slope(history[step - window : step], i) / deviation for step in steps]
        found.append(next((step for step, slope in zip(steps, slopes, strict=True) if slope >= apart), None))
    return found


def _slope(history: list[Any], i: int) -> float:
    weights = np.concatenate([np.array(preferences)[:, i] for preferences, _ in history])
    rewards = np.concatenate([np.array(rewards)[:, i] for _, rewards in history])
    return float(np.polyfit(weights, rewards, 1)[0])


def table() -> str:
    runs = json.loads(RESULT.read_text(encoding="utf-8"))["runs"]
    objectives = runs[0]["objectives"]
    lines = [f"| | {' | '.join(objectives)} |", "|---|" + "---|" * len(objectives)]
    for label in dict.fromkeys(run["label"] for run in runs):
        steps = [run["first steps"] for run in runs if run["label"] == label]
        cells = [", ".join("–" if one[i] is None else str(one[i]) for one in steps) for i in range(len(objectives))]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--output", type=Path, default=RESULT)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)
    disable_progress_bars()
    torch.set_num_threads(1)
    experiment = StoryRewards(public_data(args.shared), ["valence", "brevity"])
    runs = json.loads(args.output.read_text(encoding="utf-8"))["runs"] if args.output.exists() else []
    for seed in SEEDS:
        for label, settings in ADAPTERS.items():
            if (seed, label) in {(run["seed"], run["label"]) for run in runs}:
                continue
            experiment.train_one(None, settings, STEPS, seed)
            steps = first_steps(experiment.history, experiment.normalisation[1])
            runs.append({"label": label, "seed": seed, "objectives": experiment.objectives, "first steps": steps})
            print(runs[-1], flush=True)
            partial = args.output.with_suffix(".partial")
            content = {"command": "python benchmarks/paper/first_steps.py", "steps": STEPS, "window": WINDOW}
            partial.write_text(json.dumps({**content, "runs": runs}) + "\n", encoding="utf-8")
            os.replace(partial, args.output)


if __name__ == "__main__":
    main()
