# SPDX-License-Identifier: Apache-2.0
"""`apply` and `count_flips` against the oracle, and what they promise about samples and memory."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noisystore.ortops import InputError, apply, count_flips, reference

DTYPES = ["float16", "float32", "float64", "int8", "uint8", "int32", "uint16"]
RATES = [0, 1e-9, 1e-6, 1e-4, 1e-3, 1e-2, 0.031, 1 / 32, 0.1, 0.5, 1, (1e-3, 1e-5), (0, 0.02),
         (0.3, 0.01), (1, 0), (0, 1)]  # fmt: skip


def random_array(shape, dtype, seed=0):
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    return raw.view(dtype).reshape(shape)


def words(x):
    return x.view(f"uint{8 * x.dtype.itemsize}")


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(words(a), words(b))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("elements", [1, 129, 151, 4096])
def test_equals_oracle(dtype, elements):
    x = random_array((3, elements), dtype)
    for i, rate in enumerate(RATES):
        options = {"seed": 1000 + i, "site": i, "sample_index": 2**32 - 2}
        assert same(apply(x, rate, **options), reference.apply(x, rate, **options)), rate


@pytest.mark.parametrize("rate", [1e-9, 1e-4, 3e-3, 0.1, (1e-3, 2e-4), (0.4, 0.04)])
def test_equals_oracle_long_sample(rate):
    x = random_array((2, 65537), "float32")
    assert same(apply(x, rate, seed=3), reference.apply(x, rate, seed=3))


@settings(max_examples=60, deadline=None)
@given(
    dtype=st.sampled_from(DTYPES),
    shape=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    exponent=st.floats(-7, 0),
    other=st.sampled_from([1.0, 0.5, 0.01, 0.0]),
    mask=st.integers(0, 2**64 - 1),
    seed=st.integers(-(2**63), 2**64 - 1),
    site=st.integers(0, 2**32 - 1),
    sample=st.integers(-(2**40), 2**40),
)
def test_equals_oracle_anywhere(dtype, shape, exponent, other, mask, seed, site, sample):
    x = random_array(shape, dtype)
    rate = (10**exponent, other * 10**exponent)
    options = {"bit_mask": mask, "seed": seed, "site": site, "sample_index": sample}
    assert same(apply(x, rate, **options), reference.apply(x, rate, **options))


@pytest.mark.parametrize("rate", [1e-5, 1e-3, 0.02, 0.2, (0.01, 0.001), (0.2, 0.5)])
def test_batches_and_order_of_samples_change_nothing(rate):
    x = random_array((12, 3, 50), "float32")
    whole = apply(x, rate, seed=9, site=2, sample_index=100)
    for size in (1, 5, 7):
        for start in range(0, 12, size):
            part = apply(x[start : start + size], rate, seed=9, site=2, sample_index=100 + start)
            assert same(part, whole[start : start + size])
    order = np.array([3, 0, 11, 3, 7])
    assert same(apply(x[order], rate, seed=9, site=2, sample_index=100 + order), whole[order])


def test_rows_per_sample():
    x = random_array((12, 10), "float32")
    four = apply(x, 0.05, rows_per_sample=4)
    assert same(four, apply(x.reshape(3, 40), 0.05).reshape(12, 10))
    assert same(apply(x, 0.05, rows_per_sample=0, sample_index=5),
                apply(x, 0.05, rows_per_sample=-1, sample_index=0))  # fmt: skip
    assert same(apply(x, 0.05, rows_per_sample=-1, sample_index=8),
                apply(x.reshape(1, 120), 0.05, sample_index=8).reshape(12, 10))  # fmt: skip


def test_rates_and_masks_of_a_site():
    x = random_array((4, 100), "float32")
    rates = np.array([[0, 0], [0.1, 0.2], [0, 0]])
    masks = [1, 0xF0, 3]
    assert same(apply(x, rates, bit_mask=masks, site=1),
                apply(x, (0.1, 0.2), bit_mask=0xF0, site=1))  # fmt: skip


def test_only_noisy_bits_change():
    x = random_array((50, 1000), "float32")
    for rate, mask in itertools.product((1e-3, 0.3), (0x80000000, 0x7F800000, 0x7FFFFF, 0)):
        changed = words(apply(x, rate, bit_mask=mask)) ^ words(x)
        assert np.bitwise_or.reduce(changed, axis=None) == mask


def test_in_place_and_out():
    x = random_array((8, 333), "float32")
    for rate in (0, 1e-3, 0.1, (0.1, 0.01)):
        expected = apply(x, rate, seed=4)
        kept, mine = x.copy(), np.empty_like(x)
        assert apply(kept, rate, seed=4, out=kept) is kept
        assert same(kept, expected)
        apply(x, rate, seed=4, out=mine)
        assert same(mine, expected)


def test_input_is_not_changed_and_may_be_strided():
    x = random_array((6, 40), "float32")
    view = x[::2, ::4]
    before = x.copy()
    assert same(apply(view, 0.1), apply(np.ascontiguousarray(view), 0.1))
    assert same(x, before)


def test_empty_and_scalar():
    assert apply(np.empty((0, 5), np.float32), 0.5, sample_index=3).shape == (0, 5)
    assert apply(np.empty((5, 0), np.float32), 0.5).shape == (5, 0)
    scalar = np.float32(1.5).reshape(())
    assert same(apply(scalar, 0.5), apply(scalar.reshape(1), 0.5).reshape(()))


def test_bfloat16_words():
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="needs ml_dtypes")
    x = random_array((3, 100), "uint16")
    out = apply(x.view(ml_dtypes.bfloat16), 0.1)
    assert out.dtype == ml_dtypes.bfloat16
    assert same(out.view(np.uint16), apply(x, 0.1))


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
@pytest.mark.parametrize("rate", [1e-6, 1e-4, 1e-2, 0.03125, 0.3, 1.0])
def test_count_flips_is_exact(bits, rate):
    x = random_array((5, 7, 301), {8: "uint8", 16: "float16", 32: "float32", 64: "float64"}[bits])
    index = np.array([9, 2, 2**31, 4, 9])
    options = {"seed": 77, "site": 5, "sample_index": index, "bit_mask": 0xAAAAAAAAAAAAAAF1}
    flips = words(apply(x, rate, **options)) ^ words(x)
    made = np.bitwise_count(flips).astype(np.int64).sum(axis=(1, 2))
    assert count_flips(x.shape, bits, rate, **options).tolist() == made.tolist()


@pytest.mark.parametrize("rate", [(1e-3, 1e-4), (0.0, 0.02), (0.3, 0.1), (0.5, 0.01)])
def test_count_flips_bounds_unequal_rates(rate):
    x = random_array((9, 400), "float32")
    made = np.bitwise_count(words(apply(x, rate)) ^ words(x)).sum(axis=1)
    counted = count_flips(x.shape, 32, rate)
    assert np.all(counted >= made)
    assert counted.sum() > 0


def test_count_flips_of_rows():
    whole = count_flips((12, 50), 32, 0.01)
    assert count_flips((12, 50), 32, 0.01, rows_per_sample=3).shape == (4,)
    assert count_flips((12, 50), 32, 0.01, rows_per_sample=0).shape == (1,)
    assert count_flips((12, 50), 32, 0.01, rows_per_sample=-1, sample_index=7).shape == (1,)
    assert whole.shape == (12,)


GOOD = np.ones((4, 10), np.float32)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"bit_error_rate": 1.5}, "expected values in [0, 1], got 1.5"),
        ({"bit_error_rate": -1e-9}, "expected values in [0, 1]"),
        ({"bit_error_rate": float("nan")}, "expected values in [0, 1], got nan"),
        ({"bit_error_rate": "much"}, "bit error rate: expected a number"),
        ({"bit_error_rate": [0.1, 0.1, 0.1]}, "got shape [3]"),
        ({"bit_error_rate": np.zeros((3, 2)), "site": 3}, "site: 3 is out of range"),
        ({"bit_mask": -1}, "bit mask: expected an integer"),
        ({"bit_mask": 1 << 64}, "bit mask: expected an integer"),
        ({"bit_mask": 0.5}, "bit mask: expected an integer"),
        ({"bit_mask": [1, 2], "site": 2}, "site: 2 is out of range"),
        ({"seed": 1 << 64}, "seed: expected an integer of 64 bits"),
        ({"seed": 0.5}, "seed: expected an integer"),
        ({"site": -1}, "site: expected an integer"),
        ({"site": 1 << 32}, "site: expected an integer"),
        ({"sample_index": [1, 2, 3]}, "sample_index: expected 1"),
        ({"sample_index": []}, "sample_index: expected one value"),
        ({"sample_index": [], "rows_per_sample": -1}, "sample_index: expected one value"),
        ({"bit_error_rate": np.zeros((2, 2)), "bit_mask": [1, 2, 3]}, "bit_mask: expected 2"),
        ({"sample_index": 0.5}, "sample index: expected"),
        ({"sample_index": [[1]]}, "sample index: expected"),
        ({"storage_format": "float12"}, "unknown format 'float12'"),
        ({"storage_format": "int8", "scale": 0.0}, "scale: "),
        ({"x": GOOD.astype(np.int32), "storage_format": "int32"}, "unknown format 'int32'"),
        ({"rows_per_sample": 3}, "no multiple of rows_per_sample"),
        ({"rows_per_sample": -2}, "rows_per_sample: expected an integer from -1"),
        ({"rows_per_sample": 2**64 + 1}, "rows_per_sample: expected an integer"),
        ({"zero_point": 2**40}, "zero_point: expected an integer"),
        ({"scale": "1"}, "scale: expected a number"),
        ({"scale": 10**400}, "scale: expected a number of float32"),
        ({"scale": np.complex64(1j)}, "scale: expected a number"),
        ({"storage_format": None}, "storage_format: expected a format's name"),
        ({"storage_format": "native\0x"}, "storage_format: expected a format's name"),
        ({"x": GOOD.astype(np.complex64)}, "x: expected one of"),
        ({"x": GOOD.astype(">f4")}, "byte order"),
        ({"out": np.ones((4, 11), np.float32)}, "out: expected a C-contiguous array"),
        ({"out": np.ones((4, 10), np.float64)}, "out: expected a C-contiguous array"),
    ],
)
def test_bad_arguments(arguments, problem):
    call = {"x": GOOD, "bit_error_rate": 0.1, **arguments}
    x, rate = call.pop("x"), call.pop("bit_error_rate")
    with pytest.raises(InputError) as caught:
        apply(x, rate, **call)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)
    assert np.all(GOOD == 1)


@pytest.mark.parametrize("shape", [(2**64 + 4, 10), (-5, 10), (2**50,), (2**40, 2**40), (1.5, 2)])
def test_bad_shapes(shape):
    with pytest.raises(InputError):
        count_flips(shape, 32, 0.1)


def test_empty_shapes_are_no_overflow():
    assert count_flips((2, 2**40, 2**40, 0), 32, 0.1).tolist() == [0, 0]


def test_oracle_and_library_agree_on_edges():
    scalar = np.float32(1.5).reshape(())
    for implementation in (apply, reference.apply):
        assert implementation(scalar, 0.5).shape == ()
        with pytest.raises(InputError):
            implementation(np.empty((0, 5), np.float32), 0.5, sample_index=[1, 2])
        # A batch of no samples has as many indices.
        for none in ([], np.zeros(0, np.int64)):
            assert implementation(np.empty((0, 5), np.float32), 0.5, sample_index=none).size == 0
        for rows in (1, -1):
            with pytest.raises(InputError, match="sample_index: expected"):
                implementation(GOOD, 0.5, sample_index=[], rows_per_sample=rows)


@pytest.mark.parametrize(
    "rate", [1e-300, 5e-324, 1e-19, np.nextafter(1 / 32, 0), 1 / 32, 1 - 2**-53]
)
@pytest.mark.parametrize("mask", [1, 0x80000000, 0x1FFFFFF, 2**64 - 1])
def test_extreme_rates(rate, mask):
    x = random_array((2, 700), "float32")
    for other in (rate, rate / 2, 0.0):
        options = {"bit_mask": mask, "site": 2**32 - 1, "sample_index": 2**63 - 1, "seed": -1}
        pair = (rate, other)
        assert same(apply(x, pair, **options), reference.apply(x, pair, **options))


def test_bad_memory():
    x = np.ones(100, np.float32)
    with pytest.raises(InputError, match="overlaps"):
        apply(x[:50], 0.1, out=x[10:60])
    x.flags.writeable = False
    with pytest.raises(InputError, match="read-only"):
        apply(x, 0.1, out=x)
    with pytest.raises(InputError, match="word_bits"):
        count_flips((3,), 12, 0.1)
