"""How many answers it takes to know a person: simulated persons with known preferences, on a real chat model.

    OMP_NUM_THREADS=1 python benchmarks/paper/personalise.py --shared ../shared

Margins of human-labelled pairs are measured once through the adapters that `chat_run.py dpo` left in
`runs/paper/chat/` (TruthfulQA, two objectives) and one that is trained here (Topical-Chat, five), and kept in
`runs/personalise/`. The persons then take minutes. Writes `docs/results/personalise.json`, and the tables of
`docs/personalise.md` from it; what is in the file is not run again. `--tables` writes the tables alone.
"""

import argparse
import json
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers
import trl
from datasets import disable_progress_bars
from peft import PeftModel
from tqdm.auto import tqdm, trange

import peft_panacea
from chat import Chat, read
from chat_pairs import ChatPairs
from chat_ratings import ChatRatings
from chat_run import ADAPTERS
from peft_panacea.completions import encode, log_probabilities_by_length
from peft_panacea.personalise import FittedPreference, fit_margins, margins
from peft_panacea.personalise.posterior import SPREAD
from public_data import CHAT_PAIRS, OF_CHATS, public_data

ROOT = Path(__file__).resolve().parents[2]
RESULT, PAGE, KEPT = ROOT / "docs/results/personalise.json", ROOT / "docs/personalise.md", Path("runs/personalise")
PERSONS, COUNTS, ASKED = 100, (5, 10, 20, 50), (5, 10, 20)
THIRD = 3
NOISE = {"TruthfulQA": 4.0, "Topical-Chat": 2.0}  # the strength of persons who decide by labels
VERSIONS = {module.__name__: module.__version__ for module in (peft_panacea, torch, transformers, peft, trl)}
Array = np.ndarray


@dataclass
class Pairs:
    """N pairs that people labelled, and what adapters make of them.

    Attributes:
        labels: [N, m], first answer - second, each objective in units of its own.
        group: [N], 0 or 1: two halves without a common prompt.
        measured: Of each adapter the margins, [N, m].
        centre: Of the first adapter and every third pair the margins under equal weights.
    """

    objectives: list[str]
    labels: Array
    group: Array
    measured: list[Array]
    centre: Array


# Margins


def kept_margins(name: str, experiment: Chat, adapter: Path, pairs: list[dict[str, Any]]) -> Array:
    path = KEPT / f"{name}.npz"
    if not path.exists():
        model = PeftModel.from_pretrained(experiment.base_model(), adapter).eval()
        parts = [pairs[start : start + 16] for start in range(0, len(pairs), 16)]
        with torch.autocast(experiment.device, torch.bfloat16):  # as they were trained
            found = [margins(model, part, tokenizer=experiment.tokenizer) for part in tqdm(parts, desc=name)]
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, margins=np.concatenate(found))
    return np.load(path)["margins"]


@torch.no_grad()
def kept_centre(name: str, experiment: Chat, adapter: Path, pairs: list[dict[str, Any]]) -> Array:
    """The margins under equal weights, [N], as the adapter has them; the fit takes the mean over the objectives."""
    path = KEPT / f"{name}_centre.npz"
    if not path.exists():
        model = PeftModel.from_pretrained(experiment.base_model(), adapter).eval()
        model.set_preference([1 / len(experiment.objectives)] * len(experiment.objectives))
        found = []
        for pair in tqdm(pairs, desc=f"{name}, centre"):
            batch = encode(experiment.tokenizer, [pair["prompt"]] * 2, [pair["chosen"], pair["rejected"]])
            with torch.autocast(experiment.device, torch.bfloat16):
                steered = log_probabilities_by_length(model, batch)
                with model.disable_adapter():
                    chosen, rejected = (steered - log_probabilities_by_length(model, batch)).sum(1).tolist()
            found.append(chosen - rejected)
        np.savez(path, margins=np.array(found))
    return np.load(path)["margins"]


def truthful(shared: Path) -> Pairs:
    """A pair of each question that was not trained on; questions of dev are one half, of test the other."""
    experiment, rng = ChatPairs(shared), np.random.default_rng(0)
    rows = [r for r in read(shared / CHAT_PAIRS) if r["source"] == "truthfulqa_human" and r["split"] != "train"]
    rng.shuffle(rows)
    some = sorted({row["prompt"]: row for row in rows}.values(), key=lambda row: row["prompt"])
    labels = [[float(np.subtract(*row["labels"][name])) for name in experiment.objectives] for row in some]
    pairs = [
        {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "chosen": row["response_0"],
            "rejected": row["response_1"],
        }
        for row in some
    ]
    measured = [
        kept_margins(f"truthful_{seed}", experiment, Path(f"runs/paper/chat/dpo/Panacea_{seed}"), pairs)
        for seed in (0, 1, 2)
    ]
    centre = kept_centre("truthful_0", experiment, Path("runs/paper/chat/dpo/Panacea_0"), pairs[::THIRD])
    group = np.array([row["split"] == "test" for row in some]).astype(int)
    return Pairs(experiment.objectives, np.array(labels), group, measured, centre)


