# SPDX-License-Identifier: Apache-2.0
"""The midpoint search on simulated networks: coverage, bias, what it spends, and when it ends."""

import numpy as np
import pytest
from simulated_network import CHANCE, CLEAN, CURVES, SimulatedNetwork, truth

from noisystore.ortops.errors import InputError
from noisystore.runtime.midpoint_curve import logistic
from noisystore.runtime.midpoint_grid import RateGrid
from noisystore.runtime.midpoint_search import SEARCH_VERSION, MidpointSearch

pytestmark = pytest.mark.filterwarnings("error")
NARROW = "the interval is as narrow as asked"
SPENT = "the inferences allowed are spent"
OUTSIDE = "the midpoint lies outside the rates allowed"


def search(network, precision=0.1, low=1e-9, high=0.5, **options):
    return MidpointSearch(network, low, high, precision, **options).run()


def repeat(name, correlation, precision, repetitions):
    """Deviation of mu, whether its interval and that of sigma cover the truth: [repetitions]."""
    curve = CURVES[name]
    mu, sigma, _ = truth(curve)
    found = [
        search(SimulatedNetwork(curve, seed, correlation=correlation), precision)
        for seed in range(repetitions)
    ]
    assert all(outcome.reason == NARROW for outcome in found)
    assert all(outcome.half_width[0] <= np.log10(1 + precision) for outcome in found)
    error = np.array(
        [[o.estimate.solution.mu - mu, o.estimate.solution.sigma - sigma] for o in found]
    )
    return error[:, 0], *(np.abs(error) <= [o.half_width for o in found]).T


@pytest.mark.parametrize(
    ("name", "correlation", "precision", "repetitions"),
    [
        ("gompertz", 0.0, 0.1, 1000),
        ("high", 0.0, 0.1, 300),
        ("logistic", 0.1, 0.15, 300),
        *(
            pytest.param(name, correlation, 0.05, 1000, marks=pytest.mark.long)
            for name in ("logistic", "gompertz", "steep", "wide", "high")
            for correlation in (0.0, 0.1, 0.5)
        ),
    ],
)
def test_intervals_cover_the_truth_as_often_as_they_say(name, correlation, precision, repetitions):
    error, covers, covers_sigma = repeat(name, correlation, precision, repetitions)
    # Trials that share flips: the caution about their spread may make intervals a little wide.
    assert 0.93 <= covers.mean() <= (0.97 if correlation == 0 else 0.98)
    assert covers_sigma.mean() >= 0.89
    assert abs(error.mean()) < 0.2 * error.std()


@pytest.mark.parametrize(
    ("name", "correlation", "inferences", "mu"),
    [("logistic", 0.0, 2439, -5.46685286), ("gompertz", 0.1, 6376, -5.71072378)],
)
def test_a_search_that_finds_something_else_has_another_version(name, correlation, inferences, mu):
    """Where this fails on purpose, add 1 to SEARCH_VERSION and put the new answers here."""
    network = SimulatedNetwork(CURVES[name], 7, correlation=correlation)
    outcome = search(network, 0.15)
    assert SEARCH_VERSION == 1
    assert network.inferences == inferences
    assert outcome.estimate.solution.mu == pytest.approx(mu, abs=1e-7)


def test_it_spends_few_inferences():
    network = SimulatedNetwork(CURVES["logistic"])
    outcome = search(network, 0.05)
    assert network.inferences < 20_000
    assert sum(outcome.cells.images) < network.inferences
    half_level = outcome.estimate.half_level
    assert half_level == pytest.approx(-5.5, abs=0.08)


class ExactNetwork(SimulatedNetwork):
    """Every trial has the curve's accuracy."""

    def noisy(self, rate, images):
        accuracy = float(self._curve(np.array([rate]))[0])
        return [(accuracy * count, count) for _, count in super().noisy(rate, images)]


