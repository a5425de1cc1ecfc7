# SPDX-License-Identifier: Apache-2.0
"""Storage formats of PyTorch tensors: their names and word widths."""

from __future__ import annotations

import torch

from ..ortops.errors import InputError
from ..ortops.formats import (
    ELEMENT_TYPES,
    STORAGE_FORMATS,
    WORD_FORMATS,
    ElementType,
    check_quantization,
    check_storage_format,
)

_NAMED = {torch.float16: "float16", torch.bfloat16: "bfloat16"}


def check_name(storage_format: str) -> None:
    """Refuse a format that does not exist.

    Raises
    ------
    InputError
        It does not.
    """
    if storage_format != "native" and storage_format not in STORAGE_FORMATS:
        raise InputError(
            f"storage format: expected native, {', '.join(STORAGE_FORMATS)}, got {storage_format!r}"
        )


def site_format(
    storage_format: str,
    dtype: torch.dtype,
    *,
    scale: float | None = None,
    zero_point: int = 0,
) -> str:
    """Name the format of a site, if a tensor of this type can be stored in it.

    A 16-bit float tensor's own type is named, since ONNX Runtime may hand it over as float32.

    Parameters
    ----------
    storage_format : str
    dtype : torch.dtype
    scale, zero_point : float, int
        Of an integer format that stores a float tensor; no scale: it is not known.

    Raises
    ------
    InputError
        The format is unknown, the type is not stored in it, or it needs a scale and has none or
        a bad one.
    """
    kind = _element_type(dtype)
    word = check_storage_format(storage_format, kind)
    if word.is_integer and dtype.is_floating_point:
        if scale is None:
            raise InputError(
                f"storage format {storage_format}: a float tensor's scale is not known; quantize "
                "the exported model with `noisystore quantize`, or place NoisyStore modules with "
                "scale and zero_point"
            )
        check_quantization(word, scale, zero_point)
    return _NAMED.get(dtype, "native") if storage_format == "native" else storage_format


def word_bits(storage_format: str, dtype: torch.dtype) -> int:
    """Width W of a stored word."""
    return WORD_FORMATS[word_format(storage_format, dtype)].word_bits


def word_format(storage_format: str, dtype: torch.dtype) -> str:
    """Name the format of the stored words, which gives a mask's name its bits."""
    return _element_type(dtype).name if storage_format == "native" else storage_format


def _element_type(dtype: torch.dtype) -> ElementType:
    kind = ELEMENT_TYPES.get(str(dtype).removeprefix("torch."))
    if kind is None:
        raise InputError(f"a site's tensor must be one of {', '.join(ELEMENT_TYPES)}, got {dtype}")
    return kind
