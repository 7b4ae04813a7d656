"""Completions of a batch of prompts, each row under a preference of its own, and how likely their tokens are."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

Prompt: TypeAlias = str | list[dict[str, Any]]
"""A text, or messages with `role` and `content`."""

# The model's own distribution, whatever its generation config says.
UNMODIFIED = {"max_new_tokens": 64, "num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
SAMPLED = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0}


@dataclass(frozen=True, eq=False)
class Completions:
    """B completions of at most T tokens, and their prompts of at most P.

    Attributes:
        ids: [B, P + T], the prompts padded on the left, the completions on the right.
        mask: [B, P + T], 1 where there is a token of a prompt or a completion, 0 where there is padding.
        completion: [B, T], bool: the completion's tokens, up to and with the first end token.
        texts: B texts of the completions, without special tokens.
    """

    ids: Tensor
    mask: Tensor
    completion: Tensor
    texts: list[str]

    @property
    def token_ids(self) -> list[list[int]]:
        """The tokens of each completion, the end token included, without padding."""
        P = self.ids.shape[1] - self.completion.shape[1]
        return [row[is_token].tolist() for row, is_token in zip(self.ids[:, P:], self.completion, strict=True)]


def tokenize(tokenizer: Any, prompt: Prompt) -> list[int]:
    """The tokens of a prompt: of a text with the tokenizer's special tokens, of messages as the chat template says.

    Raises:
        ValueError: there are none.
    """
    if isinstance(prompt, str):
        ids = tokenizer(prompt)["input_ids"]
    else:
        ids = _tokens_of_chat(tokenizer, prompt, add_generation_prompt=True)
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


def generation_options(**generation: Any) -> dict[str, Any]:
    """What `sample` gives to `generate`: these options, and its defaults unless one is a `generation_config`."""
    if "generation_config" in generation:
        return generation
    return {**UNMODIFIED, **(SAMPLED if generation.get("do_sample", True) else {}), **generation}


def sample(
    model: Any, tokenizer: Any, prompts: Sequence[Prompt], preference: Any = None, **generation: Any
) -> Completions:
    """Complete every prompt, in one batch, in eval mode.

    Args:
        model: A decoder-only causal language model of transformers, with an adapter of any kind or without one.
        tokenizer: Its tokenizer, with a padding token.
        prompts: B texts, or conversations as lists of messages.
        preference: What `set_preference` takes, such as [B, m]; goes to `generate` only if it is given.
        generation: Options of `generate`. By default the model's own distribution is sampled, whatever its generation
            config says, and 64 tokens at most; with a `generation_config=` there are no defaults.

    Raises:
        ValueError: an encoder-decoder, no padding token, no prompts, a prompt without tokens, or options by which the
            rows of the result are not those of the prompts.
    """
    check_can_sample(model, tokenizer)
    rows = [tokenize(tokenizer, prompt) for prompt in prompts]
    before, mask = (part.to(model.device) for part in _padded(rows, tokenizer.pad_token_id, left=True))
    options = _padding_with(tokenizer.pad_token_id, generation_options(**generation))
    steered = {} if preference is None else {"preference": preference}
    with eval_mode(model):  # `stop_strings` want the tokenizer
        ids = model.generate(input_ids=before, attention_mask=mask, tokenizer=tokenizer, **options, **steered)
    if not isinstance(ids, Tensor) or len(ids) != len(rows):
        raise ValueError(
            f"`generation` must leave one row of tokens for each of {len(rows)} prompts, but `generate` returned "
            f"{len(ids) if isinstance(ids, Tensor) else f'a {type(ids).__name__}'}."
        )
    new = ids[:, before.shape[1] :]
    is_end = torch.isin(new, new.new_tensor(_ends(model, tokenizer, options)))
    before_end = is_end.cumsum(1) - is_end.long() == 0
    padding = (new != tokenizer.pad_token_id).flip(1).cumsum(1).flip(1) == 0  # a stop may be no token
    completion = before_end & (is_end | ~padding)
    return _completions(tokenizer, ids, mask, completion)


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
    prompt_ids, prompt_mask = _padded(before, tokenizer.pad_token_id, left=True)
    ids, mask = _padded(after, tokenizer.pad_token_id, left=False)
    return _completions(tokenizer, torch.cat([prompt_ids, ids], dim=1), prompt_mask, mask.bool())


def log_probabilities(model: Any, completions: Completions, preference: Any = None) -> Tensor:
    """Log-probability of every completion token given all before it, nats.

    The model runs in the mode it is in, and gradients flow unless they are switched off.

    Args:
        model: A decoder-only causal language model of transformers, with an adapter of any kind or without one.
        completions: Of `sample` or `encode`.
        preference: What `set_preference` takes, such as [B, m]; goes to the model only if it is given.

    Returns:
        [B, T], float32, on the model's device, 0 after the end.
    """
    ids, mask, completion = (t.to(model.device) for t in (completions.ids, completions.mask, completions.completion))
    T = completion.shape[1]
    options = {
        "position_ids": (mask.cumsum(1) - 1).clamp(min=0),
        "logits_to_keep": T + 1,  # of a long prompt they would be most of the memory
        "use_cache": False,
    }
    known = inspect.signature(getattr(model, "get_base_model", lambda: model)().forward).parameters
    options = {name: value for name, value in options.items() if name in known}
    steered = {} if preference is None else {"preference": preference}
    logits = model(input_ids=ids, attention_mask=mask, **options, **steered).logits
    rows = [  # one by one, because a vocabulary in float32 is large
        row.float().log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
        for row, tokens in zip(logits[:, -T - 1 : -1], ids[:, ids.shape[1] - T :], strict=True)
    ]
    return torch.stack(rows).where(completion, 0.0)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Within the block, all modules are in eval mode; on leaving it, each is in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:  # `train()` would make all of them alike
            module.training = mode


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


def _padded(rows: list[list[int]], pad: int, *, left: bool) -> tuple[Tensor, Tensor]:
    """Token ids and their mask, [B, longest]."""
    if not rows:
        raise ValueError("`prompts` must hold at least one, but got none.")
    longest = max(map(len, rows))
    fill = [longest - len(row) for row in rows]
    ids = [[pad] * n + row if left else row + [pad] * n for n, row in zip(fill, rows, strict=True)]
    mask = [[0] * n + [1] * len(row) if left else [1] * len(row) + [0] * n for n, row in zip(fill, rows, strict=True)]
    return torch.tensor(ids, dtype=torch.long), torch.tensor(mask, dtype=torch.long)


def _padding_with(pad: int, options: dict[str, Any]) -> dict[str, Any]:
    """The options with this padding token, in their `generation_config` if they have one, of which a copy is made."""
    config = options.get("generation_config")
    if config is None:
        return {**options, "pad_token_id": pad}
    config = copy.copy(config)
    config.pad_token_id = pad
    return {**options, "generation_config": config}


def _ends(model: Any, tokenizer: Any, options: dict[str, Any]) -> list[int]:
    """The end tokens, from where `generate` takes them."""
    configs = options.get("generation_config"), model.generation_config
    known = [options.get("eos_token_id"), *(getattr(config, "eos_token_id", None) for config in configs)]
    ends: Any = next((one for one in (*known, tokenizer.eos_token_id) if one is not None), [])
    return list(ends) if isinstance(ends, list | tuple) else [int(ends)]


def _completions(tokenizer: Any, ids: Tensor, prompt_mask: Tensor, completion: Tensor) -> Completions:
    mask = torch.cat([prompt_mask, completion.long()], dim=1)
    # Decoded with the prompt and then cut, because alone a completion may lose its leading space.
    whole = ids.where(mask.bool(), tokenizer.pad_token_id)
    parts = whole[:, : prompt_mask.shape[1]], whole
    prompts, texts = (tokenizer.batch_decode(part, skip_special_tokens=True) for part in parts)
    return Completions(ids, mask, completion, [t[len(p) :] for p, t in zip(prompts, texts, strict=True)])
