# SPDX-License-Identifier: Apache-2.0
"""What is read from an ONNX file without the onnx package: weight files and NoisyStore nodes."""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..ortops import noise_inputs
from ..ortops.errors import InputError
from ..ortops.formats import ELEMENT_TYPES

_Result = TypeVar("_Result")
_WORD_BITS = {kind.code: kind.word_bits for kind in ELEMENT_TYPES.values()}

# Field numbers of onnx.proto, unchanged since IR 1 (functions: IR 8).
_MODEL_GRAPH, _MODEL_FUNCTION = 7, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_GRAPH_VALUES = (11, 12, 13)  # input, output, value_info
_FUNCTION_NODE, _FUNCTION_ATTRIBUTE = 7, 11
_NODE_INPUT, _NODE_OUTPUT, _NODE_TYPE, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 2, 4, 5, 7
_ATTRIBUTE_NAME, _ATTRIBUTE_INT, _ATTRIBUTE_TEXT = 1, 3, 4
_ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS, _ATTRIBUTE_SPARSE = (5, 10), (6, 11), (22, 23)
_SPARSE_TENSORS = (1, 2)  # values, indices
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 1, 2, 8, 13, 14
_EXTERNAL = 1  # TensorProto.DataLocation
_KEY, _VALUE = 1, 2
_INFO_NAME, _INFO_TYPE, _TYPE_TENSOR, _TYPE_ELEMENT, _TYPE_SHAPE = 1, 2, 1, 1, 2
_SHAPE_DIM, _DIM_VALUE = 1, 1

Field = tuple[int, Any]


@dataclass(frozen=True)
class Store:
    """One NoisyStore node of a file.

    Attributes
    ----------
    site : int
    storage_format : str
    rows_per_sample : int
    shape : tuple of int or None, or None
        Of the stored tensor, None where an axis is free; None: the file does not say.
    word_bits : int or None
        Of the stored tensor's element type; None: the file does not say.
    certain : bool
        The node lies in the main graph and reads the four noise inputs.
    """

    site: int
    storage_format: str
    rows_per_sample: int
    shape: tuple[int | None, ...] | None
    word_bits: int | None
    certain: bool

    @property
    def elements(self) -> int | None:
        """Elements of one sample (of all the tensor where rows_per_sample is 0), where known."""
        shape = self.shape
        if not self.certain or shape is None or self.rows_per_sample < 0:
            return None
        counted = shape[1:] if self.rows_per_sample else shape
        if (self.rows_per_sample and not shape) or any(d is None for d in counted):
            return None
        return max(self.rows_per_sample, 1) * math.prod(d for d in counted if d is not None)


def read_stores(path: Path) -> list[Store]:
    """Return the NoisyStore nodes of a file, those of subgraphs and functions included.

    Parameters
    ----------
    path : path of an ONNX file

    Raises
    ------
    InputError
        The file cannot be read or is no ONNX file.
    """
    return _read(path, lambda data: list(_stores(data)))


def external_files(path: Path) -> list[str]:
    """Return the names, relative to the model, of the files that hold tensors, sorted.

    Parameters
    ----------
    path : path of an ONNX file

    Raises
    ------
    InputError
        The file cannot be read or is no ONNX file.
    """
    return _read(path, lambda data: sorted(set(_locations(data))))


