"""Measuring a front: the completions of every prompt under every preference, in mixed batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from tqdm.auto import tqdm

from ..completions import Prompt
from ..rewards import Distinct, length
from ..seeding import derive
from .answers import Answers, SteeredFunction, SteeredModel, name_of
from .files import check_plain
from .processes import first_does, rank_and_size, share_out
from .record import Item, Numbers, append_batch, digest, open_record
from .result import Front, double

Array: TypeAlias = "np.ndarray"

GIVEN = ("prompts", "completions", "completion_ids", "ended")
"""What a reward is given of every completion."""


def evaluate_front(
    model: Any,
    prompts: Sequence[Prompt],
    rewards: Mapping[str, Callable[..., list[float]]],
    preferences: Any,
    *,
    tokenizer: Any = None,
    columns: Mapping[str, Sequence[Any]] | None = None,
    samples: int = 1,
    batch_size: int = 64,
    seed: int = 0,
    base: bool = True,
    extrapolate: bool = False,
    record: str | Path | None = None,
    details: Mapping[str, Any] | None = None,
    **generation: Any,
) -> Front:
    """Measure what each of K preferences attains on each of P prompts.

    A model with a Panacea adapter answers in batches of mixed preferences, prompts of like length together, the
    longest first. torch is seeded anew for each batch, so that a run that goes on from its record equals one that was
    never stopped, as far as models, functions and rewards draw from nothing else.

    Where torch.distributed is initialised, every process must make the same call, with the model itself, not with its
    `DistributedDataParallel`. They share the batches, process 0 writes the record, and all return the same front,
    which is the one of a single process.

    Args:
        model: A `PeftModel` with a Panacea adapter, or a function (prompts, preferences [B, m]) → completions for
            anything else that can be steered; for the base model it is called with None in place of preferences.
        prompts: Texts, or conversations as lists of messages, for the tokenizer's chat template.
        rewards: Objective → function, in the preferences' order; more is better. Called as TRL does, `reward(
            completions, prompts=…, completion_ids=…, ended=…, **columns)`, for a finite number per completion. After
            a conversation a completion is a list of one message. Only a model's completions have `completion_ids`, the
            tokens with the end token, and `ended`, whether there is one or the completion was cut off.
        preferences: [K, m], such as `simplex_grid(m, n)`.
        tokenizer: The model's; only functions need none.
        columns: Name → P values, such as reference answers; the rewards get those of their prompts.
        samples: Completions of each prompt under each preference.
        batch_size: Completions at once, in each process.
        seed: Of the sampling; torch's own generator is left as it was.
        base: Whether to measure the model without its adapter as well. Its scores then are the front's `base`, and
            mean and standard deviation of its completions' scores the `normalisation`, unless one score never changes.
        extrapolate: Whether preferences may be off the simplex.
        record: A JSON-lines file to which completions and scores are appended as they come. The same call again goes
            on where the last one stopped, on any number of processes. The file of another adapter or other arguments
            is refused; of functions nothing is known but their name, of a base model its path.
        details: What else the front should say about itself.
        generation: For `sample`: options of `generate`, by default the model's own distribution and 64 tokens at most,
            and `chat_template_kwargs`.

    Returns:
        The front, with side effects: words per completion, distinct-2; of a model also `ended`, the share of
        completions that have an end token, their `log-perplexity` under the base model, nats per token, and `KL`, the
        sum over a completion's tokens of log p(token) - log p_base(token), nats, whose mean estimates the divergence
        if nothing modified the sampling. The end token counts as one.

    Raises:
        TypeError: a model that cannot be steered, a reward that is no function, `generation` for a function.
        ValueError: sizes below 1, no prompts, rewards that do not fit the preferences, columns that do not fit the
            prompts, or a record of something else.
        RuntimeError: the model's adapter is merged.
    """
    weights = double(preferences)
    if weights.ndim != 2 or weights.shape[1] != len(rewards) or not weights.size:
        raise ValueError(f"`preferences` must have shape (K, {len(rewards)}), but got {weights.shape}.")
    if not np.isfinite(weights).all():
        raise ValueError(f"`preferences` must hold finite numbers, but got {weights[~np.isfinite(weights)][0]}.")
    check_plain("details", details)
    known, settings = _measured(
        model,
        prompts,
        rewards,
        weights,
        base,
        tokenizer=tokenizer,
        columns=columns,
        samples=samples,
        batch_size=batch_size,
        seed=seed,
        extrapolate=extrapolate,
        record=record,
        **generation,
    )
    return _front(known, weights, len(prompts), samples, list(rewards), {**settings, **(details or {})})


def evaluate_base(
    model: Any,
    prompts: Sequence[Prompt],
    rewards: Mapping[str, Callable[..., list[float]]],
    *,
    samples: int = 1,
    **options: Any,
) -> Array:
    """Measure what the model without its adapter attains on each of P prompts, and nothing else.

    Args:
        model: As of `evaluate_front`, like all that follows.
        prompts: P of them.
        rewards: Objective → function.
        samples: Completions of each prompt.
        options: `tokenizer`, `columns`, `batch_size`, `seed`, `record`, and options of `generate`.

    Returns:
        [P, samples, m], the scores of every completion.

    Raises:
        TypeError, ValueError, RuntimeError: As `evaluate_front`.
    """
    no_preferences = np.empty((0, len(rewards)))
    known, _ = _measured(model, prompts, rewards, no_preferences, True, samples=samples, **options)
    each = [known[-1, p, s][name] for p in range(len(prompts)) for s in range(samples) for name in rewards]
    return np.array(each).reshape(len(prompts), samples, len(rewards))


def _measured(
    model: Any,
    prompts: Sequence[Prompt],
    rewards: Mapping[str, Callable[..., list[float]]],
    weights: Array,
    base: bool,
    *,
    tokenizer: Any = None,
    columns: Mapping[str, Sequence[Any]] | None = None,
    samples: int = 1,
    batch_size: int = 64,
    seed: int = 0,
    extrapolate: bool = False,
    record: str | Path | None = None,
    **generation: Any,
) -> tuple[Mapping[Item, Numbers], dict[str, Any]]:
    """The numbers of every completion, of the base model's where k is -1, and what they were measured of."""
    columns = columns or {}
    for name, number in (("samples", samples), ("batch_size", batch_size), ("len(prompts)", len(prompts))):
        if number < 1:
            raise ValueError(f"`{name}` must be at least 1, but got {number}.")
    for name, reward in rewards.items():
        if not callable(reward):
            raise TypeError(f"`rewards[{name!r}]` must be a function, such as a `Classifier`, but got {reward!r}.")
    for name, column in columns.items():
        if name in GIVEN:
            raise ValueError(f"`columns` must have names other than {', '.join(GIVEN)}, but got {name!r}.")
        if len(column) != len(prompts):
            raise ValueError(f"`columns[{name!r}]` must have {len(prompts)} values, but got {len(column)}.")
    answer = _answerer(model, tokenizer, generation, extrapolate)
    if isinstance(answer, SteeredModel) and len(weights):
        answer.check(list(rewards), weights)
    settings = {
        "prompts": digest([list(prompts), {k: list(v) for k, v in columns.items()}] if columns else list(prompts)),
        "rewards": {objective: name_of(reward) for objective, reward in rewards.items()},
        "samples": samples,
        "batch_size": batch_size,
        "seed": seed,
        "base": base,
        **answer.describe(),
    }
    numbered = list(enumerate(_batches(answer.lengths(prompts), len(weights), samples, batch_size, base)))
    path = None if record is None else Path(record)
    record_of = {"objectives": list(rewards), "preferences": weights.tolist(), **settings}
    known = first_does(partial(open_record, path, record_of))
    todo = [(number, batch) for number, batch in numbered if any(item not in known for item in batch)]

    def measure(numbered_batch: tuple[int, list[Item]]) -> tuple[list[Item], list[str], list[Numbers]]:
        number, batch = numbered_batch
        asked = [prompts[p] for _, p, _ in batch]
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(derive(seed, "measure", number))
            answers = answer(asked, None if _is_base(batch) else weights[[k for k, _, _ in batch]])
            scores = _scores(rewards, asked, answers, {n: [c[p] for _, p, _ in batch] for n, c in columns.items()})
        effects = {"length": length(answers.texts), "distinct-2": Distinct(2)(answers.texts), **answers.effects}
        named = {**effects, **scores}
        return batch, answers.texts, [{name: column[i] for name, column in named.items()} for i in range(len(batch))]

    silent = not todo or rank_and_size()[0] > 0
    with tqdm(total=len(todo), desc="measuring", unit="batch", disable=silent) as progress:
        # Processes that share a model must run it equally often: with the adapter twice per batch, else once.
        for of_base in (False, True):
            for batch, texts, numbers in share_out(measure, [one for one in todo if _is_base(one[1]) == of_base]):
                first_does(partial(append_batch, path, batch, texts, numbers))
                known.update(zip(batch, numbers, strict=True))
                progress.update()
    return known, settings


def _answerer(
    model: Any, tokenizer: Any, generation: dict[str, Any], extrapolate: bool
) -> SteeredModel | SteeredFunction:
    if not isinstance(model, torch.nn.Module):
        if generation:
            raise TypeError(f"`generation` must be empty for a function, but got {', '.join(generation)}.")
        return SteeredFunction(model)
    return SteeredModel(model, tokenizer, generation, extrapolate=extrapolate)


def _batches(lengths: list[int], K: int, samples: int, size: int, base: bool) -> Iterator[list[Item]]:
    """All preferences together, then the base model; like lengths together, the longest first."""
    order = sorted(range(len(lengths)), key=lambda p: -lengths[p])
    for group in (range(K), range(-1, 0) if base else ()):
        items = ((k, p, s) for p in order for k in group for s in range(samples))
        while batch := list(islice(items, size)):
            yield batch


def _is_base(batch: list[Item]) -> bool:
    return batch[0][0] < 0


def _scores(
    rewards: Mapping[str, Any], prompts: list[Prompt], answers: Answers, columns: dict[str, list[Any]]
) -> dict[str, list[float]]:
    """Objective → a number for each completion."""
    B = len(prompts)
    completions = [
        text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
        for prompt, text in zip(prompts, answers.texts, strict=True)
    ]
    scores = {}
    for name, reward in rewards.items():
        column = np.asarray(reward(completions, prompts=prompts, **answers.tokens, **columns), dtype=float)
        if column.shape != (B,) or not np.isfinite(column).all():
            raise ValueError(
                f"`rewards[{name!r}]` must return a finite number for each of {B} completions, but got "
                f"{column.shape if column.shape != (B,) else column[~np.isfinite(column)][0]}."
            )
        scores[name] = column.tolist()
    return scores


def _front(
    rows: Mapping[Item, Numbers],
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

    # A record that was begun before there was one of the side effects goes on without it.
    known = set.intersection(*map(set, rows.values()))
    effects = [name for name in rows[0, 0, 0] if name in known - set(objectives)]

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
