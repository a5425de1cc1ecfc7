# SPDX-License-Identifier: Apache-2.0
"""`apply` in every storage format against the oracle, bit for bit."""

import ctypes
import platform

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from patterns import FLOATS, FORMATS, INTEGERS, every_value, same

from noisystore.ortops import InputError, apply, count_flips, reference
from noisystore.ortops.formats import WORD_FORMATS, float32_bits

QUANTIZED = {"scale": 0.37, "zero_point": 3}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", FORMATS)
def test_every_pattern_is_stored_and_loaded_like_the_oracle(dtype, name):
    x = every_value(dtype)
    options = {"storage_format": name, **QUANTIZED}
    expected = reference.load(reference.store(x, **options), dtype, **options)
    assert same(apply(x, 0.0, **options), expected)
    mine = x.copy()
    assert same(apply(mine, 0.0, out=mine, **options), expected)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", FORMATS)
def test_every_bit_of_every_pattern_flips_like_the_oracle(dtype, name):
    x = every_value(dtype)
    options = {"storage_format": name, **QUANTIZED}
    stored = reference.store(x, **options)
    for bit in range(WORD_FORMATS[name].noisy_bits):
        expected = reference.load(stored ^ np.uint64(1 << bit), dtype, **options)
        assert same(apply(x, 1.0, bit_mask=1 << bit, **options), expected), bit


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", FORMATS)
def test_every_word_loads_like_the_oracle(dtype, name):
    """With p01 = 1 on some bits and p10 = 1 on the others every word can be made."""
    word = WORD_FORMATS[name]
    options = {"storage_format": name, "scale": 7e36, "zero_point": 1}
    every = (1 << word.noisy_bits) - 1
    rng = np.random.default_rng(word.noisy_bits)
    if word.noisy_bits <= 8:
        targets = np.arange(every + 1)
    else:
        targets = rng.integers(0, every, 500, dtype=np.uint64, endpoint=True)
    x = np.zeros(3, dtype)
    for target in targets:
        target = int(target)
        zeros = apply(x, 1.0, bit_mask=target ^ int(reference.store(x, **options)[0]), **options)
        assert same(zeros, reference.load(np.full(3, target), dtype, **options)), hex(target)


SCALES = [1.0, 0.1, 1 / 255, 3e-3, 1e-45, 1.1754944e-38, 1e-30, 1e30, 3.4028235e38, 2.0**-7]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("scale", SCALES)
def test_scales_and_zero_points(dtype, name, scale):
    x = every_value(dtype)[None, ::5]
    for zero_point in (INTEGERS[name][0], 0, INTEGERS[name][1]):
        options = {"storage_format": name, "scale": scale, "zero_point": zero_point}
        assert same(apply(x, 0.0, **options), reference.apply(x, 0.0, **options))
        some = x[:, :: x.size // 100]
        assert same(apply(some, 0.2, **options), reference.apply(some, 0.2, **options))


RATES = [0, 1e-6, 1e-3, 0.02, 0.031, 1 / 32, 0.3, 1, (1e-2, 1e-4), (0, 0.02), (0.3, 0.01), (0, 1)]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", FORMATS)
def test_rates(dtype, name):
    x = every_value(dtype)
    x = np.random.default_rng(5).choice(x.view(f"uint{8 * x.itemsize}"), (2, 401)).view(dtype)
    for i, rate in enumerate(RATES):
        options = {"seed": i, "site": i, "sample_index": 2**32 - 2, "storage_format": name}
        options |= QUANTIZED
        assert same(apply(x, rate, **options), reference.apply(x, rate, **options)), rate


@settings(max_examples=150, deadline=None)
@given(
    dtype=st.sampled_from(list(FLOATS)),
    name=st.sampled_from(["native", *FORMATS]),
    shape=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    exponent=st.floats(-7, 0),
    other=st.sampled_from([1.0, 0.5, 0.01, 0.0]),
    mask=st.integers(0, 2**64 - 1) | st.sampled_from(["all", "msb:1-", "0x1"]),
    seed=st.integers(-(2**63), 2**64 - 1),
    scale=st.floats(2.0**-140, 2.0**127, width=32),
    zero_point=st.integers(0, 7),
    rows=st.sampled_from([-1, 0, 1]),
)
def test_equals_oracle_anywhere(
    dtype, name, shape, exponent, other, mask, seed, scale, zero_point, rows
):
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.random.default_rng(seed % 2**32).integers(0, 256, size, dtype=np.uint8)
    x = raw.view(dtype).reshape(shape)
    rate = (10**exponent, other * 10**exponent)
    options = {"bit_mask": mask, "seed": seed, "storage_format": name, "rows_per_sample": rows}
    options |= {"scale": scale, "zero_point": zero_point, "sample_index": 3, "site": 9}
    assert same(apply(x, rate, **options), reference.apply(x, rate, **options))


@pytest.mark.parametrize("name", ["float16", "float8e5m2", "uint8", "int4"])
def test_a_long_sample_and_its_parts(name):
    x = np.random.default_rng(0).normal(size=(4, 3, 7001)).astype(np.float32)
    for rate in (1e-5, 1e-3, 0.1):
        options = {"storage_format": name, "seed": 3, "scale": 0.02, "zero_point": 5}
        whole = apply(x, rate, sample_index=50, **options)
        parts = [apply(x[i : i + 1], rate, sample_index=50 + i, **options) for i in range(4)]
        assert same(whole, np.concatenate(parts))
    assert same(whole, reference.apply(x, rate, sample_index=50, **options))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("rate", [1e-4, 1e-2, 0.3])
def test_count_flips_tells_the_flips_of_stored_words(name, rate):
    x = np.random.default_rng(1).normal(size=(5, 2003)).astype(np.float64)
    word = WORD_FORMATS[name]
    noise = {"seed": 8, "site": 1, "sample_index": 6}
    counted = count_flips(x.shape, word.word_bits, rate, storage_format=name, **noise)
    stored = reference.store(x, name)
    mask = (1 << word.noisy_bits) - 1
    rows = [
        reference.flip_words(stored[i], word.word_bits, (rate, rate), mask, 8, 1, 6 + i)
        for i in range(5)
    ]
    assert counted.tolist() == np.bitwise_count(np.stack(rows) ^ stored).sum(axis=1).tolist()
    loaded = reference.load(np.stack(rows), "float64", name)
    assert same(apply(x, rate, storage_format=name, **noise), loaded)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"storage_format": "float12"}, "unknown format 'float12'"),
        ({"storage_format": "int8", "scale": 0.0}, "scale"),
        ({"storage_format": "int8", "scale": -1.0}, "scale"),
        ({"storage_format": "uint8", "scale": float("nan")}, "scale"),
        ({"storage_format": "uint8", "scale": 1e-60}, "scale"),
        ({"storage_format": "uint4", "scale": 1e60}, "scale"),
        (
            {"storage_format": "uint8", "zero_point": -1},
            "zero_point: expected an integer from 0 to 255 for uint8, got -1",
        ),
        (
            {"storage_format": "int4", "zero_point": 8},
            "zero_point: expected an integer from -8 to 7 for int4, got 8",
        ),
        ({"x": np.ones(2, np.int8), "storage_format": "float16"}, "int8"),
        ({"x": np.ones(2, np.int8), "storage_format": "uint8"}, "int8"),
        ({"x": np.ones(2, np.int32), "storage_format": "int8"}, "int32"),
    ],
)
def test_library_and_oracle_refuse_the_same(arguments, problem):
    call = {"x": np.ones(2, np.float32), **arguments}
    x = call.pop("x")
    for implementation in (apply, reference.apply):
        out = np.full_like(x, 5)
        with pytest.raises(InputError) as caught:
            implementation(x, 0.1, out=out, **call)
        assert problem in str(caught.value)
        assert "\n" not in str(caught.value)
        assert np.all(out == 5)


