# SPDX-License-Identifier: Apache-2.0
"""Choosing bits to protect: the knapsack, harm, paired runs and their intervals."""

import itertools

import numpy as np
import pytest

from noisystore.ortops.errors import InputError
from noisystore.runtime import NoisySession
from noisystore.runtime.clean_once import CleanOnce
from noisystore.runtime.noisy_sites import NoisySites
from noisystore.runtime.protection import parse_target
from noisystore.runtime.protection_choice import Unit, cheapest, least_harm, screen
from noisystore.runtime.protection_comparison import by_layer
from noisystore.runtime.protection_report import bits_of_mask
from noisystore.runtime.protection_runs import PairedRuns, Run, _divergence, noisy_bits

ALL = np.uint64(2**64 - 1)


def random_units(seed, number=9):
    rng = np.random.default_rng(seed)
    sizes, harms = rng.integers(1, 40, number), rng.lognormal(-3, 2, number)
    return [
        Unit(i % 3, 1 << i, int(s), float(h))
        for i, (s, h) in enumerate(zip(sizes, harms, strict=True))
    ]


def subsets(units):
    return itertools.product((False, True), repeat=len(units))


def size(units, chosen):
    return sum(u.bits for u, c in zip(units, chosen, strict=True) if c)


def left(units, chosen):
    return sum(u.harm for u, c in zip(units, chosen, strict=True) if not c)


@pytest.mark.parametrize("seed", range(6))
def test_the_choice_is_the_best_of_all_subsets(seed):
    units = random_units(seed)
    allowed = 0.3 * sum(u.harm for u in units)
    best = min(size(units, s) for s in subsets(units) if left(units, s) <= allowed)
    chosen = cheapest(units, allowed)
    assert left(units, chosen) <= allowed * (1 + 1e-9)
    assert size(units, chosen) == best
    budget = size(units, [True] * len(units)) // 2
    least = min(left(units, s) for s in subsets(units) if size(units, s) <= budget)
    chosen = least_harm(units, budget)
    assert size(units, chosen) <= budget
    assert left(units, chosen) == pytest.approx(least, rel=1e-5)


def test_no_harm_allowed_protects_all_that_does_any():
    units = [Unit(0, 1, 5, 0.1), Unit(0, 2, 5, 0.0), Unit(1, 1, 1, 2.0)]
    assert cheapest(units, 0.0).tolist() == [True, False, True]
    assert cheapest(units, 3.0).tolist() == [False, False, False]
    assert least_harm(units, 0).tolist() == [False, False, False]


def test_the_solver_leaves_standard_output_alone(capfd):
    rng = np.random.default_rng(0)
    for i in range(20):
        cheapest(random_units(i, 60), float(rng.uniform(0.01, 1)))
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("mask", "width", "text"),
    [(0, 32, "-"), (1 << 31, 32, "0"), (0b1111110 << 25, 32, "0-5"), (0b10110001, 8, "0,2-3,7")],
)
def test_bits_of_a_mask_count_from_the_top(mask, width, text):
    assert bits_of_mask(mask, width) == text


def test_divergence():
    clean = np.array([[2.0, 0.0, -1.0]] * 4, dtype=np.float32)
    noisy = clean.copy()
    noisy[1, 0] = np.nan
    noisy[2, 1] = np.inf
    noisy[3] = clean[3] + 7  # a shift of all logits changes no probability
    assert _divergence(clean, noisy) == pytest.approx([0, 3, 3, 0], abs=1e-6)
    p, q = (np.exp(x) / np.exp(x).sum() for x in (clean[0], np.array([1.0, 0.5, 0.0])))
    expected = float(np.sum(p * np.log(p / q)))
    assert _divergence(clean[:1], np.array([[1.0, 0.5, 0.0]])) == pytest.approx(
        [expected], rel=1e-5
    )


@pytest.mark.parametrize("per_trial", [1, 20])
def test_intervals_cover(per_trial):
    """Images are clean-right with 0.85; each trial has a chance of its own to lose them."""
    rng, hit, repetitions = np.random.default_rng(1), 0, 600
    trial = np.arange(1000) // per_trial
    for _ in range(repetitions):
        clean = rng.random(1000) < 0.85
        lost = rng.random(1000) < rng.beta(1, 4, trial[-1] + 1)[trial]
        run = Run(clean & ~lost, ~lost, clean, trial)
        low, high = run.loss_interval()
        hit += low <= 0.85 * 0.2 <= high
    assert 0.92 <= hit / repetitions <= 0.98


