"""Preferences for training and evaluation: the grid on the simplex, and random points of it."""

from __future__ import annotations

import itertools
import math
import numbers
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Generator, Tensor

from .seeding import derive

CPU = torch.device("cpu")

Distribution = Literal["stratified", "uniform", "dirichlet"]

SMALLEST_CONCENTRATION = 1e-6
"""Small enough that nearly every Dirichlet draw is a vertex, large enough for float64 to hold its logarithms."""


def simplex_grid(m: int, n: int) -> Tensor:
    """Every preference whose entries are multiples of 1/n, the vertices among them.

    Args:
        m: Number of objectives, ≥ 1.
        n: Number of steps from one vertex to another, ≥ 1.

    Returns:
        [C(n + m - 1, m - 1), m], float32, rows in ascending lexicographic order. An entry is the float32 next to k/n,
        and the numerators k of a row sum to n exactly.

    Raises:
        ValueError: `m` or `n` is not an integer of at least 1.
    """
    _check_integer("m", m, minimum=1)
    _check_integer("n", n, minimum=1)
    # n stars and m - 1 bars in a row: the entries are the numbers of stars between the bars.
    bars = torch.tensor(list(itertools.combinations(range(n + m - 1), m - 1)), dtype=torch.long, device=CPU)
    ends = bars.new_tensor([-1, n + m - 1]).expand(len(bars), 2)
    stars = torch.cat([ends[:, :1], bars, ends[:, 1:]], dim=1).diff(dim=1) - 1
    return stars.to(torch.float32) / n


def uniform(n: int, m: int, generator: Generator | None = None) -> Tensor:
    """Independent draws from the uniform distribution on the simplex, which is Dirichlet(1, …, 1).

    Args:
        n: Number of draws, ≥ 1.
        m: Number of objectives, ≥ 1.
        generator: Of the CPU; torch's global one if None.

    Returns:
        [n, m], float32, entries ≥ 0, rows sum to 1. So do all samplers here.

    Raises:
        ValueError: `n` or `m` is not an integer of at least 1. So do all samplers here.
    """
    _check_sizes(n, m)
    return _from_cube(_random(n, m - 1, generator))


def stratified(n: int, m: int, generator: Generator | None = None) -> Tensor:
    """Draws of which each is uniform on the simplex, [n, m], and which together cover it evenly.

    They are a Latin hypercube that is mapped to the simplex. For two objectives, each n-th of [0, 1] holds one first
    entry. For any number, a mean over the rows has at most n / (n - 1) times the variance that it has over independent
    rows (Owen 1997), mostly much less.
    """
    _check_sizes(n, m)
    return _from_cube(_latin_hypercube(n, m - 1, generator))


def dirichlet(n: int, m: int, concentration: float, generator: Generator | None = None) -> Tensor:
    """Independent draws from Dirichlet(a, …, a), [n, m]; a = `concentration` < 1 prefers the border, > 1 the middle.

    Raises:
        ValueError: `concentration` is not a finite number of at least `SMALLEST_CONCENTRATION`.
    """
    _check_sizes(n, m)
    _check_concentration(concentration)
    return _dirichlet(torch.full((n, m), float(concentration), dtype=torch.float64, device=CPU), generator)


def boost_vertices(preferences: Tensor, probability: float, generator: Generator | None = None) -> Tensor:
    """Replace every row by a vertex with a given probability, each vertex equally often.

    The paper draws vertices with a higher probability than other preferences, without saying which.

    Args:
        preferences: [n, m]
        probability: From 0 to 1.
        generator: Of the CPU; torch's global one if None.

    Returns:
        [n, m], a new tensor.

    Raises:
        ValueError: `preferences` does not have shape [n, m], or `probability` is outside [0, 1].
    """
    if preferences.ndim != 2:
        raise ValueError(f"`preferences` must have shape (n, m), but got {tuple(preferences.shape)}.")
    _check_probability("probability", probability)
    n, m = preferences.shape
    return _replace(preferences, torch.randint(m, (n,), generator=generator, device=CPU), probability, generator)


