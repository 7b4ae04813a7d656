"""What commands share that ask a model: the prompts, and how completions are sampled."""

from __future__ import annotations

import argparse
import json
from typing import Any

from . import adapter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--system_prompt", metavar="TEXT", help="in front of every conversation that has none")
    parser.add_argument(
        "--chat_template_kwargs", type=mapping, metavar="JSON", help="for the template: '{\"enable_thinking\": false}'"
    )
    parser.add_argument("--plain", action="store_true", help="continue texts as they are, despite a chat template")
    parser.add_argument("--max_new_tokens", type=int, default=64, help="of a completion, at most (%(default)s)")
    parser.add_argument("--temperature", type=float, default=1.0, help="of the sampling (%(default)s)")
    parser.add_argument("--greedy", action="store_true", help="the likeliest token in place of a sampled one")
    parser.add_argument("--seed", type=int, default=0, help="of the sampling (%(default)s)")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16", "auto"], default="float32")


def mapping(text: str) -> dict[str, Any]:
    """What a word means as JSON, for argparse."""
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError
    return found


def check(args: argparse.Namespace) -> None:
    if args.max_new_tokens < 1:
        raise ValueError(f"`--max_new_tokens` must be at least 1, but got {args.max_new_tokens}.")
    if args.temperature <= 0:
        raise ValueError(f"`--temperature` must be positive (--greedy: no sampling), but got {args.temperature:g}.")


def decoding(args: argparse.Namespace) -> dict[str, Any]:
    """Options of `sample`."""
    how = {"do_sample": False} if args.greedy else {"temperature": args.temperature}
    template = {"chat_template_kwargs": args.chat_template_kwargs} if args.chat_template_kwargs else {}
    return {"max_new_tokens": args.max_new_tokens, **how, **template}


def model_of(args: argparse.Namespace) -> Any:
    """Base model and adapter, on the accelerator if there is one."""
    import torch

    model = adapter.model_of(args.path, dtype=args.dtype).to("cuda" if torch.cuda.is_available() else "cpu")
    if model.num_parameters() < 10_000_000:
        torch.set_num_threads(1)  # on matrices this small a second thread costs more than it gives
    return model


def as_asked(prompts: list[Any], tokenizer: Any, args: argparse.Namespace) -> list[Any]:
    """The prompts as conversations where they go through a chat template."""
    from ..data import chat_prompt, is_chat

    if not is_chat(prompts[0], tokenizer, plain=args.plain, system_prompt=args.system_prompt):
        return prompts
    return [chat_prompt(prompt, args.system_prompt) for prompt in prompts]
