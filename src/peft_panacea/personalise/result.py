"""What is known of one person's preference, and what to ask next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from ..seeding import derive
from .posterior import Particles, learn

Array: TypeAlias = "np.ndarray"


@dataclass(frozen=True, eq=False)
class FittedPreference:
    """The posterior of a preference and of how decided the person is; made by `fit_preference` and `fit_margins`.

    Margins are those of `peft_panacea.personalise.margins`.

    Attributes:
        objectives: The m names.
        margins: [N, m], of the answers so far, chosen - rejected, nats.
        scale: What counts as a typical margin, nats. A priori the strength is around 1 / scale.
        limits: [2, m], what the preference is kept to.
        preferences: [S, m], draws of the preference.
        strengths: [S], draws of κ > 0, per nat: the pair is answered as chosen with probability σ(κ Σᵢ pᵢ dᵢ).
        seed: Of all draws.
    """

    objectives: tuple[str, ...]
    margins: Array
    scale: float
    limits: Array
    preferences: Array
    strengths: Array
    seed: int

    @property
    def preference(self) -> Array:
        """The posterior mean, [m], which `set_preference` takes."""
        return self.preferences.mean(axis=0)

    @property
    def strength(self) -> float:
        """The posterior median of κ, per nat; the β of DPO is of this kind."""
        return float(np.median(self.strengths))

    def interval(self, level: float = 0.9) -> Array:
        """For each objective, the lower and upper bound of its weight, [m, 2]; as much is left out below as above.

        Raises:
            ValueError: a level that is not between 0 and 1.
        """
        if not 0 < level < 1:
            raise ValueError(f"`level` must be between 0 and 1, but got {level}.")
        return np.quantile(self.preferences, [(1 - level) / 2, (1 + level) / 2], axis=0).T

    def probability(self, margins: Any) -> Array:
        """That the person prefers the first answer of each of n pairs, [n], of their margins, first - second, [n, m].

        Raises:
            ValueError: margins of another shape, or that are not finite.
        """
        return self._each(margins).mean(axis=0)

    def information(self, margins: Any) -> Array:
        """How much the answer to each of n pairs would teach about preference and strength, [n], nats, 0 to log 2.

        The mutual information of the answer and the two: entropy of the expected answer - expected entropy (Lindley
        1956; BALD of Houlsby et al. 2011).

        Raises:
            ValueError: margins of another shape, or that are not finite.
        """
        each = self._each(margins)
        return (_entropy(each.mean(axis=0)) - _entropy(each).mean(axis=0)).clip(min=0)

    def ask(self, margins: Any) -> Array:
        """The pairs in the order in which they are worth asking, indices [n], the most informative first.

        Raises:
            ValueError: margins of another shape, or that are not finite.
        """
        return np.argsort(-self.information(margins), kind="stable")

    def update(self, margins: Any) -> FittedPreference:
        """What is known after n more answers, of their margins, chosen - rejected, [n, m].

        Raises:
            ValueError: margins of another shape, or that are not finite.
        """
        new = checked_margins(margins, self.objectives)
        rng = np.random.default_rng(derive(self.seed, "answers", len(self.margins)))
        lows, highs = self.limits
        known = Particles(self.preferences, np.log(self.strengths))
        known = learn(known, self.margins, new, lows, highs, self.scale, rng)
        return replace(
            self,
            margins=np.concatenate([self.margins, new]),
            preferences=known.preferences,
            strengths=np.exp(known.log_strengths),
        )

    def __str__(self) -> str:
        """The weights with their 90 % intervals, and how decided the person is, for people."""
        width = max(map(len, self.objectives))
        rows = zip(self.objectives, self.preference, self.interval(), strict=True)
        lines = [f"  {name:{width}}  {mean:.2f} [{low:.2f}, {high:.2f}]" for name, mean, (low, high) in rows]
        sure = 1 / (1 + np.exp(-self.strength * self.scale))
        return "\n".join([
            f"  Preference after {len(self.margins)} answers, 90 % intervals in brackets:",
            *lines,
            f"  A margin of {self.scale:.3g} nats decides {sure:.0%} of the answers.",
        ])  # fmt: skip

    def __repr__(self) -> str:
        return f"<{type(self).__name__}\n{self}>"

    def _each(self, margins: Any) -> Array:
        """The probability of the first answer under every draw, [S, n]."""
        found = checked_margins(margins, self.objectives)
        return 1 / (1 + np.exp(-(self.strengths[:, None] * (self.preferences @ found.T)).clip(-700, 700)))


def checked_margins(margins: Any, objectives: Sequence[str]) -> Array:
    """[n, m], float64, a copy.

    Raises:
        ValueError: another shape, or numbers that are not finite.
    """
    found = np.array(margins, dtype=float)
    if found.ndim != 2 or found.shape[1] != len(objectives):
        raise ValueError(f"`margins` must have shape (n, {len(objectives)}), but got {found.shape}.")
    if not np.isfinite(found).all():
        raise ValueError(f"`margins` must be finite, but row {np.argmin(np.isfinite(found).all(1))} is not.")
    return found


def _entropy(probability: Array) -> Array:
    """Of a yes or no, nats."""
    q = probability.clip(1e-300, 1)
    r = (1 - probability).clip(1e-300, 1)
    return -(q * np.log(q) + r * np.log(r))
