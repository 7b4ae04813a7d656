"""The experiments on a real chat model: trains and measures one method after the other, and keeps every front.

    OMP_NUM_THREADS=1 python benchmarks/paper/chat_run.py rl2 --shared ../shared --seeds 0 1 2

EXPERIMENT is rl2, rl3, dpo, sft3, sft4, sft5 or sft10. A method of a seed is one file in
`docs/results/chat/EXPERIMENT/`, with the scores of every prompt; what is there is not run again, so that any command
goes on where the last one stopped, on another machine, too. `--methods` runs some of them. A GPU is used if there is
one. The adapters are kept in `runs/paper/chat/`, to be listened to. `--development` measures the same adapters on the
prompts for choosing, into `docs/results/chat_development/`: so rates were chosen.

All methods of a comparison train on the same number of rows in total ("cost" 1) unless their name says "each": then
each separate model is trained as long as Panacea's one. `chat_tables.py` makes the tables of `docs/results.md`.
"""

import argparse
import json
import time
import warnings
from collections.abc import Callable
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
from peft import PeftModel

import peft_panacea
from chat import Chat
from chat_pairs import ChatPairs
from chat_rewards import ChatRewards
from chat_styles import ChatStyles
from methods import soup
from peft_panacea.front import Front
from prompting import WORDINGS
from public_data import OF_CHATS, public_data
from variants import Settings

RESULTS = Path(__file__).resolve().parents[2] / "docs/results/chat"
DEVELOPMENT = RESULTS.with_name("chat_development")
KEPT = Path("runs/paper/chat")
DETAILS = "training.json"
EXPERIMENTS: dict[str, Callable[[Path], Chat]] = {
    "rl2": lambda shared: ChatRewards(shared, ["brief", "cheerful"]),
    "rl3": lambda shared: ChatRewards(shared, ["brief", "cheerful", "polite"]),
    "dpo": ChatPairs,
    "sft3": lambda shared: ChatStyles(shared, 3),
    "sft4": lambda shared: ChatStyles(shared, 4),
    "sft5": lambda shared: ChatStyles(shared, 5),
    "sft10": lambda shared: ChatStyles(shared, 10),
}
ADAPTERS = {
    "Panacea": Settings(r=0, preference_rank=8),
    "Panacea, r 8, R 1": Settings(),
    "Panacea, r 4, R 4, white": Settings(r=4, preference_rank=4, coordinates="white"),
}
RATES = ("1e-3", "1e-2", "3e-2")
"""Beside the experiments' own."""
VERSIONS = {module.__name__: module.__version__ for module in (peft_panacea, torch, transformers, peft, trl)}


def methods(name: str, m: int) -> dict[str, float]:
    """Label → cost, in units of Panacea's one training."""
    found = dict.fromkeys(ADAPTERS, 1.0)
    if name == "dpo":
        found["Panacea, Tchebycheff"] = 1.0
    if name.startswith("rl"):
        found["Panacea, β 0.3"] = 1.0
    return {
        **found,
        "Rewarded Soups": 1.0,
        **{f"{method}, rate {rate}": 1.0 for method in ("Panacea", "Rewarded Soups") for rate in RATES},
        **{f"prompt, {wording}": 0.0 for wording in WORDINGS},
        "Rewarded Soups, each": float(m),
        "one per preference, each": 0.0,  # as many as the grid has
    }


