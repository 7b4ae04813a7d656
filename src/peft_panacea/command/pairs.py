"""`NAME=VALUE`, as options of the command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence


def pair(text: str) -> list[str]:
    """For `type=` of an argument."""
    if "=" not in text:
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, but got {text!r}")
    return text.split("=", 1)


def pairs(found: Sequence[Sequence[str]], parameter: str) -> dict[str, str]:
    """Several of them by name."""
    names = [name for name, _ in found]
    if len(set(names)) < len(names):
        raise ValueError(f"`{parameter}` must name each objective once, but got {names}.")
    return {one[0]: one[1] for one in found}
