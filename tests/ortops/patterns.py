# SPDX-License-Identifier: Apache-2.0
"""Bit patterns that conversions are tested with: all of them, or random and special ones."""

import functools

import numpy as np

# Type of a tensor -> exponent bits, mantissa bits; bfloat16 is held in uint16 words.
FLOATS = {"float16": (5, 10), "uint16": (8, 7), "float32": (8, 23), "float64": (11, 52)}
OTHERS = {"float8e4m3fn": (4, 3), "float8e5m2": (5, 2)}
INTEGERS = {"int8": (-128, 127), "uint8": (0, 255), "int4": (-8, 7), "uint4": (0, 15)}
NAMES = {"uint16": "bfloat16"}
FORMATS = [NAMES.get(name, name) for name in (*FLOATS, *OTHERS, *INTEGERS)]


def fields(name):
    """Exponent and mantissa bits of a float format."""
    known = {NAMES.get(key, key): value for key, value in {**FLOATS, **OTHERS}.items()}
    return known[name]


@functools.cache
def every_value(dtype):
    """All patterns of a 16-bit type; of a wider one its edges, values near those of narrower
    formats and halfway between them, and random patterns."""
    exponent, mantissa = FLOATS[dtype]
    bits = 1 + exponent + mantissa
    if bits == 16:
        return _constant(np.arange(1 << 16, dtype=np.uint16).view(dtype))
    rng = np.random.default_rng(bits)
    top = 1 << bits - 1
    parts = [rng.integers(0, 1 << bits, 20000, dtype=f"uint{bits}")]
    for around in (0, 1 << mantissa, ((1 << exponent) - 1) << mantissa, (1 << bits - 1) - 1):
        near = np.array([around + d for d in range(-3, 4) if 0 <= around + d < top], np.uint64)
        parts += [near, near | np.uint64(top)]
    payloads = np.array([1 << i for i in range(mantissa)] + [3 << i for i in range(mantissa - 1)])
    parts.append(payloads.astype(np.uint64) | np.uint64(((1 << exponent) - 1) << mantissa))
    for name in ("float16", "uint16", *OTHERS):
        parts += list(_around_values_of(name, dtype))
    if bits == 64:
        ulp32 = rng.integers(0, 1 << 32, 5000, dtype=np.uint32).view(np.float32)
        with np.errstate(all="ignore"):
            exact = ulp32.astype(np.float64).view(np.uint64)
        parts += [exact, exact | np.uint64(1 << 28), exact + np.uint64((1 << 28) + 1),
                  exact + np.uint64((1 << 28) - 1)]  # fmt: skip
    integers = np.concatenate([np.arange(-300, 301) / 2, np.arange(-300, 301) / 2 * (1 + 2**-20)])
    parts.append(integers.astype(f"float{bits}").view(f"uint{bits}"))
    words = np.concatenate([part.astype(f"uint{bits}") for part in parts])
    return _constant(np.unique(words).view(dtype))


def _constant(x):
    x.flags.writeable = False
    return x


def _around_values_of(name, dtype):
    """Values of a narrower format, the midpoints between them, and those one unit off."""
    values = positive_values(NAMES.get(name, name))[:: 67 if name in FLOATS else 1]
    midpoints = (values[:-1] + values[1:]) / 2
    beyond = values[-1] + (values[-1] - values[-2]) * np.array([0.25, 0.5, 0.75, 1, 100])
    bits = np.dtype(dtype).itemsize * 8
    for exact in (values, midpoints, beyond):
        with np.errstate(over="ignore"):
            words = exact.astype(dtype).view(f"uint{bits}").astype(np.uint64)
        sign = np.uint64(1 << bits - 1)
        for step in (0, 1, -1):
            moved = np.where(words > 0, words.astype(np.int64) + step, 0).astype(np.uint64)
            yield moved
            yield moved | sign


def positive_values(name):
    """The finite values of an 8-bit or 16-bit float format from 0 up, as float64."""
    import ml_dtypes

    kinds = {
        "float16": np.float16,
        "bfloat16": ml_dtypes.bfloat16,
        "float8e4m3fn": ml_dtypes.float8_e4m3fn,
        "float8e5m2": ml_dtypes.float8_e5m2,
    }
    kind = np.dtype(kinds[name])
    bits = kind.itemsize * 8
    with np.errstate(invalid="ignore"):
        values = np.arange(1 << bits - 1, dtype=f"uint{bits}").view(kind).astype(np.float64)
    return values[np.isfinite(values)]


def as_float64(x):
    """The values of an array of floats; NaNs are NaNs."""
    if x.dtype == np.uint16:
        x = (x.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(invalid="ignore"):
        return x.astype(np.float64)


def words(x):
    return np.atleast_1d(x).view(f"uint{8 * x.dtype.itemsize}").astype(np.uint64).reshape(x.shape)


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(words(a), words(b))
