# SPDX-License-Identifier: Apache-2.0
"""How a fit moves with its data, and the errors that follow, where the curve is no logistic one."""

import numpy as np
import pytest

from noisystore.runtime.midpoint_curve import crossing, decreasing, even_weights, logistic, solve
from noisystore.runtime.midpoint_interval import Cells, Errors, standard_errors

pytestmark = pytest.mark.filterwarnings("error")
CLEAN, CHANCE = 0.85, 0.1
X = np.arange(-8.0, -3.0, 0.25)
CURVES = {
    "logistic": logistic(X, -5.4, 0.3, CLEAN, CHANCE),
    "gompertz": CHANCE + (CLEAN - CHANCE) * np.exp(-(10**X) / 3e-6),
    "two steps": (logistic(X, -6.3, 0.15, CLEAN, CHANCE) + logistic(X, -5.0, 0.2, CLEAN, CHANCE))
    / 2,
}


def fitted(accuracy, clean=CLEAN, x=X):
    start = crossing(x, decreasing(accuracy, np.ones(len(x))), (clean + CHANCE) / 2)
    return solve(x, accuracy, even_weights(x), clean, CHANCE, start)


def parameters(*arguments):
    solution = fitted(*arguments)
    return np.array([solution.mu, solution.sigma])


@pytest.mark.parametrize("name", CURVES)
def test_influence_is_the_derivative(name):
    accuracy, step = CURVES[name], 1e-5
    solution = fitted(accuracy)
    for i in range(len(X)):
        moved = np.eye(len(X))[i] * step
        slope = (parameters(accuracy + moved) - parameters(accuracy - moved)) / (2 * step)
        np.testing.assert_allclose(solution.influence[:, i], slope, rtol=2e-3, atol=1e-4)
    up, down = parameters(accuracy, CLEAN + step), parameters(accuracy, CLEAN - step)
    np.testing.assert_allclose(solution.clean_influence, (up - down) / (2 * step), rtol=2e-3)


def test_influence_of_uneven_rates():
    """The weights of rates whose neighbours are near are part of the equations."""
    x = np.unique(np.concatenate([X, np.arange(-5.9, -5.6, 0.05)]))
    accuracy = CHANCE + (CLEAN - CHANCE) * np.exp(-(10**x) / 3e-6)
    solution = fitted(accuracy, x=x)
    for i in (5, 8, 10, 12, 15):
        moved = np.eye(len(x))[i] * 1e-5
        both = (fitted(accuracy + side * moved, x=x) for side in (1, -1))
        up, down = ((s.mu, s.sigma) for s in both)
        slope = np.subtract(up, down) / 2e-5
        np.testing.assert_allclose(solution.influence[:, i], slope, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["logistic", "gompertz"])
def test_standard_errors_are_those_of_monte_carlo(name):
    random = np.random.default_rng(2)
    images, repetitions = 2000, 2500
    counts = random.binomial(images, CURVES[name], (repetitions, len(X)))
    drawn = np.cov(np.transpose([parameters(count / images) for count in counts]))
    spread = np.sqrt(np.diag(drawn))
    solution = fitted(CURVES[name])
    every = np.full(len(X), float(images))
    cells = Cells(10**X, np.arange(len(X)), CURVES[name] * images, every)
    errors = standard_errors(cells, solution, independent=True)
    np.testing.assert_allclose(errors.error, spread, rtol=0.035)  # itself known to 1.4%
    # Of a correlation, 4 standard errors are 0.08.
    together = errors.covariance[0, 1] / np.prod(errors.error)
    assert together == pytest.approx(drawn[0, 1] / np.prod(spread), abs=0.08)
    assert errors.dispersion == 1
    assert errors.degrees == np.inf


def test_the_error_of_the_clean_accuracy_adds_up():
    random = np.random.default_rng(12)
    variance, repetitions = 0.02**2, 1000
    clean = CLEAN + np.sqrt(variance) * random.standard_normal(repetitions)
    accuracy = CURVES["gompertz"]
    spread = np.std([parameters(accuracy, value) for value in clean], axis=0, ddof=1)
    none = Errors(np.array([[0.03**2, 5e-4], [5e-4, 0.04**2]]), 10.0, 1.5)
    both = none.with_clean(fitted(accuracy), variance)
    np.testing.assert_allclose(both.error**2 - none.error**2, spread**2, rtol=0.12)
    # All of this error has one cause: it makes the two move together.
    together = np.abs(both.covariance - none.covariance)[0, 1]
    assert together == pytest.approx(np.prod(spread), rel=0.12)
    assert both.degrees == pytest.approx(10 * (both.error[0] / 0.03) ** 4)
    assert both.dispersion == 1.5
    assert np.all(both.half_width(0.95) > 1.96 * both.error)
    sure = none.with_clean(fitted(accuracy), 0.0)
    np.testing.assert_array_equal(sure.error, none.error)
    assert sure.degrees == 10


def test_trials_that_share_flips_have_larger_errors():
    """20 images that are right or wrong together count as one."""
    random = np.random.default_rng(13)
    trials = np.array([20.0] * 100)
    rate, at = 10**X, np.repeat(np.arange(len(X)), 100)
    right = random.random(len(at)) < CURVES["logistic"][at]
    cells = Cells(rate, at, right * 20.0, np.tile(trials, len(X)))
    solution = fitted(cells.accuracy)
    shared = standard_errors(cells, solution)
    alone = standard_errors(cells, solution, independent=True)
    np.testing.assert_allclose(shared.error / alone.error, np.sqrt(20), rtol=0.15)
    assert shared.dispersion == pytest.approx(20, rel=0.3)
    assert shared.degrees < 2000
