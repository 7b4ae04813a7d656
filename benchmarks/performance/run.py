"""What steering costs, against LoRA and every other way to steer.

    make bench

Times every row of docs/performance.md and writes each to the JSON as soon as it is there, so that a run that was
stopped goes on where it was; the file of another machine, or of other versions, is begun anew. Rows that need a GPU
are "not run" without one. At the end it prints the targets, each with `pass` or `short`.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import torch

from performance import compilation, front, growth, memory, mixed, start, steps, switching, table, timing

GROUPS = (steps, memory, mixed, switching, front, compilation, start, growth)


def measured(device: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    if device == "cuda" and not torch.cuda.is_available():
        return {"not run": "needs a GPU"}
    try:
        return measure()
    except (ImportError, torch.cuda.OutOfMemoryError) as error:  # bitsandbytes, or a model too large for this GPU
        return {"not run": str(error)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="the JSON")
    parser.add_argument("--only", default="", help="what the names of the rows must hold, such as `decode` or `8B`")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="only the rows of this device")
    parser.add_argument("--restart", action="store_true", help="forget what the JSON has of these rows")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything runs")
    args = parser.parse_args()

    cases = {name: rest for group in GROUPS for name, *rest in group.cases(args.quick)}
    wanted = [name for name, (device, _) in cases.items() if args.only in name and args.device in (None, device)]
    report = {"command": "make bench", "machine": timing.machine(), "rows": {}}
    if args.output.exists():
        known = json.loads(args.output.read_text())
        if known["machine"] == report["machine"]:
            report["rows"] = {k: v for k, v in known["rows"].items() if not (args.restart and k in wanted)}
    missing = [name for name in wanted if "sides" not in report["rows"].get(name, {})]
    for name in (progress := tqdm(missing)):
        progress.set_description(name)
        rows = report["rows"] | {name: measured(*cases[name])}
        report["rows"] = {name: rows[name] for name in cases if name in rows}
        args.output.write_text(json.dumps(report, indent=1) + "\n")
    print(table.targets(report["rows"]))


if __name__ == "__main__":
    main()
