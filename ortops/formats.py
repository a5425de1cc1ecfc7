# SPDX-License-Identifier: Apache-2.0
"""Element types and storage formats: their names, codes and the fields of their words."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import numpy as np

from .errors import InputError

_FLOAT32_INFINITY = 0x7F800000


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


class WordFormat(NamedTuple):
    """How the bits of a stored word are read.

    A float's word is, from its top bit: sign, exponent, mantissa. Integers are two's complement;
    4-bit ones lie in the low half of an 8-bit word.

    Attributes
    ----------
    name : str
    word_bits : int
        W, bits of the word.
    exponent_bits, mantissa_bits : int
        Widths of a float's fields; 0 for integers.
    lowest, highest : int
        Range of an integer; 0 for floats.
    """

    name: str
    word_bits: int
    exponent_bits: int = 0
    mantissa_bits: int = 0
    lowest: int = 0
    highest: int = 0

    @property
    def is_integer(self) -> bool:
        """Whether the word is an integer."""
        return self.highest > 0

    @property
    def noisy_bits(self) -> int:
        """Bits of a word that can flip: the low ones, 4 of `int4` and `uint4`, else all."""
        return (self.highest - self.lowest).bit_length() if self.is_integer else self.word_bits


#: Word formats by name: the storage formats of noise model 1, then ``int32``, which is stored
#: only as it is.
WORD_FORMATS = {
    word.name: word
    for word in (
        WordFormat("float16", 16, 5, 10),
        WordFormat("bfloat16", 16, 8, 7),
        WordFormat("float32", 32, 8, 23),
        WordFormat("float64", 64, 11, 52),
        WordFormat("float8e4m3fn", 8, 4, 3),
        WordFormat("float8e5m2", 8, 5, 2),
        WordFormat("int8", 8, lowest=-(1 << 7), highest=(1 << 7) - 1),
        WordFormat("uint8", 8, highest=(1 << 8) - 1),
        WordFormat("int4", 8, lowest=-(1 << 3), highest=(1 << 3) - 1),
        WordFormat("uint4", 8, highest=(1 << 4) - 1),
        WordFormat("int32", 32, lowest=-(1 << 31), highest=(1 << 31) - 1),
    )
}

#: Storage formats of noise model 1 and the bits of one word.
STORAGE_FORMATS = {name: word.word_bits for name, word in WORD_FORMATS.items() if name != "int32"}


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


def check_storage_format(storage_format: str, kind: ElementType) -> WordFormat:
    """Check that a tensor of this element type can be stored in a format.

    A float tensor can be stored in every format, an integer tensor only as it is.

    Parameters
    ----------
    storage_format : str
    kind : ElementType

    Returns
    -------
    WordFormat
        Of the stored words; of ``native`` that of the element type.

    Raises
    ------
    InputError
        An unknown format, or one that the type is not stored in.
    """
    if storage_format == "native":
        return WORD_FORMATS[kind.name]
    if not isinstance(storage_format, str) or storage_format not in STORAGE_FORMATS:
        raise InputError(
            f"storage_format: unknown format {storage_format!r}; "
            f"expected native, {', '.join(STORAGE_FORMATS)}"
        )
    if WORD_FORMATS[kind.name].is_integer and storage_format != kind.name:
        own = f" or {kind.name}" if kind.name in STORAGE_FORMATS else ""
        raise InputError(
            f"storage_format: an {kind.name} tensor is stored as it is; "
            f"expected native{own}, got {storage_format!r}"
        )
    return WORD_FORMATS[storage_format]


def float32_bits(value: Any) -> int:
    """Round to the nearest float32, ties to even, whatever the thread's floating-point mode.

    Parameters
    ----------
    value : int or float

    Returns
    -------
    int
        The bits of the float32.

    Raises
    ------
    InputError
        An integer beyond all floats.
    """
    try:
        bits = int.from_bytes(struct.pack("<d", float(value)), "little")
    except OverflowError:
        raise InputError("scale: expected a number of float32, got a larger one") from None
    sign, exponent, mantissa = bits >> 63 << 31, bits >> 52 & 0x7FF, bits & (1 << 52) - 1
    if exponent == 0x7FF:
        return sign | _FLOAT32_INFINITY | bool(mantissa) << 22
    normal = exponent - 896  # the exponent of the float32, were it normal
    dropped = 29 if normal > 0 else 30 - normal
    mantissa |= (exponent > 0) << 52
    kept, rest = mantissa >> dropped, mantissa & (1 << dropped) - 1
    half = 1 << dropped - 1
    kept += rest > half or (rest == half and kept & 1)
    # The leading bit of what is kept, and a carry, add 1 to the exponent.
    return sign | min(kept + (max(normal - 1, 0) << 23), _FLOAT32_INFINITY)


def check_quantization(word: WordFormat, scale: Any, zero_point: Any) -> None:
    """Check the scale and the zero point of a float tensor's integer storage format.

    Parameters
    ----------
    word : WordFormat
        Of an integer.
    scale : float
        Rounded to float32, as the operator's attribute is.
    zero_point : int

    Raises
    ------
    InputError
        A scale that is not finite and positive, or a zero point outside the format's range.
    """
    if not isinstance(scale, (int, float, np.integer, np.floating)) or isinstance(scale, bool):
        raise InputError(f"scale: expected a number, got {scale!r}")
    if not 0 < float32_bits(scale) < _FLOAT32_INFINITY:
        raise InputError(
            f"scale: expected a finite number above 0 (in float32) for {word.name}, got {scale!r}"
        )
    low, high = word.lowest, word.highest
    if (
        not isinstance(zero_point, (int, np.integer))
        or isinstance(zero_point, bool)
        or not low <= zero_point <= high
    ):
        raise InputError(
            f"zero_point: expected an integer from {low} to {high} for {word.name}, "
            f"got {zero_point!r}"
        )
