# SPDX-License-Identifier: Apache-2.0
"""What is read from an ONNX file without the onnx package: weight files and NoisyStore nodes."""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ..ortops import noise_inputs
from ..ortops.errors import InputError
from ..ortops.formats import ELEMENT_TYPES
from .protobuf import Field, as_bytes, fields, integers, last, messages, signed, text

_Result = TypeVar("_Result")
_STORE = (noise_inputs.DOMAIN.encode(), noise_inputs.OPERATOR.encode())
_NOISE_INPUTS = [name.encode() for name in noise_inputs.NOISE_INPUTS]
_TYPE_NAMES = {kind.code: kind.name for kind in ELEMENT_TYPES.values()}

# Field numbers of onnx.proto, unchanged since IR 1 (functions: IR 8).
MODEL_IR, MODEL_GRAPH, MODEL_OPSET, MODEL_FUNCTION = 1, 7, 8, 25
OPSET_DOMAIN = 1
GRAPH_NODE, GRAPH_NAME, GRAPH_INITIALIZER, GRAPH_SPARSE = 1, 2, 5, 15
GRAPH_INPUT, GRAPH_OUTPUT, _GRAPH_INFO = 11, 12, 13
FUNCTION_NODE, FUNCTION_ATTRIBUTE = 7, 11
NODE_INPUT, NODE_OUTPUT, NODE_TYPE, NODE_ATTRIBUTE, NODE_DOMAIN = 1, 2, 4, 5, 7
ATTRIBUTE_NAME, ATTRIBUTE_FLOAT, ATTRIBUTE_INT, ATTRIBUTE_TEXT = 1, 2, 3, 4
ATTRIBUTE_TENSORS, ATTRIBUTE_GRAPHS, ATTRIBUTE_SPARSE = (5, 10), (6, 11), (22, 23)
SPARSE_TENSORS = (1, 2)  # values, indices
TENSOR_DIMS, TENSOR_TYPE, TENSOR_NAME = 1, 2, 8
TENSOR_FLOATS, TENSOR_INTEGERS, TENSOR_RAW, TENSOR_DOUBLES = 4, 5, 9, 10
TENSOR_EXTERNAL, TENSOR_LOCATION = 13, 14
EXTERNAL = 1  # TensorProto.DataLocation
KEY, VALUE = 1, 2
INFO_NAME, INFO_TYPE, TYPE_TENSOR, TYPE_ELEMENT, TYPE_SHAPE = 1, 2, 1, 1, 2
SHAPE_DIM, _DIM_VALUE = 1, 1


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
    element_type : str or None
        Of the stored tensor; None: the file does not say, or no type that can be stored.
    certain : bool
        The node lies in the main graph and reads the four noise inputs.
    """

    site: int
    storage_format: str
    rows_per_sample: int
    shape: tuple[int | None, ...] | None
    element_type: str | None
    certain: bool

    @property
    def word_bits(self) -> int | None:
        """Bits of the stored tensor's element type, where known."""
        kind = ELEMENT_TYPES.get(self.element_type or "")
        return None if kind is None else kind.word_bits

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
    return read_file(path, lambda data: list(_stores(data)))


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
    return read_file(path, lambda data: sorted(set(locations(data))))


def imported_domains(path: Path) -> set[str]:
    """Return the operator domains that a file imports.

    Parameters
    ----------
    path : path of an ONNX file

    Raises
    ------
    InputError
        The file cannot be read or is no ONNX file.
    """
    return read_file(
        path,
        lambda data: {
            text(list(fields(opset)), OPSET_DOMAIN).decode()
            for opset in messages(data, MODEL_OPSET)
        },
    )


