# SPDX-License-Identifier: Apache-2.0
"""The operator on tensors in the memory of a CUDA device, through the library's plain functions."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

from .calls import MESSAGE_SIZE, make_call
from .errors import InputError
from .formats import ELEMENT_TYPES
from .library import load


def apply_on_cuda(
    x: int, out: int, kind: str, shape: Sequence[int], bit_error_rate: Any, **options: Any
) -> None:
    """Do what `noisystore.ortops.apply` does to a tensor on the current CUDA device.

    Returns when the work is queued.

    Parameters
    ----------
    x, out, kind, shape, bit_error_rate, **options
        As `prepared_apply_on_cuda` takes them.

    Raises
    ------
    InputError
        Any argument that does not fit, a library that was built without CUDA, or what CUDA says.
    """
    prepared_apply_on_cuda(x, out, kind, shape, bit_error_rate, **options)()


def prepared_apply_on_cuda(
    x: int,
    out: int,
    kind: str,
    shape: Sequence[int],
    bit_error_rate: Any,
    *,
    stream: int = 0,
    bit_mask: Any = None,
    seed: int = 0,
    site: int = 0,
    sample_index: Any = 0,
    storage_format: str = "native",
    scale: float = 1.0,
    zero_point: int = 0,
    rows_per_sample: int = 1,
) -> Callable[[], None]:
    """Prepare `apply_on_cuda` for being called many times.

    Parameters
    ----------
    x, out : int
        Addresses of C-contiguous tensors, which may be the same one and do not overlap otherwise.
    kind : str
        Element type: float32, float16, bfloat16, float64, int8, uint8 or int32.
    shape : sequence of int
        Axis 0 runs over the batch.
    bit_error_rate : float, (p01, p10) or array_like [S, 2]
    stream : int
        A ``cudaStream_t``; 0: the default stream.
    bit_mask, seed, site, sample_index, storage_format, scale, zero_point, rows_per_sample
        As `noisystore.ortops.apply` takes them.

    Returns
    -------
    callable
        Queues the work; raises InputError with what CUDA says.

    Raises
    ------
    InputError
        Any argument that does not fit.
    """
    if kind not in ELEMENT_TYPES:
        raise InputError(f"x: expected one of {', '.join(ELEMENT_TYPES)}, got {kind!r}")
    call, memory = make_call(
        kind,
        shape,
        bit_error_rate,
        bit_mask,
        seed,
        site,
        sample_index,
        storage_format,
        scale,
        zero_point,
        rows_per_sample,
        kind if storage_format == "native" else storage_format,
    )
    message = ctypes.create_string_buffer(MESSAGE_SIZE)
    function, reference = load().noisystore_apply_cuda, ctypes.byref(call)

    def run(keep_alive: Any = memory) -> None:
        if function(reference, x, out, stream, message, MESSAGE_SIZE) != 0:
            raise InputError(message.value.decode())

    return run
