# SPDX-License-Identifier: Apache-2.0
"""Who reads what in an ONNX graph, and its nodes in an order in which they can run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import onnx


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and its subgraphs."""
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from graphs(inner)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs that a node holds itself."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def captured(node: onnx.NodeProto) -> set[str]:
    """Names that the subgraphs of a node take from around it."""
    names: set[str] = set()
    for graph in subgraphs(node):
        own = {v.name for v in graph.input} | {t.name for t in graph.initializer}
        own |= {name for inner in graph.node for name in inner.output}
        read = {v.name for v in graph.output}
        for inner in graph.node:
            read |= {*inner.input} | captured(inner)
        names |= read - own
    return names - {""}


def readers(graph: onnx.GraphProto) -> dict[str, list[int]]:
    """List the positions of the nodes that read each tensor, themselves or in a subgraph."""
    found: dict[str, list[int]] = {}
    for i, node in enumerate(graph.node):
        for name in {*node.input} | captured(node):
            found.setdefault(name, []).append(i)
    return found


def rename_reads(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    """Rename what a node and its subgraphs read; a subgraph's own names hide outer ones."""
    for i, name in enumerate(node.input):
        if name in names:
            node.input[i] = names[name]
    for graph in subgraphs(node):
        own = {v.name for v in graph.input} | {t.name for t in graph.initializer}
        own |= {name for inner in graph.node for name in inner.output}
        outer = {old: new for old, new in names.items() if old not in own}
        for inner in graph.node:
            rename_reads(inner, outer)
        for value in graph.output:
            value.name = outer.get(value.name, value.name)


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Put the nodes of a graph in topological order, where they are not; some converters forget it.

    Nodes that read each other in a circle stay as they are, for the checker to refuse.
    """
    made = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    needs = [
        sorted({made[name] for name in {*node.input} | captured(node) if name in made})
        for node in graph.node
    ]
    if all(not before or before[-1] < i for i, before in enumerate(needs)):
        return
    order: list[int] = []
    placed: set[int] = set()
    for start in range(len(needs)):
        pending, waiting = [start], {start}
        while pending:
            missing = [i for i in needs[pending[-1]] if i not in placed]
            if any(i in waiting for i in missing):
                return
            if missing:
                pending.append(missing[0])
                waiting.add(missing[0])
                continue
            i = pending.pop()
            waiting.discard(i)
            if i not in placed:
                placed.add(i)
                order.append(i)
    refill(graph.node, [graph.node[i] for i in order])


def refill(field: Any, values: Iterable[Any]) -> None:
    """Put other messages in place of those of a repeated field, which may be among them."""
    kept = list(values)
    del field[:]
    field.extend(kept)
