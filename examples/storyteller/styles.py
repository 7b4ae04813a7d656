"""Ten styles of a tiny story, as rewards from 0 to 1: `--rewards examples/storyteller/styles.py:cheerful …`."""

import re
import sys
from pathlib import Path
from typing import Any

from peft_panacea.rewards import dialogue_share, length

sys.path.insert(0, str(Path(__file__).resolve().parent))
import grammar


def _some(pattern: str, text: str, enough: int = 3) -> float:
    """How many times the pattern occurs, out of what counts as enough."""
    return min(1.0, len(re.findall(pattern, text.lower())) / enough)


def _any_of(*words: str) -> str:
    return rf"\b(?:{'|'.join(words)})\b"


def cheerful(completions: list[str], **kwargs: Any) -> list[float]:
    return [_some(_any_of(*grammar.CHEERFUL), text) for text in completions]


def gloomy(completions: list[str], **kwargs: Any) -> list[float]:
    return [_some(_any_of(*grammar.GLOOMY), text) for text in completions]


def colourful(completions: list[str], **kwargs: Any) -> list[float]:
    return [_some(_any_of(*grammar.COLOURS), text, enough=2) for text in completions]


def feminine(completions: list[str], **kwargs: Any) -> list[float]:
    return [_some(_any_of("she", "her", *map(str.lower, grammar.NAMES["she"])), text) for text in completions]


def masculine(completions: list[str], **kwargs: Any) -> list[float]:
    return [_some(_any_of("he", "him", "his", *map(str.lower, grammar.NAMES["he"])), text) for text in completions]


def asking(completions: list[str], **kwargs: Any) -> list[float]:
    return [_some(r"\?", text, enough=2) for text in completions]


def exclaiming(completions: list[str], **kwargs: Any) -> list[float]:
    return [_some("!", text, enough=2) for text in completions]


def spoken(completions: list[str], **kwargs: Any) -> list[float]:
    return dialogue_share(completions)


def brief(completions: list[str], **kwargs: Any) -> list[float]:
    """1 for eight words, 0 for none and for forty or more."""
    return [max(0.0, 1 - abs(words - 8) / (8 if words < 8 else 32)) for words in length(completions)]


def long(completions: list[str], **kwargs: Any) -> list[float]:
    """1 for forty words or more."""
    return [min(1.0, words / 40) for words in length(completions)]
