"""The text that is judged, and its words."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import Any, TypeAlias

Completion: TypeAlias = str | list[dict[str, Any]]
"""A text, or messages with `role` and `content`."""

Reward: TypeAlias = Callable[..., list[float]]
"""Takes `completions` and whatever else the trainer passes, returns one number per completion."""

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


def text_of(completion: Completion) -> str:
    """The text of a completion; of messages, what the assistant wrote, one message per line."""
    if isinstance(completion, str):
        return completion
    contents = [message.get("content") or "" for message in completion if message["role"] == "assistant"]
    return "\n".join(c if isinstance(c, str) else "".join(part.get("text") or "" for part in c) for c in contents)


def words_of(text: str) -> list[str]:
    """The words, lower-case, accents composed, apostrophes straight."""
    return _WORD.findall(unicodedata.normalize("NFC", text).lower().replace("’", "'"))
