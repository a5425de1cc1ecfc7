# SPDX-License-Identifier: Apache-2.0
"""The stored weights and biases of an annotated file, and the model without their stores.

A store of an initializer gives the same values in every run of a trial. In the graph it hides from
ONNX Runtime that they are constant. Here such stores are cut out, and what they wrote becomes an
initializer that is left empty, to be filled for each trial.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..ortops.errors import InputError
from . import onnx_file
from .model_file import weight_file
from .protobuf import (
    Span,
    bytes_field,
    field_header,
    fields,
    integers,
    last,
    messages,
    spans,
    text,
    varint_field,
)

# NumPy types of the element types that NoisyStore takes; bfloat16 as its words.
_TYPES = {1: "f4", 2: "u1", 3: "i1", 6: "i4", 10: "f2", 11: "f8", 16: "u2"}
_TYPED_FIELDS = {1: onnx_file.TENSOR_FLOATS, 11: onnx_file.TENSOR_DOUBLES}

# No file has this name: ONNX Runtime must be given the values.
_NOWHERE = b"noisystore: values of one trial"


@dataclass(frozen=True)
class Parameter:
    """A store of an initializer.

    Attributes
    ----------
    site : int
    name : str
        Of what its readers read.
    values : array
        What is stored; bfloat16 as uint16 words.
    element_type : int
        Its ONNX code.
    storage_format, scale, zero_point
        As the node says.
    """

    site: int
    name: str
    values: npt.NDArray[Any]
    element_type: int
    storage_format: str
    scale: float
    zero_point: int


@dataclass(frozen=True)
class StoredParameters:
    """A model whose stored parameters are cut out.

    Attributes
    ----------
    model : bytes
        ONNX; it has an initializer without values for each of `parameters`.
    parameters : tuple of Parameter
        Those that the model reads.
    external : bool
        Other initializers still lie in files beside the model.
    """

    model: bytes
    parameters: tuple[Parameter, ...]
    external: bool


def read_stored_parameters(path: Path) -> StoredParameters | None:
    """Cut the stores of initializers out of an annotated model.

    A store is cut out where it lies in the main graph, reads the graph's noise inputs and a
    constant initializer, stores it as one sample, and gives no graph output. Others stay.

    Parameters
    ----------
    path : path of an ONNX file

    Returns
    -------
    StoredParameters; None where there is no such store

    Raises
    ------
    InputError
        The file cannot be read or is no ONNX file, or an initializer's data do not fit its shape.
    """
    return onnx_file.read_file(path, lambda data: _cut(data, path))


@dataclass(frozen=True)
class _Store:
    """A store to be cut out, and its place in the graph message."""

    span: Span
    node: onnx_file.Node


def _cut(model: memoryview, path: Path) -> StoredParameters | None:
    graphs = [span for span in spans(model) if span.number == onnx_file.MODEL_GRAPH]
    if len(graphs) != 1:
        return None
    graph: memoryview = graphs[0].value
    tensors = {
        text(list(fields(span.value)), onnx_file.TENSOR_NAME): span
        for span in spans(graph)
        if span.number == onnx_file.GRAPH_INITIALIZER
    }
    stores = list(_constant_stores(graph, tensors))
    if not stores:
        return None
    reads = Counter(_reads(graph))
    reads.subtract(store.node.inputs[0] for store in stores)
    left_out = {store.span.start for store in stores}
    left_out.update(
        tensors[store.node.inputs[0]].start for store in stores if not reads[store.node.inputs[0]]
    )
    parameters, made = [], []
    for store in stores:
        # An initializer that nobody reads cannot be given a value.
        if reads[store.node.outputs[0]]:
            tensor = tensors[store.node.inputs[0]].value
            parameters.append(_parameter(store.node, tensor, path))
            made.append(_empty_tensor(tensor, store.node.outputs[0]))
    kept: list[memoryview | bytes] = [
        graph[s.start : s.stop] for s in spans(graph) if s.start not in left_out
    ]
    kept += [bytes_field(onnx_file.GRAPH_INITIALIZER, tensor) for tensor in made]
    start, stop = graphs[0].start, graphs[0].stop
    header = field_header(onnx_file.MODEL_GRAPH, sum(len(part) for part in kept))
    cut = b"".join([model[:start], header, *kept, model[stop:]])
    external = set(onnx_file.locations(memoryview(cut))) - {_NOWHERE.decode()}
    return StoredParameters(cut, tuple(parameters), bool(external))


def _constant_stores(graph: memoryview, tensors: dict[bytes, Span]) -> Iterator[_Store]:
    """Yield the stores that can be cut out."""
    ends = {
        number: {
            text(list(fields(value)), onnx_file.INFO_NAME) for value in messages(graph, number)
        }
        for number in (onnx_file.GRAPH_INPUT, onnx_file.GRAPH_OUTPUT)
    }
    for span in spans(graph):
        if span.number != onnx_file.GRAPH_NODE:
            continue
        node = onnx_file.read_node(span.value)
        if (
            node.is_store
            and node.reads_the_noise_inputs
            and node.integer(b"rows_per_sample", 1) == 0
            and node.inputs[0] in tensors
            and node.inputs[0] not in ends[onnx_file.GRAPH_INPUT]
            and _element_type(tensors[node.inputs[0]].value) in _TYPES
            and len(node.outputs) == 1
            and node.outputs[0]
            and node.outputs[0] not in ends[onnx_file.GRAPH_OUTPUT]
        ):
            yield _Store(span, node)


def _reads(graph: memoryview) -> Iterator[bytes]:
    """Yield the names that a graph and its subgraphs read, once a reader.

    A subgraph's own names may hide the graph's: then a name counts that is not read.
    """
    for number, value in fields(graph):
        if number == onnx_file.GRAPH_NODE:
            node = onnx_file.read_node(value)
            yield from node.inputs
            for nested in onnx_file.nested_graphs(node):
                yield from _reads(nested)
        elif number == onnx_file.GRAPH_OUTPUT:
            yield text(list(fields(value)), onnx_file.INFO_NAME)


def _element_type(tensor: memoryview) -> Any:
    return last(list(fields(tensor)), onnx_file.TENSOR_TYPE)


def _parameter(node: onnx_file.Node, tensor: memoryview, path: Path) -> Parameter:
    return Parameter(
        site=node.integer(b"site", 0),
        name=node.outputs[0].decode(),
        values=_values(tensor, path),
        element_type=_element_type(tensor),
        storage_format=node.word(b"storage_format", "native"),
        scale=node.real(b"scale", 1.0),
        zero_point=node.integer(b"zero_point", 0),
    )


def _empty_tensor(tensor: memoryview, name: bytes) -> bytes:
    """Return a tensor of the same type and shape whose values are to be given."""
    location = bytes_field(onnx_file.KEY, b"location") + bytes_field(onnx_file.VALUE, _NOWHERE)
    return b"".join(
        [
            *(
                varint_field(onnx_file.TENSOR_DIMS, d)
                for d in integers(tensor, onnx_file.TENSOR_DIMS)
            ),
            varint_field(onnx_file.TENSOR_TYPE, _element_type(tensor)),
            bytes_field(onnx_file.TENSOR_NAME, name),
            bytes_field(onnx_file.TENSOR_EXTERNAL, location),
            varint_field(onnx_file.TENSOR_LOCATION, onnx_file.EXTERNAL),
        ]
    )


def _values(tensor: memoryview, path: Path) -> npt.NDArray[Any]:
    """Return a tensor's values in memory of their own."""
    entries = list(fields(tensor))
    code = last(entries, onnx_file.TENSOR_TYPE)
    shape = tuple(integers(tensor, onnx_file.TENSOR_DIMS))
    dtype = np.dtype(_TYPES[code]).newbyteorder("<")
    place = onnx_file.external_data(tensor)
    raw = last(entries, onnx_file.TENSOR_RAW)
    if place:
        found = _external(place, math.prod(shape) * dtype.itemsize, dtype, path)
    elif raw is not None:
        found = np.frombuffer(raw, dtype)
    elif code in _TYPED_FIELDS:
        numbers = messages(tensor, _TYPED_FIELDS[code])
        found = np.frombuffer(b"".join(numbers), dtype)
    else:
        # Of int8, uint8, the 16-bit floats' words and int32, each in one varint.
        words = np.fromiter(integers(tensor, onnx_file.TENSOR_INTEGERS), np.uint64)
        found = words.astype(f"<u{dtype.itemsize}").view(dtype)
    if found.size != math.prod(shape):
        name = text(entries, onnx_file.TENSOR_NAME).decode(errors="replace")
        raise InputError(
            f"model {path}: initializer {name}: expected {math.prod(shape)} values for the shape "
            f"{list(shape)}, got {found.size}: save the model again"
        )
    return np.array(found.reshape(shape), dtype=dtype.newbyteorder("="))


def _external(
    place: dict[bytes, bytes], size: int, dtype: np.dtype[Any], path: Path
) -> npt.NDArray[Any]:
    file = weight_file(path, place.get(b"location", b"").decode())
    offset = int(place.get(b"offset") or 0)
    length = int(place.get(b"length") or size)
    if length != size or offset < 0 or offset + size > file.stat().st_size:
        raise InputError(
            f"model {path}: weight file {file.name}: expected {size} bytes at {offset}, got "
            f"{length} of a file of {file.stat().st_size}: save the model again"
        )
    return np.fromfile(file, dtype, size // dtype.itemsize, offset=offset)
