"""`choose`: the preference that is best for what is asked for, from a measured front."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from .pairs import pair, pairs

HELP = "the preference that is best for an objective, from a measured front"
EXAMPLES = [
    "peft-panacea choose runs/chat/dpo --objective helpful",
    "peft-panacea choose runs/chat/dpo/front.json --objective helpful --subject_to harmless=0.6",
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="FRONT_OR_PATH", type=Path, help="front.json, or a folder that has it")
    parser.add_argument("--objective", required=True, help="to be as good as possible")
    parser.add_argument(
        "--subject_to", type=pair, nargs="+", default=[], metavar="OBJECTIVE=WORST", help="worst acceptable values"
    )
    parser.add_argument("--level", type=float, default=0.95, help="confidence of constraints and bounds (%(default)s)")
    parser.add_argument("--json", action="store_true", help="for programs")


def run(args: argparse.Namespace) -> None:
    limits = {}
    for name, worst in pairs(args.subject_to, "--subject_to").items():
        try:
            limits[name] = float(worst)
        except ValueError:
            raise ValueError(f"`--subject_to` must be OBJECTIVE=NUMBER for each, but got {name}={worst}.") from None
    from ..front import Front, describe_choice

    front = Front.from_json(args.path / "front.json" if args.path.is_dir() else args.path)
    unknown = {args.objective, *limits} - set(front.objectives)
    if unknown:
        raise ValueError(
            f"`--objective` and `--subject_to` must name {list(front.objectives)}, but got {sorted(unknown)}."
        )
    choice = front.choose(args.objective, limits, args.level)
    print(json.dumps(dataclasses.asdict(choice)) if args.json else describe_choice(choice))
