# SPDX-License-Identifier: Apache-2.0
"""Thresholds and error rates of cells: closed forms, brute force, simulated cells, coverage."""

import doctest
import importlib
import math
import runpy
from pathlib import Path

import numpy as np
import pytest

from noisystore.ortops.errors import InputError
from noisystore.runtime import (
    Condition,
    LogNormal,
    cheapest_threshold,
    equal_error_threshold,
    read_samples,
    write_check_correct,
)
from noisystore.runtime.rram_report import Choices, cell_report
from noisystore.runtime.rram_samples import (
    cheapest_of_samples,
    equal_error_interval,
    equal_error_of_samples,
    lognormal_interval,
    lognormal_p_value,
)
from noisystore.runtime.rram_writes import AccessCost

DATA = Path(__file__).parents[1] / "data"
LRS, HRS = LogNormal(5e3, 0.4), LogNormal(6e4, 0.9)


def phi(z):
    return math.erfc(-z / math.sqrt(2)) / 2


def draw(random, state, n):
    return state.median * np.exp(state.sigma * random.standard_normal(n))


def near(share, rate, n):
    """Whether a simulated share is within five standard errors of its rate."""
    return abs(share - rate) <= 5 * math.sqrt(rate * (1 - rate) / n)


# Closed forms


def test_equal_errors_by_eq_1():
    found = equal_error_threshold(LRS, HRS)
    assert found.lrs_error == found.hrs_error == pytest.approx(phi(-math.log(12) / 1.3), rel=1e-12)
    above = 1 - phi(math.log(found.resistance / 5e3) / 0.4)
    below = phi(math.log(found.resistance / 6e4) / 0.9)
    assert above == pytest.approx(found.lrs_error, rel=1e-10)
    assert below == pytest.approx(found.hrs_error, rel=1e-10)


def test_a_far_tail_keeps_its_digits():
    # Phi(-10), which 1 - CDF would round to 0.
    far = equal_error_threshold(LogNormal(1e3, 0.5), LogNormal(1e3 * math.exp(10), 0.5))
    assert far.lrs_error == pytest.approx(7.619853024160527e-24, rel=1e-10)
    assert float(LogNormal(1e3, 0.5).above(far.resistance)) == pytest.approx(far.lrs_error)


def test_which_state_is_which_bit():
    # Costs that make HRS errors (read as LRS) the rarer ones.
    found = cheapest_threshold(LRS, HRS, 1, 10)
    assert found.hrs_error < found.lrs_error
    # LRS = 1: a stored 0 is an HRS, and read as 1 when it seems an LRS.
    assert found.rates(1) == (found.hrs_error, found.lrs_error)
    assert found.rates(0) == (found.lrs_error, found.hrs_error)


@pytest.mark.parametrize("lrs_is", [0, 1])
def test_the_dearer_error_is_the_rarer_one(lrs_is):
    condition = Condition("a", LRS, HRS)
    dear01, dear10 = (
        cell_report(condition, Choices(lrs_is=lrs_is, cost_ratio=ratio)).lognormal
        for ratio in (20.0, 0.05)
    )
    even = cell_report(condition, Choices(lrs_is=lrs_is, cost_ratio=1.0)).lognormal
    assert dear01.p01 < even.p01 < dear10.p01
    assert dear01.p10 > even.p10 > dear10.p10


def test_a_share_of_ones_weighs_like_a_cost():
    condition = Condition("a", LRS, HRS)
    rare = cell_report(condition, Choices(cost_ratio=1.0, ones_fraction=0.2)).lognormal
    dear = cell_report(condition, Choices(cost_ratio=4.0)).lognormal
    assert rare.threshold == pytest.approx(dear.threshold, rel=1e-12)
    assert rare.bit_error_rate == pytest.approx(0.8 * rare.p01 + 0.2 * rare.p10)


