"""Completions as a padded batch of tokens, and those that are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

Prompt: TypeAlias = str | list[dict[str, Any]]
"""A text, or messages with `role` and `content`."""


@dataclass(frozen=True, eq=False)
class Completions:
    """B completions of at most T tokens, and their prompts of at most P.

    Attributes:
        ids: [B, P + T], the prompts padded on the left, the completions on the right.
        mask: [B, P + T], 1 where there is a token of a prompt or a completion, 0 where there is padding.
        completion: [B, T], bool: the completion's tokens, up to and with the first end token.
        texts: B texts of the completions, without special tokens.
        ended: B flags, whether the completion has an end token; what was cut off at the limit, or stopped at a string,
            has none.
        log_probabilities: [B, T], float32, what `log_probabilities` finds for them up to rounding, in nats; known of
            what was sampled if decoding kept it.
    """

    ids: Tensor
    mask: Tensor
    completion: Tensor
    texts: list[str]
    ended: list[bool]
    log_probabilities: Tensor | None = None

    @property
    def token_ids(self) -> list[list[int]]:
        """The tokens of each completion, the end token included, without padding."""
        P = self.ids.shape[1] - self.completion.shape[1]
        return [row[is_token].tolist() for row, is_token in zip(self.ids[:, P:], self.completion, strict=True)]

    def select(self, rows: Tensor) -> Completions:
        """These rows, indices [b], without the columns that only others need."""
        ids, mask, completion = self.ids[rows], self.mask[rows], self.completion[rows]
        T, longest = completion.shape[1], int(completion.sum(1).max())
        columns = slice(int(mask.argmax(1).min()), ids.shape[1] - (T - longest))
        known = self.log_probabilities
        return Completions(
            ids[:, columns],
            mask[:, columns],
            completion[:, :longest],
            [self.texts[row] for row in rows.tolist()],
            [self.ended[row] for row in rows.tolist()],
            None if known is None else known[rows, :longest],
        )


def tokenize(tokenizer: Any, prompt: Prompt, chat_template_kwargs: dict[str, Any] | None = None) -> list[int]:
    """The tokens of a prompt: of a text with the tokenizer's special tokens, of messages as the chat template says.

    The template is given `chat_template_kwargs`, such as `{"enable_thinking": False}`.

    Raises:
        ValueError: there are none.
    """
    if isinstance(prompt, str):
        ids = tokenizer(prompt)["input_ids"]
    else:
        ids = _tokens_of_chat(tokenizer, prompt, add_generation_prompt=True, **(chat_template_kwargs or {}))
    if not ids:
        raise ValueError(f"`prompt` must have at least one token, but got {prompt!r}.")
    return list(ids)


def check_can_sample(model: Any, tokenizer: Any) -> None:
    """Whether `sample` can work with them.

    Raises:
        ValueError: the model is an encoder-decoder, there is no tokenizer, or it has no padding token.
    """
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        raise ValueError("`model` must be decoder-only, but got an encoder-decoder.")
    if getattr(tokenizer, "pad_token_id", None) is None:
        found = "None" if tokenizer is None else "one without; set `tokenizer.pad_token = tokenizer.eos_token`"
        raise ValueError(f"`tokenizer` must be given and have a padding token, but got {found}.")


def encode(
    tokenizer: Any,
    prompts: Sequence[Prompt],
    completions: Sequence[Prompt],
    *,
    end: bool = True,
    max_length: int | None = None,
) -> Completions:
    """Completions that are given, such as reference answers, each tokenised together with its prompt.

    Where a token spans the end of the prompt, it counts as the completion's.

    Args:
        tokenizer: With a padding token.
        prompts: B texts, or conversations as lists of messages.
        completions: B texts; after a conversation a text is what the assistant says, and may be messages instead.
        end: Whether a completion has an end token, if its prompt is a text. A conversation ends as the chat template
            says; of its end token nothing is kept if False, of what follows nothing in any case.
        max_length: Tokens of a prompt and its completion at most; what is more is cut off at the end.

    Returns:
        Tensors on the CPU. The texts are those of the tokens that are kept.

    Raises:
        TypeError: messages as the completion of a text.
        ValueError: no padding or end token, a prompt without tokens, or not as many completions as prompts, at
            least one.
    """
    check_can_sample(None, tokenizer)
    if end and tokenizer.eos_token_id is None:
        raise ValueError("`tokenizer` must have an end token, or `end` be False, but got one without.")
    if len(prompts) != len(completions):
        raise ValueError(f"`completions` must be {len(prompts)}, one for each prompt, but got {len(completions)}.")
    before, after = [], []
    for prompt, completion in zip(prompts, completions, strict=True):
        first, rest = _split(tokenizer, prompt, completion, end)
        before.append(first[:max_length])
        after.append(rest if max_length is None else rest[: max(0, max_length - len(first))])
    prompt_ids, prompt_mask = padded(before, tokenizer.pad_token_id, left=True)
    ids, mask = padded(after, tokenizer.pad_token_id, left=False)
    ends = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    return completions_of(tokenizer, torch.cat([prompt_ids, ids], dim=1), prompt_mask, mask.bool(), ends)


def padded(rows: list[list[int]], pad: int, *, left: bool) -> tuple[Tensor, Tensor]:
    """Token ids and their mask, [B, longest]."""
    if not rows:
        raise ValueError("`prompts` must hold at least one, but got none.")
    longest = max(map(len, rows))
    fill = [longest - len(row) for row in rows]
    ids = [[pad] * n + row if left else row + [pad] * n for n, row in zip(fill, rows, strict=True)]
    mask = [[0] * n + [1] * len(row) if left else [1] * len(row) + [0] * n for n, row in zip(fill, rows, strict=True)]
    return torch.tensor(ids, dtype=torch.long), torch.tensor(mask, dtype=torch.long)


def completions_of(
    tokenizer: Any,
    ids: Tensor,
    prompt_mask: Tensor,
    completion: Tensor,
    ends: list[int],
    log_probabilities: Tensor | None = None,
) -> Completions:
    """Of prompts and completions, [B, P + T], with the mask of the prompts, [B, P], and of the completions, [B, T]."""
    P = prompt_mask.shape[1]
    ended = (torch.isin(ids[:, P:], ids.new_tensor(ends)) & completion).any(1).tolist()
    mask = torch.cat([prompt_mask, completion.long()], dim=1)
    # Decoded with the prompt and then cut, because alone a completion may lose its leading space.
    whole = ids.where(mask.bool(), tokenizer.pad_token_id)
    parts = whole[:, :P], whole
    prompts, texts = (tokenizer.batch_decode(part, skip_special_tokens=True) for part in parts)
    after = [text[len(prompt) :] for prompt, text in zip(prompts, texts, strict=True)]
    return Completions(ids, mask, completion, after, ended, log_probabilities)


def _tokens_of_chat(tokenizer: Any, messages: list[dict[str, Any]], **options: Any) -> list[int]:
    text = tokenizer.apply_chat_template(messages, tokenize=False, **options)
    return tokenizer(text, add_special_tokens=False)["input_ids"]  # the template has them


def _split(tokenizer: Any, prompt: Prompt, completion: Prompt, end: bool) -> tuple[list[int], list[int]]:
    """The tokens of a prompt and of its completion."""
    first = tokenize(tokenizer, prompt)
    if isinstance(prompt, str) and isinstance(completion, str):
        whole = tokenizer(prompt + completion)["input_ids"]
    elif isinstance(prompt, str):
        raise TypeError(f"`completions` must be texts where prompts are, but got {completion!r}.")
    else:
        said = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion
        whole = _tokens_of_chat(tokenizer, [*prompt, *said])
    differing = (i for i, (a, b) in enumerate(zip(first, whole, strict=False)) if a != b)
    shared = max(1, next(differing, len(first)))  # a very first token has no probability
    rest = list(whole[shared:])
    ended = tokenizer.eos_token_id in rest
    if ended:
        rest = rest[: rest.index(tokenizer.eos_token_id)]
    if end and (ended or isinstance(prompt, str)):
        rest.append(tokenizer.eos_token_id)
    return list(whole[:shared]), rest
