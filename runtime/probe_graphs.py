# SPDX-License-Identifier: Apache-2.0
"""Graphs that show what a model's sites store and read, made without the onnx package."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..ortops import noise_inputs
from ..ortops.formats import ELEMENT_TYPES
from . import onnx_file
from .protobuf import bytes_field, field_header, fields, messages, spans, text, varint_field

_NOISE = frozenset(name.encode() for name in noise_inputs.NOISE_INPUTS)


@dataclass(frozen=True)
class ShownStore:
    """A NoisyStore node of the main graph.

    Attributes
    ----------
    site : int
    stored, read : str
        Names of the tensors that it stores and that its readers read.
    scale, zero_point : float, int
    """

    site: int
    stored: str
    read: str
    scale: float
    zero_point: int


def shown_stores(path: Path) -> list[ShownStore]:
    """Return the NoisyStore nodes of the main graph that read the noise inputs, by site.

    Raises
    ------
    InputError
        The file cannot be read or is no ONNX file.
    """

    def work(model: memoryview) -> list[ShownStore]:
        found = [
            ShownStore(
                node.integer(b"site", 0),
                node.inputs[0].decode(),
                node.outputs[0].decode(),
                node.real(b"scale", 1.0),
                node.integer(b"zero_point", 0),
            )
            for _, node in _stores(_graph(model))
        ]
        return sorted(found, key=lambda store: store.site)

    return onnx_file.read_file(path, work)


def shown_graph(path: Path, stores: Sequence[ShownStore]) -> bytes:
    """Return the model with what each store stores and what is read as further outputs.

    Parameters
    ----------
    path : path of an annotated ONNX file
    stores : sequence of ShownStore
        Of this file.

    Raises
    ------
    InputError
        The file cannot be read or is no ONNX file.
    """
    names = dict.fromkeys(name.encode() for s in stores for name in (s.stored, s.read))

    def work(model: memoryview) -> bytes:
        graph = _graph(model)
        given = {
            text(list(fields(value)), onnx_file.INFO_NAME)
            for value in messages(graph, onnx_file.GRAPH_OUTPUT)
        }
        added = [
            bytes_field(onnx_file.GRAPH_OUTPUT, bytes_field(onnx_file.INFO_NAME, name))
            for name in names
            if name not in given
        ]
        return _with_graph(model, [bytes(graph), *added])

    return onnx_file.read_file(path, work)


def site_graph(path: Path, element_types: dict[int, str]) -> bytes:
    """Return a graph of the model's stores alone: each reads ``x.SITE`` and writes ``y.SITE``.

    Parameters
    ----------
    path : path of an annotated ONNX file
    element_types : dict from site to element type
        Of the sites to take.

    Returns
    -------
    bytes
        An ONNX model with the noise inputs, operator sets and IR version of the file.

    Raises
    ------
    InputError
        The file cannot be read or is no ONNX file.
    """

    def work(model: memoryview) -> bytes:
        graph = _graph(model)
        parts = [bytes_field(onnx_file.GRAPH_NAME, b"sites")]
        parts += [bytes(span) for span in _noise_inputs(graph)]
        for data, node in _stores(graph):
            site = node.integer(b"site", 0)
            if site in element_types:
                x, y = f"x.{site}".encode(), f"y.{site}".encode()
                parts.append(bytes_field(onnx_file.GRAPH_NODE, _renamed(data, x, y)))
                code = ELEMENT_TYPES[element_types[site]].code
                parts.append(bytes_field(onnx_file.GRAPH_INPUT, _info(x, code)))
                parts.append(bytes_field(onnx_file.GRAPH_OUTPUT, _info(y, code)))
        return _with_graph(model, parts, (onnx_file.MODEL_IR, onnx_file.MODEL_OPSET))

    return onnx_file.read_file(path, work)


def _graph(model: memoryview) -> memoryview:
    return next(messages(model, onnx_file.MODEL_GRAPH))


def _stores(graph: memoryview) -> Iterator[tuple[memoryview, onnx_file.Node]]:
    for data in messages(graph, onnx_file.GRAPH_NODE):
        node = onnx_file.read_node(data)
        if node.is_store and node.reads_the_noise_inputs and node.outputs[:1] != [b""]:
            yield data, node


def _noise_inputs(graph: memoryview) -> Iterator[memoryview]:
    """Yield inputs and default values of the noise inputs."""
    names = {
        onnx_file.GRAPH_INPUT: onnx_file.INFO_NAME,
        onnx_file.GRAPH_INITIALIZER: onnx_file.TENSOR_NAME,
    }
    for span in spans(graph):
        if span.number in names and text(list(fields(span.value)), names[span.number]) in _NOISE:
            yield graph[span.start : span.stop]


def _renamed(node: memoryview, x: bytes, y: bytes) -> bytes:
    """Return a store that reads x and writes y."""
    inputs = [x, *(name.encode() for name in noise_inputs.NOISE_INPUTS)]
    kept = [
        bytes(node[span.start : span.stop])
        for span in spans(node)
        if span.number not in (onnx_file.NODE_INPUT, onnx_file.NODE_OUTPUT)
    ]
    return b"".join(
        [
            *(bytes_field(onnx_file.NODE_INPUT, name) for name in inputs),
            bytes_field(onnx_file.NODE_OUTPUT, y),
            *kept,
        ]
    )


def _info(name: bytes, element_code: int) -> bytes:
    """Return the ValueInfoProto of a tensor [?, ?]."""
    shape = 2 * bytes_field(onnx_file.SHAPE_DIM, b"")
    tensor = varint_field(onnx_file.TYPE_ELEMENT, element_code)
    tensor += bytes_field(onnx_file.TYPE_SHAPE, shape)
    kind = bytes_field(onnx_file.INFO_TYPE, bytes_field(onnx_file.TYPE_TENSOR, tensor))
    return bytes_field(onnx_file.INFO_NAME, name) + kind


def _with_graph(
    model: memoryview, graph: list[bytes], kept: tuple[int, ...] | None = None
) -> bytes:
    """Return a model of this graph and the fields `kept` of another (None: all but its graph)."""
    parts: list[bytes | memoryview] = [
        model[span.start : span.stop]
        for span in spans(model)
        if span.number != onnx_file.MODEL_GRAPH and (kept is None or span.number in kept)
    ]
    header = field_header(onnx_file.MODEL_GRAPH, sum(len(part) for part in graph))
    return b"".join([*parts, header, *graph])
