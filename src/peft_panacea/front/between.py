"""Between measured preferences: linear on a triangulation of them."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from ..extras import needs
from ..tuner.preferences import SUM_TOLERANCE

Array: TypeAlias = "np.ndarray"

CANDIDATES = 1001
"""Preferences that are looked at besides the measured ones."""


class Between:
    """How preferences are weighted means of measured ones.

    For two objectives of the next one on either side, for m of the m corners of a Delaunay cell. Where the entries of
    some do not sum to 1, as off the simplex they need not, nothing is known to lie between any.

    Args:
        preferences: The measured ones, [K, m].
    """

    def __init__(self, preferences: Array) -> None:
        self.preferences = preferences
        K, m = preferences.shape
        sum_to_1 = bool((np.abs(preferences.sum(axis=1) - 1) < SUM_TOLERANCE).all())
        self._line = m == 2 and K >= 2 and sum_to_1
        self._triangles = _triangles(preferences[:, :-1]) if 3 <= m <= K and sum_to_1 else None

    def candidates(self) -> tuple[Array, Array]:
        """Candidates [Q, m] in the hull of the measured ones, which come first, and their weights on these, [Q, K]."""
        preferences, measured = self.preferences, np.eye(len(self.preferences))
        if self._line:
            ends = preferences[:, 0].min(), preferences[:, 0].max()
            weights = np.concatenate([measured, self._hats(np.linspace(*ends, CANDIDATES))])
        elif self._triangles is not None:
            cells = self._triangles.simplices
            corners = preferences[:, :-1][cells]
            volumes = np.abs(np.linalg.det(corners[:, 1:] - corners[:, :1]))
            rng = np.random.default_rng(0)
            drawn = cells[rng.choice(len(cells), size=CANDIDATES, p=volumes / volumes.sum())]
            weights = np.zeros((CANDIDATES, len(preferences)))
            inside = rng.dirichlet(np.ones(preferences.shape[1]), size=CANDIDATES)  # uniform in the cell
            np.put_along_axis(weights, drawn, inside, axis=1)
            weights = np.concatenate([measured, weights])
        else:
            return preferences, measured
        return weights @ preferences, weights

    def weights(self, preference: Array) -> Array | None:
        """Of one preference, [m], on the measured ones, [K]; None if it does not lie between them."""
        same = np.abs(self.preferences - preference).max(axis=1) < 1e-6
        if same.any():
            return same / same.sum()
        if self._line:
            places = self.preferences[:, 0]
            inside = places.min() <= preference[0] <= places.max()
            return self._hats(preference[:1])[0] if inside else None
        if self._triangles is None:
            return None
        cell = int(self._triangles.find_simplex(preference[:-1], bruteforce=True, tol=1e-6))
        if cell < 0:
            return None
        transform = self._triangles.transform[cell]
        first = transform[:-1] @ (preference[:-1] - transform[-1])
        corners = np.clip([*first, 1 - first.sum()], 0, None)
        found = np.zeros(len(self.preferences))
        found[self._triangles.simplices[cell]] = corners / corners.sum()
        return found

    def _hats(self, positions: Array) -> Array:
        """[Q, K] for Q weights of the first of two objectives; repeated measurements share theirs."""
        places, which, count = np.unique(self.preferences[:, 0], return_inverse=True, return_counts=True)
        hats = np.stack([np.interp(positions, places, hat) for hat in np.eye(len(places))], axis=1)
        return hats[:, which] / count[which]


def _triangles(coordinates: Array) -> Any:
    """Of K points [K, m - 1]: the last entry of a preference follows from the others. None if all are on a face."""
    with needs("eval"):
        from scipy.spatial import Delaunay, QhullError

    try:
        return Delaunay(coordinates)
    except QhullError:
        return None