def test_cheapest_threshold_against_brute_force():
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        low = LogNormal(1e4, float(random.uniform(0.1, 1.5)))
        window = random.uniform(0.2, 6)
        high = LogNormal(1e4 * math.exp(window), float(random.uniform(0.1, 1.5)))
        costs = np.exp(random.uniform(-3, 3, 2))
        grid = 1e4 * np.exp(np.linspace(0, window, 4001))
        cost = costs[0] * low.above(grid) + costs[1] * high.cdf(grid)
        least = int(cost.argmin())
        try:
            found = cheapest_threshold(low, high, *costs)
        except InputError:
            refused += 1
            assert least in (0, 4000) or cost[least] >= costs.min() * (1 - 1e-6)
            continue
        assert costs[0] * found.lrs_error + costs[1] * found.hrs_error <= cost[least] * (1 + 1e-9)
        assert math.log(found.resistance / grid[least]) == pytest.approx(0, abs=window / 2000)
    assert 10 < refused < 150


def test_equal_sigmas_make_the_cheapest_threshold_linear():
    low, high = LogNormal(1e4, 0.5), LogNormal(1e6, 0.5)
    middle = cheapest_threshold(low, high)
    assert middle.resistance == pytest.approx(1e5)
    assert middle.lrs_error == pytest.approx(equal_error_threshold(low, high).lrs_error)
    # The log of the likelihood ratio is linear: ln R moves by s^2 ln(cost ratio) / window.
    moved = cheapest_threshold(low, high, 7, 1).resistance
    assert math.log(moved / 1e5) == pytest.approx(0.25 * math.log(7) / math.log(100))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LogNormal(0, 1), "median: expected a number from 1e-30"),
        (lambda: LogNormal(1, math.nan), "sigma: expected"),
        (lambda: LogNormal.fit([1, 2]), "at least 3 values"),
        (lambda: LogNormal.fit([2, 2, 2]), "not all equal, got 3"),
        (lambda: LogNormal.fit([1, -2, 3]), "expected values from 1e-30"),
        (lambda: Condition("a", HRS, LRS), "a: expected a median of the HRS above"),
        (lambda: Condition.from_samples("a", [1, 2, 3], [5, 6]), "a: HRS: resistances: expected"),
        (lambda: equal_error_threshold(LRS, LRS), "no threshold parts them"),
        (lambda: cheapest_threshold(LRS, HRS, 1, 0), "cost of an error"),
        (lambda: cheapest_threshold(LRS, HRS, 1e9, 1), "got none for costs 1e.09 .* or none"),
        (lambda: cheapest_threshold(LRS, HRS, 1, 1e9), "costs or sigmas differ too much"),
        (
            lambda: cheapest_threshold(LogNormal(1e4, 3), LogNormal(1.1e4, 1)),
            "costs or sigmas differ too much for states this close",
        ),
        (lambda: write_check_correct(0.1, 1.1, 1), "p10: expected a number from 0 to 1"),
        (lambda: write_check_correct(0.1, 0.1, 101), "rewrites: expected from 0 to 100"),
        (lambda: Choices(ones_fraction=1.0), "ones fraction"),
        (lambda: Choices(rates_by="guess"), "rates_by: expected one of"),
        (
            lambda: cell_report(Condition("a", LRS, HRS), Choices(rates_by="samples")),
            "a: expected samples",
        ),
    ],
)
def test_bad_values(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("name", ["rram", "rram_writes"])
def test_examples(name):
    done = doctest.testmod(importlib.import_module(f"noisystore.runtime.{name}"))
    assert (done.failed, done.attempted > 1) == (0, True)


# Simulated cells


@pytest.mark.parametrize("lrs_is", [0, 1])
@pytest.mark.parametrize(("cost_ratio", "rewrites"), [(None, 0), (None, 1), (3.0, 1), (0.2, 2)])
def test_simulated_cells_meet_the_predicted_rates(lrs_is, cost_ratio, rewrites):
    n, choices = 400_000, Choices(lrs_is=lrs_is, cost_ratio=cost_ratio, rewrites=rewrites)
    report = cell_report(Condition("a", LogNormal(5e3, 0.5), LogNormal(2e4, 0.9)), choices)
    threshold, first, last = report.lognormal.threshold, report.written[0], report.written[-1]
    random = np.random.default_rng(rewrites)
    bits = random.integers(0, 2, n)
    wrong, writes, once = np.ones(n, bool), 0, None
    for _ in range(rewrites + 1):
        writes += wrong.sum()
        low = bits[wrong] == lrs_is
        resistance = np.where(
            low,
            draw(random, report.condition.lrs, len(low)),
            draw(random, report.condition.hrs, len(low)),
        )
        read = np.where(resistance > threshold, 1 - lrs_is, lrs_is)
        wrong[wrong] = read != bits[wrong]
        once = wrong.copy() if once is None else once
    for bit, before, after in ((0, first.p01, last.p01), (1, first.p10, last.p10)):
        stored = bits == bit
        assert near(once[stored].mean(), before, stored.sum())
        assert near(wrong[stored].mean(), after, stored.sum())
    assert near(wrong.mean(), report.bit_error_rate, n)
    spread = math.sqrt(2 * max(first.p01, first.p10) / n)
    assert writes / n == pytest.approx(last.writes, abs=5 * spread)


def test_write_check_correct_by_hand():
    done = write_check_correct(0.1, 0.2, 2, ones_fraction=0.25)
    assert (done.p01, done.p10) == pytest.approx((0.001, 0.008))
    assert done.writes == pytest.approx(0.75 * (1 - 0.001) / 0.9 + 0.25 * (1 - 0.008) / 0.8)
    assert done.reads == done.writes
    # Table 1: a write and a check read take 0.1 to 3 pJ each; 10 ns to write, up to 10 to read.
    assert done.energy_pj == pytest.approx((0.2 * done.writes, 6 * done.writes))
    assert done.time_ns == pytest.approx((10 * done.writes, 20 * done.writes))
    own = write_check_correct(0.1, 0.1, 0, cost=AccessCost((1, 2), (3, 4), (5, 6)))
    assert (own.writes, own.reads, own.energy_pj, own.time_ns) == (1, 0, (1, 2), (5, 6))
    stuck = write_check_correct(1.0, 0.0, 4)
    assert (stuck.p01, stuck.writes) == (1.0, 3.0)


# Samples


def cuts(lrs, hrs):
    """Errors at every threshold, by brute force."""
    values = sorted({*lrs, *hrs})
    places = [0.5 * values[0], *values]
    return [(int((lrs > t).sum()), int((hrs <= t).sum())) for t in places]


def samples_with_ties(random):
    low = random.integers(1, 12, random.integers(3, 15)).astype(float)
    return low, random.integers(6, 20, random.integers(3, 15)).astype(float)


def test_thresholds_of_samples_against_brute_force():
    random = np.random.default_rng(3)
    for _ in range(200):
        low, high = samples_with_ties(random)
        shares = np.array([(a / len(low), b / len(high)) for a, b in cuts(low, high)])
        equal = equal_error_of_samples(low, high).threshold
        gap = abs(equal.lrs_error - equal.hrs_error)
        assert gap == pytest.approx(np.abs(shares[:, 0] - shares[:, 1]).min(), abs=1e-12)
        cheap = cheapest_of_samples(low, high, 3, 1).threshold
        cost = 3 * cheap.lrs_error + cheap.hrs_error
        assert cost == pytest.approx((3 * shares[:, 0] + shares[:, 1]).min())
        for found in (equal, cheap):
            assert found.lrs_error == (low > found.resistance).mean()
            assert found.hrs_error == (high <= found.resistance).mean()


def test_interval_of_samples_against_brute_force():
    from scipy.stats import binomtest

    random = np.random.default_rng(4)

    def exact(k, n, confidence):
        return binomtest(k, n).proportion_ci(confidence, "exact")

    for _ in range(60):
        low, high = samples_with_ties(random)
        pairs = cuts(low, high)
        apart = (0, 0) in pairs
        level = math.sqrt(0.9)
        # Without overlap the end is one-sided.
        ends = [
            (exact(a, len(low), c), exact(b, len(high), c))
            for a, b in pairs
            for c in [2 * level - 1 if apart else level]
        ]
        top = max(min(x.high, y.high) for x, y in ends)
        bottom = 0.0 if apart else min(max(x.low, y.low) for x, y in ends)
        assert equal_error_interval(low, high, 0.9) == pytest.approx((bottom, top), abs=1e-9)


def test_samples_apart_give_a_bound():
    low, high = np.linspace(1e3, 2e3, 100), np.linspace(1e4, 1e5, 100)
    found = equal_error_of_samples(low, high)
    assert not found.overlap
    assert found.threshold.resistance == pytest.approx(math.sqrt(2e3 * 1e4))
    assert (found.threshold.lrs_error, found.threshold.hrs_error) == (0, 0)
    begin, end = equal_error_interval(low, high)
    assert begin == 0
    assert 1 - (1 - (1 - end) ** 100) ** 2 == pytest.approx(0.05, rel=0.02)


@pytest.mark.parametrize(
    ("sigmas", "sizes", "distance"),
    [((0.5, 0.5), (40, 40), 1.3), ((0.3, 0.9), (50, 50), 2.3), ((0.3, 0.9), (60, 200), 4.0)],
)
def test_coverage_of_both_intervals(sigmas, sizes, distance):
    low = LogNormal(1e4, sigmas[0])
    high = LogNormal(1e4 * math.exp(distance * sum(sigmas)), sigmas[1])
    rate = equal_error_threshold(low, high).lrs_error
    random, runs = np.random.default_rng(5), 600
    held = np.zeros(2)
    for _ in range(runs):
        cell = Condition.from_samples(
            "a", *(draw(random, state, n) for state, n in zip((low, high), sizes, strict=True))
        )
        intervals = (
            lognormal_interval(cell, lambda a, b: equal_error_threshold(a, b).lrs_error),
            equal_error_interval(cell.lrs_samples, cell.hrs_samples),
        )
        held += [begin <= rate <= end for begin, end in intervals]
    fitted, free = held / runs
    assert 0.92 < fitted < 0.98
    assert free > 0.95


def test_coverage_of_the_samples_interval_at_its_worst():
    # Wrong LRS lie just above the threshold, wrong HRS just below, the others far away: one kind of
    # error alone does not make the samples overlap. The rate lies just beyond the bound.
    n, rate, runs = 100, 0.0366, 4000
    random = np.random.default_rng(6)
    held = 0
    for _ in range(runs):
        low = np.where(random.random(n) < rate, 4.0, 1.0)
        high = np.where(random.random(n) < rate, 3.0, 5.0)
        begin, end = equal_error_interval(low, high)
        held += begin <= rate <= end
    assert 0.94 < held / runs < 0.97


def test_interval_of_the_cheapest_threshold_covers():
    low, high = LogNormal(5e3, 0.4), LogNormal(3e4, 0.8)
    choices = Choices(cost_ratio=3.0)
    rate = cell_report(Condition("a", low, high), choices).lognormal.bit_error_rate
    random, runs, held = np.random.default_rng(7), 400, 0
    for _ in range(runs):
        cell = Condition.from_samples("a", draw(random, low, 80), draw(random, high, 80))
        begin, end = cell_report(cell, choices).lognormal.interval
        held += begin <= rate <= end
    assert 0.91 < held / runs < 0.985


def test_the_p_value_is_uniform_for_log_normals_and_small_for_others():
    random = np.random.default_rng(8)
    for n in (10, 200):
        values = np.array([lognormal_p_value(draw(random, HRS, n)) for _ in range(1500)])
        for level in (0.01, 0.05, 0.3, 0.7):
            assert near((values < level).mean(), level, 1200)
    assert lognormal_p_value(random.exponential(1, 300)) < 1e-6
    assert lognormal_p_value(np.arange(1.0, 8)) is None


# The simulated file


def test_the_simulated_file_gives_back_its_parameters():
    cells = runpy.run_path(str(DATA / "make_rram.py"))
    found = read_samples(DATA / "rram.csv")
    assert [cell.name for cell in found] == list(cells["CELLS"])
    for cell in found:
        parameters = cells["CELLS"][cell.name]
        for state, median, sigma in (
            (cell.lrs, *parameters[:2]),
            (cell.hrs, *parameters[2:]),
        ):
            assert abs(math.log(state.median / median)) < 4 * sigma / math.sqrt(cells["CYCLES"])
            assert state.sigma == pytest.approx(sigma, rel=4 / math.sqrt(2 * cells["CYCLES"]))
    overlaps = [cell_report(cell).samples.overlap for cell in found]
    assert overlaps == [False, False, True, True, True]
