# SPDX-License-Identifier: Apache-2.0
"""Messages of protobuf, read without a copy and without a library, and fields written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

#: A field without its place in the message: number, and value as `Span` has it.
Field = tuple[int, Any]

_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5
_MOST_SHIFT, _ALL_BITS = 70, (1 << 64) - 1


class Span(NamedTuple):
    """One field of a message and its place in it.

    Attributes
    ----------
    number : int
    value : int or memoryview
        int of a varint, else the field's bytes: of fixed width, or of counted length.
    start, stop : int
        Of the whole field, its tag included, in the message.
    """

    number: int
    value: Any
    start: int
    stop: int


def spans(data: memoryview) -> Iterator[Span]:
    """Yield the fields of a message in their order.

    Raises
    ------
    ValueError, IndexError
        It is no protobuf message.
    """
    position = 0
    while position < len(data):
        start = position
        tag, position = _varint(data, position)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            integer, position = _varint(data, position)
            yield Span(number, integer, start, position)
            continue
        if wire == _BYTES:
            size, position = _varint(data, position)
        elif wire in (_EIGHT_BYTES, _FOUR_BYTES):
            size = 8 if wire == _EIGHT_BYTES else 4
        else:
            raise ValueError("no protobuf")
        if position + size > len(data):
            raise ValueError("no protobuf")
        value = data[position : position + size]
        position += size
        yield Span(number, value, start, position)


def fields(data: memoryview) -> Iterator[Field]:
    """Yield number and value of a message's fields (see `spans`)."""
    for span in spans(data):
        yield span.number, span.value


def messages(data: memoryview, wanted: int) -> Iterator[memoryview]:
    """Yield the bytes of a message's fields of number `wanted`."""
    for number, value in fields(data):
        if number == wanted and isinstance(value, memoryview):
            yield value


def last(some: list[Field], wanted: int) -> Any:
    """Return the last value of a field, which is the one that counts, or None."""
    return next((value for number, value in reversed(some) if number == wanted), None)


def text(some: list[Field], wanted: int) -> bytes:
    """Return the last value of a field of bytes, empty where there is none."""
    value = last(some, wanted)
    return b"" if value is None else as_bytes(value)


def as_bytes(value: Any) -> bytes:
    """Copy a field of bytes; of an integer, `bytes` would allocate as many.

    Raises
    ------
    ValueError
        The field is a number.
    """
    if not isinstance(value, memoryview):
        raise ValueError("no protobuf")
    return bytes(value)


def signed(value: int) -> int:
    """Return the int64 that a varint holds."""
    return value - (1 << 64) if value >> 63 else value


def integers(data: memoryview, wanted: int) -> Iterator[int]:
    """Yield the varints of a repeated field, packed or not."""
    for number, value in fields(data):
        if number == wanted and isinstance(value, int):
            yield value
        elif number == wanted:
            position = 0
            while position < len(value):
                one, position = _varint(value, position)
                yield one


def field_header(number: int, size: int) -> bytes:
    """Return what precedes `size` bytes of a field of bytes."""
    return varint(number << 3 | _BYTES) + varint(size)


def varint(value: int) -> bytes:
    """Return an integer of 0 to 2^64 - 1 as a varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def varint_field(number: int, value: int) -> bytes:
    """Return a field that holds a varint."""
    return varint(number << 3 | _VARINT) + varint(value)


def bytes_field(number: int, value: bytes) -> bytes:
    """Return a field that holds bytes: a message or a text."""
    return field_header(number, len(value)) + value


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while shift < _MOST_SHIFT:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _ALL_BITS, position
        shift += 7
    raise ValueError("no protobuf")
