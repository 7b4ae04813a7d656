"""The command line. A file for each command parses and calls; what it calls is elsewhere."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import answer, card, choose, export, front, info, play, push, serve

COMMANDS = {
    "info": info,
    "front": front,
    "choose": choose,
    "answer": answer,
    "export": export,
    "card": card,
    "push": push,
    "serve": serve,
    "play": play,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: The words of the command; those that Python was started with if None.

    Returns:
        0, or 2 if something that the user can mend was wrong, which is then said in one sentence.
    """
    args = _parser().parse_args(arguments)
    args.words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        args.run(args)
    except (ImportError, KeyError, OSError, TypeError, ValueError) as error:
        said = " ".join(str(error).split())  # those of other libraries have paragraphs
        print(f"peft-panacea: {said}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    shape = argparse.RawDescriptionHelpFormatter
    examples = "examples:\n" + "\n".join(f"  {line}" for command in COMMANDS.values() for line in command.EXAMPLES)
    parser = argparse.ArgumentParser(
        "peft-panacea", description="Adapters that follow a preference.", epilog=examples, formatter_class=shape
    )
    commands = parser.add_subparsers(required=True, metavar=f"{{{','.join(COMMANDS)}}}")
    for name, command in COMMANDS.items():
        examples = "examples:\n" + "\n".join(f"  {line}" for line in command.EXAMPLES)
        one = commands.add_parser(name, help=command.HELP, epilog=examples, formatter_class=shape)
        command.add_arguments(one)
        one.set_defaults(run=command.run)
    return parser