@dataclass(frozen=True)
class PreferenceSampler:
    """Preferences for every step of a training, as a pure function of (seed, step, micro_step, rank).

    Nothing is remembered between calls and torch's global generator is left alone, so a resumed run draws what an
    uninterrupted one does. Other keys, and the two ways to draw, give independent draws.

    Args:
        objectives: Number of objectives m, ≥ 1.
        distribution: `"stratified"`: uniform, spread evenly over the rows of one call. `"uniform"`: the same with
            independent rows. `"dirichlet"`: independent rows of Dirichlet(concentration, …).
        concentration: Of the Dirichlet distribution, ≥ `SMALLEST_CONCENTRATION`; 1 for the others.
        vertex_probability: How often a row becomes a vertex instead, see `boost_vertices`; from 0 to 1.
        seed: ≥ 0.

    Raises:
        ValueError: one of them is something else.
    """

    objectives: int
    distribution: Distribution = "stratified"
    concentration: float = 1.0
    vertex_probability: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        _check_integer("objectives", self.objectives, minimum=1)
        if self.distribution not in get_args(Distribution):
            raise ValueError(
                f"`distribution` must be one of {', '.join(get_args(Distribution))}, but got {self.distribution!r}."
            )
        _check_concentration(self.concentration)
        if self.distribution != "dirichlet" and self.concentration != 1:
            raise ValueError(
                f"`concentration` must be 1 unless `distribution` is 'dirichlet', but got {self.concentration!r}."
            )
        _check_probability("vertex_probability", self.vertex_probability)
        _check_integer("seed", self.seed, minimum=0)

    def __call__(self, n: int, *, step: int = 0, micro_step: int = 0, rank: int = 0) -> Tensor:
        """Draw n preferences, [n, m], float32 on the CPU. The numbers of the key must be integers ≥ 0."""
        generator = self._generator("any", step, micro_step, rank)
        if self.distribution == "dirichlet":
            preferences = dirichlet(n, self.objectives, self.concentration, generator)
        elif self.distribution == "uniform":
            preferences = uniform(n, self.objectives, generator)
        else:
            preferences = stratified(n, self.objectives, generator)
        return boost_vertices(preferences, self.vertex_probability, generator)

    def given(self, objective: Tensor, *, step: int = 0, micro_step: int = 0, rank: int = 0) -> Tensor:
        """Draw a preference for rows that each belong to one objective: p with density ∝ π(p) · p[objective].

        With π what `__call__` draws from and πᵢ ∝ π(p) · pᵢ, linear scalarisation is

            E_π[Σᵢ pᵢ Lᵢ(p)] = Σᵢ E_π[pᵢ] · E_πᵢ[Lᵢ(p)],

        and every E_π[pᵢ] is 1/m, because π treats the objectives alike. So the loss of a row of objective i, taken at
        p ~ πᵢ, needs no weight where all objectives have equally many rows. If π is Dirichlet(a, …, a), πᵢ is the same
        with a + 1 in place i; uniform is a = 1. If π is a vertex with probability q, πᵢ is vertex i with that
        probability, and else biased as without vertices. Stratified rows are spread evenly among those of the same
        objective.

        Args:
            objective: [n], integers from 0 to m - 1.
            step: ≥ 0.
            micro_step: ≥ 0.
            rank: ≥ 0.

        Returns:
            [n, m], float32 on the CPU.

        Raises:
            TypeError: `objective` is not a tensor of integers.
            ValueError: it has another shape or other numbers, or the key is not made of integers ≥ 0.
        """
        m = self.objectives
        objective = _checked_objective(objective, m)
        generator = self._generator("given", step, micro_step, rank)
        n = len(objective)
        if self.distribution == "dirichlet":
            chosen = torch.nn.functional.one_hot(objective, m)
            preferences = _dirichlet(chosen.to(torch.float64) + self.concentration, generator)
        else:
            points = _random(n, m - 1, generator)
            if self.distribution == "stratified":
                for i in range(m):
                    rows = objective == i
                    points[rows] = _latin_hypercube(int(rows.sum()), m - 1, generator)
            places = torch.arange(m, device=CPU).repeat(n, 1)  # the biased entry comes last: exchange it with the own
            places.scatter_(1, objective[:, None], m - 1)
            places[:, m - 1] = objective
            preferences = _from_cube(points, last=2).gather(1, places)
        return _replace(preferences, objective, self.vertex_probability, generator)

    def _generator(self, *key: str | int) -> Generator:
        for name, number in zip(("step", "micro_step", "rank"), key[1:], strict=True):
            _check_integer(name, number, minimum=0)
        return torch.Generator(CPU).manual_seed(derive(self.seed, *key))


