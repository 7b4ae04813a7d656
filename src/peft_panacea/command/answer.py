"""`answer`: what an adapter answers under one preference, or under several side by side."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ..written import read_preference
from . import asking
from .adapter import config_of, tokenizer_of

HELP = "answer prompts under one preference, or several side by side"
EXAMPLES = [
    'peft-panacea answer runs/chat/dpo "How are you?" --preference helpful=0.3 harmless=0.7',
    'peft-panacea answer runs/chat/dpo "How are you?" --preference 1 0 --preference 0 1 --greedy',
    "peft-panacea answer runs/chat/dpo --prompts runs/chat/dpo/held_out.json --first 3 --steps 4",
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", help="adapter, a folder or a name on the Hub")
    parser.add_argument("prompt", metavar="PROMPT", nargs="*", help="what is asked; directly after PATH")
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="JSON file of prompts or of rows with `prompt`")
    parser.add_argument("--first", type=int, default=3, help="how many of the file (%(default)s)")
    under = parser.add_mutually_exclusive_group()
    under.add_argument(
        "--preference",
        nargs="+",
        action="append",
        metavar="WEIGHT",
        help="0.3 0.7, name=0.3 name=0.7, or one of the adapter's named preferences; repeatable",
    )
    under.add_argument("--steps", type=int, default=4, help="without one: steps of a grid of them (%(default)s)")
    asking.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="for programs")


def run(args: argparse.Namespace) -> None:
    asking.check(args)
    if not args.prompt and args.prompts is None:
        raise ValueError("`PROMPT` must be given directly after PATH, or a file as `--prompts`.")
    for name in ("first", "steps"):
        if getattr(args, name) < 1:
            raise ValueError(f"`--{name}` must be at least 1, but got {getattr(args, name)}.")
    written = [read_preference(words, "--preference") for words in args.preference or []]
    import torch

    from ..completions import sample
    from ..data import json_prompts
    from ..simplex import simplex_grid

    prompts = [*args.prompt, *(json_prompts(args.prompts)[: args.first] if args.prompts else [])]
    config = config_of(args.path)
    names = config.objective_names
    preferences = config.allowed(simplex_grid(len(names), args.steps)).flip(0)
    if written:
        preferences = torch.stack([config.parse_preference(preference) for preference in written])
    tokenizer = tokenizer_of(args.path)
    asked = asking.as_asked(prompts, tokenizer, args)
    model = asking.model_of(args)
    torch.manual_seed(args.seed)
    found = []
    for prompt in asked:
        # All answers to a prompt are one batch, every row under a preference of its own.
        with model.preference(preferences, extrapolate=True):  # what has a name may be off the simplex
            answers = sample(model, tokenizer, [prompt] * len(preferences), **asking.decoding(args))
        rows = zip(preferences.tolist(), answers.texts, answers.ended, strict=True)
        found.append(
            {
                "prompt": prompt,
                "answers": [
                    {"preference": dict(zip(names, weights, strict=True)), "text": text, "ended": bool(ended)}
                    for weights, text, ended in rows
                ],
            }
        )
        if not args.json:
            print(_described(found[-1]))
    if args.json:
        print(json.dumps(found))


def _described(found: dict[str, Any]) -> str:
    prompt = found["prompt"]
    lines = ["", prompt if isinstance(prompt, str) else prompt[-1]["content"]]
    for answer in found["answers"]:
        weights = ", ".join(f"{name} {weight:.2f}" for name, weight in answer["preference"].items())
        cut = "" if answer["ended"] else " …"
        lines += ["", f"  {weights}: {answer['text'].strip() or '(nothing)'}{cut}"]
    return "\n".join(lines)
