"""The numbers so far, and their file: JSON lines, first what is measured, then a batch in each line."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

Item: TypeAlias = tuple[int, int, int]
"""Indices of preference, prompt and sample; the base model is preference -1."""

Numbers: TypeAlias = dict[str, float]
"""What is known of one completion: its scores and side effects, by name."""


def open_record(path: Path | None, settings: dict[str, Any]) -> dict[Item, Numbers]:
    """Begin or go on with the record of a measurement; a last line that was torn off is removed.

    Returns:
        What it holds already, nothing without a file.

    Raises:
        ValueError: the file is something else, or of another measurement. It is then left as it is.
    """
    if path is None:
        return {}
    first = json.dumps(settings) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]  # an interrupted write has no end of line
    if not whole and not first.encode().startswith(content):
        raise ValueError(f"`record` must be a file of this function, but {path} is not.")
    lines = whole.splitlines()
    if lines:
        _check(path, lines[0], json.loads(first))
    known = {tuple(row["item"]): row["numbers"] for line in lines[1:] for row in json.loads(line)}
    with path.open("r+b") as file:
        file.truncate(len(whole))
    if not whole:
        path.write_text(first, encoding="utf-8")
    return known


def append_batch(path: Path | None, items: Sequence[Item], texts: Sequence[str], numbers: Sequence[Numbers]) -> None:
    """Keep a batch in the file as one line, so that it is there whole or not at all."""
    if path is None:
        return
    rows = zip(items, texts, numbers, strict=True)
    line = json.dumps([{"item": item, "text": text, "numbers": of_one} for item, text, of_one in rows])
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def _check(path: Path, line: bytes, settings: dict[str, Any]) -> None:
    try:
        first = json.loads(line)
    except ValueError:
        first = None
    if not isinstance(first, dict):
        raise ValueError(f"`record` must be a file of this function, but {path} is not.")
    differing = [key for key in {**first, **settings} if first.get(key) != settings.get(key)]
    if differing:
        raise ValueError(f"`record` must hold this measurement, but {path} has other {', '.join(differing)}.")


def digest(value: Any) -> str:
    """Of prompts and columns, 16 hexadecimal digits; what JSON has not counts with all that is in it."""

    def content(part: Any) -> Any:
        return part.tolist() if hasattr(part, "tolist") else pickle.dumps(part).hex()

    return hashlib.sha256(json.dumps(value, sort_keys=True, default=content).encode()).hexdigest()[:16]