def read_file(path: Path, work: Callable[[memoryview], _Result]) -> _Result:
    """Return what `work` makes of the bytes of an ONNX file; it must keep no view of them.

    Raises
    ------
    InputError
        The file cannot be read or is no ONNX file.
    """
    try:
        with path.open("rb") as file:
            # Mapped, so that weights inside it are not read. The last view closes the map.
            return work(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
    except InputError:
        raise
    except (ValueError, IndexError, TypeError, OverflowError, RecursionError, struct.error):
        raise InputError(f"model {path}: expected an ONNX model, got something else") from None
    except OSError as error:
        raise InputError(f"model file {path}: {error.strerror}") from None


def _stores(model: memoryview) -> Iterator[Store]:
    for graph in messages(model, MODEL_GRAPH):
        known = dict(_tensor_types(graph))
        for node in messages(graph, GRAPH_NODE):
            yield from _stores_of(node, known, True)
    for function in messages(model, MODEL_FUNCTION):
        for node in messages(function, FUNCTION_NODE):
            yield from _stores_of(node, {}, False)


class Node(NamedTuple):
    """What a node message says of itself."""

    domain: bytes
    kind: bytes
    inputs: list[bytes]
    outputs: list[bytes]
    attributes: dict[bytes, list[Field]]

    @property
    def is_store(self) -> bool:
        """Whether this is a NoisyStore node."""
        return (self.domain, self.kind) == _STORE

    @property
    def reads_the_noise_inputs(self) -> bool:
        """Whether inputs 1 to 4 of a store are the graph's own noise inputs."""
        return self.inputs[1:] == _NOISE_INPUTS

    def integer(self, name: bytes, default: int) -> int:
        """Return an attribute of one integer."""
        found = self.attributes.get(name)
        return default if found is None else signed(last(found, ATTRIBUTE_INT) or 0)

    def real(self, name: bytes, default: float) -> float:
        """Return an attribute of one float."""
        found = self.attributes.get(name)
        if found is None:
            return default
        value = last(found, ATTRIBUTE_FLOAT)
        return 0.0 if value is None else float(struct.unpack("<f", value)[0])

    def word(self, name: bytes, default: str) -> str:
        """Return an attribute of one text."""
        return text(self.attributes.get(name, []), ATTRIBUTE_TEXT).decode() or default


def read_node(data: memoryview) -> Node:
    """Return what a node message says of itself, its subgraphs aside."""
    entries = list(fields(data))
    attributes = {}
    for number, value in entries:
        if number == NODE_ATTRIBUTE:
            attribute = list(fields(value))
            attributes[text(attribute, ATTRIBUTE_NAME)] = attribute
    return Node(
        text(entries, NODE_DOMAIN),
        text(entries, NODE_TYPE),
        [as_bytes(value) for number, value in entries if number == NODE_INPUT],
        [as_bytes(value) for number, value in entries if number == NODE_OUTPUT],
        attributes,
    )


def nested_graphs(node: Node) -> Iterator[memoryview]:
    """Yield the subgraphs of a node."""
    for attribute in node.attributes.values():
        for number, value in attribute:
            if number in ATTRIBUTE_GRAPHS:
                yield value


def _stores_of(data: memoryview, known: dict[bytes, Any], main: bool) -> Iterator[Store]:
    node = read_node(data)
    if node.is_store:
        element_type, shape = next(
            (known[name] for name in [*node.inputs[:1], *node.outputs] if name in known),
            (None, None),
        )
        yield Store(
            site=node.integer(b"site", 0),
            storage_format=node.word(b"storage_format", "native"),
            rows_per_sample=node.integer(b"rows_per_sample", 1),
            shape=shape,
            element_type=element_type,
            certain=main and node.reads_the_noise_inputs,
        )
    for graph in nested_graphs(node):
        for nested in messages(graph, GRAPH_NODE):
            yield from _stores_of(nested, {}, False)


def _tensor_types(graph: memoryview) -> Iterator[tuple[bytes, tuple[str | None, Any]]]:
    """Yield name, element type and shape of the graph's tensors, as far as it states them."""
    for number, value in fields(graph):
        if number == GRAPH_INITIALIZER:
            entries = list(fields(value))
            dims = tuple(integers(value, TENSOR_DIMS))
            yield text(entries, TENSOR_NAME), (_TYPE_NAMES.get(last(entries, TENSOR_TYPE)), dims)
        elif number in (GRAPH_INPUT, GRAPH_OUTPUT, _GRAPH_INFO):
            name = text(list(fields(value)), INFO_NAME)
            for kind in messages(value, INFO_TYPE):
                for tensor in messages(kind, TYPE_TENSOR):
                    element = _TYPE_NAMES.get(last(list(fields(tensor)), TYPE_ELEMENT))
                    for shape in messages(tensor, TYPE_SHAPE):
                        dims = tuple(
                            last(list(fields(dim)), _DIM_VALUE)
                            for dim in messages(shape, SHAPE_DIM)
                        )
                        yield name, (element, dims)


def locations(model: memoryview) -> Iterator[str]:
    """Yield the names of the files that hold tensors of a model, for each tensor."""
    for graph in messages(model, MODEL_GRAPH):
        yield from _graph_locations(graph)
    for function in messages(model, MODEL_FUNCTION):
        for number, value in fields(function):
            if number == FUNCTION_NODE:
                yield from _node_locations(value)
            elif number == FUNCTION_ATTRIBUTE:
                yield from _attribute_locations(value)


def _graph_locations(graph: memoryview) -> Iterator[str]:
    for number, value in fields(graph):
        if number == GRAPH_NODE:
            yield from _node_locations(value)
        elif number == GRAPH_INITIALIZER:
            yield from _tensor_locations(value)
        elif number == GRAPH_SPARSE:
            yield from _sparse_locations(value)


def _node_locations(node: memoryview) -> Iterator[str]:
    for attribute in messages(node, NODE_ATTRIBUTE):
        yield from _attribute_locations(attribute)


def _attribute_locations(attribute: memoryview) -> Iterator[str]:
    for number, value in fields(attribute):
        if number in ATTRIBUTE_TENSORS:
            yield from _tensor_locations(value)
        elif number in ATTRIBUTE_GRAPHS:
            yield from _graph_locations(value)
        elif number in ATTRIBUTE_SPARSE:
            yield from _sparse_locations(value)


def _sparse_locations(sparse: memoryview) -> Iterator[str]:
    for number, value in fields(sparse):
        if number in SPARSE_TENSORS:
            yield from _tensor_locations(value)


def _tensor_locations(tensor: memoryview) -> Iterator[str]:
    location = external_data(tensor).get(b"location")
    if location is not None:
        yield location.decode()


def external_data(tensor: memoryview) -> dict[bytes, bytes]:
    """Return where a tensor's data lie outside the file, by key; empty where they do not."""
    entries = list(fields(tensor))
    # Elsewhere ONNX Runtime does not look at the entries either.
    if last(entries, TENSOR_LOCATION) != EXTERNAL:
        return {}
    pairs = [list(fields(value)) for number, value in entries if number == TENSOR_EXTERNAL]
    return {text(pair, KEY): text(pair, VALUE) for pair in pairs}