def test_the_estimate_does_not_depend_on_where_images_are_spent():
    """The curve is no logistic one: a fit weighted by images would move."""
    network = ExactNetwork(CURVES["gompertz"], population=200)
    of = MidpointSearch(network, 1e-9, 0.5, 0.1)
    first = of.run().estimate.solution
    span = of._grid.span(first.mu, first.sigma)
    for flank in (slice(0, 6), slice(6, None)):
        for rate in span[flank]:
            of._counts[rate] *= 40
        again = of._estimate(span).solution
        assert again.mu == pytest.approx(first.mu, abs=1e-9)
        assert again.sigma == pytest.approx(first.sigma, abs=1e-9)
    assert first.mu == pytest.approx(truth(CURVES["gompertz"])[0], abs=0.005)


@pytest.mark.parametrize("precision", [1.0, 0.1, 0.02, 0.001])
@pytest.mark.parametrize("correlation", [0.0, 0.3])
def test_a_step_between_two_rates(precision, correlation):
    for seed in range(5):
        network = SimulatedNetwork(CURVES["step"], seed, correlation=correlation)
        outcome = search(network, precision)
        mu, width = outcome.estimate.solution.mu, outcome.half_width[0]
        assert outcome.reason == NARROW
        assert abs(mu - np.log10(2e-5)) <= width <= np.log10(1 + precision)
        assert network.inferences < (2000 if correlation == 0 else 15_000)


def test_noise_is_no_step():
    """25 images a rate tell nothing of a drop by 2%: the grid must not be refined for them."""
    curve = CURVES["logistic"]

    def low(rate):
        return CHANCE + 0.02 * (curve(rate) - CHANCE) / (CLEAN - CHANCE)

    covers = []
    for seed in range(20):
        network = SimulatedNetwork(low, seed, clean=0.12, population=10**6, trial_images=10**4)
        outcome = search(network, 1.0)
        covers.append(abs(outcome.estimate.solution.mu + 5.5) <= outcome.half_width[0])
    assert sum(covers) >= 18


@pytest.mark.parametrize("correlation", [0.5, 0.9, 1.0])
def test_trials_that_share_their_fate(correlation):
    mu = truth(CURVES["logistic"])[0]
    covers = []
    for seed in range(20):
        network = SimulatedNetwork(CURVES["logistic"], seed, correlation=correlation)
        outcome = search(network, 0.2)
        covers.append(abs(outcome.estimate.solution.mu - mu) <= outcome.half_width[0])
    assert sum(covers) >= 17


@pytest.mark.parametrize(
    ("name", "low", "high", "bound", "limit"),
    [
        ("logistic", 1e-9, 1e-7, "above", 1e-7),
        ("high", 1e-9, 1e-4, "above", 1e-4),
        ("logistic", 1e-3, 0.5, "below", 1e-3),
        ("logistic", 0.1, 0.5, "below", 0.1),
        ("step", 1e-2, 0.5, "below", 1e-2),
    ],
)
def test_a_drop_outside_the_rates(name, low, high, bound, limit):
    for seed in range(20):
        network = SimulatedNetwork(CURVES[name], seed)
        outcome = search(network, 0.05, low, high)
        assert outcome.estimate is None
        assert np.all(np.isinf(outcome.half_width))
        assert (outcome.bound, outcome.limit) == (bound, pytest.approx(limit, rel=0.9))
        assert outcome.limit <= limit
        assert outcome.reason == OUTSIDE or "no drop to find: accuracy is" in outcome.reason
        assert network.inferences < 1000


def test_a_bound_is_right_where_the_rates_end_near_the_drop():
    """2.5 times below the lowest rate: found, as the grid goes on there, or bounded rightly."""
    found = 0
    for seed in range(40):
        outcome = search(SimulatedNetwork(CURVES["logistic"], seed), 0.1, low=8e-6)
        if outcome.estimate is None:
            assert outcome.bound == "below"
            assert outcome.limit > 10**-5.65
        else:
            found += 1
    assert found >= 20


def test_no_drop_at_all():
    for seed in range(20):
        network = SimulatedNetwork(lambda rate: np.full(len(rate), CLEAN), seed)
        outcome = search(network)
        assert (outcome.estimate, outcome.bound, outcome.limit) == (None, "above", 0.5)
        assert network.inferences == 250


