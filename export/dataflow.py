# SPDX-License-Identifier: Apache-2.0
"""The small graph that the site rules read, whichever front end (PyTorch, ONNX) made it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Scope:
    """One call of a module: ``key`` is unique to the call, ``path`` to the module."""

    key: str
    path: str
    module: Any = field(default=None, compare=False)
    leaf: bool = field(default=False, compare=False)


@dataclass(eq=False)
class Node:
    """One tensor and the operation that makes it.

    Attributes
    ----------
    kind : str
        Neutral name of the operation ("relu", "conv", "add", ...); "" where the rules have none.
    inputs : tuple
        A Node, a float (a constant of one element), or None (another constant, or absent).
    attrs : mapping
        ``min`` and ``max`` of a clip, ``spatial`` of a mean over the spatial axes.
    scopes : tuple of Scope
        Module calls around the operation, the outermost first.
    label : str
        Name of a graph input, of a stored parameter, or of the tensor where there are no modules.
    is_float, is_output, dynamic : bool
        Holds floats (of a parameter: can be stored); is a graph output; depends on a graph input.
    parameters : mapping of str to Node
        Stored parameters that the operation reads, by role: "weight", the factor or scale, and
        "bias", the summand or shift. One Node of kind "parameter" a tensor, shared by its readers
        and no element of the graph's list of nodes; not dynamic, named by ``label``. Constants
        of rank 0 are part of the program and no parameters. A parameter that a NoisyStore of
        the model's own stores is that NoisyStore's Node.
    op_type : str
        The ONNX operator, which a request may name; "" in PyTorch.
    fused : Node or None
        The operation in front that runs in one kernel with this one, so that its own result lies
        in no memory; a request that names it means this one.
    handle : object
        The front end's own node.
    """

    kind: str
    inputs: tuple[Any, ...] = ()
    attrs: Mapping[str, Any] = field(default_factory=dict)
    scopes: tuple[Scope, ...] = ()
    label: str = ""
    is_float: bool = True
    is_output: bool = False
    dynamic: bool = True
    parameters: Mapping[str, Node] = field(default_factory=dict)
    op_type: str = ""
    fused: Node | None = None
    handle: Any = None
    readers: list[Node] = field(default_factory=list)

    def __post_init__(self) -> None:
        for value in self.inputs:
            if isinstance(value, Node):
                value.readers.append(self)
