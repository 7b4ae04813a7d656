"""Soups, MVA, PEO and joint training as one kind of adapter, and a preference that is read in the prompt.

    OMP_NUM_THREADS=1 python benchmarks/paper/family_run.py stories --shared ../shared --seeds 0 1 2

EXPERIMENT is `chat`, DPO on TruthfulQA's pairs with SmolLM2-135M-Instruct; `stories`, DPO with stories260K on pairs of
its own answers, measured by the rewards that labelled them; or `rl2`, `rl3`, `sft3`, `sft4`, `sft5`, `sft10` of
`run.py`, for joint training after a soup. A method of a seed is one file in `docs/results/family/EXPERIMENT/`; what
is there is not run again. `--methods` runs some of them; methods that differ in what they are measured at share their
training.

All train on as many rows in total ("cost" 1): blocks that are trained alone for 1/m of the steps each.
"""

import argparse
import json
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
import trl
from datasets import disable_progress_bars

import peft_panacea
from experiment import Experiment
from family import IN_THE_PROMPT, METHODS, cube, has_to_do_with, measure, train_reader
from family_experiments import ChatFamily, StoryFamily
from peft_panacea.front import Front
from public_data import OF_CHATS, OF_STORIES, public_data
from story_rewards import StoryRewards
from story_styles import StoryStyles

RESULTS = Path(__file__).resolve().parents[2] / "docs/results/family"
JOINTLY = ["soup", "joint", "soup, then joint"]
PAIRS = [*METHODS, IN_THE_PROMPT]
OF_CHAT = [label for label in PAIRS if label not in ("MVA, orthogonal", "MVA, published, α 10", "joint, extrapolated")]
EXPERIMENTS: dict[str, tuple[Callable[[Path], Experiment], list[str]]] = {
    "chat": (ChatFamily, OF_CHAT),
    "stories": (StoryFamily, PAIRS),
    "rl2": (lambda shared: StoryRewards(shared, ["valence", "brevity"]), JOINTLY),
    "rl3": (lambda shared: StoryRewards(shared, ["valence", "brevity", "dialogue"]), JOINTLY),
    **{f"sft{m}": (lambda shared, m=m: StoryStyles(shared, m), JOINTLY) for m in (3, 4, 5, 10)},
}
VERSIONS = {module.__name__: module.__version__ for module in (peft_panacea, torch, transformers, peft, trl)}


def mean_over_prompts(front: Front) -> Front:
    """All that several seeds need; one of them keeps its prompts, for intervals."""
    return replace(
        front,
        scores=front.values[:, None].round(5),
        base=None if front.base is None else front.base_values[None].round(5),
        side_effects={name: array.mean(axis=1, keepdims=True).round(4) for name, array in front.side_effects.items()},
        base_side_effects={
            name: array.mean(keepdims=True).round(4) for name, array in front.base_side_effects.items()
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder with models/ and data/")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", help="some of them, by their whole names")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=FutureWarning)
    disable_progress_bars()
    make, known = EXPERIMENTS[args.experiment]
    for unknown in [label for label in args.methods or () if label not in known]:
        raise SystemExit(f"`--methods` must be among {known}, but got {unknown!r}.")
    is_chat = args.experiment == "chat"
    experiment: Any = make(public_data(args.shared, OF_CHATS if is_chat else OF_STORIES))
    for seed in args.seeds:
        trained: dict[Any, tuple[Any, float]] = {}  # by how, which several methods share
        for label in args.methods or known:
            path = args.results / args.experiment / f"{label}_{seed}.json"
            if path.exists():
                continue
            print(f"{args.experiment}, {label}, seed {seed}", flush=True)
            reads = label == IN_THE_PROMPT
            how = train_reader if reads else METHODS[label].train
            key = how if callable(how) and not hasattr(how, "keywords") else (how.func, tuple(how.keywords.items()))
            if key not in trained:
                start = time.perf_counter()
                trained[key] = how(experiment, seed), time.perf_counter() - start
            model, seconds = trained[key]
            if reads:
                front, details = experiment.conditioned(model), {}
            else:
                method = METHODS[label]
                if is_chat and method.off_simplex is not None and method.off_simplex.func is cube:
                    method = replace(method, off_simplex=lambda m: cube(m, 4))
                front, details = measure(experiment, model, method)
                details["interference"] = has_to_do_with(model)
            front = front if is_chat else mean_over_prompts(front)
            common = {"method": label, "seed": seed, "cost": 1.0, "steps": experiment.steps, "rows": experiment.rows}
            details = {
                **common,
                **details,
                "seconds": round(seconds, 1),
                "unit": experiment.unit,
                "versions": VERSIONS,
            }
            if experiment.normalisation is not None:
                front = replace(front, normalisation=experiment.normalisation)
            path.parent.mkdir(parents=True, exist_ok=True)
            replace(front, details=details).to_json(path)
            print(json.dumps({**details, "values": front.values.round(3).tolist()}), flush=True)


if __name__ == "__main__":
    main()
