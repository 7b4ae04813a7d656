"""Between measured preferences, a preference is a weighted mean of the nearest."""

import numpy as np
import pytest
from scipy.interpolate import LinearNDInterpolator

from peft_panacea.front.between import Between
from peft_panacea.simplex import simplex_grid


def grid(m, steps):
    return simplex_grid(m, steps).double().numpy().round(7)


@pytest.mark.parametrize(("m", "steps"), [(2, 7), (3, 4), (4, 3), (6, 2)])
def test_the_weights_give_the_preference_back(m, steps):
    preferences = grid(m, steps)
    between, rng = Between(preferences), np.random.default_rng(0)
    drawn = np.concatenate([rng.dirichlet(np.ones(m), 20), rng.dirichlet(np.full(m, 0.1), 20).round(3)])
    for preference in drawn / drawn.sum(axis=1, keepdims=True):
        weights = between.weights(preference)
        assert (weights >= 0).all()
        assert weights.sum() == pytest.approx(1)
        assert (weights > 0).sum() <= m
        np.testing.assert_allclose(weights @ preferences, preference, atol=1e-5)


def test_the_values_between_are_those_of_scipy():
    preferences, rng = grid(3, 4) ** 2, np.random.default_rng(1)  # no regular grid, so that cells are unique
    preferences /= preferences.sum(axis=1, keepdims=True)
    values = rng.normal(size=len(preferences))
    reference, between = LinearNDInterpolator(preferences[:, :2], values), Between(preferences)
    for preference in rng.dirichlet([3, 3, 3], 20):
        assert between.weights(preference) @ values == pytest.approx(reference(preference[None, :2])[0])


@pytest.mark.parametrize("m", [2, 3, 5])
def test_a_measured_preference_is_itself(m):
    preferences = grid(m, 2)
    for k, preference in enumerate(preferences):
        np.testing.assert_array_equal(Between(preferences).weights(preference), np.eye(len(preferences))[k])


def test_repeated_measurements_share():
    between = Between(np.array([[0, 1], [1, 0], [0, 1.0]]))
    np.testing.assert_allclose(between.weights(np.array([0.0, 1.0])), [0.5, 0, 0.5])
    np.testing.assert_allclose(between.weights(np.array([0.5, 0.5])), [0.25, 0.5, 0.25])


@pytest.mark.parametrize(
    ("measured", "preference"),
    [
        ([[0.2, 0.8], [0.6, 0.4]], [0.1, 0.9]),
        ([[0.5, 0.5]], [0.4, 0.6]),
        ([[0.6, 0.2, 0.2], [0.2, 0.6, 0.2], [0.2, 0.2, 0.6]], [0.8, 0.1, 0.1]),
        ([[0, 0.5, 0.5], [0, 1, 0], [0, 0, 1]], [0.2, 0.4, 0.4]),  # all on a face
        ([[1, 0, 0], [0, 1, 0]], [0.5, 0.5, 0]),  # fewer than objectives
    ],
)
def test_outside_nothing_is_known(measured, preference):
    assert Between(np.array(measured, dtype=float)).weights(np.array(preference)) is None


@pytest.mark.parametrize("m", [2, 3])
def test_of_free_weights_nothing_is_known_but_those_measured(m):
    free = np.stack(np.meshgrid(*[[0.5, 1.0]] * m), axis=-1).reshape(-1, m)
    candidates, weights = Between(free).candidates()
    assert np.array_equal(candidates, free)
    assert np.array_equal(weights, np.eye(2**m))
    assert Between(free).weights(np.full(m, 0.75)) is None
    assert Between(free).weights(free[1]).argmax() == 1


def test_weights_that_sum_to_1_may_leave_the_simplex():
    beyond = Between(np.array([[-0.5, 1.5], [0.5, 0.5], [1.5, -0.5]]))
    np.testing.assert_allclose(beyond.weights(np.array([1.0, 0.0])), [0, 0.5, 0.5])
