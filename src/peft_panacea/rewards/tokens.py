"""Rewards that count tokens, and look at whether there is an end token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .counts import positive
from .text import Completion, text_of


def conciseness(
    completions: Sequence[Completion],
    completion_ids: Sequence[Sequence[int]] | None = None,
    tokenizer: Any = None,
    **kwargs: Any,
) -> list[float]:
    """4 up to 50 tokens, then 5 − tokens / 50 (Panacea, arXiv 2402.02030): at most 4, also for an empty completion.

    Up to 50 tokens it is flat: a model whose completions are no longer, or are cut off there, learns nothing from it,
    and an empty completion pays as much as an answer. `TokenLength` has neither fault.

    Args:
        completions: Read only without `completion_ids`.
        completion_ids: The tokens, as the trainers pass them, the end token included.
        tokenizer: Counts the tokens of the texts, without special tokens, where there are no `completion_ids`.
        kwargs: Ignored.

    Raises:
        ValueError: neither tokens nor a tokenizer.
    """
    if completion_ids is None:
        completion_ids = _tokens_of(completions, tokenizer)
    return [min(4.0, 5.0 - len(ids) / 50.0) for ids in completion_ids]


class TokenLength:
    """−|tokens − `target_tokens`|, at most 0; a completion that was cut off pays no more than an empty one.

    This is how LCPO-Exact rewards a given length (Aggarwal & Welleck 2025, arXiv 2503.04697). The end token does not
    count. An empty completion gets −`target_tokens`. How long one would have been that was cut off, nobody knows: it
    gets the same, or −(tokens − `target_tokens`) where that is less. Letters that are no word cost the tokens that
    they take, where a count of words sees one word or none.

    Args:
        target_tokens: The number of tokens of the best answer, at least 1; fewer than completions are cut off at.
        tokenizer: For calls without `completion_ids` or without `ended`. It counts the tokens of the texts, without
            special tokens, and of tokens without `ended` says whether the last one is its end token. A text alone
            does not say whether it was cut off, and counts as ended.

    Raises:
        ValueError: `target_tokens` is no integer or below 1; in a call, what only a tokenizer could say.
    """

    def __init__(self, target_tokens: int, tokenizer: Any = None) -> None:
        self.target_tokens = positive("target_tokens", target_tokens)
        self.tokenizer = tokenizer
        self.__name__ = f"tokens_{target_tokens}"

    def __call__(
        self,
        completions: Sequence[Completion],
        completion_ids: Sequence[Sequence[int]] | None = None,
        ended: Sequence[bool] | None = None,
        **kwargs: Any,
    ) -> list[float]:
        if completion_ids is None:
            counts = list(map(len, _tokens_of(completions, self.tokenizer)))
            ended = [True] * len(counts) if ended is None else ended
        else:
            if ended is None:
                if self.tokenizer is None:
                    raise ValueError("`ended` or `tokenizer` must be given, but got neither.")
                ended = [list(ids[-1:]) == [self.tokenizer.eos_token_id] for ids in completion_ids]
            counts = [len(ids) - bool(end) for ids, end in zip(completion_ids, ended, strict=True)]
        target = self.target_tokens
        off = [abs(n - target) if end else max(target, n - target) for n, end in zip(counts, ended, strict=True)]
        return [0.0 - tokens for tokens in off]


def _tokens_of(completions: Sequence[Completion], tokenizer: Any) -> list[list[int]]:
    """The tokens of the texts, without special tokens."""
    if tokenizer is None:
        raise ValueError("`completion_ids` or `tokenizer` must be given, but got neither.")
    return [tokenizer(text_of(completion), add_special_tokens=False)["input_ids"] for completion in completions]
