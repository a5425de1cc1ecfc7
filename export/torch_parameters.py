# SPDX-License-Identifier: Apache-2.0
"""The stored parameters that the layers of a traced PyTorch graph read."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from .dataflow import Node, Scope
from .kinds import NORMALISATIONS, PARAMETER, STORE

_COPIES = frozenset({"clone", "lift_fresh_copy"})


def attribute(module: nn.Module, target: Any) -> Any:
    """Find what a get_attr node of a graph stands for."""
    return operator.attrgetter(str(target))(module)


def is_view(node: fx.Node) -> bool:
    """Say whether an operation gives its first operand's own elements."""
    target = node.target
    if node.op != "call_function" or not isinstance(target, torch._ops.OpOverload):
        return False
    returns = target._schema.returns
    return target.is_view or any(r.alias_info and not r.alias_info.is_write for r in returns)


class Parameters:
    """Finds the parameters of layers; one Node a tensor, however many names and readers it has.

    A parameter's node has the FX node that makes it as ``handle``: its first get_attr or, where
    the weight is computed from others (weight normalisation), the last operation of that.

    Parameters
    ----------
    module : torch.fx.GraphModule
        A traced graph.
    model : torch.nn.Module
        The model that was traced, for the names of its parameters.
    """

    def __init__(self, module: fx.GraphModule, model: nn.Module) -> None:
        self.module = module
        tensors = [
            *model.named_parameters(remove_duplicate=False),
            *model.named_buffers(remove_duplicate=False),
        ]
        self.names = {id(tensor): name for name, tensor in tensors}  # the last, as in ONNX files
        self.found: dict[Any, Node] = {}

    def of(
        self, reader: fx.Node, kind: str, known: Mapping[fx.Node, Any], scopes: tuple[Scope, ...]
    ) -> dict[str, Node]:
        """Find what an operation reads, by role.

        Parameters
        ----------
        reader : torch.fx.Node
        kind : str
            Neutral name of the operation.
        known : mapping
            What the rules see of the nodes before it.
        scopes : tuple of Scope
            Module calls around it.

        Returns
        -------
        dict of str to Node
            "weight" and "bias", as far as it has them.
        """
        found: dict[str, Node] = {}
        for role, operand in _operands(reader, kind):
            if role in found or not isinstance(operand, fx.Node):
                continue
            if _is_dynamic(known.get(operand)):
                continue
            end = _origin(operand)
            value = tensor_value(self.module, end)
            if not isinstance(value, Tensor) or not value.dim():
                continue
            if kind == "add" and sum(length > 1 for length in value.shape) > 1:
                continue  # a table of positions, say: no layer's bias
            own = known.get(end)
            if not isinstance(own, Node) or own.kind != STORE:
                own = self._node(end, value, role, scopes)
            found[role] = own
        return found

    def _node(self, end: fx.Node, value: Tensor, role: str, scopes: tuple[Scope, ...]) -> Node:
        key = id(value) if end.op == "get_attr" else end
        if key not in self.found:
            path = scopes[-1].path if scopes else ""
            computed = f"{path}.{role}" if path else role
            own = self.names.get(id(value), str(end.target))
            self.found[key] = Node(
                PARAMETER,
                label=own if end.op == "get_attr" else computed,
                is_float=value.dtype.is_floating_point,
                dynamic=False,
                handle=end,
            )
        return self.found[key]


def tensor_value(module: nn.Module, node: fx.Node) -> Any:
    """Give the tensor that a node makes: itself of a get_attr, else its traced likeness."""
    return attribute(module, node.target) if node.op == "get_attr" else node.meta.get("val")


def _operands(node: fx.Node, kind: str) -> Iterator[tuple[str, Any]]:
    if kind in ("conv", "linear") or kind in NORMALISATIONS:
        names = [a.name for a in node.target._schema.arguments]  # type: ignore[union-attr]
        given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
        for role in ("weight", "bias"):
            if role in given:
                yield role, given[role]
    elif kind == "gemm":
        yield from (("weight", value) for value in node.args[1:3])
        yield "bias", node.args[0]
    elif kind == "matmul":
        yield from (("weight", value) for value in node.args[:2])
    elif kind == "add":
        yield from (("bias", value) for value in node.args[:2])


def _is_dynamic(value: Any) -> bool:
    return isinstance(value, Node) and value.dynamic


def _origin(node: fx.Node) -> fx.Node:
    """Go back through views, parts and copies of a tensor to the tensor itself."""
    while node.op == "call_function":
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node):
            return node
        part = node.target is operator.getitem and is_view(source)
        if not part and not is_view(node) and _name(node) not in _COPIES:
            return node
        node = source
    return node


def _name(node: fx.Node) -> str:
    target = node.target
    return target._opname if isinstance(target, torch._ops.OpOverload) else ""
