# SPDX-License-Identifier: Apache-2.0
"""Costs of protection: table 1 by hand, simulated rewriting, a real Hamming (72, 64) decoder."""

import doctest
import itertools
import json
import math

import numpy as np
import pytest

from noisystore.ortops.errors import InputError
from noisystore.runtime import protection_costs
from noisystore.runtime.protection_costs import DRAM, MEANS, RRAM, SRAM, Memory, StoredSite, cost
from noisystore.runtime.rram_writes import AccessCost

FLOATS = StoredSite(1000, 32, 0x7F800000, True)
WEIGHTS = StoredSite(500, 8, 0x80, False)
BOTH = [FLOATS, WEIGHTS]  # 36,000 bits, of which 8,500 are protected.


def test_rram_is_that_of_write_check_correct():
    access = AccessCost()
    assert Memory("RRAM", (4, 4), access.energy_pj, access.read_ns, access.write_ns) == RRAM
    assert Memory("RRAM", (4, 4), (0.1, 3), (0, 10), (10, 10)) == RRAM


# By hand, from table 1


def test_nothing_protected():
    c = cost(BOTH, (1e-4, 2e-4), None)
    assert (c.means, c.rewrites) == ("none", 0)
    assert (c.protected_bits, c.reliable_bits, c.check_bits) == (0, 0, 0)
    assert (c.left, c.left_flips) == ((1e-4, 2e-4), 0)
    assert c.area_f2 == (144_000, 144_000)
    assert c.energy_pj == pytest.approx((0.1 * 68_000, 3 * 68_000))
    assert c.time_ns == (1000 * 10, 1000 * 20 + 500 * 10)


def test_reliable():
    c = cost(BOTH, (1e-4, 1e-4), "reliable")
    assert (c.protected_bits, c.reliable_bits, c.check_bits, c.rewrites) == (8500, 8500, 0, 0)
    assert (c.left, c.left_flips) == ((0, 0), 0)
    assert c.area_f2 == (4 * 27_500 + 140 * 8500,) * 2
    moved = 5e-4 * (2 * 8000 + 500)
    noisy = 2 * 24_000 + 3500
    assert c.energy_pj == pytest.approx((0.1 * noisy + moved, 3 * noisy + moved))
    # The read of a word is bounded from below by SRAM's, 0.1 ns: RRAM's may take none.
    assert c.time_ns == pytest.approx((1000 * 10 + 1500 * 0.1, 1000 * 20 + 500 * 10))


def test_dram_as_reliable_memory():
    c = cost([FLOATS], (1e-4, 1e-4), "reliable", reliable=DRAM)
    assert c.area_f2 == (4 * 24_000 + 6 * 8000, 4 * 24_000 + 12 * 8000)
    assert c.time_ns == (20_000, 20_000)


def test_words_wholly_in_reliable_memory_take_its_time():
    c = cost([StoredSite(10, 8, 0xFF, True)], (1e-4, 1e-4), "reliable")
    assert c.time_ns == pytest.approx((10 * 0.2, 10 * 0.6))


def test_rewrite():
    c = cost(BOTH, (0.01, 0.01), "rewrite", most_left=0.1)
    # After one rewrite 0.85 flips are left, after two 0.0085.
    assert (c.rewrites, c.check_bits, c.reliable_bits) == (2, 0, 0)
    assert c.left == pytest.approx((1e-6, 1e-6))
    assert c.left_flips == pytest.approx(0.0085)
    assert c.area_f2 == (144_000, 144_000)
    bits = 2 * 24_000 + 8000 * (2 * 1.0101 + 1) + 4000
    assert c.energy_pj == pytest.approx((0.1 * bits, 3 * bits))
    attempts = 1000 * (1 + (1 - 0.99**8) + (1 - 0.9999**8))
    assert c.time_ns == pytest.approx((10 * attempts, 20 * attempts + 10 * 1500))


