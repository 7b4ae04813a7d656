"""Draws of the posterior have the moments that quadrature finds, and intervals hold what they say they hold."""

import math
from itertools import pairwise

import numpy as np
import pytest

from peft_panacea.personalise import fit_margins
from peft_panacea.personalise.posterior import PARTICLES, SPREAD
from peft_panacea.simplex import simplex_grid

SIGMAS = 5  # a mean of independent numbers is further off once in two million
NAMES = ["a", "b", "c", "d"]


def answered(preference, strength, n, seed=0):
    """Margins, chosen - rejected, of a person's answers to n random pairs of correlated objectives."""
    rng, m = np.random.default_rng(seed), len(preference)
    margins = rng.normal(size=(n, m)) @ (np.eye(m) + 0.5) * np.arange(1, m + 1)
    first = rng.random(n) < 1 / (1 + np.exp(-strength * margins @ preference))
    return np.where(first[:, None], margins, -margins)


def quadrature(margins, scale, bounds, steps=60):
    """Mean and standard deviation of (p, log κ) by a sum over a fine grid, [m + 1] each."""
    m = margins.shape[1]
    p = simplex_grid(m, steps if m > 2 else 10 * steps).double().numpy()
    limits = [bounds.get(name, (0, 1)) for name in NAMES[:m]]
    p = p[np.all([(low - 1e-9 <= x) & (x <= high + 1e-9) for x, (low, high) in zip(p.T, limits, strict=True)], axis=0)]
    at_edges = np.array(
        [[x < low + 1e-6 or x > high - 1e-6 for x, (low, high) in zip(q, limits, strict=True)] for q in p]
    )
    area = 0.5 ** at_edges.sum(1).clip(max=m - 1)  # the cell of a point on the border is cut
    z = np.linspace(-5, 5, 121) * SPREAD
    logits = np.exp(z)[:, None, None] / scale * (p @ margins.T)
    log_density = -np.logaddexp(0, -logits).sum(2) - (z[:, None] / SPREAD) ** 2 / 2
    mass = np.exp(log_density - log_density.max()) * area
    mass /= mass.sum()
    points = np.column_stack([np.tile(p, (len(z), 1)), np.repeat(z - math.log(scale), len(p))])
    mean = mass.ravel() @ points
    return mean, np.sqrt(mass.ravel() @ (points - mean) ** 2)


@pytest.mark.parametrize("pieces", [[0, 30], [0, 5, 6, 30], [0]], ids=["at once", "in pieces", "nothing"])
@pytest.mark.parametrize(
    ("preference", "bounds"),
    [
        ([0.7, 0.3], {}),
        ([0.0, 1.0], {}),
        ([0.05, 0.95], {"a": (0.2, 0.6)}),
        ([0.2, 0.0, 0.8], {}),
        ([0.1, 0.1, 0.8], {"c": (0.1, 0.5)}),
    ],
)
def test_moments_are_those_of_quadrature(preference, bounds, pieces):
    m, scale = len(preference), 2.0
    margins = answered(preference, 0.6, pieces[-1])
    found = fit_margins(margins[: 0 if pieces == [0] else pieces[1]], NAMES[:m], bounds=bounds, scale=scale)
    for start, stop in pairwise(pieces[1:]):
        found = found.update(margins[start:stop])
    assert found.margins.tolist() == margins.tolist()
    mean, std = quadrature(margins, scale, bounds)
    draws = np.column_stack([found.preferences, np.log(found.strengths)])
    error = SIGMAS * std / math.sqrt(PARTICLES / 2)  # as if every other draw were a copy
    np.testing.assert_array_less(abs(draws.mean(0) - mean), error + 0.003)  # and the grid's own error
    np.testing.assert_array_less(abs(draws.std(0) - std), error + 0.003)


def test_before_any_answer_the_preference_is_uniform_within_its_bounds():
    """Against draws from the whole simplex of which those outside are thrown away."""
    bounds = {"a": (0.1, 0.3), "d": (0.0, 0.4)}
    found = fit_margins(np.empty((0, 4)), NAMES, bounds=bounds, scale=1.0).preferences
    expected = np.random.default_rng(0).dirichlet(np.ones(4), size=60_000)
    expected = expected[(expected[:, 0] >= 0.1) & (expected[:, 0] <= 0.3) & (expected[:, 3] <= 0.4)]
    for moment in (1, 2):
        error = (expected**moment).std(0) * math.sqrt(1 / len(found) + 1 / len(expected))
        np.testing.assert_array_less(abs((found**moment).mean(0) - (expected**moment).mean(0)), SIGMAS * error)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-12)


def test_intervals_hold_the_preference_as_often_as_they_say():
    """Persons are drawn a priori, and answer; the number of intervals that hold is then binomial."""
    rng, persons, level = np.random.default_rng(1), 60, 0.8
    prior = fit_margins(np.empty((0, 3)), NAMES[:3], scale=1.0)
    held = np.zeros(3)
    for person in range(persons):
        preference, strength = rng.dirichlet(np.ones(3)), math.exp(SPREAD * rng.normal())
        low, high = prior.update(answered(preference, strength, 12, seed=person)).interval(level).T
        held += (low <= preference) & (preference <= high)
    np.testing.assert_array_less(abs(held - persons * level), 3.5 * math.sqrt(persons * level * (1 - level)))


def test_what_stands_still_stays():
    """An objective with one allowed weight has it, also while the others move."""
    found = fit_margins(answered([0.5, 0.2, 0.3], 1.0, 20), NAMES[:3], bounds={"b": (0.2, 0.2)})
    np.testing.assert_allclose(found.preferences[:, 1], 0.2, atol=1e-12)
    assert found.preferences[:, 0].std() > 0


def test_ten_objectives():
    """Against draws a priori that are weighed by the likelihood, enough of them for so few answers."""
    rng, n = np.random.default_rng(0), 200_000
    names, margins = [str(i) for i in range(10)], rng.normal(size=(6, 10)) + 5 * np.eye(10)[3]
    found = fit_margins(margins, names, scale=4.0)
    draws, log_strengths = rng.dirichlet(np.ones(10), size=n), SPREAD * rng.normal(size=n) - math.log(4)
    log_likelihood = -np.logaddexp(0, -np.exp(log_strengths)[:, None] * (draws @ margins.T)).sum(1)
    mass = np.exp(log_likelihood) / np.exp(log_likelihood).sum()
    effective = 1 / (mass**2).sum()
    mean = mass @ draws
    std = np.sqrt(mass @ (draws - mean) ** 2)
    assert mean[3] > 0.12, "the answers say something"
    np.testing.assert_array_less(abs(found.preference - mean), SIGMAS * std * math.sqrt(2 / PARTICLES + 1 / effective))


def test_answers_one_by_one_are_all_of_them():
    """Rounding is not carried from one to the next."""
    margins = answered([0.3, 0.55, 0.15], 0.6, 60)
    at_once = fit_margins(margins, NAMES[:3], scale=2.0)
    found = fit_margins(margins[:1], NAMES[:3], scale=2.0)
    for one in margins[1:]:
        found = found.update(one[None])
    assert abs(found.preferences.sum(1) - 1).max() < 1e-12
    spread = at_once.preferences.std(0) / math.sqrt(PARTICLES / 10)  # draws of one particle's line are correlated
    assert (abs(found.preferences.mean(0) - at_once.preferences.mean(0)) < SIGMAS * spread).all()
