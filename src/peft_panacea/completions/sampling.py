"""Sampling a batch of completions, each row under a preference of its own."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .batch import Completions, Prompt, check_can_sample, completions_of, padded, tokenize
from .decoding import decodes_alike, options_of_decode

# The model's own distribution, whatever its generation config says.
UNMODIFIED = {"max_new_tokens": 64, "num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
SAMPLED = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0}


def generation_options(**generation: Any) -> dict[str, Any]:
    """What `sample` gives to `generate`: these options, and its defaults unless one is a `generation_config`."""
    if "generation_config" in generation:
        return generation
    return {**UNMODIFIED, **(SAMPLED if generation.get("do_sample", True) else {}), **generation}


def sample(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    preference: Any = None,
    *,
    chat_template_kwargs: dict[str, Any] | None = None,
    **generation: Any,
) -> Completions:
    """Complete every prompt, in one batch, in eval mode.

    Rows leave the batch as they end, where the options, the model and its cache are such that this changes nothing for
    the others, and then the result has `log_probabilities`, too; see `decoding.py`.

    Args:
        model: A decoder-only causal language model of transformers, with an adapter of any kind or without one.
        tokenizer: Its tokenizer, with a padding token.
        prompts: B texts, or conversations as lists of messages.
        preference: What `set_preference` takes, such as [B, m]; goes to `generate` only if it is given.
        chat_template_kwargs: What the chat template is given for conversations, as in TRL's configurations.
        generation: Options of `generate`. By default the model's own distribution is sampled, whatever its generation
            config says, and 64 tokens at most; with a `generation_config=` there are no defaults.

    Raises:
        ValueError: an encoder-decoder, no padding token, no prompts, a prompt without tokens, or options by which the
            rows of the result are not those of the prompts.
    """
    check_can_sample(model, tokenizer)
    rows = [tokenize(tokenizer, prompt, chat_template_kwargs) for prompt in prompts]
    before, mask = (part.to(model.device) for part in padded(rows, tokenizer.pad_token_id, left=True))
    options = _padding_with(tokenizer.pad_token_id, generation_options(**generation))
    steered = {} if preference is None else {"preference": preference}
    inputs = {"input_ids": before, "attention_mask": mask, **steered}
    with eval_mode(model):
        if decodes_alike(model, options):
            ids, likelihoods = model.generate(**inputs, **options_of_decode(model, options))
        else:  # `stop_strings` want the tokenizer
            ids, likelihoods = model.generate(**inputs, **options, tokenizer=tokenizer), None
    if not isinstance(ids, Tensor) or len(ids) != len(rows):
        raise ValueError(
            f"`generation` must leave one row of tokens for each of {len(rows)} prompts, but `generate` returned "
            f"{len(ids) if isinstance(ids, Tensor) else f'a {type(ids).__name__}'}."
        )
    new = ids[:, before.shape[1] :]
    ends = end_tokens(model, tokenizer, **options)
    is_end = torch.isin(new, new.new_tensor(ends))
    before_end = is_end.cumsum(1) - is_end.long() == 0
    padding = (new != tokenizer.pad_token_id).flip(1).cumsum(1).flip(1) == 0  # a stop may be no token
    completion = before_end & (is_end | ~padding)
    if likelihoods is not None:
        likelihoods = likelihoods.where(completion, 0.0)
    return completions_of(tokenizer, ids, mask, completion, ends, likelihoods)


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


def _padding_with(pad: int, options: dict[str, Any]) -> dict[str, Any]:
    """The options with this padding token, in their `generation_config` if they have one, of which a copy is made."""
    config = options.get("generation_config")
    if config is None:
        return {**options, "pad_token_id": pad}
    config = copy.copy(config)
    config.pad_token_id = pad
    return {**options, "generation_config": config}


def end_tokens(model: Any, tokenizer: Any, **options: Any) -> list[int]:
    """The end tokens, from where `generate` with these options takes them."""
    configs = options.get("generation_config"), model.generation_config
    known = [options.get("eos_token_id"), *(getattr(config, "eos_token_id", None) for config in configs)]
    ends: Any = next((one for one in (*known, tokenizer.eos_token_id) if one is not None), [])
    return list(ends) if isinstance(ends, list | tuple) else [int(ends)]
