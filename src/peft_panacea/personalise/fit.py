"""From answers to a preference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..seeding import derive
from ..tuner.bounds import Bounds, checked_bounds, limits
from ..tuner.steering import first_active, first_layer, get_objectives
from .margins import margins as margins_of
from .posterior import draw_prior
from .result import FittedPreference, checked_margins


def fit_preference(
    model: Any, pairs: Sequence[Mapping[str, Any]], *, tokenizer: Any, seed: int = 0
) -> FittedPreference:
    """The preference that explains one person's choices, within the adapter's `preference_bounds`.

    `margins` of the pairs, and `fit_margins` of these; their arguments and errors are the same.
    """
    found = margins_of(model, pairs, tokenizer=tokenizer)
    bounds = first_layer(model).preference_state.bounds[first_active(model)]
    return fit_margins(found, get_objectives(model), bounds=bounds, seed=seed)


def fit_margins(
    margins: Any,
    objectives: Sequence[str],
    *,
    bounds: Bounds | None = None,
    scale: float | None = None,
    seed: int = 0,
) -> FittedPreference:
    """The preference that explains one person's choices, from the margins of the pairs alone.

    A priori the preference is uniform on the simplex, within the bounds, and log κ is normal around -log `scale` with
    standard deviation 1.5. The posterior is sampled, see `posterior.py`.

    Args:
        margins: [N, m], of chosen - rejected, nats; `peft_panacea.personalise.margins` measures them.
        objectives: The m ≥ 2 names.
        bounds: Objective → (least, greatest) weight, as an adapter's `preference_bounds`.
        scale: A typical size of a margin, nats; the median of |margins| if None. Give it where there are few pairs or
            none, from margins of other pairs.
        seed: ≥ 0.

    Raises:
        TypeError: `bounds` are no mapping from objectives to pairs of numbers.
        ValueError: fewer than two objectives, margins of another shape or that are not finite, bounds that cannot be
            met, or a scale that is not positive, also because the margins are 0 or there are none.
    """
    names = tuple(objectives)
    if len(names) < 2:
        raise ValueError(f"`objectives` must be at least 2 to choose between, but got {list(names)}.")
    found = checked_margins(margins, names)
    kept = checked_bounds(bounds or {}, names, "bounds")
    if scale is None:
        scale = float(np.median(np.abs(found))) if len(found) else 0.0
        if scale == 0:
            what = "half of the margins are 0" if len(found) else "there are no margins"
            raise ValueError(f"`scale` must be given where {what}, but got None.")
    if not (np.isfinite(scale) and scale > 0):
        raise ValueError(f"`scale` must be a positive number, but got {scale}.")
    lows, highs = map(np.array, limits(kept, names))
    prior = draw_prior(lows, highs, scale, np.random.default_rng(derive(seed, "prior")))
    nobody = FittedPreference(
        names, found[:0], scale, np.stack([lows, highs]), prior.preferences, np.exp(prior.log_strengths), seed
    )
    return nobody.update(found) if len(found) else nobody
