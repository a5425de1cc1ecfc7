# SPDX-License-Identifier: Apache-2.0
"""The operator on NumPy arrays, through the library's plain functions."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import InputError
from .formats import ELEMENT_TYPES, WORD_FORMATS, element_type, float32_bits
from .library import APPLY_ARGUMENTS, Call, load
from .noise_inputs import noise_of_site, sample_index_array, seed_array

_TYPE_OF_WORD = {8: "uint8", 16: "float16", 32: "float32", 64: "float64"}
MESSAGE_SIZE = 512


def make_call(
    kind: str,
    shape: Sequence[int],
    bit_error_rate: Any,
    bit_mask: Any,
    seed: int,
    site: int,
    sample_index: Any,
    storage_format: str,
    scale: float,
    zero_point: int,
    rows_per_sample: int,
    mask_format: str | None,
) -> tuple[Call, tuple[Any, ...]]:
    """Fill a call; the second value holds the memory that the call points into.

    ctypes would cut integers to their field silently, so all are checked here.
    """
    _check_integer("rows_per_sample", rows_per_sample, -1, (1 << 63) - 1)
    _check_integer("zero_point", zero_point, -(1 << 31), (1 << 31) - 1)
    for extent in shape:
        _check_integer("shape", extent, 0, (1 << 63) - 1)
    if not isinstance(scale, (int, float, np.integer, np.floating)):
        raise InputError(f"scale: expected a number, got {scale!r}")
    if not isinstance(storage_format, str) or "\0" in storage_format:
        raise InputError(f"storage_format: expected a format's name, got {storage_format!r}")
    p01, p10, mask = noise_of_site(bit_error_rate, bit_mask, site, mask_format)
    samples = sample_index_array(sample_index)
    extents = (ctypes.c_int64 * max(len(shape), 1))(*shape)
    call = Call(
        struct_size=ctypes.sizeof(Call),
        type=ELEMENT_TYPES[kind].code,
        storage_format=storage_format.encode(),
        scale=float32_bits(scale),
        zero_point=zero_point,
        shape=extents,
        rank=len(shape),
        site=site,
        rows_per_sample=rows_per_sample,
        sample_index=samples.ctypes.data,
        sample_index_count=len(samples),
        p01=p01,
        p10=p10,
        bit_mask=mask,
        seed=int(seed_array(seed)[0]),
    )
    return call, (samples, extents)


def _check_integer(name: str, value: Any, least: int, most: int) -> None:
    if not isinstance(value, (int, np.integer)) or not least <= value <= most:
        raise InputError(f"{name}: expected an integer from {least} to {most}, got {value!r}")


def _prepare(
    x: npt.NDArray[Any],
    bit_error_rate: Any,
    bit_mask: Any,
    seed: int,
    site: int,
    sample_index: Any,
    storage_format: str,
    scale: float,
    zero_point: int,
    rows_per_sample: int,
    out: npt.NDArray[Any] | None,
) -> tuple[Callable[[], int], npt.NDArray[Any], ctypes.Array[ctypes.c_char]]:
    x = np.asarray(x)
    kind = element_type(x.dtype)
    if not x.flags.c_contiguous:
        if out is x:
            raise InputError("out: an array that is not C-contiguous cannot be written in place")
        x = np.ascontiguousarray(x)
    if out is None:
        out = np.empty_like(x)
    elif out.dtype != x.dtype or out.shape != x.shape or not out.flags.c_contiguous:
        raise InputError(
            f"out: expected a C-contiguous array of {x.dtype} {list(x.shape)}, "
            f"got {out.dtype} {list(out.shape)}"
        )
    if not out.flags.writeable:
        raise InputError("out: the array is read-only")
    x_address, out_address = x.ctypes.data, out.ctypes.data
    if x_address != out_address and abs(x_address - out_address) < x.nbytes:
        raise InputError("out: overlaps x; expected x itself or other memory")
    call, memory = make_call(
        kind.name,
        x.shape,
        bit_error_rate,
        bit_mask,
        seed,
        site,
        sample_index,
        storage_format,
        scale,
        zero_point,
        rows_per_sample,
        kind.name if storage_format == "native" else storage_format,
    )
    message = ctypes.create_string_buffer(MESSAGE_SIZE)
    run = functools.partial(
        load().noisystore_apply,
        ctypes.byref(call),
        ctypes.c_void_p(x_address),
        ctypes.c_void_p(out_address),
        message,
        ctypes.c_size_t(MESSAGE_SIZE),
    )
    run.keep_alive = (call, memory, x, out)  # type: ignore[attr-defined]
    return run, out, message


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
    """Write an array to the noisy memory and read it back: ``load(flip(store(x)))``.

    Paper eq. 3, ``y = (x | f1) ^ (x & f2)``, with the flips of noise model 1.

    Parameters
    ----------
    x : numpy.ndarray
        float16, float32, float64, int8, uint8, int32, or bfloat16 (uint16 words); axis 0 runs
        over the batch. Never copied where it is C-contiguous.
    bit_error_rate : float, (p01, p10) or array_like [S, 2]
        Of an [S, 2] array row `site` counts.
    bit_mask : int, str, array_like of int or str [S], or None
        Noisy bits, as a number or by name (`bit_mask`); None: all.
    seed : int
        64 bits, signed or not.
    site : int
    sample_index : int or array_like of int [N]
        Data-set index of the first sample, or of each.
    storage_format : str
        How a value is held: ``native``, x's own type; for a float x also float16, bfloat16,
        float32, float64, float8e4m3fn, float8e5m2, int8, uint8, int4 or uint4.
    scale, zero_point : float, int
        Of an integer format that stores a float x: the value of the stored q is
        ``(q - zero_point) * scale``. The scale is rounded to float32.
    rows_per_sample : int
        Rows of axis 0 that make a sample; 0: all of x is sample 0; -1: all of x is sample
        ``sample_index[0]``.
    out : numpy.ndarray, optional
        Where to write; `x` itself for in place.

    Returns
    -------
    numpy.ndarray
        x's shape and dtype; `out` where it is given.

    Raises
    ------
    InputError
        Any argument that does not fit; nothing is written then.
    """
    run, out, message = _prepare(
        x,
        bit_error_rate,
        bit_mask,
        seed,
        site,
        sample_index,
        storage_format,
        scale,
        zero_point,
        rows_per_sample,
        out,
    )
    if run() != 0:
        raise InputError(message.value.decode())
    return out


def prepared_apply(
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
) -> Callable[[], int]:
    """Prepare `apply` for being called many times, as a benchmark does.

    Parameters are those of `apply`.

    Returns
    -------
    callable
        Runs the foreign function with ready arguments; returns its status, 0.

    Raises
    ------
    InputError
        Any argument that does not fit.
    """
    run, _, message = _prepare(
        x,
        bit_error_rate,
        bit_mask,
        seed,
        site,
        sample_index,
        storage_format,
        scale,
        zero_point,
        rows_per_sample,
        out,
    )
    if run() != 0:
        raise InputError(message.value.decode())
    return run


def empty_call(run: Callable[[], int]) -> Callable[[], int]:
    """Return a call with the arguments of a `prepared_apply` to a function that does nothing.

    What it takes is the cost of the foreign call itself.
    """
    assert isinstance(run, functools.partial)
    nothing = load()["noisystore_noise_model"]  # ignores its arguments
    nothing.argtypes = APPLY_ARGUMENTS
    return functools.partial(nothing, *run.args)


def count_flips(
    shape: Sequence[int],
    word_bits: int,
    bit_error_rate: Any,
    *,
    bit_mask: Any = None,
    seed: int = 0,
    site: int = 0,
    sample_index: Any = 0,
    rows_per_sample: int = 1,
    storage_format: str | None = None,
) -> npt.NDArray[np.int64]:
    """Count the flips of every sample, without any data.

    Parameters
    ----------
    shape : sequence of int
        The tensor's shape.
    word_bits : int
        Bits of a stored word: 8, 16, 32 or 64 (4-bit integers are held in 8).
    bit_error_rate, bit_mask, seed, site, sample_index, rows_per_sample
        As in `apply`.
    storage_format : str, optional
        Of the words, by its name, or ``int32``. None: any of `word_bits` whose bits are all
        noisy; a mask's name such as ``exponent`` needs the format.

    Returns
    -------
    numpy.ndarray of int64, shape [samples]
        Exact where p01 = p10; else candidates at the larger rate, an upper bound (their draws are
        others than those of that rate alone).

    Raises
    ------
    InputError
        Any argument that does not fit.
    """
    if word_bits not in _TYPE_OF_WORD:
        raise InputError(f"word_bits: expected 8, 16, 32 or 64, got {word_bits!r}")
    if storage_format is not None:
        word = WORD_FORMATS.get(storage_format)
        if word is None or word.word_bits != word_bits:
            fitting = [name for name, word in WORD_FORMATS.items() if word.word_bits == word_bits]
            raise InputError(
                f"storage_format: expected one of {word_bits} bits a word, "
                f"{', '.join(fitting)}, got {storage_format!r}"
            )
    call, memory = make_call(
        _TYPE_OF_WORD[word_bits],
        shape,
        bit_error_rate,
        bit_mask,
        seed,
        site,
        sample_index,
        "native",
        1.0,
        0,
        rows_per_sample,
        storage_format,
    )
    if storage_format is not None:
        call.bit_mask &= (1 << WORD_FORMATS[storage_format].noisy_bits) - 1
    samples = load().noisystore_samples(ctypes.byref(call))
    if samples >= 1 << 32:
        raise InputError(f"shape: {samples} samples, expected fewer than 2^32")
    flips = np.zeros(samples, dtype=np.int64)
    message = ctypes.create_string_buffer(MESSAGE_SIZE)
    status = load().noisystore_count_flips(
        ctypes.byref(call), flips.ctypes.data, message, MESSAGE_SIZE
    )
    del memory
    if status != 0:
        raise InputError(message.value.decode())
    return flips
