# SPDX-License-Identifier: Apache-2.0
"""Storing and loading in the NumPy oracle: every conversion of noise model 1, on the bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import InputError
from .formats import (
    WORD_FORMATS,
    WordFormat,
    check_quantization,
    check_storage_format,
    element_type,
)

Words = npt.NDArray[np.uint64]


def store(
    x: npt.NDArray[Any], storage_format: str = "native", scale: float = 1.0, zero_point: int = 0
) -> Words:
    """Turn an array into the words that a memory holds.

    Parameters
    ----------
    x : numpy.ndarray
        float16, float32, float64, int8, uint8, int32, or bfloat16 (uint16 words).
    storage_format : str
        ``native`` or a storage format; an integer array is stored only as it is.
    scale, zero_point : float, int
        Of an integer format that stores a float array: a float x is stored as
        ``clamp(round_half_even(x / scale) + zero_point)``.

    Returns
    -------
    numpy.ndarray of uint64, of x's shape
        Stored words, W bits each.

    Raises
    ------
    InputError
        A type or format that does not fit, or a bad scale or zero point.
    """
    x = np.asarray(x, order="C")
    kind = element_type(x.dtype)
    word = check_storage_format(storage_format, kind)
    source = WORD_FORMATS[kind.name]
    words = x.view(f"uint{kind.word_bits}").astype(np.uint64)
    if word == source:
        return words
    if word.is_integer:
        check_quantization(word, scale, zero_point)
        words = _quantize(words, source, word, scale, int(zero_point))
    else:
        words = _convert(words, source, word)
    return np.asarray(words)


def load(
    words: npt.ArrayLike,
    dtype: npt.DTypeLike,
    storage_format: str = "native",
    scale: float = 1.0,
    zero_point: int = 0,
) -> npt.NDArray[Any]:
    """Read stored words back.

    Parameters
    ----------
    words : array_like of unsigned integers
        As `store` returns them, flipped or not.
    dtype : dtype
        Of the array that was stored; ``uint16`` for bfloat16.
    storage_format, scale, zero_point
        As they were stored.

    Returns
    -------
    numpy.ndarray of `dtype`, of the words' shape

    Raises
    ------
    InputError
        A type or format that does not fit, a word of too many bits, or a bad scale or zero point.
    """
    dtype = np.dtype(dtype)
    kind = element_type(dtype)
    word = check_storage_format(storage_format, kind)
    target = WORD_FORMATS[kind.name]
    words = np.array(words, dtype=np.uint64, order="C")
    if words.size and int(words.max()) >> word.word_bits:
        raise InputError(
            f"words: expected {word.word_bits} bits ({word.name}), got {int(words.max()):#x}"
        )
    if word.is_integer and word != target:
        check_quantization(word, scale, zero_point)
        words = _dequantize(words, word, target, scale, int(zero_point))
    elif word != target:
        words = _convert(words, word, target)
    return np.asarray(words.astype(f"uint{kind.word_bits}").view(dtype))


def _bias(word: WordFormat) -> int:
    return (1 << (word.exponent_bits - 1)) - 1


def _infinity(word: WordFormat) -> int:
    """Return the magnitude with all exponent bits set and no mantissa bit."""
    return ((1 << word.exponent_bits) - 1) << word.mantissa_bits


def _convert(words: Words, source: WordFormat, target: WordFormat) -> Words:
    """Convert floats on their bits: rounded to nearest even, NaNs never through hardware."""
    sign = words >> np.uint64(source.word_bits - 1)
    magnitude = words & np.uint64((1 << (source.word_bits - 1)) - 1)
    mantissa = magnitude & np.uint64((1 << source.mantissa_bits) - 1)
    exponent = (magnitude >> np.uint64(source.mantissa_bits)).astype(np.int64)

    # The value is significand * 2^power; subnormals have the exponent of field 1.
    significand = mantissa | (exponent > 0).astype(np.uint64) << np.uint64(source.mantissa_bits)
    power = np.maximum(exponent, 1) - _bias(source) - source.mantissa_bits
    result = _round(significand, power, target)

    if source.name == "float8e4m3fn":  # the one format without infinities
        infinite = np.zeros(words.shape, dtype=bool)
        is_nan = magnitude == 0x7F
    else:
        infinite = magnitude == _infinity(source)
        is_nan = magnitude > _infinity(source)
    largest = 0x7E if target.name == "float8e4m3fn" else _infinity(target) - 1
    saturates = target.name in {"float8e4m3fn", "float8e5m2"}
    overflow = largest if saturates else _infinity(target)
    result = np.where(infinite | (result > largest), np.uint64(overflow), result)
    result = np.where(is_nan, _nan(mantissa, source, target), result)
    return result | sign << np.uint64(target.word_bits - 1)


def _round(significand: Words, power: npt.NDArray[np.int64], target: WordFormat) -> Words:
    """Return the magnitude nearest to significand * 2^power, ties to even, without any limit.

    `significand` has at most 53 bits. Past the largest finite value the exponent field just
    grows, so that the caller sees the overflow.
    """
    least = 1 - _bias(target) - target.mantissa_bits  # power of the subnormals' last place
    length = np.frexp(significand.astype(np.float64))[1].astype(np.int64)
    last = np.maximum(power + length - 1 - target.mantissa_bits, least)
    last = np.where(significand == 0, least, last)
    # Of 53 bits nothing is left beyond a shift by 62, as nothing is beyond larger ones.
    down = np.clip(last - power, 0, 62).astype(np.uint64)
    up = np.clip(power - last, 0, 62).astype(np.uint64)
    kept = (significand << up) >> down
    rest = (significand << up) - (kept << down)
    twice, whole = rest << np.uint64(1), np.uint64(1) << down
    kept += (twice > whole) | ((twice == whole) & (kept & np.uint64(1) == 1))
    # A normal's leading bit adds one to the exponent field; a carry out of the mantissa too.
    return ((last - least).astype(np.uint64) << np.uint64(target.mantissa_bits)) + kept


def _nan(mantissa: Words, source: WordFormat, target: WordFormat) -> Words:
    """Return the magnitude of NaNs: the payload's top bits stay on top, and some bit is set."""
    if target.name == "float8e4m3fn":
        return np.full_like(mantissa, 0x7F)
    if source.name == "float8e4m3fn":
        return np.full_like(mantissa, _infinity(target) | 1 << (target.mantissa_bits - 1))
    wider = target.mantissa_bits - source.mantissa_bits
    payload = mantissa << np.uint64(wider) if wider >= 0 else mantissa >> np.uint64(-wider)
    return np.uint64(_infinity(target)) | np.maximum(payload, np.uint64(1))


