"""The tables and pictures of `docs/results.md` and `docs/open-questions.md`, from the raw results in `docs/results/`.

    python benchmarks/paper/tables.py            # writes the tables between the markers of the two pages
    python benchmarks/paper/tables.py --figures  # and the pictures

Values are means over held-out prompts, then mean ± standard deviation over the training seeds. The hypervolume has two
reference points: the base model's own scores, and the nadir, the worst value of each objective over all methods and
seeds. Both rules were fixed before the first run.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from peft_panacea import metrics
from peft_panacea.front import Front, nadir

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs/results"
PAGES = ROOT / "docs/results.md", ROOT / "docs/open-questions.md"
PAPER = {  # hypervolume of Panacea / Rewarded Soups in the paper's tables
    "rl2": "1.77 and 1.62",
    "rl3": "1.26",
    "dpo": "1.01 to 1.06",
    "sft3": "1.7",
    "sft4": "2.7",
    "sft5": "4.1",
    "sft10": "12",
}
SOUPS = ("Rewarded Soups", "Rewarded Soups of A and B")
CEILING = "one per preference, each"
OWN = "Panacea, per row, rank 8 each"


class Result:
    """One experiment: fronts by method, one for each seed, in units of the base model's spread where there is one."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.raw = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        bases = np.array([f["base"] for f in self.raw["fronts"] if "base" in f])
        self.base = bases.mean(axis=0)
        normalisation = self.raw["normalisation"]
        self.scale = None if normalisation is None else (self.base, np.array(normalisation[1]))
        self.fronts: dict[str, list[Front]] = {}
        for f in self.raw["fronts"]:
            effects = {effect: np.array(values)[:, None] for effect, values in f["side effects"].items()}
            details = {key: f[key] for key in ("method", "seed", "cost", "seconds")}
            self.fronts.setdefault(f["method"], []).append(
                Front(
                    self.raw["objectives"], f["preferences"], np.array(f["values"])[:, None], base=self.base[None],
                    normalisation=self.scale, side_effects=effects, details=details,
                )
            )  # fmt: skip
        self.known: dict[Any, list[dict[str, float]]] = {}
        self.nadir = nadir([front for fronts in self.fronts.values() for front in fronts])

    def column(self, method: str, metric: str, reference: Any = None, on: Any = None) -> np.ndarray:
        """A metric for every seed; `on` keeps only these preferences."""
        key = method, reference is None, on is None
        if key not in self.known:
            fronts = self.fronts[method] if on is None else [_at(front, on) for front in self.fronts[method]]
            self.known[key] = [front.metrics(reference) for front in fronts]
        return np.array([metrics_of_one[metric] for metrics_of_one in self.known[key]])


def _at(front: Front, preferences: np.ndarray) -> Front:
    index = [int(np.abs(front.preferences - p).sum(axis=1).argmin()) for p in preferences]
    return Front(front.objectives, front.preferences[index], front.scores[:][index], base=front.base,
                 normalisation=front.normalisation)  # fmt: skip


def _cell(values: np.ndarray, digits: int = 3) -> str:
    mean, std = values.mean(), values.std(ddof=1)
    return f"{mean:.1e} ± {std:.0e}" if 0 < mean < 5e-3 else f"{mean:.{digits}f} ± {std:.{digits}f}"


def table(result: Result) -> str:
    effects = list(next(iter(result.fronts.values()))[0].side_effects)
    effects = [effect for effect in ("KL", "log-perplexity") if effect in effects]
    columns = ["hypervolume above the base", "above the nadir", "inner product", "spacing", "monotonicity", *effects]
    lines = [f"| method | cost | {' | '.join(columns)} |", "|---|---:|" + "---|" * len(columns)]
    order = sorted(result.fronts, key=lambda method: result.fronts[method][0].details["cost"])
    for method in order:
        fronts = result.fronts[method]
        points, seeds = len(fronts[0].preferences), len(fronts)
        cells = [
            _cell(result.column(method, "hypervolume")),
            _cell(result.column(method, "hypervolume", result.nadir)),
            *(_cell(result.column(method, name)) for name in ("inner product", "spacing", "monotonicity")),
            *(_cell(np.array([f.side_effects[effect].mean() for f in fronts]), 2) for effect in effects),
        ]
        cost = fronts[0].details["cost"]
        lines.append(f"| {method} ({points} points, {seeds} seeds) | {cost:g} | {' | '.join(cells)} |")
    return "\n".join(lines)