def test_scale_and_zero_point_count_for_integers_only():
    x = np.float32([1.5, -2.25])
    for implementation in (apply, reference.apply):
        for name in ("native", "float16"):
            y = implementation(x, 0, storage_format=name, scale=0.0, zero_point=999)
            assert y.tolist() == x.tolist()


def test_count_flips_of_a_format_of_another_width():
    with pytest.raises(InputError, match="16 bits a word, float16, bfloat16, got 'int8'"):
        count_flips((3,), 16, 0.1, storage_format="int8")


def test_a_scale_is_rounded_to_the_nearest_float32():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 1 << 63, 20000, np.int64).view(np.float64)
    near = rng.integers(0, 1 << 31, 20000, np.uint32).view(np.float32).astype(np.float64)
    finite = near[np.isfinite(near)]
    ties = finite + np.spacing(finite.astype(np.float32)).astype(np.float64) / 2
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 5e-324, 2.0**-150, 2.0**-149, 1e39]
    special += [3.4028235e38, 3.40282356779733e38, 3.4028235677973362e38]  # at the largest
    special += [2.0**-126, np.nextafter(2.0**-126, 0)]  # the smallest that is normal
    beside = (*np.nextafter(ties, 0), *np.nextafter(ties, 1e300))
    for value in (*values, *near, *ties, *beside, *special):
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            expected = np.float32(value)
        bits = float32_bits(float(value))
        if np.isnan(expected):
            assert np.isnan(np.uint32(bits).view(np.float32))
        else:
            assert bits == int(expected.view(np.uint32)), value


@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs the rounding modes of x86-64")
@pytest.mark.parametrize("mode", [0x400, 0x800, 0xC00])  # down, up, towards zero
def test_a_scale_in_another_rounding_mode(mode):
    x = np.random.default_rng(0).uniform(-30, 30, (3, 200)).astype(np.float32)
    options = {"storage_format": "int8", "zero_point": 3}
    scales = (0.1, 1 / 3, 0.07, 1e-40)
    expected = [apply(x, 0.01, scale=scale, **options) for scale in scales]
    math = ctypes.CDLL("libm.so.6")
    for scale, values in zip(scales, expected, strict=True):
        math.fesetround(mode)
        try:
            found = apply(x, 0.01, scale=scale, **options)
        finally:
            math.fesetround(0)
        assert same(found, values)
