# SPDX-License-Identifier: Apache-2.0
"""The band of the fitted curve: its formula, its limits, and how often it holds the true curve."""

import json
from dataclasses import replace

import numpy as np
import pytest
from test_midpoint import (
    CHANCE,
    CLEAN,
    GRID,
    SITUATIONS,
    curve,
    exact,
    fit,
    images_and_noise,
    simulate,
)

from noisystore.ortops.errors import InputError
from noisystore.runtime.midpoint import Fit, Points
from noisystore.runtime.midpoint_curve import even_weights, logistic, solve
from noisystore.runtime.midpoint_fit import to_axis
from noisystore.runtime.midpoint_interval import places_within

pytestmark = pytest.mark.filterwarnings("error")
#: What is left of the drop where coverage is looked at.
LEFT = np.array([0.98, 0.9, 0.7, 0.5, 0.3, 0.1, 0.02])
PLACES = np.log(1 / LEFT - 1)


@pytest.mark.parametrize("axis", ["log10", "linear"])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.9999])
def test_half_way_the_band_is_as_wide_as_the_interval(axis, confidence):
    result = fit(simulate(np.random.default_rng(1), -5.0, 0.3), axis=axis, confidence=confidence)
    (low, _), (_, high) = result.band(result.interval).T
    np.testing.assert_allclose([low, high], (CLEAN + CHANCE) / 2, rtol=1e-9)


@pytest.mark.parametrize("error", [0.0, 0.01, 0.3, 0.999999, 1.0, 1.5, 10.0])
@pytest.mark.parametrize("correlation", [-0.9, 0.0, 1.0])
def test_places_are_those_that_are_not_ruled_out(error, correlation):
    """`error`: t standard errors of sigma over sigma; from 1 on it cannot be told from 0."""
    sigma, t, mu_error = 0.3, 2.0, 0.1
    sigma_error = error * sigma / t
    both = correlation * mu_error * sigma_error
    covariance = np.array([[mu_error**2, both], [both, sigma_error**2]])
    offsets = np.linspace(-2, 2, 21)
    low, high = places_within(offsets, sigma, covariance, t)
    assert np.all((low <= offsets / sigma) & (offsets / sigma <= high))

    def excess(offset, z):
        variance = mu_error**2 + 2 * z * both + (z * sigma_error) ** 2
        return np.abs(offset - sigma * z) - t * np.sqrt(np.maximum(variance, 0))

    for offset, *ends in zip(offsets, low, high, strict=True):
        finite = np.abs(ends) < 1e4
        inside = np.linspace(*np.clip(ends, -30, 30), 1000)
        assert np.all(excess(offset, inside) <= 1e-9)
        for end, side, is_finite in zip(ends, (-1, 1), finite, strict=True):
            if is_finite:
                assert excess(offset, end) == pytest.approx(0, abs=1e-9)
                assert excess(offset, end + side * 1e-4) > 0
        assert np.all(finite) if error < 0.9 else not np.all(finite) if error > 1 else True
    if error == 10.0 and correlation < 1:
        assert np.any(np.isinf(low) & np.isinf(high))


def test_a_slope_that_may_be_any_leaves_the_ends_of_the_curve_known():
    result = fit(simulate(np.random.default_rng(0), -5.0, 0.2))
    unsure = ((0.05**2, 0.0), (0.0, (1.2 * result.sigma / 2) ** 2))
    result = replace(result, covariance=unsure, confidence=0.954)
    low, high = result.band([1e-8, 1e-5, 1e-1])
    assert low[0] > 0.9 * CLEAN
    assert high[2] < 1.1 * CHANCE
    assert high[0] == pytest.approx(CLEAN)
    assert low[2] == pytest.approx(CHANCE)
    assert low[1] < 0.5 * CLEAN < high[1]


@pytest.mark.parametrize("axis", ["log10", "linear"])
def test_the_band_holds_the_curve_between_chance_and_clean(axis):
    result = fit(simulate(np.random.default_rng(2), -5.0, 0.3, images=30), axis=axis)
    rate = np.logspace(-12, 0, 121).reshape(11, 11)
    low, high = result.band(rate)
    assert low.shape == high.shape == rate.shape
    assert np.all(low >= CHANCE - 1e-12)
    assert np.all(high <= CLEAN + 1e-12)
    assert np.all(low <= result.accuracy(rate))
    assert np.all(result.accuracy(rate) <= high)
    assert np.max(high - low) > 0.05
    wide = replace(result, confidence=0.999).band(rate)
    assert np.all(wide[0] <= low)
    assert np.all(high <= wide[1])


def test_the_band_is_that_of_monte_carlo():
    """On a grid that cuts off the curve's foot, mu and sigma have errors that go together."""
    random, rate = np.random.default_rng(3), np.logspace(-7, -5.1, 17)
    truth = logistic(np.log10(rate), -5.3, 0.3, CLEAN, CHANCE)
    cut = simulate(random, -5.3, 0.3, rate=rate, trials=1, images=20_000)
    fits = [
        fit(replace(cut, correct=random.binomial(20_000, truth))).accuracy(rate)
        for _ in range(1500)
    ]
    result = fit(exact(truth, rate, images=20_000))
    (var_mu, both), (_, var_sigma) = result.covariance
    assert abs(both) > 0.4 * np.sqrt(var_mu * var_sigma)
    low, high = result.band(rate)
    inside = np.mean((low <= fits) & (fits <= high), axis=0)
    # The exact curve scatters by rounding only: the errors are the binomial ones. 4 s.e. are 2.3%.
    np.testing.assert_allclose(inside, 0.95, atol=0.023)


