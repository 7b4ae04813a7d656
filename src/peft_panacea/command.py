"""The command line: what an adapter is, its exports, its card. It parses and calls."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

EPILOG = """examples:
  peft-panacea info runs/chat/dpo
  peft-panacea export runs/chat/dpo runs/lora --preference helpful=0.3 harmless=0.7
  peft-panacea export runs/chat/dpo runs/gguf --basis --gguf
  peft-panacea card runs/chat/dpo
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: The words of the command; those that Python was started with if None.

    Returns:
        0, or 2 if something that the user can mend was wrong, which is then said in one sentence.
    """
    args = _parser().parse_args(arguments)
    try:
        args.command(args)
    except (ImportError, KeyError, OSError, TypeError, ValueError) as error:
        print(f"peft-panacea: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "peft-panacea", description="Adapters that follow a preference.", epilog=EPILOG, formatter_class=shape
    )
    commands = parser.add_subparsers(required=True, metavar="{info,export,card}")
    info = commands.add_parser("info", help="what an adapter is", epilog=EPILOG, formatter_class=shape)
    info.add_argument("path", metavar="PATH", help="adapter, a folder or a name on the Hub")
    info.add_argument("--json", action="store_true", help="for programs")
    info.set_defaults(command=_info)
    export = commands.add_parser(
        "export", help="write it as LoRA, for PEFT, servers or llama.cpp", epilog=EPILOG, formatter_class=shape
    )
    export.add_argument("path", metavar="PATH", help="adapter, a folder or a name on the Hub")
    export.add_argument("output", metavar="OUTPUT", type=Path, help="folder to write")
    what = export.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--preference", nargs="+", metavar="WEIGHT", help="one LoRA at this preference: 0.3 0.7, or name=0.3 name=0.7"
    )
    what.add_argument("--grid", type=int, metavar="STEPS", help="a LoRA at every preference of this grid")
    what.add_argument("--basis", action="store_true", help="LoRAs to be weighed by the preference")
    export.add_argument("--gguf", action="store_true", help="with --basis: as GGUF, for llama.cpp")
    export.add_argument("--extrapolate", action="store_true", help="with --preference: also outside the simplex")
    export.add_argument("--json", action="store_true", help="say what was written as JSON")
    export.set_defaults(command=_export)
    card = commands.add_parser(
        "card", help="renew what its README.md says about steering", epilog=EPILOG, formatter_class=shape
    )
    card.add_argument("path", metavar="PATH", type=Path, help="adapter, a folder, perhaps with front.json in it")
    card.set_defaults(command=_card)
    return parser


def _card(args: argparse.Namespace) -> None:
    from .card import write_card

    _config(str(args.path))
    print(f"wrote {write_card(args.path)}")


def _info(args: argparse.Namespace) -> None:
    config = _config(args.path)
    m, names = len(config.objective_names), config.objective_names
    found = {
        "objectives": names,
        "default preference": dict(zip(names, config.initial_preference, strict=True)),
        "directions": f"{config.r} shared, {config.preference_rank} for each objective",
        "rank as LoRA": config.r + m * config.preference_rank,
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
    for name, value in found.items():
        print(f"{name + ':':<20}{value}")


def _export(args: argparse.Namespace) -> None:
    if args.gguf and not args.basis:
        raise ValueError("`--gguf` must come with `--basis`, because llama.cpp weighs adapters itself.")
    if args.extrapolate and not args.preference:
        raise ValueError("`--extrapolate` must come with `--preference`.")
    if args.grid is not None and args.grid < 1:
        raise ValueError(f"`--grid` must be at least 1, but got {args.grid}.")
    preference = _parsed(args.preference) if args.preference else None
    from .convert import export_gguf, export_lora, export_lora_basis, export_lora_grid
    from .simplex import simplex_grid

    config = _config(args.path)
    if preference is not None:  # refused before the model is loaded
        from .tuner import parse_preference

        parse_preference(preference, config.objective_names, extrapolate=args.extrapolate)
    grid = simplex_grid(len(config.objective_names), args.grid) if args.grid is not None else None
    model = _model(args.path, config)
    if preference is not None:
        export_lora(model, preference, args.output, extrapolate=args.extrapolate)
        written = [str(args.output)]
    elif grid is not None:
        written = [str(folder) for folder in export_lora_grid(model, grid, args.output)]
    else:
        ending, names = (".gguf", export_gguf) if args.gguf else ("", export_lora_basis)
        written = [f"{args.output / name}{ending}" for name in names(model, args.output)]
    print(json.dumps(written) if args.json else "\n".join(f"wrote {path}" for path in written))


def _parsed(words: Sequence[str]) -> Any:
    """`0.3 0.7` or `a=0.3 b=0.7`, as a preference."""
    pairs = [word.rpartition("=") for word in words]
    named = {name for name, equals, _ in pairs if equals}
    try:
        weights = [float(weight) for _, _, weight in pairs]
    except ValueError:
        raise ValueError(f"`--preference` must be numbers, or name=number for each, but got {list(words)}.") from None
    if not named:
        return weights
    if len(named) < len(words):
        raise ValueError(f"`--preference` must name every objective, once, or none, but got {list(words)}.")
    return {name: weight for (name, _, _), weight in zip(pairs, weights, strict=True)}


def _config(path: str) -> Any:
    from peft import PeftConfig

    from .tuner import PanaceaConfig

    config = PeftConfig.from_pretrained(path)
    if not isinstance(config, PanaceaConfig):
        raise ValueError(f"`PATH` must be a Panacea adapter, but {path} is of {config.peft_type}.")
    return config


def _model(path: str, config: Any) -> Any:
    import peft

    from .card import AUTO_CLASSES

    return getattr(peft, AUTO_CLASSES.get(config.task_type, "AutoPeftModel")).from_pretrained(path)
