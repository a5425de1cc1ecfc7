# SPDX-License-Identifier: Apache-2.0
"""Storage formats of PyTorch tensors: their names and word widths."""

from __future__ import annotations

import torch

from ..ortops.errors import InputError
from ..ortops.formats import ELEMENT_TYPES, STORAGE_FORMATS, check_storage_format

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


def site_format(storage_format: str, dtype: torch.dtype) -> str:
    """Name the format of a site, if a tensor of this type can be stored in it.

    A 16-bit float tensor's own type is named, since ONNX Runtime may hand it over as float32.

    Raises
    ------
    InputError
        The format is unknown, or this version does not store the type in it.
    """
    kind = ELEMENT_TYPES.get(str(dtype).removeprefix("torch."))
    if kind is None:
        raise InputError(f"a site's tensor must be one of {', '.join(ELEMENT_TYPES)}, got {dtype}")
    check_storage_format(storage_format, kind)
    return _NAMED.get(dtype, "native") if storage_format == "native" else storage_format


def word_bits(storage_format: str, dtype: torch.dtype) -> int:
    """Width W of a stored word."""
    return STORAGE_FORMATS.get(storage_format, dtype.itemsize * 8)
