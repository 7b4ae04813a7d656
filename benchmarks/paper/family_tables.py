"""The tables of soups, MVA and PEO in `docs/results.md`, and a picture, from the fronts in `docs/results/family/`.

    python benchmarks/paper/family_tables.py            # writes the tables between the markers of the page
    python benchmarks/paper/family_tables.py --figures  # and the picture

Joint training is that of `run.py`, the default adapter, and of `chat_run.py`, on the same seeds and prompts, where it
was not run again.
"""

import argparse
import re
from pathlib import Path

import numpy as np

from chat_tables import PAGE, cell, with_base
from peft_panacea import metrics
from peft_panacea.front import Front, nadir
from tables import Result

RESULTS = PAGE.parent / "results"
FAMILY = RESULTS / "family"
JOINT = "joint"
ORDER = ["soup", "soup, extrapolated", "PEO, around the generalist", "MVA, interpolated", "MVA", "MVA, orthogonal"]


def fronts(folder: Path) -> dict[str, list[Front]]:
    """Method → its fronts, one for each seed."""
    found: dict[str, list[Front]] = {}
    for path in sorted(folder.glob("*.json")):
        front = Front.from_json(path)
        found.setdefault(front.details["method"], []).append(front)
    if folder.name == "chat":
        found[JOINT] = [Front.from_json(path) for path in sorted((RESULTS / "chat/dpo").glob("Panacea_*.json"))]
    first = [label for label in ORDER if label in found]
    return {label: found[label] for label in [*first, *(label for label in found if label not in first)]}


def table(folder: Path) -> str:
    by_method = with_base(fronts(folder))
    point = nadir([front for several in by_method.values() for front in several])
    objectives = next(iter(by_method.values()))[0].objectives
    best = [f"best {name}" for name in objectives]
    effects = ["KL"] if any("KL" in several[0].side_effects for several in by_method.values()) else []
    heads = ["points", "hypervolume above the base", "above the nadir", *best, *effects, "cosine", "dependence"]
    lines = [f"| method | seeds | {' | '.join(heads)} |", "|---|---:|" + "---|" * len(heads)]
    for method, several in by_method.items():
        cells = [f"{np.mean([len(front.preferences) for front in several]):.0f}"]
        cells += [hypervolume(several, None), hypervolume(several, point)]
        cells += [f"{np.mean([front.values[:, i].max() for front in several]):.2f}" for i in range(len(objectives))]
        for effect in effects:
            found = [front.side_effects[effect].mean() for front in several if effect in front.side_effects]
            cells.append(f"{np.mean(found):.0f}" if found else "")
        known = [front.details["interference"] for front in several if "interference" in front.details]
        for name in ("cosine", "dependence"):
            cells.append(f"{np.mean([of_one[name][0][1] for of_one in known]):.2f}" if known else "")
        lines.append(f"| {method} | {len(several)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def hypervolume(several: list[Front], reference: np.ndarray | None) -> str:
    if len(several) == 1 and several[0].scores.shape[1] == 1:  # a mean over prompts has no interval
        return f"{several[0].metrics(reference)['hypervolume']:.3f}"
    return cell(several, "hypervolume", reference)


def jointly() -> str:
    """Soup, joint training, and the one after the other, in the experiments of `run.py`."""
    lines = ["| experiment | objectives | seeds | soup | joint | soup, then joint | of joint | ahead of joint |"]
    lines += ["|---|---:|---:|---|---|---|---|---|"]
    for name in ("stories", "rl2", "rl3", "sft3", "sft4", "sft5", "sft10"):
        if not (FAMILY / name).exists():
            continue
        found = fronts(FAMILY / name)
        if "soup, then joint" not in found:
            continue
        seeds = sorted({front.details["seed"] for front in found["soup, then joint"]})
        if JOINT not in found:
            result = Result(name)
            found[JOINT] = result.fronts["Panacea, default"]
            found = {
                method: [
                    Front(f.objectives, f.preferences, f.values[:, None], base=result.base[None], details=f.details,
                          normalisation=result.scale)
                    for f in several
                ]
                for method, several in found.items()
            }  # fmt: skip
        of_seed = {
            method: np.array([
                next(f for f in several if f.details["seed"] == seed).metrics(None)["hypervolume"] for seed in seeds
            ])
            for method, several in found.items()
        }  # fmt: skip
        both, joint = of_seed["soup, then joint"], of_seed[JOINT]
        cells = [_spread(of_seed[method]) for method in ("soup", JOINT, "soup, then joint")]
        share = f"{both.mean() / joint.mean():.2f}"
        m = len(found["soup"][0].objectives)
        lines.append(
            f"| {name} | {m} | {len(seeds)} | {' | '.join(cells)} | {share} | {(both > joint).sum()} of {len(seeds)} |"
        )
    return "\n".join(lines)


def _spread(values: np.ndarray) -> str:
    if len(values) == 1:
        return f"{values[0]:.3g}"
    return f"{values.mean():.3g} ± {values.std(ddof=1):.2g}"


def tables() -> dict[str, str]:
    """By the name of the marker in the page; what has not run is not there."""
    found = {}
    for name in ("stories", "chat"):
        if (FAMILY / name).exists():
            found[f"family {name}"] = table(FAMILY / name)
    if FAMILY.exists():
        found["family jointly"] = jointly()
    return found


def picture(path: Path) -> None:
    """The fronts of the first seed on the stories, in the plane of the two rewards."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    shown = {
        "soup": ("o-", "Rewarded Soups"), "soup, extrapolated": ("s", "the same blocks, extrapolated"),
        "MVA": ("^", "MVA"), JOINT: ("o-", "Panacea, joint"), "soup, then joint": ("o--", "soup, then joint"),
        "preference in the prompt, trained": ("x:", "preference in the prompt, trained"),
    }  # fmt: skip
    by_method = fronts(FAMILY / "stories")
    figure, axes = plt.subplots(figsize=(6.4, 4.4))
    for label, (style, name) in shown.items():
        front = by_method[label][0]
        values = front.values if "-" in style or ":" in style else front.values[metrics.non_dominated(front.values)]
        axes.plot(*values.T, style, label=name, markersize=4, linewidth=1)
    base = by_method["soup"][0].base_values
    axes.plot(*base, "k*", label="base model", markersize=9)
    axes.set(xlabel=front.objectives[0], ylabel=front.objectives[1])
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figures", action="store_true", help="draw the picture, too")
    args = parser.parse_args()
    text = PAGE.read_text(encoding="utf-8")
    for name, content in tables().items():
        new = f"<!-- {name} -->\n{content}\n<!-- end -->"
        text = re.sub(rf"<!-- {name} -->\n.*?<!-- end -->", lambda match, new=new: new, text, flags=re.DOTALL)
    PAGE.write_text(text, encoding="utf-8")
    if args.figures:
        picture(RESULTS / "family.png")


if __name__ == "__main__":
    main()
