"""The file of a front: JSON with arrays of 7 digits and the version of its format, there whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

FORMAT_VERSION = 1
"""Whoever changes what stands in the file counts on."""


def write_front(path: Path, content: Mapping[str, Any]) -> None:
    """Write the fields of a front."""
    text = json.dumps({"format_version": FORMAT_VERSION, **_plain(content)}) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def read_front(path: Path, names: Collection[str]) -> dict[str, Any]:
    """The fields of a front, which are these.

    Raises:
        ValueError: the file is something else, or of a later version.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    version = content.pop("format_version", None) if isinstance(content, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise ValueError(
            f"`path` must be a front of format_version {FORMAT_VERSION} or less, but {path} has {version}; "
            "a later version of peft-panacea reads it."
        )
    if version != FORMAT_VERSION or set(content) != set(names):
        raise ValueError(f"`path` must be a front that `Front.to_json` wrote, but {path} is not.")
    return content


def check_plain(name: str, value: Any) -> None:
    """Whether it can be written.

    Raises:
        TypeError: there is something in it that JSON has not.
    """
    try:
        json.dumps(_plain(value))
    except TypeError as error:
        raise TypeError(f"`{name}` must have what JSON has, but got something else: {error}.") from None


def _plain(value: Any) -> Any:
    """For JSON, at every depth: arrays as lists of numbers with 7 digits, NumPy's numbers as Python's."""
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist()) if value.dtype.kind != "f" else _rounded(value.tolist())
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, tuple | list) else value


def _rounded(value: Any) -> Any:
    return [_rounded(part) for part in value] if isinstance(value, list) else float(f"{value:.7g}")