def _read(path: Path, work: Callable[[memoryview], _Result]) -> _Result:
    try:
        with path.open("rb") as file:
            # Mapped, so that weights inside it are not read. The last view closes the map.
            return work(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
    except (ValueError, IndexError, TypeError, RecursionError):
        raise InputError(f"model {path}: expected an ONNX file, got something else") from None
    except OSError as error:
        raise InputError(f"model file {path}: {error.strerror}") from None


def _stores(model: memoryview) -> Iterator[Store]:
    for graph in _messages(model, _MODEL_GRAPH):
        known = dict(_tensor_types(graph))
        for node in _messages(graph, _GRAPH_NODE):
            yield from _stores_of(node, known, True)
    for function in _messages(model, _MODEL_FUNCTION):
        for node in _messages(function, _FUNCTION_NODE):
            yield from _stores_of(node, {}, False)


def _stores_of(node: memoryview, known: dict[bytes, Any], main: bool) -> Iterator[Store]:
    fields = list(_fields(node))
    domain, kind = _last(fields, _NODE_DOMAIN), _last(fields, _NODE_TYPE)
    if (domain, kind) == (noise_inputs.DOMAIN.encode(), noise_inputs.OPERATOR.encode()):
        inputs = [bytes(value) for number, value in fields if number == _NODE_INPUT]
        outputs = [bytes(value) for number, value in fields if number == _NODE_OUTPUT]
        values = {}
        for number, value in fields:
            if number == _NODE_ATTRIBUTE:
                attribute = list(_fields(value))
                values[_last(attribute, _ATTRIBUTE_NAME)] = attribute
        word_bits, shape = next(
            (known[name] for name in [*inputs[:1], *outputs] if name in known), (None, None)
        )
        yield Store(
            site=_integer(values, b"site", 0),
            storage_format=bytes(
                _last(values.get(b"storage_format", []), _ATTRIBUTE_TEXT) or b"native"
            ).decode(),
            rows_per_sample=_integer(values, b"rows_per_sample", 1),
            shape=shape,
            word_bits=word_bits,
            certain=main and inputs[1:] == [name.encode() for name in noise_inputs.NOISE_INPUTS],
        )
    for number, value in fields:
        if number == _NODE_ATTRIBUTE:
            for inner, graph in _fields(value):
                if inner in _ATTRIBUTE_GRAPHS:
                    for nested in _messages(graph, _GRAPH_NODE):
                        yield from _stores_of(nested, {}, False)


def _tensor_types(graph: memoryview) -> Iterator[tuple[bytes, tuple[int | None, Any]]]:
    """Yield name, word bits and shape of the graph's tensors, as far as it states them."""
    for number, value in _fields(graph):
        if number == _GRAPH_INITIALIZER:
            fields = list(_fields(value))
            dims = tuple(_dims(value, _TENSOR_DIMS))
            yield (
                bytes(_last(fields, _TENSOR_NAME) or b""),
                (_WORD_BITS.get(_last(fields, _TENSOR_TYPE)), dims),
            )
        elif number in _GRAPH_VALUES:
            name = bytes(_last(list(_fields(value)), _INFO_NAME) or b"")
            for kind in _messages(value, _INFO_TYPE):
                for tensor in _messages(kind, _TYPE_TENSOR):
                    bits = _WORD_BITS.get(_last(list(_fields(tensor)), _TYPE_ELEMENT))
                    for shape in _messages(tensor, _TYPE_SHAPE):
                        dims = tuple(
                            _last(list(_fields(dim)), _DIM_VALUE)
                            for dim in _messages(shape, _SHAPE_DIM)
                        )
                        yield name, (bits, dims)


def _dims(message: memoryview, wanted: int) -> Iterator[int]:
    """Yield the integers of a repeated field, packed or not."""
    for number, value in _fields(message):
        if number == wanted and isinstance(value, int):
            yield value
        elif number == wanted:
            position = 0
            while position < len(value):
                one, position = _varint(value, position)
                yield one


def _locations(model: memoryview) -> Iterator[str]:
    for graph in _messages(model, _MODEL_GRAPH):
        yield from _graph_locations(graph)
    for function in _messages(model, _MODEL_FUNCTION):
        for number, value in _fields(function):
            if number == _FUNCTION_NODE:
                yield from _node_locations(value)
            elif number == _FUNCTION_ATTRIBUTE:
                yield from _attribute_locations(value)


def _graph_locations(graph: memoryview) -> Iterator[str]:
    for number, value in _fields(graph):
        if number == _GRAPH_NODE:
            yield from _node_locations(value)
        elif number == _GRAPH_INITIALIZER:
            yield from _tensor_locations(value)
        elif number == _GRAPH_SPARSE:
            yield from _sparse_locations(value)


def _node_locations(node: memoryview) -> Iterator[str]:
    for attribute in _messages(node, _NODE_ATTRIBUTE):
        yield from _attribute_locations(attribute)


def _attribute_locations(attribute: memoryview) -> Iterator[str]:
    for number, value in _fields(attribute):
        if number in _ATTRIBUTE_TENSORS:
            yield from _tensor_locations(value)
        elif number in _ATTRIBUTE_GRAPHS:
            yield from _graph_locations(value)
        elif number in _ATTRIBUTE_SPARSE:
            yield from _sparse_locations(value)


def _sparse_locations(sparse: memoryview) -> Iterator[str]:
    for number, value in _fields(sparse):
        if number in _SPARSE_TENSORS:
            yield from _tensor_locations(value)


def _tensor_locations(tensor: memoryview) -> Iterator[str]:
    fields = list(_fields(tensor))
    # Elsewhere ONNX Runtime does not look at the entries either.
    if _last(fields, _TENSOR_LOCATION) != _EXTERNAL:
        return
    for number, entry in fields:
        if number == _TENSOR_EXTERNAL:
            pair = list(_fields(entry))
            if _last(pair, _KEY) == b"location":
                yield bytes(_last(pair, _VALUE) or b"").decode()


def _integer(attributes: dict[Any, list[Field]], name: bytes, default: int) -> int:
    if name not in attributes:
        return default
    value = _last(attributes[name], _ATTRIBUTE_INT) or 0
    return value - (1 << 64) if value >> 63 else value


def _last(fields: list[Field], wanted: int) -> Any:
    """Return the last value of a field, which is the one that counts, or None."""
    return next((value for number, value in reversed(fields) if number == wanted), None)


def _messages(data: memoryview, wanted: int) -> Iterator[memoryview]:
    """Yield the length-delimited fields of number `wanted` of one protobuf message."""
    for number, value in _fields(data):
        if number == wanted and isinstance(value, memoryview):
            yield value


def _fields(data: memoryview) -> Iterator[Field]:
    """Yield number and value of a message's fields: int of a varint, memoryview of bytes."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, position = _varint(data, position)
            yield number, value
            continue
        if wire == 2:
            size, position = _varint(data, position)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError("no protobuf")
        if position + size > len(data):
            raise ValueError("no protobuf")
        if wire == 2:
            yield number, data[position : position + size]
        position += size


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError("no protobuf")
