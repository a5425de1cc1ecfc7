# SPDX-License-Identifier: Apache-2.0
"""The NumPy oracle: noise model 1 written for reading, independent of the C++ code."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .errors import InputError
from .formats import check_storage_format, element_type
from .noise_inputs import noise_of_site, sample_index_array, seed_array
from .reference_storage import load, store

__all__ = ["apply", "flip_words", "load", "philox4x32", "sparse_plan", "store"]

_U32 = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
DENSE_RATE = 1 / 32


def philox4x32(counter: npt.NDArray[np.uint64], key: tuple[int, int]) -> npt.NDArray[np.uint64]:
    """Philox4x32-10 (Salmon et al. 2011).

    Parameters
    ----------
    counter : numpy.ndarray of uint64, shape [..., 4]
        Values below 2^32.
    key : (int, int)

    Returns
    -------
    numpy.ndarray of uint64, shape [..., 4]
        Four 32-bit words a counter value.
    """
    c0, c1, c2, c3 = (counter[..., i].astype(np.uint64) for i in range(4))
    k0, k1 = key
    for _ in range(10):
        a = np.uint64(0xD2511F53) * c0
        b = np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (
            (b >> _SHIFT) ^ c1 ^ np.uint64(k0),
            b & _U32,
            (a >> _SHIFT) ^ c3 ^ np.uint64(k1),
            a & _U32,
        )
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=-1)


class Plan(NamedTuple):
    """The sparse plan: block size, noisy bits of a block, and T[1..L]."""

    m: int
    n: int
    thresholds: list[int]


def _fraction64(x: float) -> int:
    """floor(x * 2^64), exactly."""
    return int(Fraction(x) * (1 << 64))


def sparse_plan(bit_error_rate: float, noisy_bits: int) -> Plan:
    """Compute the plan of the sparse regime from the larger rate and the number of noisy bits."""
    p, k = bit_error_rate, noisy_bits
    m = max(m for m in range(16) if m == 0 or 2.0**m * k * p <= 4)
    n = 2**m * k
    t = 1.0
    for _ in range(k):
        t = t * (1 - p)
    for _ in range(m):
        t = t * t
    t = t / (1 - p)
    f = [0.0, (n * p) * t]
    while not ((f[-1] < 5e-20 and len(f) - 1 > 8) or len(f) - 1 in (n, 63)):
        i = len(f) - 1
        f.append(f[i] * (((n - i) / (i + 1)) * (p / (1 - p))))
    s = list(f)
    for i in range(len(f) - 2, 0, -1):
        s[i] = s[i + 1] + f[i]
    return Plan(m, n, [_fraction64(x) for x in s[1:]])


class _Stream:
    """The words w0 w1 w2 ... of one block."""

    def __init__(self, key: tuple[int, int], block: int, site: int, sample: int):
        self._key, self._counter = key, (block, site, sample)
        self._words: list[int] = []
        self._used = 0

    def next(self) -> int:
        if self._used == len(self._words):
            counter = np.array([self._used // 4, *self._counter], dtype=np.uint64)
            self._words.extend(int(word) for word in philox4x32(counter, self._key))
        self._used += 1
        return self._words[self._used - 1]

    def next64(self) -> int:
        return self.next() | self.next() << 32


def _sparse_flips(
    words: npt.NDArray[np.uint64],
    bits: list[int],
    rates: tuple[float, float],
    key: tuple[int, int],
    site: int,
    sample: int,
) -> npt.NDArray[np.uint64]:
    """Flip masks of one sample's words."""
    flips = np.zeros_like(words)
    p, k = max(rates), len(bits)
    plan = sparse_plan(p, k)
    keep = [None if rate == p else _fraction64(rate / p) for rate in rates]
    for block in range(-(-len(words) >> plan.m) if len(words) else 0):
        stream = _Stream(key, block, site, sample)
        u = stream.next64()
        count = sum(u < t for t in plan.thresholds)
        had: set[int] = set()
        while len(had) < count:
            v = stream.next() * plan.n
            position = v >> 32
            if v % 2**32 < 2**32 % plan.n or position in had:
                continue
            had.add(position)
            a = 0 if rates[0] == rates[1] else stream.next64()
            element = (block << plan.m) + position // k
            bit = bits[position % k]
            if element >= len(words):
                continue
            limit = keep[int(words[element]) >> bit & 1]
            if limit is None or a < limit:
                flips[element] |= np.uint64(1 << bit)
    return flips


