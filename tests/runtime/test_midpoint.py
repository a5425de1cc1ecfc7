# SPDX-License-Identifier: Apache-2.0
"""The midpoint fit: known curves, sweeps without a midpoint, coverage of the intervals."""

import json
import math

import numpy as np
import pytest

from noisystore.ortops.errors import InputError
from noisystore.runtime.midpoint import Points, fit_midpoint
from noisystore.runtime.midpoint_curve import crossing, decreasing, even_weights, logistic

GRID = np.logspace(-8, -1, 29)
CLEAN, CHANCE = 0.85, 0.1


def curve(mu, sigma, rate=GRID, a_max=CLEAN, a_min=CHANCE):
    return logistic(np.log10(rate), mu, sigma, a_max, a_min)


def exact(accuracy, rate=GRID, images=10**6):
    rate = np.asarray(rate)
    count = np.round(np.asarray(accuracy) * images)
    return Points(rate, np.zeros(len(rate)), count, np.full(len(rate), images))


def simulate(random, mu, sigma, *, images=2000, trials=5, spread=0.0, a_max=CLEAN, rate=GRID):
    """Counts whose midpoint moves by a normal `spread` (decades) from trial to trial."""
    rate = np.repeat(rate, trials)
    shift = spread * random.standard_normal(len(rate))
    accuracy = logistic(np.log10(rate) + shift, mu, sigma, a_max, CHANCE)
    correct = random.binomial(images, accuracy)
    trial = np.tile(np.arange(trials), len(rate) // trials)
    return Points(rate, trial, correct, np.full(len(rate), images))


def fit(points, **options):
    return fit_midpoint(points, **{"clean_accuracy": CLEAN, "classes": 10, **options})


@pytest.mark.parametrize("mu", [-6.3, -5.5, -3.21])
@pytest.mark.parametrize("sigma", [0.12, 0.3, 0.6])
def test_a_logistic_curve_is_recovered(mu, sigma):
    result = fit(exact(curve(mu, sigma)))
    assert result.midpoint == pytest.approx(10**mu, rel=1e-3)
    assert result.sigma == pytest.approx(sigma, rel=2e-3)
    assert result.half_level == pytest.approx(10**mu, rel=0.08)
    assert result.interval[0] < 10**mu < result.interval[1]
    if result.rate_99 is None:
        assert result.accuracy(GRID[0]) < 0.99 * CLEAN
    else:
        assert result.accuracy(result.rate_99) == pytest.approx(0.99 * CLEAN)
    np.testing.assert_allclose(result.accuracy(GRID), curve(mu, sigma), atol=2e-4)


def test_eq_2_on_the_linear_axis():
    rate = np.linspace(1e-4, 1e-2, 40)
    result = fit(exact(logistic(rate, 4e-3, 6e-4, CLEAN, CHANCE), rate), axis="linear")
    assert result.axis == "linear"
    assert result.midpoint == pytest.approx(4e-3, rel=1e-3)
    assert result.sigma == pytest.approx(6e-4, rel=1e-2)


def test_unequal_trials_and_images_count_by_their_images():
    random = np.random.default_rng(5)
    parts = [simulate(random, -4.0, 0.3, images=n, trials=t) for n, t in ((100, 2), (20000, 3))]
    joined = Points(
        *(
            np.concatenate([getattr(p, name) for p in parts])
            for name in ("rate", "trial", "correct", "images")
        )
    )
    both, large = fit(joined), fit(parts[1])
    assert both.midpoint == pytest.approx(large.midpoint, rel=0.01)
    assert both.points == 29 * 5


def test_where_the_points_lie_hardly_matters():
    """The true curve is no logistic one; extra points on one flank must not pull the fit."""

    def accuracy(rate):
        return CHANCE + (CLEAN - CHANCE) * np.exp(-rate / 3e-6)

    expected = fit(exact(accuracy(GRID))).midpoint
    for low, high in ((-6.0, -5.5), (-5.3, -5.0)):
        rate = np.union1d(GRID, np.logspace(low, high, 30))
        assert fit(exact(accuracy(rate), rate)).midpoint == pytest.approx(expected, rel=0.01)
    fine = np.logspace(-7.5, -3.5, 200)
    assert fit(exact(accuracy(fine), fine)).midpoint == pytest.approx(expected, rel=0.005)


def test_half_level_needs_no_logistic_curve():
    rate = np.logspace(-7.5, -3.5, 200)
    accuracy = CHANCE + (CLEAN - CHANCE) * np.exp(-rate / 3e-6)
    assert fit(exact(accuracy, rate)).half_level == pytest.approx(3e-6 * math.log(2), rel=1e-3)


@pytest.mark.parametrize(
    ("accuracy", "bound", "limit"),
    [
        (np.full(29, CLEAN), "above", 1e-1),
        (np.full(29, CLEAN + 0.01), "above", 1e-1),
        (curve(-0.9, 0.3), "above", 1e-1),
        (np.where(GRID < 1e-3, CLEAN, 0.55), "above", 1e-1),
        (np.full(29, CHANCE), "below", 1e-8),
        (np.full(29, 0.0), "below", 1e-8),
        (curve(-8.1, 0.3), "below", 1e-8),
    ],
)
def test_a_midpoint_outside_the_range_is_no_number(accuracy, bound, limit):
    result = fit(exact(accuracy))
    assert (result.midpoint, result.bound, result.limit) == (None, bound, pytest.approx(limit))
    assert result.interval is None
    assert result.sigma is None
    assert result.rate_99 is None
    values = result.as_dict()
    assert values["midpoint"] is None
    assert values["bound"] == bound
    json.dumps(values, allow_nan=False)
    with pytest.raises(InputError, match="does not hold its midpoint"):
        result.accuracy(1e-5)


def test_one_low_outlier_is_no_drop():
    accuracy = np.full(29, CLEAN)
    accuracy[12] = 0.2
    assert fit(exact(accuracy)).bound == "above"


def test_a_drop_between_two_rates_has_their_gap_as_interval():
    result = fit(exact(np.where(GRID < 2e-5, CLEAN, CHANCE)))
    low, high = GRID[GRID < 2e-5].max(), GRID[GRID > 2e-5].min()
    assert (
        result.interval[0] <= low * 1.0001 < result.midpoint < high <= result.interval[1] * 1.0001
    )


def test_clean_accuracy_of_one_and_counts_of_all_or_none():
    accuracy = logistic(np.log10(GRID), -4.0, 0.25, 1.0, CHANCE)
    accuracy[:10] = 1.0
    accuracy[8] = 0.998
    result = fit(exact(accuracy, images=500), clean_accuracy=1.0)
    assert result.midpoint == pytest.approx(1e-4, rel=0.02)
    assert result.sigma == pytest.approx(0.25, rel=0.05)


def test_rate_99_outside_the_range_is_none():
    rate = np.logspace(-5.5, -3, 11)
    assert fit(exact(curve(-5.0, 0.4, rate), rate)).rate_99 is None


def test_json_keys():
    values = fit(simulate(np.random.default_rng(0), -5.0, 0.3)).as_dict()
    assert {
        "midpoint",
        "half_level",
        "interval",
        "sigma",
        "axis",
        "clean_accuracy",
        "rate_99",
    } <= set(values)
    assert "bound" not in values
    assert isinstance(values["interval"], list)
    json.dumps(values, allow_nan=False)


def bad(**changes):
    base = {
        "rate": [1e-6, 1e-5, 1e-4, 1e-3],
        "trial": [0] * 4,
        "correct": [84, 60, 20, 10],
        "images": [100] * 4,
    }
    return Points(**{**base, **changes})


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (bad(rate=[], trial=[], correct=[], images=[]), "3 distinct rates or more, got 0"),
        (bad(rate=[1e-6, 1e-6, 1e-5, 1e-5]), "3 distinct rates or more, got 2"),
        (bad(rate=[1e-6, math.nan, 1e-4, 1e-3]), "NaN"),
        (bad(correct=[84, math.nan, 20, 10]), "NaN"),
        (bad(correct=[84, math.inf, 20, 10]), "NaN or infinite"),
        (bad(rate=[0, 1e-5, 1e-4, 1e-3]), "rates from 1e-100 to 1"),
        (bad(rate=[1e-5, 1e-4, 1e-3, 2]), "rates from 1e-100 to 1"),
        (bad(correct=[184, 60, 20, 10]), "0 <= correct <= images"),
        (bad(images=[0, 100, 100, 100], correct=[0, 60, 20, 10]), "1 or more images"),
        (bad(trial=[0]), "of one length"),
        (bad(rate="many"), "arrays of numbers"),
        (bad(bits=np.zeros((3, 100))), r"bits of shape \[4, images\]"),
        (bad(bits=np.zeros((4, 100))), "disagree"),
    ],
)
def test_bad_points(points, message):
    with pytest.raises(InputError, match=message):
        fit(points)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"axis": "log"}, "log10 or linear, got 'log'"),
        ({"confidence": 1 - 1e-16}, "at most 0.9999"),
        ({"classes": 1}, "2 or more"),
        ({"clean_accuracy": 0.1}, "clearly more than chance"),
        ({"clean_accuracy": math.nan}, "clearly more than chance"),
        ({"clean_accuracy": 1.5}, "at most 1"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        fit(bad(), **options)


@pytest.mark.parametrize(("images", "guesses"), [(50, True), (1000, True), (10000, False)])
def test_a_network_that_may_only_guess_is_not_fitted(images, guesses):
    correct = np.array([0.12, 0.12, 0.1, 0.1]) * images
    points = Points([1e-6, 1e-5, 1e-4, 1e-3], [0] * 4, correct, [images] * 4)
    if not guesses:
        assert fit(points, clean_accuracy=0.12).midpoint == pytest.approx(10**-4.5, rel=0.1)
        return
    said = (
        rf"clearly more than chance \(0.1\), got 0.12 \({images} images\): there is no drop to find"
    )
    with pytest.raises(InputError, match=said):
        fit(points, clean_accuracy=0.12)


def test_a_fit_in_words():
    rate = [1e-6, 1e-5, 1e-4, 1e-3]
    found = fit(Points(rate, [0] * 4, [895, 700, 290, 110], [1000] * 4), clean_accuracy=0.9)
    first, second = str(found).splitlines()
    assert first.startswith(f"midpoint {found.midpoint:.3g}, 95% interval [")
    assert first.endswith("] (covers noise)")
    assert second == "clean accuracy 0.9000, chance 0.1000; 4 points at 4 rates, 1,000 images"
    nothing = fit(Points(rate, [0] * 4, [900] * 4, [1000] * 4), clean_accuracy=0.9)
    assert str(nothing).startswith("midpoint above 0.001, the highest rate\nclean accuracy")
    assert repr(nothing).startswith("Fit(midpoint=None, bound='above'")


def test_monotone_curve_and_crossing():
    np.testing.assert_allclose(
        decreasing(np.array([3.0, 4, 1, 2, 0]), np.ones(5)), [3.5, 3.5, 1.5, 1.5, 0]
    )
    np.testing.assert_allclose(decreasing(np.array([1.0, 2]), np.array([1.0, 3])), [1.75, 1.75])
    x = np.arange(4.0)
    assert crossing(x, np.array([4.0, 3, 1, 0]), 2.0) == 1.5
    assert crossing(x, np.array([4.0, 2, 2, 0]), 2.0) == 1.0
    assert crossing(x, np.array([4.0, 3, 3, 3]), 2.0) is None
    assert crossing(x, np.array([1.0, 1, 0, 0]), 2.0) is None


def test_an_even_grid_has_equal_weights():
    np.testing.assert_allclose(even_weights(np.linspace(-8, -1, 29)), 1.0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("axis", ["log10", "linear"])
def test_any_counts_give_a_bound_or_a_midpoint_inside_its_interval(axis):
    random = np.random.default_rng(11)
    for _ in range(300):
        rate = np.repeat(10 ** random.uniform(-9, 0, random.integers(3, 12)), 2)
        images = int(random.choice([1, 10, 10_000]))
        drop = np.where(rate < 10 ** random.uniform(-9, 0), images, 0)
        noise = random.integers(0, images + 1, len(rate))
        correct = np.where(random.random(len(rate)) < random.choice([0, 0.3, 1]), noise, drop)
        points = Points(rate, np.tile([0, 1], len(rate) // 2), correct, np.full(len(rate), images))
        clean = float(random.choice({1: [1.0], 10: [0.85, 1.0]}.get(images, [0.11, 0.85, 1.0])))
        result = fit(points, clean_accuracy=clean, axis=axis)
        json.dumps(result.as_dict(), allow_nan=False)
        if result.midpoint is None:
            assert result.bound in ("above", "below")
        else:
            assert result.interval[0] <= result.midpoint <= result.interval[1]
            assert rate.min() * 0.999 <= result.midpoint <= rate.max() * 1.001


def coverage(repetitions, seed, **options):
    random = np.random.default_rng(seed)
    hits, clean = 0, options.get("a_max", CLEAN)
    for _ in range(repetitions):
        mu = -5.0 + random.uniform(-0.125, 0.125)
        result = fit(simulate(random, mu, 0.25, **options), clean_accuracy=clean)
        hits += result.interval[0] <= 10**mu <= result.interval[1]
    return hits / repetitions


SITUATIONS = {
    "binomial": {},
    "spread between trials": {"spread": 0.15},
    "few images": {"images": 200, "trials": 3, "a_max": 0.98},
    "spread, clean accuracy 1": {"images": 200, "trials": 3, "a_max": 1.0, "spread": 0.2},
}


@pytest.mark.parametrize("name", SITUATIONS)
def test_coverage(name):
    """4 standard errors of 95% at 400 repetitions are 4.4 percentage points."""
    assert 0.906 <= coverage(400, 1, **SITUATIONS[name]) <= 0.994


@pytest.mark.long
@pytest.mark.parametrize("name", SITUATIONS)
def test_coverage_long(name):
    assert 0.93 <= coverage(10_000, 2, **SITUATIONS[name]) <= 0.98


def images_and_noise(random, mu, *, images=300, trials=3):
    """Images that are hard or easy at every rate: their own midpoints scatter by 0.3 decades."""
    rate = np.repeat(GRID, trials)
    easy = random.random(images) < CLEAN
    own = mu + random.logistic(0, 0.3, images)
    ruined = 1 / (1 + np.exp(-np.clip((np.log10(rate)[:, None] - own) / 0.08, -50, 50)))
    bits = random.random(ruined.shape) < ruined * CHANCE + (1 - ruined) * easy
    return Points(
        rate,
        np.tile(np.arange(trials), len(GRID)),
        bits.sum(axis=1),
        np.full(len(rate), images),
        bits,
        easy,
    )


def coverage_of_images(repetitions, seed, **options):
    random = np.random.default_rng(seed)
    with_bits = without = 0
    for _ in range(repetitions):
        mu = -5.0 + random.uniform(-0.125, 0.125)
        points = images_and_noise(random, mu, **options)
        plain = Points(points.rate, points.trial, points.correct, points.images)
        clean = points.clean_bits.mean()
        result = fit(points, clean_accuracy=clean)
        assert result.covers == "noise and images"
        with_bits += result.interval[0] <= 10**mu <= result.interval[1]
        result = fit(plain, clean_accuracy=clean)
        assert result.covers == "noise"
        without += result.interval[0] <= 10**mu <= result.interval[1]
    return with_bits / repetitions, without / repetitions


def test_coverage_over_the_choice_of_images():
    with_bits, without = coverage_of_images(200, 3)
    assert 0.89 <= with_bits <= 0.995
    assert without < with_bits


@pytest.mark.long
@pytest.mark.parametrize("trials", [1, 2, 5])
def test_coverage_over_the_choice_of_images_long(trials):
    with_bits, _ = coverage_of_images(3000, 4, images=400, trials=trials)
    assert 0.93 <= with_bits <= 0.975
