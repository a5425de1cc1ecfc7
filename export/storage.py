# SPDX-License-Identifier: Apache-2.0
"""Storage formats of PyTorch tensors: their names and word widths."""

from __future__ import annotations

import torch

from ..ortops.errors import InputError

_BITS = {
    "float16": 16,
    "bfloat16": 16,
    "float32": 32,
    "float64": 64,
    "float8e4m3fn": 8,
    "float8e5m2": 8,
    "int8": 8,
    "uint8": 8,
    "int4": 8,
    "uint4": 8,
}
_NAMED = {torch.float16: "float16", torch.bfloat16: "bfloat16"}


def word_bits(storage_format: str, dtype: torch.dtype) -> int:
    """Width W of a stored word.

    Raises
    ------
    InputError
        An unknown format.
    """
    if storage_format == "native":
        return dtype.itemsize * 8
    if storage_format not in _BITS:
        raise InputError(
            f"storage format: expected native, {', '.join(_BITS)}, got {storage_format!r}"
        )
    return _BITS[storage_format]


def site_format(storage_format: str, dtype: torch.dtype) -> str:
    """Name the format of a 16-bit float tensor, which ONNX Runtime may hand over as float32."""
    return _NAMED.get(dtype, "native") if storage_format == "native" else storage_format
