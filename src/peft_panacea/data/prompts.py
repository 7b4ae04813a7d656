"""Prompts from a file of your own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .files import check_text, read_json
from .shapes import Text


def json_prompts(path: str | Path) -> list[Text]:
    """Read the different prompts of a JSON file, in order.

    Args:
        path: A ``.jsonl`` file with one prompt on every line, or any other with a list of them. A prompt is a string,
            a list of messages with `role` and `content`, or an object with one of these as `prompt`; all are strings
            or all are messages.

    Raises:
        ValueError: a file that is not JSON or has no prompts, or something else in a row; the message names the file,
            the row (counted from 1; in ``.jsonl`` the line), the rule and what was found.
    """
    prompts: dict[str, Text] = {}
    kind: type | None = None
    for number, row in read_json(Path(path)):
        prompt: Any = row.get("prompt") if isinstance(row, dict) else row
        kind = kind or type(prompt)
        try:
            check_text("prompt", prompt, kind)
        except ValueError as error:
            raise ValueError(f"{path}, row {number}: {error}") from None
        prompts[json.dumps(prompt, sort_keys=True)] = prompt
    if not prompts:
        raise ValueError(f"{path} must have at least one prompt, but got none.")
    return list(prompts.values())
