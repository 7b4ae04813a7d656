"""Writes the tables of the chat model into `docs/results.md`, from the fronts in `docs/results/chat/`.

    python benchmarks/paper/chat_tables.py

Values are means over held-out prompts. Where there are several seeds, mean ± standard deviation over them; of one seed
the value, with the 95 % interval of the bootstrap over prompts where there are prompts to draw from. The hypervolume
has two reference points: the base model's own scores, and the nadir, the worst value over all methods and seeds.
"""

import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from first_steps import first_steps
from peft_panacea.front import Front, nadir
from peft_panacea.front.uncertainty import bounds, resampled_values
from peft_panacea.metrics import hypervolume

ROOT = Path(__file__).resolve().parents[2]
RESULTS, PAGE = ROOT / "docs/results/chat", ROOT / "docs/results.md"
DEVELOPMENT = ROOT / "docs/results/chat_development"
METRICS = ("hypervolume", "inner product", "monotonicity")
EFFECTS = ("KL", "log-perplexity")
SEPARATE = "one per preference, each"
WINDOW = 8
"""Steps of six prompts that are looked back on."""


def fronts(folder: Path) -> dict[str, list[Front]]:
    """Method → its fronts, one for each seed; all with the base of the first that has one."""
    found: dict[str, list[Front]] = {}
    for path in sorted(folder.glob("*.json")):
        front = Front.from_json(path)
        found.setdefault(front.details["method"], []).append(front)
    return with_base(found)


def with_base(by_method: dict[str, list[Front]]) -> dict[str, list[Front]]:
    """All with the base of the first that has one."""
    base = next(front for several in by_method.values() for front in several if front.base is not None)
    return {
        method: [
            front if front.base is not None else Front(
                front.objectives, front.preferences, front.scores, base=base.base, normalisation=base.normalisation,
                details=front.details, side_effects=front.side_effects,
            )
            for front in several
        ]
        for method, several in by_method.items()
    }  # fmt: skip


def cell(several: list[Front], metric: str, reference: np.ndarray | None) -> str:
    values = np.array([front.metrics(reference)[metric] for front in several])
    if len(several) > 1:
        return f"{number(values.mean())} ± {number(values.std(ddof=1))}"
    low, high = intervals(several[0])[metric] if reference is None else above(several[0], reference)
    return f"{number(values[0])} [{number(low)}, {number(high)}]"


def number(x: float) -> str:
    return f"{x:.3f}" if x == 0 or abs(x) >= 0.001 else f"{x:.1e}"


@cache
def intervals(front: Front) -> dict[str, tuple[float, float]]:
    """Of the metrics, the hypervolume from the base model's values."""
    return replace(front, side_effects={}, base_side_effects={}).metric_intervals()


def above(front: Front, reference: np.ndarray) -> tuple[float, float]:
    """That of the hypervolume from another point, without the metrics that do not look at it."""
    mean, std = front.normalisation or (0.0, 1.0)
    values, point = (resampled_values(front.scores) - mean) / std, (reference - mean) / std
    low, high = bounds(np.array([hypervolume(of_one, point, maximise=front.maximise) for of_one in values]), 0.95)
    return float(low), float(high)


def table(folder: Path) -> str:
    by_method = fronts(folder)
    point = nadir([front for several in by_method.values() for front in several])
    effects = [
        e
        for e in EFFECTS
        if all(e in several[0].side_effects for m, several in by_method.items() if m[:6] != "prompt")
    ]
    heads = ["hypervolume above the base", "above the nadir", *METRICS[1:], *effects]
    lines = [f"| method | cost | seeds | {' | '.join(heads)} |", "|---|---:|---:|" + "---|" * len(heads)]
    for method, several in sorted(by_method.items(), key=lambda item: item[1][0].details["cost"]):
        cells = [cell(several, "hypervolume", None), cell(several, "hypervolume", point)]
        cells += [cell(several, metric, None) for metric in METRICS[1:]]
        for effect in effects:
            known = [front.side_effects[effect].mean() for front in several if effect in front.side_effects]
            cells.append(f"{np.mean(known):.2f}" if known else "")
        lines.append(f"| {method} | {several[0].details['cost']:g} | {len(several)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def shares(folder: Path) -> str:
    """Of one model per preference, each trained as long, what methods of the same seed attain."""
    by_method = fronts(folder)
    point = nadir([front for several in by_method.values() for front in several])
    lines = ["| method | seed | cost | hypervolume above the nadir | inner product |", "|---|---:|---:|---|---|"]
    whole = {front.details["seed"]: front.metrics(point) for front in by_method[SEPARATE]}
    trained = [front for method, several in by_method.items() if method[:6] != "prompt" for front in several]
    for front in trained:
        method, seed, cost = (front.details[key] for key in ("method", "seed", "cost"))
        if seed in whole:
            own = front.metrics(point)
            cells = [f"{own[m]:.4f}, {own[m] / whole[seed][m]:.1%}" for m in ("hypervolume", "inner product")]
            lines.append(f"| {method} | {seed} | {cost:g} | {' | '.join(cells)} |")
    return "\n".join(lines)


def steering(folder: Path) -> str:
    by_method = {m: several for m, several in fronts(folder).items() if "history" in several[0].details}
    objectives = next(iter(by_method.values()))[0].objectives
    lines = [f"| method | {' | '.join(objectives)} |", "|---|" + "---|" * len(objectives)]
    for method, several in by_method.items():
        steps = [first_steps(f.details["history"], f.normalisation[1], window=WINDOW) for f in several]
        cells = [
            ", ".join("–" if of_seed[i] is None else str(of_seed[i]) for of_seed in steps)
            for i in range(len(objectives))
        ]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def tables() -> dict[str, str]:
    """By the name of the marker in the page; what has not run is not there."""
    found = {}
    for folder in sorted(DEVELOPMENT.iterdir()) if DEVELOPMENT.exists() else ():
        found[f"chat {folder.name} development"] = table(folder)
    for folder in sorted(RESULTS.iterdir()) if RESULTS.exists() else ():
        found[f"chat {folder.name}"] = table(folder)
        if list(folder.glob(f"{SEPARATE}_*.json")):
            found[f"chat {folder.name} shares"] = shares(folder)
        if any("history" in json.loads(path.read_text(encoding="utf-8"))["details"] for path in folder.glob("*.json")):
            found[f"chat {folder.name} steering"] = steering(folder)
    return found


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name, content in tables().items():
        new = f"<!-- {name} -->\n{content}\n<!-- end -->"
        text = re.sub(rf"<!-- {name} -->\n.*?<!-- end -->", lambda match, new=new: new, text, flags=re.DOTALL)
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
