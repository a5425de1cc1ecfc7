# SPDX-License-Identifier: Apache-2.0
"""Bit masks by name: which bits of a word are noisy, for every word format."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np

from .errors import InputError
from .formats import WORD_FORMATS, WordFormat

ALL_BITS = (1 << 64) - 1

#: The forms of a mask's name, for messages.
MASK_FORMS = (
    "all, sign, exponent, mantissa, msb:9-31, exponent:1-3, exponent:3- (and all bits below) "
    "or a number from 0x1 to 0xffffffffffffffff"
)

_PLAIN = {"all", "sign", "exponent", "mantissa"}
_NUMBER = r"(0|[1-9]\d?)"
_RANGE = re.compile(rf"(exponent|mantissa|msb):{_NUMBER}(?:(-){_NUMBER}?)?")
_HEXADECIMAL = re.compile(r"0x[0-9a-f]+")


class _Mask(NamedTuple):
    """A parsed name: a field and a range in it (last None: down to bit 0), or a number."""

    text: str
    field: str
    bits: tuple[int, int | None] | None = None
    number: int = 0


class _Field(NamedTuple):
    """A field of a word: its first number, its width, and how many bits lie below it."""

    first: int
    width: int
    below: int


def bit_mask(name: str, storage_format: str) -> int:
    """Return the noisy bits that a name means in a format.

    Parameters
    ----------
    name : str
        ``all``, ``sign``, ``exponent``, ``mantissa``; bits counted from the top one:
        ``msb:0``, ``msb:9-31``, ``msb:9-`` (0 is the sign bit); a field's bits, counted from its
        most significant, 1: ``exponent:2``, ``exponent:1-3``, ``mantissa:1-4``; ``exponent:3-``
        is the third and all bits below it, the mantissa's included; or ``0x7f800000``, of which
        the format's bits count.
    storage_format : str
        A storage format, or ``int32``. An integer has no exponent and no mantissa, an unsigned
        one no sign. 4-bit formats count in the low half of their word.

    Returns
    -------
    int
        Set bits may flip; at least one.

    Raises
    ------
    InputError
        No mask's name, one that the format lacks, or one that selects no bit of it.

    Notes
    -----
    Source: paper, figure 4 (case 9 is ``msb:9-``) and table 5 (row 3 is ``exponent:3-``).
    """
    if storage_format not in WORD_FORMATS:
        raise InputError(
            f"bit mask {name!r}: expected a format of {', '.join(WORD_FORMATS)}, "
            f"got {storage_format!r}"
        )
    mask, word = _parse(name), WORD_FORMATS[storage_format]
    every = (1 << word.noisy_bits) - 1
    if mask.field == "number":
        if not mask.number & every:
            raise InputError(
                f"bit mask {mask.text}: selects no bit of {word.name}, which has {every:#x}"
            )
        return mask.number & every
    fields = _fields(word)
    if mask.field not in fields:
        raise InputError(
            f"bit mask {mask.text}: {word.name} has no {mask.field}; expected {_forms(fields)}"
        )
    field = fields[mask.field]
    end = field.first + field.width - 1
    first, last = mask.bits or (field.first, end)
    if not field.first <= first <= (end if last is None else last) <= end:
        raise InputError(
            f"bit mask {mask.text}: expected FIRST-LAST within {field.first} to {end}, the bits "
            f"of {word.name}'s {'word' if mask.field == 'msb' else mask.field}, in that order"
        )
    top = field.below + end - first
    bottom = 0 if last is None else field.below + end - last
    return (1 << (top + 1)) - (1 << bottom)


def mask_name(name: str) -> str:
    """Return a mask's name in its one spelling.

    Raises
    ------
    InputError
        It is no mask's name.
    """
    return _parse(name).text


def mask_value(mask: Any, word_format: str | None, site: int) -> int:
    """Return the bits of a mask argument at one site.

    Parameters
    ----------
    mask : int or str
        A number, as it is; or a name.
    word_format : str or None
        Of the site; None: not known.
    site : int
        For messages.

    Raises
    ------
    InputError
        No 64-bit number and no name, or a name that the format lacks or that needs one.
    """
    if not isinstance(mask, str):
        if not isinstance(mask, (int, np.integer)) or not 0 <= int(mask) <= ALL_BITS:
            raise InputError(
                f"bit mask: expected an integer from 0 to 2^64-1 or a mask's name, got {mask!r}"
            )
        return int(mask)
    parsed = _parse(mask)
    if parsed.field == "all":
        return ALL_BITS
    if word_format is None:
        if parsed.field == "number":
            return parsed.number
        raise InputError(
            f"bit mask {parsed.text}: the format of site {site} is not known; expected a number, "
            "or a storage format by its name"
        )
    try:
        value = bit_mask(mask, word_format)
    except InputError as error:
        raise InputError(f"site {site}: {error}") from None
    return parsed.number or value


def _parse(name: str) -> _Mask:
    text = name.strip().lower() if isinstance(name, str) else ""
    if _HEXADECIMAL.fullmatch(text) and 0 < int(text, 16) < 1 << 64:
        return _Mask(hex(int(text, 16)), "number", number=int(text, 16))
    if text in _PLAIN:
        return _Mask(text, text)
    found = _RANGE.fullmatch(text)
    if found is not None:
        field, first, dash, last = found.groups()
        end = int(last or first) if last or not dash else None
        return _Mask(text, field, (int(first), end))
    raise InputError(f"bit mask: expected {MASK_FORMS}, got {name!r}")


def _fields(word: WordFormat) -> dict[str, _Field]:
    bits = word.noisy_bits
    fields = {"all": _Field(0, bits, 0), "msb": _Field(0, bits, 0)}
    if word.lowest < 0 or not word.is_integer:
        fields["sign"] = _Field(1, 1, bits - 1)
    if not word.is_integer:
        fields["exponent"] = _Field(1, word.exponent_bits, word.mantissa_bits)
        fields["mantissa"] = _Field(1, word.mantissa_bits, 0)
    return fields


def _forms(fields: dict[str, _Field]) -> str:
    names = [name for name in fields if name != "msb"]
    return f"{', '.join(names)}, msb:FIRST-LAST (0 to {fields['msb'].width - 1}) or 0x..."
