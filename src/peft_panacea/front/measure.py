"""Measuring a front: the completions of every prompt under every preference, in mixed batches."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from tqdm.auto import tqdm

from ..rewards import Distinct, length
from .result import Front, double
from .sampling import Answers, Prompt, Sampler

Array: TypeAlias = "np.ndarray"

Generate: TypeAlias = "Callable[[list[Prompt], Array | None], list[str]]"
"""Takes B prompts and their preferences [B, m], or None for the model without adaptation; returns B completions."""

Item: TypeAlias = tuple[int, int, int]
"""Indices of preference, prompt and sample; the base model is preference -1."""


def evaluate_front(
    model: Any,
    prompts: Sequence[Prompt],
    rewards: Mapping[str, Callable[..., list[float]]],
    preferences: Any,
    *,
    tokenizer: Any = None,
    samples: int = 1,
    batch_size: int = 64,
    seed: int = 0,
    base: bool = True,
    record: str | Path | None = None,
    details: Mapping[str, Any] | None = None,
    **generation: Any,
) -> Front:
    """Measure what each of K preferences attains on each of P prompts.

    A model with a Panacea adapter answers in batches of mixed preferences, prompts of like length together, the
    longest first. torch is seeded anew for each batch, so that a run that goes on from its record equals one that was
    never stopped, as far as models, functions and rewards draw from nothing else.

    Args:
        model: A `PeftModel` with a Panacea adapter, or a function (prompts, preferences [B, m]) → completions for
            anything else that can be steered; for the base model it is called with None in place of preferences.
        prompts: Texts, or conversations as lists of messages, for the tokenizer's chat template.
        rewards: Objective → function (completions, prompts=…) → numbers, more is better; in the preferences' order.
        preferences: [K, m], such as `simplex_grid(m, n)`.
        tokenizer: The model's; only functions need none.
        samples: Completions of each prompt under each preference.
        batch_size: Completions at once.
        seed: Of the sampling; torch's own generator is left as it was.
        base: Whether to measure the model without its adapter as well. Its scores then are the front's `base`, and
            mean and standard deviation of its completions' scores the `normalisation`, unless one score never changes.
        record: A JSON-lines file to which completions and scores are appended as they come. The same call again goes
            on where the last one stopped. The file of another adapter or other arguments is refused; of functions
            nothing is known but their name, of a base model its path.
        details: What else the front should say about itself.
        generation: For `generate`. By default the model's own distribution, 64 tokens at most.

    Returns:
        The front, with side effects: words per completion, distinct-2; of a model also the completions'
        `log-perplexity` under the base model, nats per token, and `KL`, the sum over a completion's tokens of
        log p(token) - log p_base(token), nats, whose mean estimates the divergence if nothing modified the sampling.
        The end token counts as one.

    Raises:
        TypeError: a model that cannot be steered, a reward that is no function, `generation` for a function.
        ValueError: sizes below 1, no prompts, rewards that do not fit the preferences, or a record of something else.
        RuntimeError: the model's adapter is merged.
    """
    weights = double(preferences)
    if weights.ndim != 2 or weights.shape[1] != len(rewards) or not weights.size or not np.isfinite(weights).all():
        raise ValueError(f"`preferences` must be finite, of shape (K, {len(rewards)}), but got {weights.shape}.")
    for name, number in (("samples", samples), ("batch_size", batch_size), ("len(prompts)", len(prompts))):
        if number < 1:
            raise ValueError(f"`{name}` must be at least 1, but got {number}.")
    for name, reward in rewards.items():
        if not callable(reward):
            raise TypeError(f"`rewards[{name!r}]` must be a function, such as a `Classifier`, but got {reward!r}.")
    answer = _answerer(model, tokenizer, generation, list(rewards))
    settings = {
        "prompts": _digest(list(prompts)),
        "rewards": {objective: _name(reward) for objective, reward in rewards.items()},
        "samples": samples,
        "batch_size": batch_size,
        "seed": seed,
        "base": base,
        **answer.describe(),
    }
    batches = list(_batches(answer.lengths(prompts), len(weights), samples, batch_size, base))
    record_of = {"objectives": list(rewards), "preferences": weights.tolist(), **settings}
    known = _Record(None if record is None else Path(record), record_of)
    todo = [(number, batch) for number, batch in enumerate(batches) if any(item not in known.rows for item in batch)]
    for number, batch in tqdm(todo, desc="measuring", unit="batch", disable=not todo):
        texts = [prompts[p] for _, p, _ in batch]
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(int.from_bytes(hashlib.sha256(f"{seed} {number}".encode()).digest()[:8], "big"))
            answers = answer(texts, None if batch[0][0] < 0 else weights[[k for k, _, _ in batch]])
            known.append(batch, answers.texts, _scores(rewards, texts, answers.texts), answers.effects)
    return _front(known.rows, weights, len(prompts), samples, list(rewards), {**settings, **(details or {})})


class _Called:
    """A function in place of a model."""

    def __init__(self, function: Generate) -> None:
        self.function = function

    def describe(self) -> dict[str, Any]:
        return {"model": _name(self.function)}

    def lengths(self, prompts: Sequence[Prompt]) -> list[int]:
        """Characters of every prompt."""
        return [len(str(prompt)) for prompt in prompts]

    def __call__(self, prompts: list[Prompt], preferences: Array | None) -> Answers:
        texts = list(self.function(prompts, preferences))
        if len(texts) != len(prompts):
            raise ValueError(f"`model` must return {len(prompts)} completions, but got {len(texts)}.")
        return Answers(texts, {})


def _answerer(model: Any, tokenizer: Any, generation: dict[str, Any], objectives: list[str]) -> Sampler | _Called:
    if not isinstance(model, torch.nn.Module):
        if generation:
            raise TypeError(f"`generation` must be empty for a function, but got {', '.join(generation)}.")
        return _Called(model)
    sampler = Sampler(model, tokenizer, generation)
    if set(sampler.objectives) == set(objectives) and sampler.objectives != objectives:
        raise ValueError(f"`rewards` must be in the adapter's order {sampler.objectives}, but got {objectives}.")
    return sampler


def _batches(lengths: list[int], K: int, samples: int, size: int, base: bool) -> Iterator[list[Item]]:
    """All preferences together, then the base model; like lengths together, the longest first."""
    order = sorted(range(len(lengths)), key=lambda p: -lengths[p])
    for group in (range(K), range(-1, 0) if base else ()):
        items = ((k, p, s) for p in order for k in group for s in range(samples))
        while batch := list(islice(items, size)):
            yield batch


def _scores(rewards: Mapping[str, Any], prompts: list[Prompt], texts: list[str]) -> dict[str, list[float]]:
    """Objective → a number for each completion."""
    found = {}
    for name, reward in rewards.items():
        column = np.asarray(reward(texts, prompts=prompts), dtype=float)
        if column.shape != (len(texts),) or not np.isfinite(column).all():
            raise ValueError(
                f"`rewards[{name!r}]` must return a finite number for each of {len(texts)} completions, but got "
                f"{column.shape if column.shape != (len(texts),) else column[~np.isfinite(column)][0]}."
            )
        found[name] = column.tolist()
    return found


class _Record:
    """The numbers so far, by item, and a file of JSON lines: what is measured, then a batch in each line."""

    def __init__(self, path: Path | None, settings: dict[str, Any]) -> None:
        self.path = path
        self.rows: dict[Item, dict[str, float]] = {}
        if path is None:
            return
        first = json.dumps(settings) + "\n"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]  # an interrupted write has no end of line
        if not whole and not first.encode().startswith(content):
            raise ValueError(f"`record` must be a file of this function, but {path} is not.")
        for number, line in enumerate(whole.splitlines()):
            if number == 0:
                self._check(line, json.loads(first))
            else:
                self.rows.update((tuple(row["item"]), row["numbers"]) for row in json.loads(line))
        with path.open("r+b") as file:
            file.truncate(len(whole))
        if not whole:
            path.write_text(first, encoding="utf-8")

    def _check(self, line: bytes, settings: dict[str, Any]) -> None:
        try:
            first = json.loads(line)
        except ValueError:
            first = None
        if not isinstance(first, dict):
            raise ValueError(f"`record` must be a file of this function, but {self.path} is not.")
        differing = [key for key in {**first, **settings} if first.get(key) != settings.get(key)]
        if differing:
            raise ValueError(f"`record` must hold this measurement, but {self.path} has other {', '.join(differing)}.")

    def append(
        self, batch: list[Item], texts: list[str], scores: dict[str, list[float]], effects: dict[str, list[float]]
    ) -> None:
        """Keep a batch, in the file as one line, so that it is there whole or not at all."""
        effects = {"length": length(texts), "distinct-2": Distinct(2)(texts), **effects, **scores}
        rows = [{name: column[i] for name, column in effects.items()} for i in range(len(batch))]
        if self.path is not None:
            named = zip(batch, texts, rows, strict=True)
            line = json.dumps([{"item": item, "text": text, "numbers": numbers} for item, text, numbers in named])
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        self.rows.update(zip(batch, rows, strict=True))


def _front(
    rows: Mapping[Item, dict[str, float]],
    preferences: Array,
    P: int,
    samples: int,
    objectives: list[str],
    details: Mapping[str, Any],
) -> Front:
    def collect(names: list[str], ks: range) -> Array:
        """Of every completion, [K, P, samples, names]."""
        each = [rows[k, p, s][name] for k in ks for p in range(P) for s in range(samples) for name in names]
        return np.array(each).reshape(len(ks), P, samples, len(names))

    effects = [name for name in rows[0, 0, 0] if name not in objectives]

    def parts(ks: range) -> tuple[Array, dict[str, Array]]:
        means = collect(effects, ks).mean(axis=2)
        return collect(objectives, ks), {name: means[..., i] for i, name in enumerate(effects)}

    scores, side_effects = parts(range(len(preferences)))
    common: dict[str, Any] = {"details": details, "side_effects": side_effects}
    if (-1, 0, 0) in rows:
        base, base_effects = parts(range(-1, 0))
        common["base"] = base[0].mean(axis=1)
        common["base_side_effects"] = {name: array[0] for name, array in base_effects.items()}
        each = base.reshape(-1, len(objectives))
        if len(each) > 1 and (np.ptp(each, axis=0) > 0).all():
            common["normalisation"] = each.mean(axis=0), each.std(axis=0, ddof=1)
    return Front(objectives, preferences, scores.mean(axis=2), **common)


def _name(function: Any) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
