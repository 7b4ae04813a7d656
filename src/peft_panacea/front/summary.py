"""What one front attains as numbers: its metrics, and what became of the side effects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from .. import metrics

Array: TypeAlias = "np.ndarray"
Normalisation: TypeAlias = "tuple[Array, Array] | None"

IS_EXACT = "hypervolume is exact"


def summarise(
    values: Array, preferences: Array, reference: Array, *, maximise: Sequence[bool], normalisation: Normalisation
) -> dict[str, float]:
    """Every metric by name, in units of the normalisation.

    Args:
        values: [K, m]
        preferences: [K, m]
        reference: [m], in the units of the values.
        maximise: [m]
        normalisation: Mean and standard deviation, [m] each.
    """
    if normalisation is not None:
        mean, std = normalisation
        values, reference = (values - mean) / std, (reference - mean) / std
    is_above = ((values - reference) * np.where(maximise, 1, -1) > 0).all(axis=1)
    counted = np.unique(values[is_above & metrics.non_dominated(values, maximise=maximise)], axis=0)
    return {
        "hypervolume": metrics.hypervolume(values, reference, maximise=maximise),
        IS_EXACT: float(metrics.hypervolume_is_exact(len(counted), values.shape[1])),
        "inner product": metrics.inner_product(values, preferences, maximise=maximise),
        "sparsity": metrics.sparsity(values, maximise=maximise),
        "spacing": metrics.spacing(values, maximise=maximise),
        "monotonicity": float(metrics.monotonicity(values, preferences, maximise=maximise).mean()),
        "calibration": metrics.calibration(values, preferences),
    }


def summarise_effects(
    effects: Mapping[str, Array], base_effects: Mapping[str, Array], prompts: Any = slice(None)
) -> dict[str, float]:
    """The drift of every side effect, or its mean where nothing is known that it could drift from.

    Args:
        effects: Name → [K, P]
        base_effects: Name → [P]
        prompts: Indices of the prompts that count. The unit of a drift, the base model's spread, is that of all.
    """
    numbers = {}
    for name, effect in effects.items():
        mean, base = effect[:, prompts].mean(axis=1), base_effects.get(name)
        if base is None or np.ptp(base) == 0:
            numbers[f"mean {name}"] = float(mean.mean())
        else:  # `drift` compares with the base model's mean over all prompts; over these it may be another
            moved = mean + (base.mean() - base[prompts].mean())
            numbers[f"drift of {name}"] = metrics.drift(np.repeat(moved[:, None], len(base), axis=1), base)
    return numbers