def test_rewritten_parameters_cost_nothing_in_an_inference_but_count_as_flips():
    c = cost([WEIGHTS], (0.01, 0.01), "rewrite", most_left=0.06)
    assert c.rewrites == 1
    assert c.left_flips == pytest.approx(0.05)
    plain = cost([WEIGHTS], (0.01, 0.01), None)
    assert (c.energy_pj, c.time_ns) == (plain.energy_pj, plain.time_ns)


@pytest.mark.parametrize(("most_left", "rewrites"), [(4250, 0), (4249, 1), (2125, 1), (1, 13)])
def test_fewest_rewrites(most_left, rewrites):
    assert cost(BOTH, (0.5, 0.5), "rewrite", most_left=most_left).rewrites == rewrites


def test_words_without_protected_bits_are_written_once():
    free = StoredSite(1000, 32, 0, True)
    alone = cost([free], (0.01, 0.01), None)
    beside = cost([FLOATS, free], (0.01, 0.01), "rewrite")
    assert beside.rewrites == 3
    both = np.add(cost([FLOATS], (0.01, 0.01), "rewrite").time_ns, alone.time_ns)
    assert beside.time_ns == pytest.approx(both)


def test_secded():
    c = cost(BOTH, (1e-4, 1e-4), "secded")
    # 8,000 bits are 125 codewords, 500 are 8, of which the last has 52 bits.
    assert (c.check_bits, c.reliable_bits, c.rewrites) == (8 * 133, 0, 0)
    assert c.area_f2 == (4 * (36_000 + 1064),) * 2
    bits = 2 * (32_000 + 1000) + 4000 + 64
    assert c.energy_pj == pytest.approx((0.1 * bits, 3 * bits))
    assert c.time_ns == cost(BOTH, (1e-4, 1e-4), None).time_ns
    full, short = (c72_or_less(d, 1e-4) for d in (64, 52))
    assert c.left_flips == pytest.approx(8448 * full + 52 * short, rel=1e-9)
    assert c.left == pytest.approx((c.left_flips / 8500,) * 2)


def c72_or_less(data, p):
    """The bound in closed form; odd weights by the difference of (1 - p ± p)**n."""
    n = data + 8
    one = n * p * (1 - p) ** (n - 1)
    return p * (1 - (1 - p) ** (n - 1)) + ((1 - (1 - 2 * p) ** n) / 2 - one) / data


# Extremes and bad input


@pytest.mark.parametrize("means", [None, *MEANS])
def test_no_errors(means):
    c = cost(BOTH, (0.0, 0.0), means)
    assert (c.left, c.left_flips, c.rewrites) == ((0, 0), 0, 0)


@pytest.mark.parametrize("elements", [64, 57, 1])
def test_secded_of_bits_that_all_fail(elements):
    c = cost([StoredSite(elements, 8, 1, True)], (1.0, 1.0), "secded")
    assert c.left == pytest.approx((1, 1))
    assert c.left_flips == pytest.approx(elements)


@pytest.mark.parametrize("p", [1e-12, 1e-30])
def test_secded_of_tiny_rates(p):
    assert cost([FLOATS], (p, p), "secded").left == pytest.approx(
        (71 * p * p,) * 2, rel=1e-9, abs=0
    )


def test_a_rate_of_one_can_be_rewritten_where_no_bit_has_it():
    c = cost([FLOATS], (1.0, 1e-3), "rewrite", ones_fraction=1.0)
    assert (c.rewrites, c.left_flips) == (2, pytest.approx(8e-6))


@pytest.mark.parametrize("means", [None, *MEANS])
@pytest.mark.parametrize("sites", [[], [StoredSite(0, 8, 0xFF, True)], [StoredSite(9, 8, 0, True)]])
def test_nothing_to_protect_costs_what_it_costs_without(sites, means):
    c, plain = cost(sites, (1.0, 1.0), means), cost(sites, (1.0, 1.0), None)
    assert (c.protected_bits, c.check_bits, c.rewrites, c.left_flips) == (0, 0, 0, 0)
    assert (c.area_f2, c.energy_pj, c.time_ns) == (plain.area_f2, plain.energy_pj, plain.time_ns)
    assert math.isfinite(sum(c.left))


