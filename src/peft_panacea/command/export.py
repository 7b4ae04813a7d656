"""`export`: an adapter as LoRA, for PEFT, servers or llama.cpp."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..written import read_preference
from .adapter import config_of, model_of

HELP = "write it as LoRA, for PEFT, servers or llama.cpp"
EXAMPLES = [
    "peft-panacea export runs/chat/dpo runs/lora --preference helpful=0.3 harmless=0.7",
    "peft-panacea export runs/chat/dpo runs/gguf --basis --gguf",
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="adapter, a folder or a name on the Hub")
    parser.add_argument("output", metavar="OUTPUT", type=Path, help="folder to write")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--preference",
        nargs="+",
        metavar="WEIGHT",
        help="one LoRA at this preference: 0.3 0.7, name=0.3 name=0.7, or one of the adapter's named preferences",
    )
    what.add_argument("--grid", type=int, metavar="STEPS", help="a LoRA at every preference of this grid")
    what.add_argument("--basis", action="store_true", help="LoRAs to be weighed by the preference")
    parser.add_argument("--gguf", action="store_true", help="with --basis: as GGUF, for llama.cpp")
    parser.add_argument("--extrapolate", action="store_true", help="with --preference: also outside the simplex")
    parser.add_argument("--json", action="store_true", help="say what was written as JSON")


def run(args: argparse.Namespace) -> None:
    if args.gguf and not args.basis:
        raise ValueError("`--gguf` must come with `--basis`, because llama.cpp weighs adapters itself.")
    if args.extrapolate and not args.preference:
        raise ValueError("`--extrapolate` must come with `--preference`.")
    if args.grid is not None and args.grid < 1:
        raise ValueError(f"`--grid` must be at least 1, but got {args.grid}.")
    preference = read_preference(args.preference, "--preference") if args.preference else None
    from ..convert import export_gguf, export_lora, export_lora_basis, export_lora_grid
    from ..simplex import simplex_grid

    config = config_of(args.path)
    if preference is not None:  # refused before the model is loaded
        config.parse_preference(preference, extrapolate=args.extrapolate)
    grid = config.allowed(simplex_grid(len(config.objective_names), args.grid)) if args.grid is not None else None
    model = model_of(args.path)
    if preference is not None:
        export_lora(model, preference, args.output, extrapolate=args.extrapolate)
        written = [str(args.output)]
    elif grid is not None:
        written = [str(folder) for folder in export_lora_grid(model, grid, args.output)]
    else:
        ending, names = (".gguf", export_gguf) if args.gguf else ("", export_lora_basis)
        written = [f"{args.output / name}{ending}" for name in names(model, args.output)]
    print(json.dumps(written) if args.json else "\n".join(f"wrote {path}" for path in written))
