# SPDX-License-Identifier: Apache-2.0
"""Element types and storage formats: their names, widths and codes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .errors import InputError


class ElementType(NamedTuple):
    """A tensor's element type: its name, its ONNX code and the bits of one word."""

    name: str
    code: int
    word_bits: int


#: Element types that NoisyStore takes, by name.
ELEMENT_TYPES = {
    kind.name: kind
    for kind in (
        ElementType("float32", 1, 32),
        ElementType("uint8", 2, 8),
        ElementType("int8", 3, 8),
        ElementType("int32", 6, 32),
        ElementType("float16", 10, 16),
        ElementType("float64", 11, 64),
        ElementType("bfloat16", 16, 16),
    )
}

#: Storage formats of noise model 1 and the bits of one word.
STORAGE_FORMATS = {
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


def element_type(dtype: np.dtype[Any]) -> ElementType:
    """Return the element type of a NumPy dtype.

    ``uint16`` arrays hold the words of bfloat16, which NumPy lacks; ml_dtypes' ``bfloat16`` is
    taken too.

    Raises
    ------
    InputError
        A dtype that NoisyStore does not take.
    """
    name = "bfloat16" if dtype == np.uint16 else dtype.name
    if name not in ELEMENT_TYPES or not dtype.isnative:
        raise InputError(
            f"x: expected one of {', '.join(ELEMENT_TYPES)} (bfloat16 as uint16 words) in the "
            f"machine's byte order, got {dtype}"
        )
    return ELEMENT_TYPES[name]


def check_storage_format(storage_format: str, kind: ElementType) -> None:
    """Check that a tensor of this element type can be stored in a format.

    Raises
    ------
    InputError
        An unknown format, or one that this version does not store the type in.
    """
    if storage_format != "native" and storage_format not in STORAGE_FORMATS:
        raise InputError(
            f"storage_format: unknown format {storage_format!r}; "
            f"expected native or {', '.join(STORAGE_FORMATS)}"
        )
    if storage_format not in {"native", kind.name}:
        own = f" or {kind.name}" if kind.name in STORAGE_FORMATS else ""
        raise InputError(
            f"storage_format: this version does not store a {kind.name} tensor as "
            f"{storage_format!r}; expected native{own}"
        )
