"""`info`: what an adapter is."""

from __future__ import annotations

import argparse
import json

from .adapter import config_of

HELP = "what an adapter is"
EXAMPLES = ["peft-panacea info runs/chat/dpo"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="adapter, a folder or a name on the Hub")
    parser.add_argument("--json", action="store_true", help="for programs")


def run(args: argparse.Namespace) -> None:
    config = config_of(args.path)
    names = config.objective_names
    found = {
        "objectives": names,
        "default preference": dict(zip(names, config.initial_preference, strict=True)),
        "bounds": config.preference_bounds or {},
        "named preferences": config.named_preferences or {},
        "directions": f"{config.r} shared, {config.preference_rank} for each objective",
        "rank as LoRA": config.lora_rank,
        "coordinates": config.coordinates,
        "base model": config.base_model_name_or_path,
        "task": config.task_type,
        "format": config.format_version,
    }
    if args.json:
        print(json.dumps(found))
        return
    found["objectives"] = ", ".join(names)
    found["default preference"] = ", ".join(f"{name} {w:.4g}" for name, w in found["default preference"].items())
    from ..tuner import in_words

    found["bounds"] = in_words(found["bounds"]) or "none"
    named = (f"{name} ({', '.join(f'{w:.4g}' for w in p)})" for name, p in found["named preferences"].items())
    found["named preferences"] = ", ".join(named) or "none"
    for name, value in found.items():
        print(f"{name + ':':<20}{value}")