def test_equal_runs_have_no_gain_and_an_interval_all_the_same():
    right = np.arange(500) % 7 > 0
    run = Run(right, right, right, np.arange(500))
    gain, (low, high) = run.gain_over(run)
    assert gain == 0
    assert low < 0 < high < 0.01


@pytest.fixture
def runs(model_path, small_data):
    session = NoisySession(model_path)
    noisy = NoisySites(session.sites)
    masks = np.full(len(session.sites), ALL)
    return PairedRuns(CleanOnce(session, small_data, 16), noisy, (0.02, 0.02), masks, 3)


def test_sites_with_rates_of_their_own_keep_them(model_path, small_data):
    session = NoisySession(model_path)
    noisy = NoisySites(session.sites, 0, {1: 0.1})
    masks = np.full(len(session.sites), ALL)
    assert noisy_bits(session.sites, noisy, masks).tolist() == [0xFFFFFFFF, 0]
    runs = PairedRuns(CleanOnce(session, small_data, 16), noisy, (0.02, 0.02), masks, 3)
    run = runs.run(runs.bits, runs.verifying(40), "a")
    assert not run.agree.all()


def test_runs_of_one_purpose_are_equal_and_protection_protects(runs):
    samples = runs.verifying(40)
    assert np.array_equal(samples, np.unique(samples))
    first, again = (runs.run(None, samples, "a") for _ in range(2))
    assert np.array_equal(first.correct, again.correct)
    assert not np.array_equal(first.agree, runs.run(None, samples, "b").agree)
    whole = runs.run(runs.bits, samples, "a")
    assert whole.agree.all()
    assert not first.agree.all()
    assert runs.harm(np.zeros_like(runs.bits), samples, "a") == 0
    assert runs.harm(runs.bits, samples, "a") > runs.harm(runs.bits & np.uint64(1), samples, "a")


def test_a_run_is_that_of_the_session(runs, small_data):
    """The same masks, rates and seed by hand."""
    from noisystore.runtime.midpoint_network import derived_seed
    from noisystore.runtime.rates import noise_seed

    samples = runs.verifying(20)
    protected = np.array([0x7F800000, 0xFFFFFFFF], dtype=np.uint64)
    run = runs.run(protected, samples, "a")
    session = runs.evaluator.session
    x = runs.evaluator._prepare(small_data.images[samples])
    seed = noise_seed(derived_seed(3, "noise|a"), 0, 0.02, 0.02)
    rates = np.array([[0.02, 0.02], [0, 0]])
    noisy = session.run(x, rates, np.array([0x807FFFFF, 1], np.uint64), seed, samples)
    clean = session.run(x)
    assert np.array_equal(run.agree, noisy.argmax(axis=1) == clean.argmax(axis=1))


def test_the_screen_covers_every_noisy_bit_once(runs):
    found = screen(runs, images=30)
    masks = np.zeros_like(runs.bits)
    for unit in found.units:
        assert int(masks[unit.site]) & unit.mask == 0
        masks[unit.site] |= np.uint64(unit.mask)
    assert np.array_equal(masks, runs.bits)
    assert max(found.by_bit, key=lambda bit: found.by_bit[bit]) == 1  # the first exponent bit
    everything = found.protected([True] * len(found.units), len(runs.bits))
    assert found.bits(everything) == 32 * sum(found.elements.values())
    some = by_layer(found, found.bits(everything) // 3, len(runs.bits))
    assert 0 < found.bits(some) <= found.bits(everything) // 3


@pytest.mark.parametrize(
    ("text", "expected"), [("99%", (0.99, True)), ("0.84", (0.84, False)), (0.5, (0.5, False))]
)
def test_targets(text, expected):
    assert parse_target(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["120%", "abc", "0", "-1", "nan", "1.2", ""])
def test_bad_targets(text):
    with pytest.raises(InputError, match="target: expected"):
        parse_target(text)