def run(
    experiment: Chat, label: str, seed: int, kept: Path, prompts: list[Any] | None = None
) -> tuple[Front, dict[str, Any]]:
    """The front of a method, on the prompts for testing unless others are given, and what else is known of it."""
    m, steps = len(experiment.objectives), experiment.steps
    kind, _, rest = label.partition(", ")
    rate = float(rest.removeprefix("rate ")) if rest.startswith("rate ") else None
    if kind == "prompt":
        return experiment.prompted(WORDINGS[rest], experiment.grid, prompts), {"cost": 0.0}
    if kind == "one per preference":
        preferences = experiment.grid.tolist()
        fronts = [
            experiment.front(separate(experiment, p, steps, seed, kept), [p], prompts=prompts) for p in preferences
        ]
        effects = {
            effect: np.concatenate([f.side_effects[effect] for f in fronts]) for effect in fronts[0].side_effects
        }
        scores = np.concatenate([f.scores for f in fronts])
        front = replace(fronts[0], preferences=preferences, scores=scores, side_effects=effects)
        return front, {"cost": float(len(preferences))}
    if kind == "Rewarded Soups":
        each = steps if rest == "each" else steps // m

        def mix(folder: Path) -> None:
            specialists = [separate(experiment, v, each, seed, kept, rate) for v in np.eye(m).tolist()]
            soup(experiment, specialists).save_pretrained(folder)

        model, details = once(experiment, kept, mix), {"cost": each * m / steps}
    else:
        settings = replace(ADAPTERS.get(label, ADAPTERS["Panacea"]), learning_rate=rate)
        if rest == "β 0.3":
            settings = replace(settings, beta=0.3)
        if rest == "Tchebycheff":
            settings = replace(settings, way="batch", aggregation="tchebycheff")
        model = once(experiment, kept, partial(train, experiment, None, settings, steps, seed))
        details = {"cost": 1.0, **json.loads((kept / DETAILS).read_text(encoding="utf-8"))}
    return experiment.front(model, experiment.grid, base=True, prompts=prompts), details


def separate(
    experiment: Chat, preference: list[float], steps: int, seed: int, kept: Path, rate: float | None = None
) -> PeftModel:
    """The model of one preference. It is trained once: those of the vertices make a soup, too."""
    weights = "_".join(f"{weight:.3g}" for weight in preference)
    folder = kept.parent / "separate" / f"{weights}_{steps}_{seed}{'' if rate is None else f'_{rate:g}'}"
    return once(experiment, folder, partial(train, experiment, preference, Settings(learning_rate=rate), steps, seed))


def train(
    experiment: Chat, fixed: list[float] | None, settings: Settings, steps: int, seed: int, folder: Path
) -> None:
    start = time.perf_counter()
    experiment.train_one(fixed, settings, steps, seed).save_pretrained(folder)
    details = {"seconds": round(time.perf_counter() - start, 1)}
    if fixed is None and experiment.history:
        details["history"] = experiment.history
    (folder / DETAILS).write_text(json.dumps(details), encoding="utf-8")


def once(experiment: Chat, folder: Path, make: Callable[[Path], None]) -> PeftModel:
    """The adapter in the folder, made there if there is none yet."""
    if not folder.exists():
        unfinished = folder.with_name(f"{folder.name}.partial")
        make(unfinished)
        unfinished.rename(folder)
    return PeftModel.from_pretrained(experiment.base_model(), folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder with models/ and data/")
    parser.add_argument("--results", type=Path, help="docs/results/chat, or chat_development there")
    parser.add_argument("--development", action="store_true", help="measure on the prompts for choosing")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", help="some of them, by their whole names")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=FutureWarning)
    disable_progress_bars()
    results = args.results or (DEVELOPMENT if args.development else RESULTS)
    experiment = EXPERIMENTS[args.experiment](public_data(args.shared, OF_CHATS))
    known = methods(args.experiment, len(experiment.objectives))
    # Rates are not tried on the prompts for testing, unless one is asked for by its name.
    default = [label for label in known if args.development or ", rate " not in label]
    for unknown in [label for label in args.methods or () if label not in known]:
        raise SystemExit(f"`--methods` must be among {list(known)}, but got {unknown!r}.")
    for seed in args.seeds:
        for label in args.methods or default:
            path = results / args.experiment / f"{label}_{seed}.json"
            if path.exists() or (label.startswith("prompt") and seed):  # which nothing random is trained for
                continue
            print(f"{args.experiment}, {label}, seed {seed}", flush=True)
            kept = KEPT / args.experiment / f"{label}_{seed}"
            front, details = run(experiment, label, seed, kept, experiment.development if args.development else None)
            common = {"method": label, "seed": seed, "steps": experiment.steps, "rows": experiment.rows}
            front = replace(front, details={**common, **details, "unit": experiment.unit, "versions": VERSIONS})
            if experiment.normalisation is not None:
                front = replace(front, normalisation=experiment.normalisation)
            path.parent.mkdir(parents=True, exist_ok=True)
            front.to_json(path)
            print(json.dumps({**details, "history": None, "values": front.values.round(3).tolist()}), flush=True)


if __name__ == "__main__":
    main()