def _dense_flips(
    words: npt.NDArray[np.uint64],
    word_bits: int,
    bits: list[int],
    rates: tuple[float, float],
    key: tuple[int, int],
    site: int,
    sample: int,
) -> npt.NDArray[np.uint64]:
    """Flip masks of one sample's words."""
    thresholds = [min(_fraction64(rate), 1 << 64) for rate in rates]
    groups = -(-len(words) * word_bits // 128)
    lanes_of_word = np.arange(word_bits, dtype=np.uint64)
    stored = ((words[:, None] >> lanes_of_word) & np.uint64(1)).astype(bool).reshape(-1)
    stored = np.pad(stored, (0, groups * 128 - len(stored)))
    noisy = np.zeros(word_bits, dtype=bool)
    noisy[bits] = True
    undecided = np.pad(np.tile(noisy, len(words)), (0, groups * 128 - len(words) * word_bits))
    flips = np.zeros(groups * 128, dtype=bool)
    # The threshold of a lane, digit by digit; 2^64 stands above every fraction.
    above = [t == 1 << 64 for t in thresholds]
    certain = np.where(stored, above[1], above[0]) & undecided
    flips |= certain
    undecided &= ~certain
    counter = np.zeros((groups, 4), dtype=np.uint64)
    counter[:, 1] = np.arange(groups)
    counter[:, 2], counter[:, 3] = site, sample
    for r in range(64):
        if not undecided.any():
            break
        counter[:, 0] = r
        draw = philox4x32(counter, key)
        lanes = np.arange(32, dtype=np.uint64)
        digit = ((draw[:, :, None] >> lanes) & np.uint64(1)).astype(bool).reshape(-1)
        wanted = [bool(t >> (63 - r) & 1) for t in thresholds]
        one = np.where(stored, wanted[1], wanted[0])
        flips |= undecided & one & ~digit
        undecided &= one == digit
    flipped = flips[: len(words) * word_bits].reshape(len(words), word_bits)
    return (flipped.astype(np.uint64) << lanes_of_word).sum(axis=1, dtype=np.uint64)


def flip_words(
    words: npt.NDArray[np.uint64],
    word_bits: int,
    bit_error_rate: tuple[float, float],
    bit_mask: int,
    seed: int,
    site: int,
    sample: int,
) -> npt.NDArray[np.uint64]:
    """Flip the stored words of one sample.

    Parameters
    ----------
    words : numpy.ndarray of uint64, shape [elements]
    word_bits : int
        8, 16, 32 or 64.
    bit_error_rate : (p01, p10)
    bit_mask, seed, site, sample : int

    Returns
    -------
    numpy.ndarray of uint64, shape [elements]
    """
    bits = [bit for bit in range(word_bits) if bit_mask >> bit & 1]
    p = max(bit_error_rate)
    if p == 0 or not bits:
        return words.copy()
    key = (seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF)
    if p < DENSE_RATE:
        return words ^ _sparse_flips(words, bits, bit_error_rate, key, site, sample)
    return words ^ _dense_flips(words, word_bits, bits, bit_error_rate, key, site, sample)


def apply(
    x: npt.NDArray[Any],
    bit_error_rate: Any,
    *,
    bit_mask: Any = None,
    seed: int = 0,
    site: int = 0,
    sample_index: Any = 0,
    storage_format: str = "native",
    scale: float = 1.0,
    zero_point: int = 0,
    rows_per_sample: int = 1,
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """Do what `noisystore.ortops.apply` does, slowly.

    Parameters, result and errors are those of `noisystore.ortops.apply`.

    Raises
    ------
    InputError
        Any argument that does not fit.
    """
    x = np.asarray(x, order="C")
    word = check_storage_format(storage_format, element_type(x.dtype))
    p01, p10, mask = noise_of_site(bit_error_rate, bit_mask, site, word.name)
    indices = sample_index_array(sample_index)
    samples = 1
    if rows_per_sample > 0:
        rows = x.shape[0] if x.ndim else 1
        if rows % rows_per_sample:
            raise InputError(
                f"x: axis 0 has {rows} rows, no multiple of rows_per_sample = {rows_per_sample}"
            )
        samples = rows // rows_per_sample
        if len(indices) == 1:
            indices = indices[0] + np.arange(samples)
        elif len(indices) != samples:
            raise InputError(f"sample_index: expected 1 or {samples} values, got {len(indices)}")
    elif rows_per_sample == 0:
        indices = np.zeros(1, dtype=np.int64)
    elif rows_per_sample == -1:
        if not len(indices):
            raise InputError("sample_index: expected one value, got none")
        indices = indices[:1]
    else:
        raise InputError(f"rows_per_sample: expected -1, 0 or more, got {rows_per_sample}")

    result = np.empty_like(x) if out is None else out
    words = store(x, storage_format, scale, zero_point)
    if x.size == 0:
        return result
    flipped = np.stack(
        [
            flip_words(
                sample_words,
                word.word_bits,
                (p01, p10),
                mask & ((1 << word.noisy_bits) - 1),
                int(seed_array(seed)[0]),
                site,
                int(index) & 0xFFFFFFFF,
            )
            for sample_words, index in zip(words.reshape(samples, -1), indices, strict=True)
        ]
    )
    result[...] = load(flipped.reshape(x.shape), x.dtype, storage_format, scale, zero_point)
    return result
