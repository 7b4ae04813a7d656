"""A reward for words that are rated in a lexicon."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .text import Completion, text_of, words_of


class Valence:
    """Summed ratings s of the words, as s / √(s² + 15): −1 to 1, and 0 without rated words.

    The normalisation is that of VADER (Hutto & Gilbert 2014). Its rules for negation, degree, capitals and punctuation
    are not applied, so "not happy" counts as "happy". Entries that are not one word, such as emoticons, never match.

    Args:
        lexicon: Word → rating, or the path of a file in VADER's format: lines of word, tab, rating, and whatever
            follows another tab; of a word listed twice the last rating counts. Case is ignored.

    Raises:
        OSError: the file cannot be read.
        ValueError: a line or a rating that is none, or no ratings at all.
    """

    def __init__(self, lexicon: str | os.PathLike[str] | Mapping[str, float]) -> None:
        rows = list(lexicon.items()) if isinstance(lexicon, Mapping) else _read_lexicon(Path(lexicon))
        self.ratings = {word.lower().replace("’", "'"): float(rating) for word, rating in rows}
        if not self.ratings or not all(map(math.isfinite, self.ratings.values())):
            raise ValueError(f"`lexicon` must have finite ratings, but got {str(lexicon)[:80]}.")
        self.__name__ = "valence"

    def __call__(self, completions: Sequence[Completion], **kwargs: Any) -> list[float]:
        sums = [sum(self.ratings.get(w, 0.0) for w in words_of(text_of(completion))) for completion in completions]
        return [s / math.hypot(s, math.sqrt(15.0)) for s in sums]


def _read_lexicon(path: Path) -> list[tuple[str, float]]:
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        word, rating = [*line.split("\t"), ""][:2]
        try:
            rows.append((word, float(rating)))
        except ValueError:
            raise ValueError(f"`lexicon` must have lines of word, tab, rating, but got {line!r} in {path}.") from None
    return rows
