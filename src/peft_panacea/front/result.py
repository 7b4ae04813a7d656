"""A measured front: what each preference attains on each prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ..extras import needs
from .choose import Choice, Interpolation, choose, nearest
from .files import read_front, write_front
from .summary import IS_EXACT, summarise, summarise_effects
from .uncertainty import bounds, check_level, draws, resampled_values

if TYPE_CHECKING:
    import pandas as pd

Array: TypeAlias = "np.ndarray"


@dataclass(frozen=True, eq=False)
class Front:
    """What each of K preferences over m objectives attains on each of P prompts.

    One prompt is enough, such as a mean over held-out rows, but intervals need two: a bootstrap over prompts would not
    see how uncertain one is.

    Anything array-like is taken for arrays. Preferences of less than double precision are rounded to 7 digits.

    Args:
        objectives: The m names.
        preferences: [K, m].
        scores: [K, P, m]; means over the completions of a prompt.
        maximise: Whether more is better, for all objectives or for each.
        base: [P, m], the scores of the model before adaptation, on the same prompts.
        normalisation: Mean and standard deviation, [m] each. If given, metrics are of (value - mean) / std.
        reference: [m], the reference point of the hypervolume, in the units of the scores. Fix it before the runs that
            are to be compared; see docs/metrics.md.
        side_effects: Name → [K, P], what nobody weighted, such as length.
        base_side_effects: Name → [P], the same before adaptation.
        details: Whatever says how it was measured, in what JSON has: seed, model, adapter, versions.

    Raises:
        ValueError: shapes that do not fit, numbers that are not finite, a standard deviation that is not positive, a
            name twice.
    """

    objectives: Sequence[str]
    preferences: Array
    scores: Array
    maximise: bool | Sequence[bool] = True
    base: Array | None = None
    normalisation: tuple[Array, Array] | None = None
    reference: Array | None = None
    side_effects: Mapping[str, Array] = field(default_factory=dict)
    base_side_effects: Mapping[str, Array] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [*self.objectives, *self.side_effects]
        if len(set(names)) < len(names):
            raise ValueError(f"`objectives` and `side_effects` must have different names, but got {names}.")
        m = len(self.objectives)
        preferences, scores = double(self.preferences), np.asarray(self.scores, dtype=float)
        if preferences.ndim != 2 or preferences.shape[1] != m or not preferences.size:
            raise ValueError(f"`preferences` must have shape (K, {m}), but got {preferences.shape}.")
        K = len(preferences)
        P = scores.shape[1] if scores.ndim == 3 else 0
        if P == 0 or scores.shape != (K, P, m):
            raise ValueError(f"`scores` must have shape ({K}, P, {m}), but got {scores.shape}.")
        up: Array = np.asarray(self.maximise)
        if up.dtype != bool or up.shape not in ((), (m,)):
            raise ValueError(f"`maximise` must be a bool or {m} of them, but got {self.maximise!r}.")
        maximise = tuple(np.broadcast_to(up, (m,)).tolist())
        arrays: dict[str, Any] = {
            "preferences": _finite("preferences", preferences, (K, m)),
            "scores": _finite("scores", scores, (K, P, m)),
            "base": None if self.base is None else _finite("base", self.base, (P, m)),
            "reference": None if self.reference is None else _finite("reference", self.reference, (m,)),
            "side_effects": {n: _finite(f"side_effects[{n!r}]", a, (K, P)) for n, a in self.side_effects.items()},
            "base_side_effects": {
                n: _finite(f"base_side_effects[{n!r}]", a, (P,)) for n, a in self.base_side_effects.items()
            },
        }
        if self.normalisation is not None:
            mean, std = (_finite("normalisation", a, (m,)) for a in self.normalisation)
            if not (std > 0).all():
                raise ValueError(f"`normalisation` must have positive standard deviations, but got {std.tolist()}.")
            arrays["normalisation"] = mean, std
        for name, value in {"objectives": tuple(self.objectives), "maximise": maximise, **arrays}.items():
            object.__setattr__(self, name, value)

    # What was attained

    @property
    def values(self) -> Array:
        """Mean scores over the prompts, [K, m]."""
        return self.scores.mean(axis=1)

    @property
    def base_values(self) -> Array | None:
        """Mean scores of the base model, [m]."""
        return None if self.base is None else self.base.mean(axis=0)

    def interval(self, level: float = 0.95) -> Array:
        """Lower and upper bounds of `values`, [2, K, m]: percentile bootstrap, 1000 resamples of the prompts.

        Raises:
            ValueError: a level that is none, or one prompt only.
        """
        return bounds(resampled_values(self.scores), level)

    # How good it is

    def reference_point(self, reference: Any = None, prompts: Any = slice(None)) -> Array:
        """The reference point of the hypervolume, [m]: the given one, else the front's, else the base model's values.

        The base model's values are those on these prompts, indices into them.

        Raises:
            ValueError: there is none of them.
        """
        base = None if self.base is None else self.base[prompts].mean(axis=0)
        point = next((r for r in (reference, self.reference, base) if r is not None), None)
        if point is None:
            raise ValueError("`reference` must be given for a front without `reference` and `base`, but got None.")
        return _finite("reference", point, (len(self.objectives),))

    def metrics(self, reference: Any = None, prompts: Any = slice(None)) -> dict[str, float]:
        """Every metric of `peft_panacea.metrics` that one front has, by name, in units of the normalisation.

        Monotonicity is the mean over the objectives. A side effect is shown as its drift from the base model, or as
        its mean over preferences and prompts if there is no base model or all prompts are equal there.

        Args:
            reference: [m], in the units of the scores; None for the front's own, or the base model's values.
            prompts: Indices of the prompts that count; normalisation and the base model's spread are those of all.

        Raises:
            ValueError: there is no reference point, or a preference was measured twice.
        """
        values, corner = self.scores[:, prompts].mean(axis=1), self.reference_point(reference, prompts)
        how: dict[str, Any] = {"maximise": self.maximise, "normalisation": self.normalisation}
        effects = summarise_effects(self.side_effects, self.base_side_effects, prompts)
        return summarise(values, self.preferences, corner, **how) | effects

    def metric_intervals(self, reference: Any = None, level: float = 0.95) -> dict[str, tuple[float, float]]:
        """Lower and upper bound of every metric, by bootstrap over the prompts.

        A reference point that is the base model's values is resampled with the prompts; any other, the normalisation
        and the spread of the base model's side effects are held fixed. It takes 1000 times as long as `metrics`.

        Raises:
            ValueError: as `metrics`, a level that is none, or one prompt only.
        """
        check_level(level)
        resampled = [self.metrics(reference, prompts) for prompts in draws(self.scores.shape[1])]
        names = [name for name in resampled[0] if name != IS_EXACT]
        low, high = bounds(np.array([[one[name] for name in names] for one in resampled]), level)
        return dict(zip(names, zip(low.tolist(), high.tolist(), strict=True), strict=True))

    # Which preference

    def choose(self, maximise: str, subject_to: Mapping[str, float], level: float = 0.95) -> Choice:
        """The preference with the best expected `maximise` for which every constraint holds at this level.

        Args:
            maximise: The objective to make as good as possible (as small, if it is a minimised one).
            subject_to: Objective → the worst value that is acceptable. The one-sided bound of the mean over prompts
                must be no worse.
            level: Confidence, by bootstrap over the prompts that were measured, of all bounds of an objective at once.

        Raises:
            ValueError: unknown objectives, one prompt only, or constraints that no preference meets; the message says
                the best value.
        """
        return choose(self._interpolation(level), maximise, subject_to)

    def nearest(self, target: Mapping[str, float], level: float = 0.95) -> Choice:
        """The preference whose expected values are nearest to `target`, objective → value.

        The distance is Euclidean in units of the normalisation, or else of each objective's range on the front.

        Raises:
            ValueError: unknown objectives, or none, or one prompt only.
        """
        unit = np.ptp(self.values, axis=0) if self.normalisation is None else self.normalisation[1]
        return nearest(self._interpolation(level), target, unit)

    def _interpolation(self, level: float) -> Interpolation:
        maximise: Any = self.maximise  # [m], whatever it was given as
        return Interpolation(self.objectives, self.preferences, self.scores, maximise, level)

    # Elsewhere

    def to_json(self, path: str | Path) -> None:
        """Write everything, arrays with 7 digits; the file appears whole or not at all."""
        write_front(Path(path), {f.name: getattr(self, f.name) for f in fields(self)})

    @classmethod
    def from_json(cls, path: str | Path) -> Front:
        """Read what `to_json` wrote.

        Raises:
            ValueError: the file is something else, or of a later version of this package.
        """
        return cls(**read_front(Path(path), [f.name for f in fields(cls)]))

    def to_dataframe(self) -> pd.DataFrame:
        """One row for every preference and prompt: weights as `weight of <objective>`, scores, side effects."""
        with needs("eval"):
            import pandas as pd

        K, P, _ = self.scores.shape
        k, p = (index.ravel() for index in np.indices((K, P)))
        return pd.DataFrame(
            {f"weight of {name}": self.preferences[k, i] for i, name in enumerate(self.objectives)}
            | {"prompt": p}
            | {name: self.scores[k, p, i] for i, name in enumerate(self.objectives)}
            | {name: array[k, p] for name, array in self.side_effects.items()}
        )


def double(preferences: Any) -> Array:
    """As float64; what is less precise is rounded, so that float32's 0.4 is not 0.4000000059604645."""
    short = getattr(getattr(preferences, "dtype", None), "itemsize", 8) < 8
    if hasattr(preferences, "detach"):  # a tensor
        preferences = preferences.detach().cpu().double()
    array = np.asarray(preferences, dtype=float)
    return array.round(7) if short else array


def _finite(name: str, value: Any, shape: tuple[int, ...]) -> Array:
    array = np.array(value, dtype=float)  # a copy: whoever goes on writing into theirs does not change a front
    if array.shape != shape:
        raise ValueError(f"`{name}` must have shape {shape}, but got {array.shape}.")
    if not np.isfinite(array).all():
        raise ValueError(f"`{name}` must hold finite numbers, but got {array[~np.isfinite(array)][0]}.")
    return array