def test_errors_of_mu_and_sigma_by_the_choice_of_images_go_together():
    """Few images fall early: the more of them are drawn, the lower mu and the higher sigma."""
    random = np.random.default_rng(5)
    trials, images = 8, 600
    rate = np.repeat(GRID, trials)
    own = np.where(random.random(images) < 0.15, -6.2, -5.0)
    left = logistic(np.log10(rate)[:, None], own, 0.1, 1.0, 0.0)
    clean = random.random(images) < CLEAN
    bits = np.where(random.random(left.shape) < left, clean, random.random(left.shape) < CHANCE)
    fits = []
    for draw in [np.arange(images), *random.integers(0, images, (400, images))]:
        chosen = bits[:, draw], clean[draw]
        every = np.full(len(rate), images)
        points = Points(rate, np.zeros(len(rate)), chosen[0].sum(axis=1), every, *chosen)
        fits.append(fit(points, clean_accuracy=clean[draw].mean()))
    first, *drawn = fits
    drawn = np.cov([[np.log10(f.midpoint) for f in drawn], [f.sigma for f in drawn]])
    expected = np.array(first.covariance)
    np.testing.assert_allclose(np.diag(expected), np.diag(drawn), rtol=0.3)
    correlation, of_drawn = (m[0, 1] / np.sqrt(m[0, 0] * m[1, 1]) for m in (expected, drawn))
    assert of_drawn < -0.5
    assert correlation == pytest.approx(of_drawn, abs=0.15)


def test_no_band_without_a_midpoint_or_where_sigma_is_a_bound():
    outside = fit(exact(curve(-0.9, 0.3)))
    unresolved = fit(exact(np.where(GRID < 2e-5, CLEAN, CHANCE)))
    assert unresolved.midpoint is not None
    for result in (outside, unresolved):
        assert result.covariance is None
        with pytest.raises(InputError, match="has no band"):
            result.band(1e-5)


def test_fits_of_before_are_read_and_new_ones_written():
    result = fit(simulate(np.random.default_rng(4), -5.0, 0.3))
    values = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    covariance, _ = values.pop("covariance"), values.pop("degrees")
    assert tuple(map(tuple, covariance)) == result.covariance
    before = Fit(bound=None, limit=None, **values)
    assert before.covariance is None
    np.testing.assert_array_equal(before.accuracy(GRID), result.accuracy(GRID))


def held(result, mu, sigma):
    """Say at which of PLACES the band holds the true curve, of the fit's own clean accuracy."""
    low, high = result.band(10 ** (mu + sigma * PLACES))
    truth = logistic(PLACES, 0.0, 1.0, result.clean_accuracy, CHANCE)
    return (low <= truth) & (truth <= high)


def fitted_to(accuracy, clean=CLEAN):
    """Return mu and sigma of eq. 2 fitted to a curve itself."""
    x = to_axis(GRID, "log10")
    solution = solve(x, accuracy, even_weights(x), clean, CHANCE, -5.0)
    return solution.mu, solution.sigma


def mean_curve(mu, sigma, spread, clean):
    """Accuracy of a midpoint that moves by a normal `spread`, in the mean."""
    moves, weights = np.polynomial.hermite_e.hermegauss(41)
    rows = curve(mu + spread * moves[:, None], sigma, GRID, clean)
    return weights @ rows / weights.sum()


def coverage(repetitions, seed, *, spread=0.0, a_max=CLEAN, **options):
    random = np.random.default_rng(seed)
    hits = np.zeros(len(LEFT))
    for _ in range(repetitions):
        mu = -5.0 + random.uniform(-0.125, 0.125)
        points = simulate(random, mu, 0.25, spread=spread, a_max=a_max, **options)
        result = fit(points, clean_accuracy=a_max)
        hits += held(result, *fitted_to(mean_curve(mu, 0.25, spread, a_max), a_max))
    return hits / repetitions


def coverage_of_images(repetitions, seed, **options):
    random = np.random.default_rng(seed)
    hits = np.zeros(len(LEFT))
    own = 0.3 * np.log(1 / ((np.arange(2000) + 0.5) / 2000) - 1)
    for _ in range(repetitions):
        mu = -5.0 + random.uniform(-0.125, 0.125)
        points = images_and_noise(random, mu, **options)
        left = logistic(np.log10(GRID)[:, None], mu + own, 0.08, 1.0, 0.0).mean(axis=1)
        truth = fitted_to(CHANCE + (CLEAN - CHANCE) * left)
        hits += held(fit(points, clean_accuracy=points.clean_bits.mean()), *truth)
    return hits / repetitions


def check(found, low, high, spread):
    assert found.min() >= low
    # One dispersion serves all rates: where the curve itself moves, that is too much at its ends.
    assert (found[2:5] if spread else found).max() <= high


@pytest.mark.parametrize("name", SITUATIONS)
def test_coverage(name):
    """4 standard errors of 95% at 400 repetitions are 4.4 percentage points."""
    check(coverage(400, 5, **SITUATIONS[name]), 0.906, 0.994, "spread" in SITUATIONS[name])


def test_coverage_over_the_choice_of_images():
    check(coverage_of_images(150, 6), 0.88, 1.0, False)


@pytest.mark.long
@pytest.mark.parametrize("name", SITUATIONS)
def test_coverage_long(name):
    check(coverage(5000, 7, **SITUATIONS[name]), 0.93, 0.98, "spread" in SITUATIONS[name])


@pytest.mark.long
@pytest.mark.parametrize("trials", [1, 2, 5])
def test_coverage_over_the_choice_of_images_long(trials):
    check(coverage_of_images(2000, 8, images=400, trials=trials), 0.925, 0.995, False)
