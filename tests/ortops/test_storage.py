# SPDX-License-Identifier: Apache-2.0
"""Storing and loading in the oracle against other opinions: tables of values, ml_dtypes, text."""

import numpy as np
import patterns
import pytest
from patterns import FLOATS, FORMATS, INTEGERS, as_float64, every_value, fields, positive_values

from noisystore.ortops import InputError, reference

ml_dtypes = pytest.importorskip("ml_dtypes", reason="needs ml_dtypes")

NARROW = ["float16", "bfloat16", "float8e4m3fn", "float8e5m2"]
SATURATING = ["float8e4m3fn", "float8e5m2"]
THEIRS = {
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float32": np.float32,
    "float64": np.float64,
    "float8e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8e5m2": ml_dtypes.float8_e5m2,
}


def nearest(x, name):
    """Words of the nearest values, by search in the table of all values: ties to the even word."""
    values = positive_values(name)
    midpoints = np.append((values[:-1] + values[1:]) / 2, values[-1] * 1.5 - values[-2] / 2)
    magnitude = np.abs(x)
    word = np.searchsorted(midpoints, magnitude, side="left")
    tie = magnitude == midpoints[np.minimum(word, len(midpoints) - 1)]
    word += tie & (word % 2 == 1)
    if name in SATURATING:
        word = np.minimum(word, len(values) - 1)
    sign = np.signbit(x).astype(np.uint64)
    return word.astype(np.uint64) | sign << np.uint64(sum(fields(name)))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", NARROW)
def test_narrower_floats_are_the_nearest_values(dtype, name):
    x = every_value(dtype)
    exact = as_float64(x)
    number = ~np.isnan(exact)
    if patterns.NAMES.get(dtype, dtype) == name:
        expected = patterns.words(x)
    else:
        expected = nearest(np.where(number, exact, 0), name)
    assert np.array_equal(reference.store(x, name)[number], expected[number])


def test_float64_to_float32_is_the_hardwares_rounding():
    x = every_value("float64")
    number = ~np.isnan(x)
    with np.errstate(all="ignore"):
        expected = x.astype(np.float32)
        wide = expected.astype(np.float64)
    stored = reference.store(x, "float32")
    assert np.array_equal(stored[number], expected.view(np.uint32)[number])
    assert np.array_equal(reference.load(stored, "float64", "float32")[number], wide[number])


@pytest.mark.parametrize("dtype", ["float16", "uint16", "float32"])
@pytest.mark.parametrize("name", NARROW)
def test_ml_dtypes_agrees_where_it_neither_overflows_nor_has_nan(dtype, name):
    x = every_value(dtype)
    mine = x.view(ml_dtypes.bfloat16) if dtype == "uint16" else x
    with np.errstate(all="ignore"):
        theirs = mine.astype(THEIRS[name])
        finite = np.isfinite(theirs.astype(np.float64))
    expected = patterns.words(theirs)
    assert finite.sum() > 1000
    assert np.array_equal(reference.store(x, name)[finite], expected[finite])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", NARROW)
def test_every_word_loads_as_its_value(dtype, name):
    bits = 1 + sum(fields(name))
    words = np.arange(1 << bits, dtype=f"uint{bits}")
    target = patterns.NAMES.get(dtype, dtype)
    with np.errstate(all="ignore"):
        values = words.view(THEIRS[name]).astype(np.float64)
        expected = values.astype(THEIRS[target])
    loaded = reference.load(words, dtype, name)
    assert loaded.dtype == np.dtype(dtype)
    number = ~np.isnan(values)
    assert np.array_equal(patterns.words(loaded)[number], patterns.words(expected)[number])


@pytest.mark.parametrize("dtype", ["float16", "uint16", "float32"])
@pytest.mark.parametrize("name", ["float32", "float64"])
def test_wider_floats_are_exact_and_come_back(dtype, name):
    x = every_value(dtype)
    if patterns.NAMES.get(dtype, dtype) != name:
        stored = reference.store(x, name).astype(f"uint{name[-2:]}").view(name)
        number = ~np.isnan(as_float64(x))
        assert np.array_equal(stored[number].astype(np.float64), as_float64(x)[number])
        assert np.array_equal(np.isnan(stored), ~number)
    assert patterns.same(reference.load(reference.store(x, name), dtype, name), x)


