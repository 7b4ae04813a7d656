"""`front`: what an adapter attains under every preference of a grid."""

from __future__ import annotations

import argparse
import json
import shlex
from dataclasses import replace
from pathlib import Path

from . import asking
from .adapter import config_of, tokenizer_of
from .pairs import pair, pairs

HELP = "measure what each preference attains"
EXAMPLES = [
    "peft-panacea front runs/chat/dpo --prompts held_out.json --rewards helpful=org/model brief=tokens=30",
    "peft-panacea front runs/chat/dpo … --compare runs/chat/rlhf/front.json",
]
REWARDS = """
A reward is a function of peft_panacea.rewards or of your own (FILE.py:FUNCTION), or a classifier in a folder or on
the Hub; more is better. The same command again goes on where the last one stopped.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = REWARDS
    parser.add_argument("path", metavar="PATH", help="adapter, a folder or a name on the Hub")
    parser.add_argument("--rewards", type=pair, nargs="+", required=True, metavar="OBJECTIVE=REWARD", help="of each")
    parser.add_argument(
        "--prompts",
        type=Path,
        required=True,
        metavar="FILE",
        help="JSON: prompts or rows with `prompt`, none trained on",
    )
    parser.add_argument(
        "--steps", type=int, default=10, help="of the grid from one objective to another (%(default)s)"
    )
    parser.add_argument("--samples", type=int, default=4, help="completions of a prompt at a preference (%(default)s)")
    parser.add_argument("--batch_size", type=int, default=32, help="completions at once (%(default)s)")
    asking.add_arguments(parser)
    parser.add_argument("--output", type=Path, help="folder (that of the adapter, or runs/front if it is on the Hub)")
    parser.add_argument("--compare", type=Path, metavar="FRONT", help="front.json of another adapter on these prompts")
    parser.add_argument("--json", action="store_true", help="for programs")


def run(args: argparse.Namespace) -> None:
    asking.check(args)
    for name in ("steps", "samples", "batch_size"):
        if getattr(args, name) < 1:
            raise ValueError(f"`--{name}` must be at least 1, but got {getattr(args, name)}.")
    specs = pairs(args.rewards, "--rewards")
    from .. import __version__
    from .. import front as fronts
    from ..card import write_card
    from ..data import json_prompts
    from ..plots import plot_fronts
    from ..rewards import load_reward
    from ..simplex import simplex_grid

    read = json_prompts(args.prompts)
    other = fronts.Front.from_json(args.compare) if args.compare else None
    config = config_of(args.path)
    names = config.objective_names
    if sorted(specs) != sorted(names):
        raise ValueError(f"`--rewards` must name the adapter's objectives, {names}, but got {[*specs]}.")
    tokenizer = tokenizer_of(args.path)
    prompts = asking.as_asked(read, tokenizer, args)
    rewards = {name: load_reward(specs[name], tokenizer) for name in names}
    model = asking.model_of(args)
    output = args.output or (Path(args.path) if Path(args.path).is_dir() else Path("runs/front"))
    grid, record = config.allowed(simplex_grid(len(names), args.steps)), output / "completions.jsonl"
    samples = 1 if args.greedy else args.samples  # the others would be the same
    if not args.json:
        if prompts is not read and isinstance(read[0], str):
            print("The model has a chat template, and each text is asked as a user's message (--plain: it is not).")
        work = fronts.describe_work(len(prompts), len(grid), samples, args.batch_size, args.max_new_tokens)
        print(f"{work}, as far as {record} has them not yet.")
    front = fronts.evaluate_front(
        model,
        prompts,
        rewards,
        grid,
        tokenizer=tokenizer,
        samples=samples,
        batch_size=args.batch_size,
        seed=args.seed,
        record=record,
        details={"command": shlex.join(["peft-panacea", *args.words])},
        **asking.decoding(args),
    )
    versions = {**front.details["versions"], "peft_panacea": __version__}
    front = replace(front, details={**front.details, "versions": versions})
    front.to_json(output / "front.json")
    plot_fronts(front).savefig(output / "front.png", dpi=150)
    if output == Path(args.path):
        write_card(output, front)
    comparison = fronts.compare(front, other) if other is not None else None
    if args.json:
        found = {"front": str(output / "front.json"), "metrics": front.metrics(), "comparison": comparison}
        print(json.dumps(found))
        return
    print(f"\n{fronts.describe(front)}")
    if comparison is not None:
        print(f"\n  Compared with {args.compare}:\n{fronts.describe_comparison(comparison)}")
    print(f"\nWrote front.json and front.png to {output}")
