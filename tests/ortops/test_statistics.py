# SPDX-License-Identifier: Apache-2.0
"""Rates, bit positions, directions and independence, as z scores of many draws."""

import numpy as np
import pytest

from noisystore.ortops import apply, count_flips


def z_score(successes, trials, p):
    return (successes - trials * p) / np.sqrt(trials * p * (1 - p))


def flip_counts(rate, *, words, seed, stored=0, **options):
    """Flips of each bit position of float32 words that all hold `stored`."""
    x = np.full((64, words // 64), stored, dtype=np.uint32)
    flips = apply(x.view(np.float32), rate, seed=seed, **options).view(np.uint32) ^ x
    return np.array([(flips >> bit & 1).sum() for bit in range(32)], dtype=np.int64)


@pytest.mark.parametrize("p", [1e-3, 0.01, 0.031, 1 / 32, 0.1, 0.3, 0.5])
@pytest.mark.parametrize("stored", [0, 0xFFFFFFFF], ids=["zeros", "ones"])
def test_rate_and_bit_positions(p, stored):
    words = 1 << 21
    counts = flip_counts(p, words=words, seed=11, stored=stored)
    assert abs(z_score(counts.sum(), 32 * words, p)) < 4
    assert np.all(np.abs(z_score(counts, words, p)) < 4.5)


@pytest.mark.parametrize("rate", [(0.02, 0.001), (0.001, 0.02), (0.2, 0.01), (0.03, 0.5)])
def test_both_directions_have_their_own_rate(rate):
    words = 1 << 21
    for p, stored in zip(rate, (0, 0xFFFFFFFF), strict=True):
        counts = flip_counts(rate, words=words, seed=5, stored=stored)
        assert abs(z_score(counts.sum(), 32 * words, p)) < 4
        assert np.all(np.abs(z_score(counts, words, p)) < 4.5)


@pytest.mark.parametrize("p", [1e-8, 1e-7, 1e-6, 1e-5, 1e-4])
def test_small_rates(p):
    expected = 20_000
    words_of_sample = 1 << 26
    samples = int(np.ceil(expected / (p * 32 * words_of_sample)))
    flips = count_flips((samples, words_of_sample), 32, p, seed=3)
    assert abs(z_score(flips.sum(), samples * words_of_sample * 32.0, p)) < 4
    if samples > 30:
        mean = words_of_sample * 32 * p
        dispersion = ((flips - mean) ** 2 / mean).sum()
        assert abs(dispersion - samples) < 5 * np.sqrt(2 * samples)


@pytest.mark.parametrize("p", [0.01, 0.2])
def test_samples_sites_and_seeds_are_uncorrelated(p):
    shape = (2, 1 << 16)
    zeros = np.zeros(shape, np.float32)

    def bits(**options):
        flips = apply(zeros, p, **options).view(np.uint8)
        return np.unpackbits(flips, axis=1).astype(np.float64) - p

    base = bits(seed=1, site=1, sample_index=10)
    others = {
        "seed": bits(seed=2, site=1, sample_index=10),
        "high half of the seed": bits(seed=1 + (1 << 32), site=1, sample_index=10),
        "site": bits(seed=1, site=2, sample_index=10),
        "sample": bits(seed=1, site=1, sample_index=12),
    }
    n = base.size
    for name, other in others.items():
        correlation = (base * other).sum() / (n * p * (1 - p))
        assert abs(correlation) * np.sqrt(n) < 4, name
    neighbours = (base[0] * base[1]).sum() / (base.shape[1] * p * (1 - p))
    assert abs(neighbours) * np.sqrt(base.shape[1]) < 4
    for lag in (1, 7, 8, 31, 32, 128, 256):
        within = (base[:, lag:] * base[:, :-lag]).sum() / (n * p * (1 - p))
        assert abs(within) * np.sqrt(n) < 4.5, lag


def test_two_flips_of_a_word_are_as_frequent_as_independence_says():
    p, words = 0.01, 1 << 22
    x = np.zeros((16, words // 16), np.float32)
    per_word = np.bitwise_count(apply(x, p, seed=8).view(np.uint32)).reshape(-1)
    from scipy.stats import binom

    for k in range(4):
        share = binom.pmf(k, 32, p)
        assert abs(z_score((per_word == k).sum(), words, share)) < 4


@pytest.mark.long
@pytest.mark.parametrize("p", [1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.031, 0.1, 0.5])
def test_rates_over_many_bits(p):
    """A million expected flips and more, counted; z < 4 for each of eight seeds and overall."""
    per_seed = 1_000_000
    words = 1 << 28
    samples = int(np.ceil(per_seed / (p * 32 * words)))
    words = min(words, int(per_seed / (32 * p)) + 1) if samples == 1 else words
    total = 0.0
    for seed in range(8):
        flips = count_flips((samples, words), 32, p, seed=seed).sum()
        z = z_score(flips, samples * words * 32.0, p)
        assert abs(z) < 4
        total += z
    assert abs(total) / np.sqrt(8) < 4


@pytest.mark.long
@pytest.mark.parametrize("dtype", ["uint8", "float16", "float64"])
@pytest.mark.parametrize("p", [1e-3, 0.02, 0.25])
def test_every_width_has_even_bit_positions(dtype, p):
    x = np.zeros((64, 1 << 17), dtype)
    unsigned = f"uint{8 * x.dtype.itemsize}"
    for seed in range(4):
        flips = apply(x, p, seed=seed).view(unsigned)
        for bit in range(8 * x.dtype.itemsize):
            count = (flips >> np.array(bit, unsigned) & np.array(1, unsigned)).sum()
            assert abs(z_score(int(count), x.size, p)) < 4.8