@pytest.mark.parametrize("dtype", ["float16", "uint16", "float32"])
def test_a_wider_word_is_rounded_once_and_overflows_to_infinity(dtype):
    words = patterns.words(every_value("float64"))
    values = words.view(np.float64)
    number = ~np.isnan(values)
    loaded = reference.load(words, dtype, "float64")
    if dtype == "float32":
        with np.errstate(all="ignore"):
            expected = patterns.words(values.astype(np.float32))
    else:
        expected = nearest(np.where(number, values, 0), patterns.NAMES.get(dtype, dtype))
    assert np.array_equal(patterns.words(loaded)[number], expected[number])
    assert np.isinf(as_float64(loaded)[number & np.isfinite(values)]).sum() > 1000


def nan_text(word, source, target):
    """The NaN rule, on the bits as text: sign, exponent, then the payload from its top."""
    exponent, mantissa = fields(source)
    text = format(int(word), f"0{1 + exponent + mantissa}b")
    sign, payload = text[0], text[1 + exponent :]
    wide_exponent, wide_mantissa = fields(target)
    if target == "float8e4m3fn":
        return int(sign + "1111111", 2)
    payload = "1".ljust(wide_mantissa, "0") if source == "float8e4m3fn" else payload
    payload = payload[:wide_mantissa].ljust(wide_mantissa, "0")
    if "1" not in payload:
        payload = payload[:-1] + "1"
    return int(sign + "1" * wide_exponent + payload, 2)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", [name for name in FORMATS if "int" not in name])
def test_nans_keep_sign_and_top_payload(dtype, name):
    own = patterns.NAMES.get(dtype, dtype)
    x = every_value(dtype)
    x = x[np.isnan(as_float64(x))]
    stored = reference.store(x, name)
    assert len(x) > 50
    if own == name:
        assert np.array_equal(stored, patterns.words(x))
        return
    expected = [nan_text(word, own, name) for word in patterns.words(x)]
    assert stored.tolist() == expected
    loaded = patterns.words(reference.load(stored, dtype, name))
    assert loaded.tolist() == [nan_text(word, name, own) for word in stored]


def test_nans_that_are_spelled_out():
    def through(word, name):
        x = np.array([word], np.uint32).view(np.float32)
        stored = reference.store(x, name)
        return int(stored[0]), int(reference.load(stored, "float32", name).view(np.uint32)[0])

    assert through(0x7F800001, "float16") == (0x7C01, 0x7F802000)
    assert through(0xFFC00000, "float16") == (0xFE00, 0xFFC00000)
    assert through(0xFFA00000, "bfloat16") == (0xFFA0, 0xFFA00000)
    assert through(0x7F800001, "float8e5m2") == (0x7D, 0x7FA00000)
    assert through(0xFF800001, "float8e4m3fn") == (0xFF, 0xFFC00000)
    assert through(0x7F800001, "float64") == (0x7FF0000020000000, 0x7F800001)
    for dtype, quiet in (("float16", 0x7E00), ("uint16", 0x7FC0), ("float64", 0x7FF8 << 48)):
        loaded = reference.load([0x7F, 0xFF], dtype, "float8e4m3fn")
        sign = 1 << (8 * loaded.dtype.itemsize - 1)
        assert patterns.words(loaded).tolist() == [quiet, quiet | sign]


QUANTIZATIONS = [(0.1, 3), (1.0, 0), (0.0078125, 0), (3.7e-3, 5), (1e38, 1), (1e-45, 7)]


def quantized(x, wide, scale, zero_point, low, high):
    """The integer rule, one Python number at a time."""
    if np.isnan(x):
        return zero_point
    with np.errstate(all="ignore"):
        # Rounding a double quotient of float32 numbers to float32 is rounding once.
        ratio = float(wide(np.float64(x) / np.float64(scale)))
    if np.isinf(ratio):
        return high if ratio > 0 else low
    return min(max(round(ratio) + zero_point, low), high)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize(("scale", "zero_point"), QUANTIZATIONS)
