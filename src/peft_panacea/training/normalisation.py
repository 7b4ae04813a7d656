"""Constants that rewards are normalised by, kept beside a run with what they were measured of."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)

SAME = 0.75
"""Share of completions with one value of a reward above which its deviation says more of the others' rarity."""


def constants(scores: np.ndarray, objectives: list[str]) -> dict[str, dict[str, float]]:
    """`mean` and `std` of each objective; of scores [n, m].

    Raises:
        ValueError: A reward is the same for every completion.
    """
    same = {}
    for name, column in zip(objectives, scores.T, strict=True):
        same[name] = np.unique(column, return_counts=True)[1].max() / len(column)
    if constant := [name for name, share in same.items() if share == 1]:
        raise ValueError(
            f"Every reward must differ between completions to be normalised, but of {constant} at least one did not."
        )
    std = dict(zip(objectives, scores.std(axis=0, ddof=1).tolist(), strict=True))
    for name, share in same.items():
        if share > SAME:
            logger.warning(
                "The reward of %r is the same for %.0f %% of the model's own completions. In units of its standard "
                "deviation, %.3g, the others weigh much, and training may follow this objective at every preference. "
                "Ask for completions that differ in it, such as longer ones, or take a reward that tells them apart.",
                name, 100 * share, std[name],
            )  # fmt: skip
    return {"mean": dict(zip(objectives, scores.mean(axis=0).tolist(), strict=True)), "std": std}


def digest(prompts: list[Any], chat_template_kwargs: dict[str, Any]) -> str:
    """16 hexadecimal digits that tell lists of prompts apart, and what their template is given."""
    rendered_of = [prompts, chat_template_kwargs] if chat_template_kwargs else prompts
    return hashlib.sha256(json.dumps(rendered_of, sort_keys=True).encode()).hexdigest()[:16]


def read(path: Path, measured_of: dict[str, Any]) -> dict[str, Any] | None:
    """What the file holds, or None if there is none or it was measured of something else, which the log then says."""
    if not path.exists():
        return None
    constants = json.loads(path.read_text(encoding="utf-8"))
    differing = [key for key, value in measured_of.items() if constants.get(key) != value]
    if differing:
        logger.warning("%s is of other %s; the rewards are measured anew.", path, " and ".join(differing))
        return None
    return constants


def write(path: Path, constants: dict[str, Any]) -> None:
    """The file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(constants, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)
