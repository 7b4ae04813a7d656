"""Rewards that count: words, sentences, quotes, n-grams."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from .text import Completion, text_of, words_of

_QUOTED = re.compile(r'"[^"]*"|“[^”]*”')
_SENTENCE_END = re.compile(r"[.!?…]+(?=\W|$)")


def length(completions: Sequence[Completion], **kwargs: Any) -> list[float]:
    """Number of words, 0 upwards."""
    return [float(len(words_of(text_of(completion)))) for completion in completions]


def dialogue_share(completions: Sequence[Completion], **kwargs: Any) -> list[float]:
    """Share of the words that stand inside double quotes, straight or “curly”: 0 to 1, and 0 without words.

    A quote that is never closed does not count, so that one quotation mark cannot claim all that follows it.
    """
    texts = [text_of(completion) for completion in completions]
    return [len(words_of(" ".join(_QUOTED.findall(text)))) / max(1, len(words_of(text))) for text in texts]


def sentence_length(completions: Sequence[Completion], **kwargs: Any) -> list[float]:
    """Mean number of words per sentence: 0 without words, else at least 1.

    A sentence ends at `.`, `!`, `?` or `…` unless a letter or digit follows: "Mr." ends one, "3.5" does not.
    """
    means = []
    for completion in completions:
        counts = [len(words_of(part)) for part in _SENTENCE_END.split(text_of(completion))]
        means.append(sum(counts) / max(1, sum(map(bool, counts))))
    return means


class Brevity:
    """−|words − `target_words`|, at most 0: neither more words nor an empty answer pays.

    For small models that say whole words, such as the embedded one. It is wrong for a chat model, and wherever
    completions are cut off: a string of letters that is no word counts as one word or as none, so that gibberish is
    brief, and an answer that was cut off at the limit is as good as one of so many words. Use `TokenLength` there.

    Args:
        target_words: The number of words of the best answer, at least 1.

    Raises:
        ValueError: `target_words` is no integer or below 1.
    """

    def __init__(self, target_words: int) -> None:
        self.target_words = positive("target_words", target_words)
        self.__name__ = f"brevity_{target_words}"

    def __call__(self, completions: Sequence[Completion], **kwargs: Any) -> list[float]:
        return [0.0 - abs(words - self.target_words) for words in length(completions)]


class Distinct:
    """Different word n-grams divided by all word n-grams of a text: 0 to 1, and 0 with fewer than `n` words.

    This is distinct-n (Li et al. 2016, arXiv 1510.03055) of each text by itself. Short texts reach 1 easily.

    Args:
        n: Words in an n-gram, at least 1.

    Raises:
        ValueError: `n` is no integer or below 1.
    """

    def __init__(self, n: int = 2) -> None:
        self.n = positive("n", n)
        self.__name__ = f"distinct_{n}"

    def __call__(self, completions: Sequence[Completion], **kwargs: Any) -> list[float]:
        texts = [words_of(text_of(completion)) for completion in completions]
        ngrams = [[tuple(words[i : i + self.n]) for i in range(len(words) - self.n + 1)] for words in texts]
        return [len(set(all_of_one)) / max(1, len(all_of_one)) for all_of_one in ngrams]


def positive(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"`{name}` must be an integer of at least 1, but got {value!r}.")
    return value