def test_integers_by_the_rule(dtype, name, scale, zero_point):
    low, high = INTEGERS[name]
    wide = np.float64 if dtype == "float64" else np.float32
    scale = np.float32(scale)
    x = every_value(dtype)[::11]
    stored = reference.store(x, name, float(scale), zero_point)
    expected = [quantized(v, wide, scale, zero_point, low, high) for v in as_float64(x)]
    mask = 0xF if name.endswith("4") else 0xFF
    assert stored.tolist() == [q & mask for q in expected]
    assert {low, high} <= set(expected) or scale > 1e30
    with np.errstate(all="ignore"):
        products = (np.array(expected) - zero_point).astype(wide) * wide(scale)
        there = THEIRS[patterns.NAMES.get(dtype, dtype)]
        loaded = reference.load(stored, dtype, name, float(scale), zero_point)
        assert np.array_equal(patterns.words(loaded), patterns.words(products.astype(there)))


def test_four_bits_are_the_low_half_and_int4_has_a_sign():
    words = np.arange(256)
    signed = (words & 15).astype(np.uint8).view(np.int8).astype(ml_dtypes.int4).astype(np.float32)
    assert reference.load(words, "float32", "int4").tolist() == signed.tolist()
    assert reference.load(words, "float32", "uint4").tolist() == (words & 15).tolist()
    assert reference.store(np.float32([-1, -8, 7, 9]), "int4").tolist() == [15, 8, 7, 7]
    y = reference.apply(np.float32([1, -1]), 1.0, storage_format="int4")
    assert y.tolist() == [-2, 0]


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32"])
def test_integer_tensors_are_stored_as_they_are(dtype):
    x = np.array([0, 1, 127], dtype)
    own = "native" if dtype == "int32" else dtype
    assert reference.load(reference.store(x, own), dtype, own).tolist() == x.tolist()
    for name in {*FORMATS} - {dtype}:
        with pytest.raises(InputError, match=f"{dtype} tensor is stored as it is"):
            reference.store(x, name)


def test_no_dimension_and_no_element():
    assert reference.store(np.float32(1), "float16").shape == ()
    assert reference.apply(np.array(0.1, np.float32), 0, storage_format="bfloat16").shape == ()
    assert reference.apply(np.empty((0, 3), np.float32), 1, storage_format="int8").shape == (0, 3)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"storage_format": "float12"}, "unknown format 'float12'; expected native, float16"),
        ({"storage_format": "int8", "scale": 0.0}, "scale: expected a finite number above 0"),
        ({"storage_format": "int4", "scale": -1}, "scale: expected a finite number above 0"),
        ({"storage_format": "uint8", "scale": float("nan")}, "scale: expected a finite number"),
        ({"storage_format": "uint8", "scale": 1e-60}, "scale: expected a finite number"),
        ({"storage_format": "uint8", "scale": 1e60}, "scale: expected a finite number"),
        ({"storage_format": "uint8", "scale": "1"}, "scale: expected a number"),
        (
            {"storage_format": "uint8", "zero_point": -1},
            "zero_point: expected an integer from 0 to 255 for uint8, got -1",
        ),
        (
            {"storage_format": "int4", "zero_point": 8},
            "zero_point: expected an integer from -8 to 7 for int4, got 8",
        ),
        ({"storage_format": "int8", "zero_point": 0.5}, "zero_point: expected an integer"),
    ],
)
def test_bad_arguments(arguments, problem):
    x = np.ones(3, np.float32)
    for call in (
        lambda: reference.store(x, **arguments),
        lambda: reference.load([0, 1], "float32", **arguments),
        lambda: reference.apply(x, 0.1, **arguments),
    ):
        with pytest.raises(InputError) as caught:
            call()
        assert problem in str(caught.value)
        assert "\n" not in str(caught.value)


def test_words_must_fit_the_format():
    with pytest.raises(InputError, match="16 bits"):
        reference.load([0x10000], "float32", "float16")
