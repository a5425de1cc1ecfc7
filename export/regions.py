# SPDX-License-Identifier: Apache-2.0
"""Regions of a traced graph that PyTorch keeps as graphs of their own, such as torch.no_grad."""

from __future__ import annotations

import operator
from collections.abc import Iterator

import torch
from torch import fx

from ..ortops.errors import InputError
from .kinds import ACTIVATIONS, ATEN_KINDS

_GRAD = "wrap_with_set_grad_enabled"


def inline_grad_regions(module: fx.GraphModule) -> None:
    """Put the operations of torch.no_grad regions into the graph, and detach their results."""
    graph = module.graph
    while True:
        region = next((n for n in graph.nodes if _name(n) == _GRAD), None)
        if region is None:
            return
        enabled, holder, *arguments = region.args
        assert isinstance(holder, fx.Node)
        inner = operator.attrgetter(str(holder.target))(module)
        for name, child in inner.named_children():
            setattr(module, f"{holder.target}_{name}", child)
        values = dict(_pair(inner.graph, arguments))
        results: list[fx.Node] = []
        with graph.inserting_before(region):
            for node in inner.graph.nodes:
                if node.op == "output":
                    results = [values[leaf] for leaf in node.args[0]]
                elif node.op != "placeholder":
                    values[node] = graph.node_copy(node, values.__getitem__)
                    if node.op == "get_attr":
                        values[node].target = f"{holder.target}_{node.target}"
            if not enabled:
                results = [_detached(graph, result) for result in results]
        for item in list(region.users):
            item.replace_all_uses_with(results[item.args[1]])
            graph.erase_node(item)
        graph.erase_node(region)
        if not holder.users:
            graph.erase_node(holder)


def refuse_hidden_activations(module: fx.GraphModule) -> None:
    """Refuse a graph whose regions (torch.cond, autocast...) hide an activation function.

    Raises
    ------
    InputError
        It does: a site there would be left out without a word.
    """
    for node in module.graph.nodes:
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            for kind in _kinds_inside(module, node):
                if kind in ACTIVATIONS:
                    raise InputError(
                        f"the model has {kind} inside {_name(node)}, where sites cannot be "
                        "placed; expected a model without torch.cond, loops or autocast there"
                    )


def _kinds_inside(module: fx.GraphModule, region: fx.Node) -> Iterator[str]:
    for holder in region.all_input_nodes:
        if holder.op != "get_attr":
            continue
        inner = operator.attrgetter(str(holder.target))(module)
        if isinstance(inner, fx.GraphModule):
            for node in inner.graph.nodes:
                name = _name(node).split(".")[0].rstrip("_")
                if isinstance(node.target, torch._ops.HigherOrderOperator):
                    yield from _kinds_inside(inner, node)
                yield ATEN_KINDS.get(name, "")


def _name(node: fx.Node) -> str:
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.split("::")[1]
    if isinstance(target, torch._ops.HigherOrderOperator):
        return str(target.name())
    return ""


def _pair(graph: fx.Graph, arguments: list[fx.node.Argument]) -> Iterator[tuple[fx.Node, fx.Node]]:
    placeholders = [n for n in graph.nodes if n.op == "placeholder"]
    for placeholder, argument in zip(placeholders, arguments, strict=True):
        assert isinstance(argument, fx.Node)
        yield placeholder, argument


def _detached(graph: fx.Graph, node: fx.Node) -> fx.Node:
    new = graph.call_function(torch.ops.aten.detach.default, (node,))
    new.meta = dict(node.meta)
    return new