def topical(shared: Path) -> Pairs:
    """All pairs of the dialogues that were not trained on; ratings in standard deviations of training differences."""
    experiment = ChatRatings(shared)
    adapter = KEPT / "ratings_0"
    if not (adapter / "adapter_config.json").exists():
        experiment.train_one(None, ADAPTERS["Panacea"], experiment.steps, 0).save_pretrained(adapter)
    splits = ("dev", "test")
    pairs = [
        {"prompt": pair["prompt"], "chosen": pair["answers"][0], "rejected": pair["answers"][1]}
        for split in splits
        for pair in experiment.pairs[split]
    ]
    labels = np.concatenate([experiment.differences[split] for split in splits])
    group = np.repeat([0, 1], [len(experiment.pairs[split]) for split in splits])
    measured = [kept_margins("topical_0", experiment, adapter, pairs)]
    centre = kept_centre("topical_0", experiment, adapter, pairs[::THIRD])
    return Pairs(experiment.objectives, labels / experiment.differences["train"].std(0), group, measured, centre)


# Persons


def person(name: str, pairs: Pairs, seed: int, by_labels: bool) -> dict[str, Any]:
    """One simulated person: what is found of the preference after so many answers, and how well it predicts others."""
    rng, m = np.random.default_rng([seed, by_labels]), len(pairs.objectives)
    known = pairs.measured[seed % len(pairs.measured)]
    scale, preference = float(np.median(np.abs(known))), rng.dirichlet(np.ones(m))
    strength = NOISE[name] if by_labels else float(np.exp(SPREAD * rng.normal())) / scale
    logits = strength * (pairs.labels if by_labels else known) @ preference
    first = rng.random(len(logits)) < 1 / (1 + np.exp(-logits))
    chosen = np.where(first[:, None], known, -known)
    pool = rng.permutation(np.flatnonzero(pairs.group == seed % 2))
    held_out = np.flatnonzero(pairs.group != seed % 2)

    def right(utilities: Array) -> float:
        """How often the better by these is what the person chooses, of the held-out pairs; a tie is half right."""
        return float(((np.sign(utilities[held_out]) * np.where(first[held_out], 1, -1) + 1) / 2).mean())

    def said(fit: FittedPreference) -> dict[str, Any]:
        low, high = fit.interval(0.9).T
        return {
            "error": float(np.abs(fit.preference - preference).mean()),
            "distance": float(np.abs(fit.preference - preference).sum() / 2),
            "held": ((low <= preference) & (preference <= high)).mean(),
            "width": float((high - low).mean()),
            "accuracy": right(fit.probability(known) - 0.5),
        }

    nobody = fit_margins(np.empty((0, m)), pairs.objectives, scale=scale, seed=seed)
    found = {"at random": {0: said(nobody)}, "asked": {}}
    for n in COUNTS:
        found["at random"][n] = said(nobody.update(chosen[pool[:n]]))
    fit, left = nobody, list(pool)
    for n in range(1, max(ASKED) + 1):
        best = left.pop(int(fit.ask(known[left])[0]))
        fit = fit.update(chosen[[best]])
        if n in ASKED:
            found["asked"][n] = said(fit)
    return {
        "found": found,
        "uniform": right(known.mean(1)),
        "best single": max(right(column) for column in known.T),
        "true weights": right(known @ preference),
        "oracle": right(pairs.labels @ preference if by_labels else known @ preference),
    }


def spread(values: list[float]) -> list[float]:
    """Mean and its standard error over persons."""
    return [round(float(np.mean(values)), 4), round(float(np.std(values, ddof=1) / np.sqrt(len(values))), 4)]


def simulate(name: str, pairs: Pairs) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind, by_labels in (("as modelled", False), ("by labels", True)):
        persons = [person(name, pairs, seed, by_labels) for seed in trange(PERSONS, desc=f"{name}, {kind}")]
        found[kind] = {
            "fits": {
                order: {
                    str(n): {what: spread([p["found"][order][n][what] for p in persons]) for what in first}
                    for n, first in persons[0]["found"][order].items()
                }
                for order in ("at random", "asked")
            },
            **{
                what: spread([p[what] for p in persons])
                for what in ("uniform", "best single", "true weights", "oracle")
            },
        }
    mean = pairs.measured[0][::THIRD].mean(1)
    correlations = np.mean([np.corrcoef(known.T) for known in pairs.measured], axis=0)
    sizes = np.mean([np.abs(known).mean(0) for known in pairs.measured], axis=0)
    agreement = np.mean([
        [np.mean(np.sign(known[:, i]) == np.sign(pairs.labels[:, i]), where=pairs.labels[:, i] != 0)
         for i in range(len(pairs.objectives))] for known in pairs.measured
    ], axis=0)  # fmt: skip
    return {
        "objectives": pairs.objectives,
        "pairs": [int((pairs.group == g).sum()) for g in (0, 1)],
        "adapters": len(pairs.measured),
        "scales": [round(float(np.median(np.abs(known))), 3) for known in pairs.measured],
        "mean |margin|": sizes.round(3).tolist(),
        "centre": {
            "correlation": round(float(np.corrcoef(pairs.centre, mean)[0, 1]), 3),
            "slope": round(float(pairs.centre @ mean / (mean @ mean)), 3),
        },
        "correlations of margins": correlations.round(3).tolist(),
        "correlations of labels": np.corrcoef(pairs.labels.T).round(3).tolist(),
        "accuracy of margins": agreement.round(3).tolist(),
        "shares of ties": (pairs.labels == 0).mean(0).round(3).tolist(),
        "persons": found,
    }