def ratios(results: list[Result]) -> str:
    """Panacea's mean hypervolume in that of each soup at equal cost; in brackets on how many of 5 seeds it leads."""
    heads = [f"above the {point}, in {soup}" for point in ("base", "nadir") for soup in SOUPS]
    lines = [f"| experiment | paper | method | {' | '.join(heads)} |", "|---" * 7 + "|"]
    for result in results:
        for method in (m for m in result.fronts if m.startswith("Panacea")):
            cells = []
            for reference in (None, result.nadir):
                own = result.column(method, "hypervolume", reference)
                for name in SOUPS:
                    if name not in result.fronts:
                        cells.append("")
                        continue
                    soup = result.column(name, "hypervolume", reference)
                    ratio = _ratio(own.mean(), soup.mean())
                    cells.append(f"{ratio} ({int((own > soup).sum())})")
            lines.append(f"| {result.name} | {PAPER[result.name]} | {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def references(results: list[Result]) -> str:
    """The ratio of Panacea's mean hypervolume to that of Rewarded Soups, by where the reference point is."""
    places = (0.0, 0.25, 0.5, 0.75, 1.0)
    lines = [
        f"| experiment | paper | base | {' | '.join(f'{p:.0%}' for p in places[1:-1])} | nadir |",
        "|---" * 7 + "|",
    ]
    for result in results:
        cells = []
        for place in places:
            reference = (1 - place) * result.base + place * result.nadir
            means = [
                np.mean([front.metrics(reference)["hypervolume"] for front in result.fronts[method]])
                for method in (OWN, "Rewarded Soups")
            ]
            cells.append(_ratio(*means))
        lines.append(f"| {result.name} | {PAPER[result.name]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _ratio(own: float, other: float) -> str:
    return f"{own / other:.2f}" if other > 0.01 * own else "> 100"


def shares(results: list[Result]) -> str:
    """Of the ceiling's hypervolume at the ceiling's own preferences and seeds; in brackets the lowest of any seed."""
    columns = ["experiment", "method", "share of the cost", "hypervolume above the base", "above the nadir"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for result in results:
        ceiling = result.fronts[CEILING]
        points, seeds = ceiling[0].preferences, [front.details["seed"] for front in ceiling]
        for method, fronts in result.fronts.items():
            if method in (CEILING, "one per preference") or method.startswith("one per objective"):
                continue
            cells = []
            for reference in (None, result.nadir):
                top = result.column(CEILING, "hypervolume", reference)
                same = [front.details["seed"] in seeds for front in fronts]
                own = result.column(method, "hypervolume", reference, on=points)[same]
                cells.append(f"{100 * own.mean() / top.mean():.0f} % ({100 * (own / top).min():.0f} %)")
            cost = fronts[0].details["cost"] / ceiling[0].details["cost"]
            lines.append(f"| {result.name} | {method} | {cost:.2f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def conditions(runs: list[dict[str, Any]], margin: float = 0.5) -> dict[str, np.ndarray]:
    """Of the seeds of one label: hypervolume above two points, and Σ pᵢ Jᵢ at three kinds of preferences."""
    rows = []
    for r in runs:
        values, preferences, base = (np.array(r[key]) for key in ("values", "preferences", "base"))
        weighted, m = (values * preferences).sum(axis=1), len(base)
        rows.append({
            "above the base": metrics.hypervolume(values, base),
            f"above the base - {margin}": metrics.hypervolume(values, base - margin),
            "vertices": weighted[:m].mean(), "between": weighted[m + 1 :].mean(), "centre": weighted[m],
        })  # fmt: skip
    return {key: np.array([row[key] for row in rows]) for key in rows[0]}


def ablations(runs: list[dict[str, Any]]) -> dict[str, str]:
    """By what was changed."""
    found = {}
    for kind in dict.fromkeys(r["kind"] for r in runs):
        own = [r for r in runs if r["kind"] == kind]
        labels = dict.fromkeys(r["label"] for r in own)
        by_label = {label: conditions([r for r in own if r["label"] == label]) for label in labels}
        columns = list(next(iter(by_label.values())))
        lines = [f"| {kind} | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
        for label, columns_of_one in by_label.items():
            cells = [f"{column.mean():.3f}" for column in columns_of_one.values()]
            lines.append(f"| {label} | {' | '.join(cells)} |")
        found[kind] = "\n".join(lines)
    return found


def tables() -> dict[str, str]:
    """By the name of the marker in the page."""
    results = {name: Result(name) for name in PAPER if (RESULTS / f"{name}.json").exists()}
    found = {name: table(result) for name, result in results.items()}
    found["ratios"] = ratios(list(results.values()))
    found["references"] = references(list(results.values()))
    found["shares"] = shares([result for result in results.values() if CEILING in result.fronts])
    if (RESULTS / "ablations.json").exists():
        found |= ablations(json.loads((RESULTS / "ablations.json").read_text(encoding="utf-8"))["runs"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figures", action="store_true")
    args = parser.parse_args()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for name, table in tables().items():
            new = f"<!-- {name} -->\n{table}\n<!-- end -->"
            text = re.sub(rf"<!-- {name} -->\n.*?<!-- end -->", lambda match, new=new: new, text, flags=re.DOTALL)
        page.write_text(text, encoding="utf-8")
    if args.figures:
        from peft_panacea.plots import plot_fronts

        for name in PAPER:
            if (RESULTS / f"{name}.json").exists():
                fronts = Result(name).fronts
                shown = {m: fronts[m] for m in (OWN, "Rewarded Soups", CEILING) if m in fronts}
                plot_fronts(shown).savefig(RESULTS / f"{name}.png", dpi=150)


if __name__ == "__main__":
    main()