def test_all_64_bits():
    c = cost([StoredSite(1, 64, 2**64 - 1, False)], (1e-4, 1e-4), "secded")
    assert (c.protected_bits, c.check_bits) == (64, 8)


@pytest.mark.parametrize(
    ("sites", "rate", "means", "more", "message"),
    [
        (BOTH, (1.0, 1.0), "rewrite", {}, "left in 8,500 protected bits, got 8.5e\\+03 after 100"),
        (BOTH, (0.1, 0.1), "rewrite", {"most_left": 0.0}, "at most 0 flips left"),
        (BOTH, (0.1, 0.1), "rewrite", {"most_left": -1.0}, "most left: expected"),
        (BOTH, (0.1, 0.1), "rewrite", {"most_left": math.nan}, "most left: expected"),
        (BOTH, (0.1, 0.1), "parity", {}, "expected reliable, rewrite, secded or None, got 'par"),
        (BOTH, (1.1, 0.1), "secded", {}, "p01: expected"),
        (BOTH, (0.1, math.nan), "reliable", {}, "p10: expected"),
        (BOTH, (0.1, 0.1), None, {"ones_fraction": 2.0}, "ones fraction: expected"),
        ([FLOATS, StoredSite(1, 8, 0x100, True)], (0, 0), None, {}, "site 1: .* 8 .* got 0x100"),
        ([StoredSite(1, 8, -1, True)], (0, 0), None, {}, "site 0: .* got -0x1"),
        ([StoredSite(-1, 8, 1, True)], (0, 0), None, {}, "site 0: expected"),
        ([StoredSite(1, 0, 0, True)], (0, 0), None, {}, "site 0: expected"),
        (
            [StoredSite(1, 65, 1, True)],
            (0, 0),
            None,
            {},
            "site 0: expected 0 or more words of 1 to 64",
        ),
    ],
)
def test_bad_values(sites, rate, means, more, message):
    with pytest.raises(InputError, match=message) as error:
        cost(sites, rate, means, **more)
    assert "\n" not in str(error.value)


def test_json():
    as_dict = cost(BOTH, (0.01, 0.02), "rewrite", reliable=SRAM).as_dict()
    assert json.loads(json.dumps(as_dict)) == as_dict
    assert as_dict["left"] == pytest.approx([1e-8, 1.6e-7])


def test_examples():
    done = doctest.testmod(protection_costs)
    assert (done.failed, done.attempted > 1) == (0, True)


# Simulated writing


def test_simulated_rewriting():
    words, bits, protected, ones, rate = 200_000, 8, 5, 0.3, (0.3, 0.1)
    c = cost(
        [StoredSite(words, bits, 0b11111, True)],
        rate,
        "rewrite",
        ones_fraction=ones,
        most_left=words * protected * 0.006,
    )
    assert c.rewrites == 3
    random = np.random.default_rng(1)
    stored = random.random((words, protected)) < ones
    wrong = np.ones_like(stored)
    attempts, bit_writes = np.zeros(words), np.zeros(words)
    for _ in range(c.rewrites + 1):
        attempts += wrong.any(axis=1)
        bit_writes += wrong.sum(axis=1)
        wrong &= random.random(wrong.shape) < np.where(stored, rate[1], rate[0])

    def near(per_word, expected):
        assert abs(per_word.mean() - expected / words) < 5 * per_word.std() / math.sqrt(words)

    near(10 * attempts, c.time_ns[0])
    near(20 * attempts + 10, c.time_ns[1])
    near(3 * (2 * bit_writes + protected + 2 * (bits - protected)), c.energy_pj[1])
    near(wrong.sum(axis=1), c.left_flips)
    for value in (0, 1):
        share = wrong[stored == value].mean()
        assert share == pytest.approx(c.left[value], rel=0.2 if value else 0.05)


# A Hamming (72, 64) code: column i of the parity-check matrix is (i in 7 bits, 1)

