# SPDX-License-Identifier: Apache-2.0
"""Layers that tools write out as elementary operations, marked at their end."""

from __future__ import annotations

from collections.abc import Sequence

from .dataflow import Node


def mark_normalisations(nodes: Sequence[Node]) -> None:
    """Give the last operation of a written-out normalisation its kind and its parameters.

    Group normalisation is Reshape, InstanceNormalization, Reshape, scale and shift; layer and
    root-mean-square normalisation are a quotient by the root of a mean of squares.

    Parameters
    ----------
    nodes : sequence of Node
        Changed in place.
    """
    for node in nodes:
        if node.kind == "instance_norm":
            end = _reshaped(node)
            if end is not None:
                node.kind, node.parameters = "", {}
                _mark(end, "group_norm")
        elif node.kind in ("div", "mul"):
            kind = _root_mean_square(node)
            if kind is not None:
                _mark(node, kind)


def mark_integer_products(nodes: Sequence[Node]) -> None:
    """Give the last operation of a dynamically quantized layer its kind and its parameters.

    That is ConvInteger or MatMulInteger, a Cast and a product with the scales, the bias added
    before or after; what lies in memory is the float result.

    Parameters
    ----------
    nodes : sequence of Node
        Changed in place.
    """
    for node in nodes:
        if node.op_type not in ("ConvInteger", "MatMulInteger") or "weight" not in node.parameters:
            continue
        parameters = {"weight": node.parameters["weight"]}
        step = _only_reader(node)
        if step is not None and step.kind == "add":  # the bias in integers, made of the floats
            parameters.update(step.parameters)
            step = _only_reader(step)
        end = _only_reader(step) if step is not None and step.op_type == "Cast" else None
        if end is None or end.kind != "mul":
            continue
        following = _only_reader(end)
        if following is not None and following.kind == "add" and following.parameters:
            end, parameters["bias"] = following, following.parameters["bias"]
        end.kind = "conv" if node.op_type == "ConvInteger" else "linear"
        end.op_type, end.parameters = node.op_type, parameters
        node.kind, node.op_type, node.parameters = "", "", {}


def _reshaped(node: Node) -> Node | None:
    before = node.inputs[0]
    after = _only_reader(node)
    if isinstance(before, Node) and after is not None and before.op_type == after.op_type:
        return after if after.op_type == "Reshape" else None
    return None


def _mark(end: Node, kind: str) -> None:
    parameters: dict[str, Node] = {}
    for step, role in (("mul", "weight"), ("add", "bias")):
        following = _only_reader(end)
        if (
            following is None
            or following.kind != step
            or sum(isinstance(value, Node) for value in following.inputs) != 1
            or not following.parameters
        ):
            continue
        parameters[role] = following.parameters[role]
        end = following
    end.kind, end.parameters = kind, parameters


def _only_reader(node: Node) -> Node | None:
    return node.readers[0] if len({*node.readers}) == 1 and not node.is_output else None


def _root_mean_square(node: Node) -> str | None:
    """Name the normalisation of ``x / sqrt(mean(x^2) + eps)``, if the node is such a quotient."""
    for x, root in (node.inputs[:2], node.inputs[1::-1]):
        if not isinstance(x, Node) or not isinstance(root, Node):
            continue
        if node.kind == "mul":
            root = root.inputs[0] if root.kind == "reciprocal" else None
        if not isinstance(root, Node) or root.op_type != "Sqrt":
            continue
        if _is_mean_square(root.inputs[0], x):
            centred = x.kind == "sub" and isinstance(x.inputs[1], Node)
            return "layer_norm" if centred and x.inputs[1].kind == "mean" else "rms_norm"
    return None


def _is_mean_square(value: object, x: Node) -> bool:
    if not isinstance(value, Node) or value.kind != "add":
        return False
    means = [v for v in value.inputs if isinstance(v, Node)]
    if len(means) != 1 or means[0].kind != "mean" or not isinstance(means[0].inputs[0], Node):
        return False
    square = means[0].inputs[0]
    if square.kind == "pow":
        return square.inputs[0] is x and square.inputs[1] == 2.0
    return square.kind == "mul" and square.inputs[0] is x and square.inputs[1] is x
