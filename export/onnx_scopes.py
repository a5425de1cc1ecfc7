# SPDX-License-Identifier: Apache-2.0
"""Module paths that PyTorch's exporter leaves in an ONNX graph."""

from __future__ import annotations

import ast
from collections.abc import Iterable

import onnx

from .dataflow import Scope

_SCOPES = "pkg.torch.onnx.name_scopes"


class Scopes:
    """Reads the module calls around the nodes of a graph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        paths = {path for node in graph.node for path in _paths(node)}
        parameters = {tensor.name for tensor in graph.initializer}
        self._parents = _parents(paths, 1) | _parents(parameters, 2)

    def of(self, node: onnx.NodeProto) -> tuple[Scope, ...]:
        """Module calls around a node, the outermost first; () where the file names none."""
        return tuple(Scope(path, path, leaf=path not in self._parents) for path in _paths(node))


def _paths(node: onnx.NodeProto) -> list[str]:
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            try:
                names = ast.literal_eval(entry.value)
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                return []
            if isinstance(names, list) and all(isinstance(name, str) for name in names):
                return names[:-1]  # the last is the operation's own
    return []


def _parents(names: Iterable[str], last: int) -> set[str]:
    """Paths that have something below them, the last components of a name not counted."""
    found = set()
    for name in names:
        parts = name.split(".")
        found |= {".".join(parts[:i]) for i in range(1, len(parts) - last + 1)}
    return found