def _random(n: int, d: int, generator: Generator | None) -> Tensor:
    return torch.rand(n, d, generator=generator, dtype=torch.float64, device=CPU)


def _latin_hypercube(n: int, d: int, generator: Generator | None) -> Tensor:
    """Points of the unit cube, [n, d]: each n-th of each axis holds one, somewhere in it. Rows are in random order."""
    return (_random(n, d, generator).argsort(dim=0) + _random(n, d, generator)) / n


def _from_cube(points: Tensor, last: int = 1) -> Tensor:
    """Map uniform points of the unit cube, [n, m - 1], to Dirichlet(1, …, 1, `last`), [n, m], smoothly.

    Break a stick: entry j takes the share 1 - u^(1/b) of what is left, which is Beta(1, b), where b is the sum of the
    parameters after j. The last entry takes the rest.
    """
    n, d = points.shape
    after = torch.arange(d + last - 1, last - 1, -1, dtype=points.dtype, device=CPU)
    left = (points ** (1 / after)).cumprod(dim=1)
    left = torch.cat([left.new_ones(n, 1), left, left.new_zeros(n, 1)], dim=1)
    return (left[:, :-1] - left[:, 1:]).to(torch.float32)


def _dirichlet(concentration: Tensor, generator: Generator | None) -> Tensor:
    """One draw from Dirichlet(a₁, …, a_m) for every row a of `concentration`, [n, m] in float64. Returns [n, m].

    Normalised Gamma(a) variates, as Gamma(a + 1) · u^(1/a) in logarithms, because for small a all of them would be 0.
    """
    # torch.distributions draws from the same function, but only with the global generator.
    log_gamma = torch._standard_gamma(concentration + 1, generator=generator).log()
    n, m = concentration.shape
    log_u = (1 - _random(n, m, generator)).log()
    return (log_gamma + log_u / concentration).softmax(dim=1).to(torch.float32)


def _replace(preferences: Tensor, objective: Tensor, probability: float, generator: Generator | None) -> Tensor:
    """Replace every row of [n, m] by the vertex of its `objective`, [n], with the given probability."""
    vertices = torch.nn.functional.one_hot(objective, preferences.shape[1]).to(preferences.dtype)
    hit = _random(len(objective), 1, generator) < probability
    return torch.where(hit, vertices, preferences)


def _checked_objective(objective: Tensor, m: int) -> Tensor:
    if not isinstance(objective, Tensor) or objective.dtype not in (torch.int64, torch.int32, torch.int16, torch.int8):
        found = f"one of {objective.dtype}" if isinstance(objective, Tensor) else type(objective).__name__
        raise TypeError(f"`objective` must be a tensor of integers, but got {found}.")
    if objective.ndim != 1 or len(objective) == 0:
        raise ValueError(f"`objective` must have shape (n,), n ≥ 1, but got {tuple(objective.shape)}.")
    objective = objective.detach().to("cpu", torch.long)
    low, high = int(objective.min()), int(objective.max())
    if low < 0 or high >= m:
        raise ValueError(f"`objective` must hold integers from 0 to {m - 1}, but got {low if low < 0 else high}.")
    return objective


def _check_sizes(n: int, m: int) -> None:
    _check_integer("n", n, minimum=1)
    _check_integer("m", m, minimum=1)


def _check_integer(name: str, value: Any, minimum: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ValueError(f"`{name}` must be an integer of at least {minimum}, but got {value!r}.")


def _check_concentration(value: Any) -> None:
    if not _is_number(value) or not SMALLEST_CONCENTRATION <= value < math.inf:
        raise ValueError(
            f"`concentration` must be a finite number of at least {SMALLEST_CONCENTRATION}, but got {value!r}."
        )


def _check_probability(name: str, value: Any) -> None:
    if not _is_number(value) or not 0 <= value <= 1:
        raise ValueError(f"`{name}` must be a number from 0 to 1, but got {value!r}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
