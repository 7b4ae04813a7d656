"""The tables and the figure of docs/performance.md, from the committed results.

python benchmarks/performance/table.py
"""

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "performance.md"
RESULTS = ROOT / "docs" / "results"


@dataclass(frozen=True)
class Target:
    """A bound on one figure of all rows whose name begins so."""

    what: str
    rows: str
    figure: str
    bound: float
    least: bool = False

    def met(self, value: float) -> bool:
        return value >= self.bound if self.least else value <= self.bound

    def __str__(self) -> str:
        return f"{'≥' if self.least else '≤'} {self.bound:,g}"


TARGETS = (
    Target("training step over LoRA's", "training: ", "over LoRA", 0.93),
    Target("its overhead over the base, in LoRA's", "training: ", "overhead in LoRA's", 0.5),
    Target("prefill over LoRA's", "prefill: ", "over LoRA", 0.95),
    Target("decode step over LoRA's", "decode: ", "over LoRA", 0.97),
    Target("its overhead over the base, in LoRA's", "decode: ", "overhead in LoRA's", 0.8),
    Target("decode, a preference per row over one", "decode: ", "rows over one", 1.02),
    Target("peak training memory over LoRA's", "memory: ", "over LoRA", 1.0),
    Target("eight preferences, times faster than `adapter_names`", "mixed batch: ", "than adapter_names", 3, True),
    Target("`set_preference`, 64 layers over 2", "switching: ", "set_preference, 64 layers over 2", 1.1),
    Target("`set_preference`, µs", "switching: ", "set_preference, µs", 15),
    Target("a switch, times faster than re-merging a soup", "soups: ", "than re-merging", 1000, True),
    Target("a whole front, over one preference after another", "front: ", "over the loop", 0.6),
    Target("more graphs after a change of preference", "compilation: ", "more graphs", 0),
    Target("graph breaks", "compilation: ", "graph breaks", 0),
)


def merged(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Each row from where it was measured."""
    rows: dict[str, Any] = {}
    for report in reports:
        rows |= {name: row for name, row in report["rows"].items() if name not in rows or "not run" in rows[name]}
    return rows


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 or value == int(value) else f"{value:.3g}"


def spread(quartiles: list[float]) -> str:
    low, median, high = (f"{q:.3f}" if 0.1 < abs(q) < 10 else number(q) for q in quartiles)
    return median if low == high else f"{median} ({low} to {high})"


def targets(rows: dict[str, Any]) -> str:
    lines = ["| what | where | median (quartiles) | target | |", "|---|---|---|---|---|"]
    for target in TARGETS:
        for name, row in rows.items():
            if name.startswith(target.rows) and "sides" in row:
                found = row["figures"][target.figure]
                verdict = "noise" if found[0] < 0 else "pass" if target.met(found[1]) else "short"
                cells = target.what, name.partition(": ")[2], spread(found), str(target), verdict
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def details(rows: dict[str, Any], group: str) -> str:
    """Medians of the sides and figures of a group; what was not run in one last line."""
    found = {name.partition(": ")[2]: row for name, row in rows.items() if name.startswith(f"{group}: ")}
    run = {name: row for name, row in found.items() if "sides" in row}
    sides = list(dict.fromkeys(side for row in run.values() for side in row["sides"]))
    figures = list(dict.fromkeys(figure for row in run.values() for figure in row["figures"]))
    heads = ["", *sides, *figures, "turns"]
    lines = [f"| {' | '.join(heads)} |", "|---|" + "---:|" * len(sides) + "---|" * len(figures) + "---:|"]
    for name, row in run.items():
        medians = [f"{number(row['sides'][s][1])} {row['unit']}" if s in row["sides"] else "" for s in sides]
        ratios = [spread(row["figures"][f]) if f in row["figures"] else "" for f in figures]
        lines.append(f"| {' | '.join([name, *medians, *ratios, str(row['turns'])])} |")
    if rest := [name for name in found if name not in run]:
        lines.append(f"| {'; '.join(rest)} | " + " | ".join(["not run"] * (len(heads) - 1)) + " |")
    return "\n".join(lines)


def machines(reports: list[dict[str, Any]]) -> str:
    lines = []
    for machine in (report["machine"] for report in reports):
        versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
        where = [machine["cpu"], f"{machine['threads']} thread(s)", machine["memory"], machine["gpu"] or "no GPU"]
        lines.append(f"- {', '.join(where)}; {versions}")
    return "\n".join(lines)


def tables(reports: list[dict[str, Any]]) -> dict[str, str]:
    """What stands on the page between `<!-- name -->` and `<!-- end -->`, by name."""
    rows = merged(reports)
    groups = dict.fromkeys(name.partition(": ")[0] for name in rows)
    each = {group: details(rows, group) for group in groups if group != "growth"}
    return {"machines": machines(reports), "targets": targets(rows), **each}


def reports() -> list[dict[str, Any]]:
    """One for each machine."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("performance*.json"))]


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name, content in tables(reports()).items():
        pattern = rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)"
        page, count = re.subn(pattern, lambda m, c=content: f"{m[1]}{c}\n{m[2]}", page, flags=re.DOTALL)
        assert count == 1, name
    PAGE.write_text(page, encoding="utf-8")
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from performance import figure

    figure.draw(merged(reports()), RESULTS / "growth.png")


if __name__ == "__main__":
    main()