POSITIONS = np.arange(72)
H = np.vstack([POSITIONS >> k & 1 for k in range(7)] + [np.ones(72, int)])
CHECKS = np.array([0] + [1 << k for k in range(7)])
DATA = np.setdiff1d(POSITIONS, CHECKS)


def decode(words):
    """Correct every word whose parity is odd, in the place that its syndrome names."""
    syndrome = (words.astype(np.float32) @ H.T.astype(np.float32)).astype(int) & 1
    place = syndrome[:, :7] @ (1 << np.arange(7))
    fixed = words.copy()
    (odd,) = np.nonzero((syndrome[:, 7] == 1) & (place < 72))
    fixed[odd, place[odd]] ^= True
    return fixed


def encode(data, places):
    words = np.zeros((len(data), 72), bool)
    words[:, places] = data
    for k in range(7):
        words[:, 1 << k] = words[:, POSITIONS >> k & 1 == 1].sum(axis=1) & 1
    words[:, 0] = words.sum(axis=1) & 1
    return words


def test_the_decoder_of_these_tests():
    words = encode(np.random.default_rng(0).random((72, 64)) < 0.5, DATA)
    assert not (words @ H.T % 2).any()
    flipped = words ^ np.eye(72, dtype=bool)
    assert (decode(flipped) == words).all()
    twice = flipped ^ np.roll(np.eye(72, dtype=bool), 1, axis=1)
    assert (decode(twice) == twice).all()


@pytest.fixture(scope="module")
def wrong_by_weight():
    """Mean number of wrong data bits after decoding, over all patterns of 0 to 4 wrong bits."""
    means = [0.0, 0.0]
    for weight in (2, 3, 4):
        patterns = itertools.chain.from_iterable(itertools.combinations(range(72), weight))
        places = np.fromiter(patterns, np.uint8).reshape(-1, weight)
        wrong = np.isin(places, DATA).sum(axis=1)
        if weight % 2:
            named = np.bitwise_xor.reduce(places, axis=1)
            again = (places == named[:, None]).any(axis=1)
            wrong += np.where(np.isin(named, DATA), np.where(again, -1, 1), 0)
        means.append(wrong.mean())
    return means


@pytest.mark.parametrize("p", [1e-7, 1e-5, 1e-4, 1e-3, 3e-3])
def test_secded_bounds_the_exact_rate_closely(p, wrong_by_weight):
    pmf = [math.comb(72, j) * p**j * (1 - p) ** (72 - j) for j in range(73)]
    least = sum(a * b for a, b in zip(pmf, wrong_by_weight, strict=False)) / 64
    most = least + sum(pmf[j] * min(64, j + 1) for j in range(5, 73)) / 64
    (left, again) = cost([FLOATS], (p, p), "secded").left
    assert left == again
    assert least <= most <= left * (1 + 1e-12) <= 1.3 * least


@pytest.mark.parametrize(
    ("rate", "data"),
    [((0.01, 0.002), 64), ((0.004, 0.008), 64), ((0.02, 0.02), 10), ((0.2, 0.1), 64)],
)
def test_simulated_codewords(rate, data):
    random = np.random.default_rng(data)
    places = DATA[:data]
    stored = encode(random.random((150_000, data)) < 0.5, places)
    used = np.isin(POSITIONS, [*CHECKS, *places])
    flips = (random.random(stored.shape) < np.where(stored, rate[1], rate[0])) & used
    wrong = (decode(stored ^ flips) ^ stored)[:, places]
    left = cost([StoredSite(data, 8, 1, True)], rate, "secded").left
    for value in (0, 1):
        of_value = stored[:, places] == value
        share = (wrong & of_value).sum() / of_value.sum()
        spread = ((wrong & of_value).sum(axis=1) - share * of_value.sum(axis=1)).std()
        error = spread / math.sqrt(len(stored)) / of_value.sum(axis=1).mean()
        assert share - 4 * error <= left[value]
        assert left[value] <= 1.3 * share + 4 * error
