"""`card`: renew what an adapter's README.md says about steering."""

from __future__ import annotations

import argparse
from pathlib import Path

from .adapter import config_of

HELP = "renew what its README.md says about steering"
EXAMPLES = ["peft-panacea card runs/chat/dpo"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", type=Path, help="adapter, a folder, perhaps with front.json in it")


def run(args: argparse.Namespace) -> None:
    from ..card import write_card

    config_of(str(args.path))
    print(f"wrote {write_card(args.path)}")
