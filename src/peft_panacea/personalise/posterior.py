"""Sampling the posterior of a preference and a strength from answers; knows only NumPy.

The model is Bradley and Terry's (1952) with a linear reward: a pair with margins d, [m], is answered in favour of its
first answer with probability σ(κ Σᵢ pᵢ dᵢ). A priori p is uniform on the part of the simplex that it is kept to, and
log κ normal, see `SPREAD`.

The sampler is sequential Monte Carlo (Del Moral, Doucet and Jasra 2006): particles of what is known so far are weighed
by a power of the likelihood of what is new, drawn anew and moved, until the power is 1. A move is slice sampling (Neal
2003, section 4) along the difference of two other particles (as in ter Braak 2006), cut at the simplex: it has no step
size to choose, stays where the preference is kept to, and does not stop at an edge or a corner.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np

Array: TypeAlias = "np.ndarray"

PARTICLES = 2000
SPREAD = 1.5
"""Standard deviation of log κ a priori. Around 1 / scale, one standard deviation either way reaches from persons who
prefer the better answer of a typical pair in 55 % of cases to those who do so in 99 %."""
WINDOW = 3.0
"""Of slice sampling, in differences of two particles: about as long as the posterior is wide."""


class Particles(NamedTuple):
    """S draws of what is known of a person.

    Attributes:
        preferences: [S, m].
        log_strengths: [S], log κ.
    """

    preferences: Array
    log_strengths: Array


def draw_prior(lows: Array, highs: Array, scale: float, rng: np.random.Generator) -> Particles:
    """Before any answer: p uniform on the simplex between these limits, [m] each, by Gibbs sampling.

    Two entries at a time share what they have together anew, evenly among all ways that the limits leave.
    """
    m, rows = len(lows), np.arange(PARTICLES)
    room = highs.sum() - lows.sum()
    share = (1 - lows.sum()) / room if room > 0 else 0.0
    p = np.tile(lows + share * (highs - lows), (PARTICLES, 1))
    for _ in range(50 * m):  # m log m mix the simplex, up to a factor (Smith 2014)
        i = rng.integers(m, size=PARTICLES)
        j = (i + rng.integers(1, m, size=PARTICLES)) % m
        both = p[rows, i] + p[rows, j]
        least, most = np.maximum(lows[i], both - highs[j]), np.minimum(highs[i], both - lows[j])
        p[rows, i] = least + (most - least).clip(0) * rng.random(PARTICLES)
        p[rows, j] = both - p[rows, i]
    return Particles(p, SPREAD * rng.standard_normal(PARTICLES) - np.log(scale))


def learn(
    known: Particles, old: Array, new: Array, lows: Array, highs: Array, scale: float, rng: np.random.Generator
) -> Particles:
    """From draws that know the answers `old` to draws that know `new` as well, margins [N, m] of chosen - rejected."""
    margins = np.concatenate([new, old])
    power = 0.0
    while power < 1:
        gain = log_likelihood(known, new)
        step = _step(gain, 1 - power)
        weights = np.exp(step * (gain - gain.max()))
        chosen = _systematic(weights / weights.sum(), rng)
        known = Particles(known.preferences[chosen], known.log_strengths[chosen])
        power = power + step if step < 1 - power else 1.0
        powers = np.concatenate([np.full(len(new), power), np.ones(len(old))])
        for _ in range(len(lows) + 2):
            known = _move(known, margins, powers, lows, highs, scale, rng)
    return known


def log_likelihood(known: Particles, margins: Array) -> Array:
    """Of the answers, [S], nats."""
    return _log_sigmoid(np.exp(known.log_strengths)[:, None] * (known.preferences @ margins.T)).sum(1)


def _step(gain: Array, left: float) -> float:
    """The greatest power that leaves as many effective particles as half of them, at most what is left."""

    def effective(step: float) -> float:
        weights = np.exp(step * (gain - gain.max()))
        return float(weights.sum() ** 2 / (weights**2).sum())

    if effective(left) >= len(gain) / 2:
        return left
    low, high = 0.0, left
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if effective(middle) >= len(gain) / 2 else (low, middle)
    return low


def _systematic(weights: Array, rng: np.random.Generator) -> Array:
    """Indices [S], each as often as its weight says, up to one."""
    places = (np.arange(len(weights)) + rng.random()) / len(weights)
    return np.searchsorted(weights.cumsum(), places).clip(max=len(weights) - 1)


def _move(
    known: Particles, margins: Array, powers: Array, lows: Array, highs: Array, scale: float, rng: np.random.Generator
) -> Particles:
    """One slice along a line for each particle; leaves the posterior with these powers of the likelihood as it is."""
    p, k = known
    S = len(k)
    one, other = rng.permutation(S), rng.permutation(S)
    dp, dk = p[one] - p[other], k[one] - k[other]
    dp[:, np.argmax(highs - lows)] -= dp.sum(1)  # rounding would grow with every move
    at, along = p @ margins.T, dp @ margins.T

    def density(rows: Array, t: Array) -> Array:
        log_k = k[rows] + t * dk[rows]
        logits = np.exp(log_k)[:, None] * (at[rows] + t[:, None] * along[rows])
        return _log_sigmoid(logits) @ powers - ((log_k + np.log(scale)) / SPREAD) ** 2 / 2

    left = -WINDOW * rng.random(S)
    right = left + WINDOW
    with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0 where an entry does not change
        ends = np.sort(np.stack([(lows - p) / dp, (highs - p) / dp]), axis=0)
    left = np.maximum(left, np.where(dp == 0, -np.inf, ends[0]).max(1).clip(max=0))
    right = np.minimum(right, np.where(dp == 0, np.inf, ends[1]).min(1).clip(min=0))

    rows = np.arange(S)
    height = density(rows, np.zeros(S)) + np.log(1 - rng.random(S))
    found = np.zeros(S)
    while len(rows):
        t = left[rows] + (right[rows] - left[rows]) * rng.random(len(rows))
        outside = density(rows, t) < height[rows]
        found[rows[~outside]] = t[~outside]
        rows, t = rows[outside], t[outside]
        left[rows], right[rows] = np.where(t < 0, t, left[rows]), np.where(t < 0, right[rows], t)
    return Particles((p + found[:, None] * dp).clip(lows, highs), k + found * dk)


def _log_sigmoid(x: Array) -> Array:
    return np.minimum(x, 0) - np.log(1 + np.exp(-np.abs(x)))