def _arithmetic(x: WordFormat) -> WordFormat:
    """Return the type that a float tensor's integer storage is computed in."""
    return WORD_FORMATS["float64" if x.name == "float64" else "float32"]


def _quantize(
    words: Words, source: WordFormat, target: WordFormat, scale: float, zero_point: int
) -> Words:
    wide = _arithmetic(source)
    if wide != source:
        words = _convert(words, source, wide)
    x = words.astype(f"uint{wide.word_bits}").view(wide.name)
    with np.errstate(all="ignore"):
        rounded = np.rint(np.where(np.isnan(x), x.dtype.type(0), x) / _scale(scale, wide))
    # Clamped before the zero point is added, so that the sum is exact.
    steps = np.clip(rounded, target.lowest - zero_point, target.highest - zero_point)
    q = steps.astype(np.int64) + zero_point
    return q.astype(np.uint64) & np.uint64((1 << target.noisy_bits) - 1)


def _dequantize(
    words: Words, source: WordFormat, target: WordFormat, scale: float, zero_point: int
) -> Words:
    wide = _arithmetic(target)
    low = (words & np.uint64((1 << source.noisy_bits) - 1)).astype(np.int64)
    q = np.where(low > source.highest, low - (1 << source.noisy_bits), low)
    with np.errstate(all="ignore"):
        x = (q - zero_point).astype(wide.name) * _scale(scale, wide)
    words = x.view(f"uint{wide.word_bits}").astype(np.uint64)
    return words if wide == target else _convert(words, wide, target)


def _scale(scale: float, wide: WordFormat) -> Any:
    """Return the scale, a float32, in the type that is computed in."""
    return np.dtype(wide.name).type(np.float32(scale))