# Tables


def cell(pair: list[float], form: str = ".3f") -> str:
    return f"{pair[0]:{form}} ± {pair[1]:{form}}"


def recovery(result: dict[str, Any]) -> str:
    lines = [
        "| persons | answers | pairs | error of a weight | total variation | 90 % interval holds | its width |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind, persons in result["persons"].items():
        for order, fits in persons["fits"].items():
            for n, fit in fits.items():
                how = order if n != "0" else "–"
                lines.append(
                    f"| {kind} | {n} | {how} | {cell(fit['error'])} | {cell(fit['distance'])} | "
                    f"{cell(fit['held'], '.2f')} | {cell(fit['width'], '.2f')} |"
                )
    return "\n".join(lines)


def prediction(results: dict[str, Any]) -> str:
    named = {
        **{f"fitted, {n} answers at random": ("at random", str(n)) for n in COUNTS},
        **{f"fitted, {n} answers asked": ("asked", str(n)) for n in ASKED},
    }
    rest = {
        "equal weights": "uniform",
        "the best single objective, in hindsight": "best single",
        "the person's weights on the margins": "true weights",
        "the person's weights on the labels": "oracle",
    }
    lines = ["| | " + " | ".join(results) + " |", "|---|" + "---|" * len(results)]
    people = [result["persons"]["by labels"] for result in results.values()]
    for label, (order, n) in named.items():
        lines.append(f"| {label} | " + " | ".join(cell(p["fits"][order][n]["accuracy"]) for p in people) + " |")
    for label, what in rest.items():
        lines.append(f"| {label} | " + " | ".join(cell(p[what]) for p in people) + " |")
    return "\n".join(lines)


def collinearity(result: dict[str, Any]) -> str:
    names = result["objectives"]
    lines = ["| margins / labels | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    both = zip(names, result["correlations of margins"], result["correlations of labels"], strict=True)
    for name, of_margins, of_labels in both:
        lines.append(
            f"| {name} | "
            + " | ".join(f"{a:.2f} / {b:.2f}" for a, b in zip(of_margins, of_labels, strict=True))
            + " |"
        )
    for label, what in (
        ("mean size", "mean |margin|"),
        ("right signs", "accuracy of margins"),
        ("ties", "shares of ties"),
    ):
        lines.append(f"| {label} | " + " | ".join(f"{value:.2f}" for value in result[what]) + " |")
    return "\n".join(lines)


def linearity(results: dict[str, Any]) -> str:
    lines = ["| | correlation | slope |", "|---|---|---|"]
    for name, result in results.items():
        lines.append(f"| {name} | {result['centre']['correlation']:.2f} | {result['centre']['slope']:.2f} |")
    return "\n".join(lines)


def tables(results: dict[str, Any]) -> dict[str, str]:
    found = {"prediction": prediction(results), "linearity": linearity(results)}
    for name, result in results.items():
        found[f"recovery {name}"] = recovery(result)
        found[f"margins {name}"] = collinearity(result)
    return found


def read_results() -> dict[str, Any]:
    return json.loads(RESULT.read_text(encoding="utf-8"))["results"] if RESULT.exists() else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--tables", action="store_true", help="run nothing, write the tables")
    args = parser.parse_args()
    if not args.tables:
        shared = public_data(args.shared, OF_CHATS)
        warnings.filterwarnings("ignore", category=FutureWarning)
        disable_progress_bars()
        torch.set_num_threads(1)
        kinds: dict[str, Callable[[Path], Pairs]] = {"TruthfulQA": truthful, "Topical-Chat": topical}
        common = {"command": "python benchmarks/paper/personalise.py", "versions": VERSIONS, "persons": PERSONS}
        results = read_results()
        for name, pairs in kinds.items():
            if name not in results:
                results[name] = simulate(name, pairs(shared))
                RESULT.write_text(json.dumps({**common, "results": results}, indent=1) + "\n", encoding="utf-8")
    text = PAGE.read_text(encoding="utf-8")
    for name, content in tables(read_results()).items():
        new = f"<!-- {name} -->\n{content}\n<!-- end -->"
        text = re.sub(rf"<!-- {name} -->\n.*?<!-- end -->", lambda match, new=new: new, text, flags=re.DOTALL)
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
