"""`play`: try an adapter in the browser."""

from __future__ import annotations

import argparse
from pathlib import Path

from .adapter import config_of, model_of, tokenizer_of

HELP = "try it in the browser, with a slider for each objective"
EXAMPLES = ["peft-panacea play runs/chat/dpo"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", metavar="PATH", help="adapter, a folder, perhaps with front.json in it, or a name on the Hub"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at: 127.0.0.1, for this machine alone")
    parser.add_argument("--port", type=int, default=7860, help="port to listen at: 7860")


def run(args: argparse.Namespace) -> None:
    config = config_of(args.path)
    if config.task_type not in ("CAUSAL_LM", None):  # None: what the configuration's shortest form saves
        raise ValueError(f"`PATH` must be an adapter of a causal language model, but its task is {config.task_type}.")
    from ..playground import OnFront, check_port, page, serve

    check_port(args.host, args.port)
    import torch

    from ..card import FRONT
    from ..completions import check_can_sample
    from ..front import Front
    from ..hub import folder_of

    measured = folder_of(args.path) / FRONT
    on_front = OnFront(Front.from_json(measured), config.objective_names) if measured.exists() else None
    tokenizer = tokenizer_of(args.path)
    model = model_of(args.path).to("cuda" if torch.cuda.is_available() else "cpu").eval()
    check_can_sample(model, tokenizer)
    serve(page(model, tokenizer, Path(args.path).resolve().name, on_front), args.host, args.port)
