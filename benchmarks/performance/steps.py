"""Training step, prefill and decoding with a cache: every side on the same base, one row for each shape."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache

from . import sides
from .sides import Rank, Shape
from .timing import Case, alternate, overhead, ratio, row

BUDGET = {256: 1, 1024: 2, 4096: 4}  # by width, in multiples of the least


def training_step(model: nn.Module, rows: int = 8, tokens: int = 64) -> Callable[[], None]:
    """Forward and backward; gradients reach the input embeddings, so that the frozen base has a backward as well."""
    model.train()
    embedding = model.get_input_embeddings()
    labels = torch.randint(0, embedding.num_embeddings, (rows, tokens), device=embedding.weight.device)
    embedded = embedding(labels).detach().requires_grad_()
    trained = [embedded, *(p for p in model.parameters() if p.requires_grad)]

    def step() -> None:
        model(inputs_embeds=embedded, labels=labels).loss.backward()
        for tensor in trained:
            tensor.grad = None

    return step


def prefill(model: nn.Module, rows: int = 1, tokens: int = 256, **options: Any) -> Callable[[], None]:
    model.eval()
    ids = torch.randint(0, model.config.vocab_size, (rows, tokens), device=model.device)

    @torch.no_grad()
    def step() -> None:
        model(ids, logits_to_keep=1, **options)

    return step


def decode(model: nn.Module, rows: int = 1, filled: int = 64, **options: Any) -> Callable[[], None]:
    """One more token for every row, after `filled` of them in the cache."""
    model.eval()
    ids = torch.randint(0, model.config.vocab_size, (rows, filled), device=model.device)
    with torch.no_grad():
        cache = model(ids, past_key_values=DynamicCache(config=model.config), **options).past_key_values

    @torch.no_grad()
    def step() -> None:
        model(ids[:, :1], past_key_values=cache, **options)
        cache.crop(-1)

    return step


def compiled_token(model: nn.Module, rows: int = 1) -> Callable[[], None]:
    """One token for every row, compiled to CUDA graphs; without a cache, which would have to be a static one."""
    model.eval()
    ids = torch.randint(0, model.config.vocab_size, (rows, 1), device=model.device)
    compiled = torch.compile(model, mode="reduce-overhead")

    @torch.no_grad()
    def step() -> None:
        torch.compiler.cudagraph_mark_step_begin()
        compiled(ids, use_cache=False)

    for _ in range(3):  # inductor warms up, records, replays
        step()
    return step


def measured(shape: Shape, task: Callable[..., Callable[[], None]], rows: int, budget: float) -> dict[str, Any]:
    torch._dynamo.reset()  # and with it the graphs of the row before
    torch._dynamo.config.recompile_limit = 64  # all sides run the same code
    models = sides.beside(shape, rows)
    if task is decode and not shape.four_bit:
        models["dense delta"] = sides.replaced(sides.base(shape), sides.DenseDelta, Rank())
    turns = alternate({name: task(model, rows) for name, model in models.items()}, budget)
    figures = {
        "over LoRA": ratio(turns, "Panacea", "LoRA"),
        "overhead in LoRA's": overhead(turns, "Panacea", "LoRA", "base"),
        "rows over one": ratio(turns, "Panacea, rows", "Panacea"),
    }
    if not shape.four_bit:
        figures["products alone, overhead"] = overhead(turns, "products alone", "LoRA", "base")
    return row(turns, **figures)


def cases(quick: bool) -> Iterator[Case]:
    for shape in sides.shapes(quick):
        gpu = shape.device == "cuda"
        scale = 0 if quick else BUDGET.get(shape.width, 2) if not gpu else 1
        tasks: list[tuple[str, Any, int, Shape, float]] = [
            ("training", training_step, 8, shape, 25 * scale),
            *(("prefill", prefill, rows, shape, 10 * scale) for rows in ((1, 8, 64) if gpu else (1,))),
            *(("decode", decode, rows, shape, 8 * scale) for rows in ((1, 8, 64) if gpu else (1, 8))),
        ]
        if gpu:
            four_bit = replace(shape, name=f"{shape.name}, 4-bit", four_bit=True)
            tasks += [("decode, compiled", compiled_token, rows, shape, 8) for rows in (1, 8, 64)]
            tasks += [("training", training_step, 8, four_bit, 10), ("decode", decode, 1, four_bit, 8)]
            tasks += [("decode", decode, 8, four_bit, 8)]
        for group, task, rows, of, budget in tasks:
            name = f"{group}: {of.name}, batch {rows}"
            yield name, of.device, partial(measured, of, task, rows, budget)
