"""What a measured front says about the preferences of a visitor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..front import Choice, Front
from ..front.between import Between
from ..plots import plot_positions


class OnFront:
    """A front that is asked often.

    Args:
        front: Over the adapter's objectives.
        objectives: Those of the adapter.

    Raises:
        ValueError: the front is over others.
    """

    def __init__(self, front: Front, objectives: Sequence[str]) -> None:
        if list(front.objectives) != list(objectives):
            raise ValueError(f"`front` must be over {list(objectives)}, but got one over {list(front.objectives)}.")
        self.front, self._between = front, Between(front.preferences)

    def expected(self, preference: Sequence[float]) -> np.ndarray | None:
        """The values at a preference, [m], between the measured ones; None where nothing was measured around it."""
        weights = self._between.weights(np.asarray(preference, dtype=float))
        return None if weights is None else weights @ self.front.values

    def drawn(self, preferences: Mapping[str, Sequence[float]]) -> tuple[Any, str]:
        """The front with these preferences on it, by their labels, and the same in words."""
        found = {label: self.expected(preference) for label, preference in preferences.items()}
        figure = plot_positions(self.front, {label: x for label, x in found.items() if x is not None})
        words = [f"expected at **{label}**: {self._in_words(values)}" for label, values in found.items()]
        return figure, "  \n".join(words)

    def choose(self, maximise: str, limits: Sequence[str]) -> Choice:
        """`Front.choose`, with what was typed for each objective, a limit or nothing.

        Raises:
            ValueError: a limit that is no number, or what `Front.choose` refuses.
        """
        typed = {name: limit for name, limit in zip(self.front.objectives, limits, strict=True) if limit.strip()}
        try:
            subject_to = {name: float(limit) for name, limit in typed.items()}
        except ValueError:
            raise ValueError(f"The limits must be numbers, or nothing, but got {list(typed.values())}.") from None
        try:
            return self.front.choose(maximise, subject_to)
        except ValueError as error:
            raise ValueError(str(error).replace("`subject_to`", "What is wished for", 1)) from None

    def _in_words(self, values: np.ndarray | None) -> str:
        if values is None:
            return "nothing was measured around this preference"
        return ", ".join(f"{name} {x:.3g}" for name, x in zip(self.front.objectives, values.tolist(), strict=True))