@pytest.mark.parametrize("level", [0.455, 0.475, 0.495])
def test_a_plateau_half_way_ends(level):
    """Accuracy that stays near half way at all high rates must not keep the search going."""
    for seed in range(5):
        network = SimulatedNetwork(lambda rate: np.where(rate < 1e-5, CLEAN, level), seed)
        outcome = search(network, 0.1)
        assert outcome.estimate is not None or outcome.bound is not None
        assert network.inferences < 20_000_000


@pytest.mark.parametrize(
    ("clean", "chance", "population", "message"),
    [
        (0.1, 0.1, 1000, r"clearly more than chance \(0.1\), got 0.1 \(1000 images\)"),
        (0.02, 0.1, 300, r"\(0.1\), got 0.02 \(300 images\): there is no drop to find"),
        (1.0, 0.5, 5, r"\(0.5\), got 1 \(5 images\).* take more images"),
        (1.0, 1.0, 50, r"chance \(1\)"),
    ],
)
def test_clean_accuracy_at_chance(clean, chance, population, message):
    network = SimulatedNetwork(
        CURVES["logistic"], clean=clean, chance=chance, population=population
    )
    with pytest.raises(InputError, match=message):
        search(network)
    assert network.inferences == population


@pytest.mark.parametrize(
    ("population", "clean", "chance"), [(5, 0.8, 0.1), (5, 1.0, 0.1), (30, 1.0, 0.5)]
)
def test_a_handful_of_images(population, clean, chance):
    def curve(rate):
        return logistic(np.log10(rate), -5.0, 0.25, clean, chance)

    for seed in range(10):
        network = SimulatedNetwork(curve, seed, population=population, clean=clean, chance=chance)
        outcome = search(network)
        assert outcome.reason == NARROW
        assert outcome.estimate.solution.mu == pytest.approx(-5, abs=3 * outcome.half_width[0])


@pytest.mark.parametrize("most", [1000, 1001, 1700, 6000])
@pytest.mark.parametrize(("correlation", "price"), [(0.0, 1), (0.0, 2), (0.3, 1), (1.0, 2)])
def test_the_budget_is_kept(most, correlation, price):
    for seed in range(5):
        network = SimulatedNetwork(CURVES["logistic"], seed, correlation=correlation, price=price)
        outcome = search(network, 0.005, most=most)
        assert outcome.reason == SPENT
        assert network.inferences <= most
        if outcome.estimate is not None:
            assert network.inferences > 0.9 * most or correlation > 0
            assert outcome.half_width[0] > np.log10(1.005)
            assert outcome.estimate.solution.mu == pytest.approx(-5.5, abs=0.6)
        else:
            assert (outcome.bound, outcome.limit) == ("below", 0.5)
            assert (correlation, price) != (0.0, 1)


def test_spending_more_says_more():
    """Clean images, which are few, must get their share of a budget that is too small."""
    widths = [
        search(SimulatedNetwork(CURVES["wide"]), 0.001, most=most).half_width[0]
        for most in (2000, 8000, 32000)
    ]
    np.testing.assert_allclose(widths, [0.118, 0.056, 0.025], rtol=0.2)


def test_images_are_run_where_mu_depends_on_them():
    network = SimulatedNetwork(CURVES["logistic"])
    search(network, 0.02)
    near = sum(n for rate, n in network.images.items() if abs(np.log10(rate) + 5.5) < 0.8)
    assert near > 0.85 * sum(network.images.values())
    assert min(n for rate, n in network.images.items() if abs(np.log10(rate) + 5.5) < 1) >= 25


def test_points_of_a_grid_stay_when_it_is_refined():
    grid = RateGrid(1e-8, 0.5)
    assert grid.all()[0] == 1e-8
    assert grid.all()[-1] == 0.5
    before = grid.span(-5.0, 0.3)
    assert before[0] <= 10**-6.25
    assert before[-1] >= 10**-3.75
    for _ in range(6):
        grid.refine()
        assert set(before) <= set(grid.span(-5.0, 0.3))
    assert grid.too_coarse(0.001)
    assert not grid.too_coarse(0.01)
    assert len(grid.span(-5.0, 1e-3)) >= 7
    assert grid.span(-0.4, 0.05)[-1] == 0.5
    near = RateGrid(1e-3, 0.1 * (1 + 1e-7)).all()
    assert near[-1] == 0.1 * (1 + 1e-7)
    assert len(near) == 9
