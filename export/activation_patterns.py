# SPDX-License-Identifier: Apache-2.0
"""Activation functions written out as elementary operations, recognised at their last operation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from .dataflow import Node
from .kinds import ACTIVATIONS

Match = tuple[str, set[Node]]

#: Kinds that are matched by their operands, not by their name alone.
_BY_OPERANDS = frozenset({"relu6", "clip"})


def match_activation(node: Node) -> Match | None:
    """Say which activation function ends at a node.

    Parameters
    ----------
    node : Node

    Returns
    -------
    (str, set of Node) or None
        Its neutral kind, and the operations inside it, which are no sites of their own when
        nothing else reads them.
    """
    if node.kind in ACTIVATIONS - _BY_OPERANDS:
        return node.kind, set()
    for rule in _RULES.get(node.kind, ()):
        match = rule(node)
        if match is not None:
            return match
    return None


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=2e-3, abs_tol=1e-6)


def _constant_operand(node: Node) -> tuple[Node, float] | None:
    """Split a two-operand node into its tensor and its one-element constant."""
    if len(node.inputs) != 2:
        return None
    left, right = node.inputs
    if isinstance(left, Node) and isinstance(right, float):
        return left, right
    if isinstance(right, Node) and isinstance(left, float):
        return right, left
    return None


def _affine_steps(node: Node) -> Iterator[tuple[Node, float, float, set[Node]]]:
    """Yield (x, a, c, interior) with ``node = a*x + c``, peeling one operation at a time."""
    a, c = 1.0, 0.0
    interior: set[Node] = set()
    yield node, a, c, set()
    while True:
        interior.add(node)
        split = _constant_operand(node)
        if node.kind == "neg" and isinstance(node.inputs[0], Node):
            a, node = -a, node.inputs[0]
        elif split is None:
            return
        else:
            inner, value = split
            first = node.inputs[0] is inner
            if node.kind == "mul":
                a *= value
            elif node.kind == "div" and first and value:
                a /= value
            elif node.kind == "add":
                c += a * value
            elif node.kind == "sub":
                c += a * (-value if first else value)
                a = a if first else -a
            else:
                return
            node = inner
        yield node, a, c, set(interior)


def _bounds(node: Node) -> tuple[Node, float | None, float | None, set[Node]] | None:
    """Read a clamp, however it is written, as (x, min, max, interior)."""
    if node.kind == "relu" and isinstance(node.inputs[0], Node):
        return node.inputs[0], 0.0, None, {node}
    if node.kind == "clip" and isinstance(node.inputs[0], Node):
        return node.inputs[0], node.attrs.get("min"), node.attrs.get("max"), {node}
    split = _constant_operand(node)
    if node.kind not in ("maximum", "minimum") or split is None:
        return None
    inner, value = split
    is_max = node.kind == "maximum"
    below = _bounds(inner)
    if below is not None and below[2 if not is_max else 1] is None:
        x, low, high, interior = below
        return x, value if is_max else low, high if is_max else value, interior | {node}
    return inner, value if is_max else None, None if is_max else value, {node}


def _clip(node: Node) -> Match | None:
    bounds = _bounds(node)
    if bounds is None:
        return None
    x, low, high, interior = bounds
    if low == 0 and high is None:
        kind = "relu"
    elif low == 0 and high == 6:
        kind = "relu6"
    elif low is not None and high is not None:
        kind = "clip"
    else:
        return None
    inside = interior - {node}
    if low == 0 and high == 1:
        for _, a, c, steps in _affine_steps(x):
            if a > 0 and not (a == 1 and c == 0):
                return "hardsigmoid", inside | steps
    return kind, inside


def _slope(node: Node) -> Match | None:
    """LeakyReLU as max(x, a*x), with 0 < a < 1."""
    for x, y in (node.inputs[:2], node.inputs[1::-1]):
        if not isinstance(x, Node) or not isinstance(y, Node):
            continue
        for inner, a, c, steps in _affine_steps(y):
            if inner is x and c == 0 and 0 < a < 1:
                return "leaky_relu", steps
    return None


def _scaled_clip(node: Node) -> Match | None:
    """HardSigmoid as k * clip(a*x + c, 0, 1/k)."""
    for inner, k, c, interior in _affine_steps(node):
        bounds = _bounds(inner)
        if c != 0 or inner is node or bounds is None:
            continue
        x, low, high, inside = bounds
        if low == 0 and high is not None and _close(k * high, 1.0):
            for _, a, shift, steps in _affine_steps(x):
                if a > 0 and shift != 0:
                    return "hardsigmoid", (interior | inside | steps) - {node}
    return None


def _exp_plus_one(value: Any, sign: float) -> tuple[Node, set[Node]] | None:
    """Read ``1 + exp(sign * x)`` as x."""
    if not isinstance(value, Node):
        return None
    split = _constant_operand(value)
    if value.kind != "add" or split is None or split[1] != 1 or split[0].kind != "exp":
        return None
    exponent = split[0].inputs[0]
    if not isinstance(exponent, Node):
        return None
    if sign > 0:
        return exponent, {value, split[0]}
    for x, a, c, interior in _affine_steps(exponent):
        if a == -1 and c == 0:
            return x, {value, split[0]} | interior
    return None


def _quotient(node: Node) -> Match | None:
    """Sigmoid 1/(1+exp(-x)), SiLU x/(1+exp(-x)) and Softsign x/(1+|x|)."""
    top, bottom = (1.0, node.inputs[0]) if node.kind == "reciprocal" else node.inputs[:2]
    below = _exp_plus_one(bottom, -1.0)
    if below is not None and top == 1:
        return "sigmoid", below[1]
    if below is not None and top is below[0]:
        return "silu", below[1]
    if isinstance(bottom, Node) and bottom.kind == "add" and isinstance(top, Node):
        split = _constant_operand(bottom)
        if split and split[1] == 1 and split[0].kind == "abs" and split[0].inputs[0] is top:
            return "softsign", {bottom, split[0]}
    return None


def _logarithm(node: Node) -> Match | None:
    """Softplus log(1+exp(x)) and LogSigmoid log(sigmoid(x))."""
    x = node.inputs[0]
    if not isinstance(x, Node):
        return None
    if node.kind == "log1p":
        return ("softplus", {x}) if x.kind == "exp" else None
    below = _exp_plus_one(x, 1.0)
    if below is not None:
        return "softplus", below[1]
    inside = _sigmoid(x)
    return ("logsigmoid", inside | {x}) if inside is not None else None


def _sigmoid(node: Node) -> set[Node] | None:
    """Operations inside a sigmoid that ends at this node, or None."""
    if node.kind == "sigmoid":
        return set()
    match = _quotient(node) if node.kind in ("div", "reciprocal") else None
    return match[1] if match is not None and match[0] == "sigmoid" else None


def _tanhshrink(node: Node) -> Match | None:
    x, y = node.inputs[:2]
    if isinstance(x, Node) and isinstance(y, Node) and y.kind == "tanh" and y.inputs[0] is x:
        return "tanhshrink", {y}
    return None


def _selection(node: Node) -> Match | None:
    """Read where(x > 0, x, g(x)): ReLU, LeakyReLU, ELU and the like."""
    if len(node.inputs) != 3:
        return None
    test, x, other = node.inputs
    if not isinstance(test, Node) or test.kind != "greater" or not isinstance(x, Node):
        return None
    if test.inputs[0] is not x or test.inputs[1] != 0:
        return None
    if other == 0:
        return "relu", {test}
    if not isinstance(other, Node):
        return None
    interior = _expression(other, x)
    if interior is None:
        return None
    curved = any(n.kind in ("exp", "expm1") for n in interior)
    return ("elu" if curved else "leaky_relu"), interior | {test}


_ELEMENTWISE = frozenset(
    {
        *("add", "sub", "mul", "div", "neg", "pow", "exp", "expm1", "tanh"),
        *("maximum", "minimum", "clip", "relu"),
    }
)


def _expression(node: Node, x: Node) -> set[Node] | None:
    """Operations of an elementwise expression whose only tensor is x, or None."""
    interior: set[Node] = set()
    pending = [node]
    while pending:
        current = pending.pop()
        if current is x or current in interior:
            continue
        if current.kind not in _ELEMENTWISE or len(interior) > 16:
            return None
        interior.add(current)
        for value in current.inputs:
            if value is None:
                return None
            if isinstance(value, Node):
                pending.append(value)
    return interior


def _factors(node: Node, stop: set[Node]) -> tuple[float, list[Node], set[Node]] | None:
    """Flatten a product into its constant, its tensors and the operations inside."""
    constant = 1.0
    tensors: list[Node] = []
    interior: set[Node] = set()
    pending: list[Any] = [node]
    while pending:
        value = pending.pop()
        if isinstance(value, float):
            constant *= value
        elif not isinstance(value, Node):
            return None
        elif value in stop or value.kind not in ("mul", "div"):
            tensors.append(value)
        elif value.kind == "mul":
            interior.add(value)
            pending += value.inputs
        else:
            top, bottom = value.inputs[:2]
            if not isinstance(bottom, float) or bottom == 0:
                tensors.append(value)
                continue
            interior.add(value)
            constant /= bottom
            pending.append(top)
    return constant, tensors, interior - {node}


def _product(node: Node) -> Match | None:
    """Activations of the form x * gate(x): SiLU, Mish, GELU, HardSwish; and GLU."""
    flat = _factors(node, set())
    if flat is None or len(flat[1]) > 8:
        return None
    for gate in flat[1]:
        for x, k, kind, inside in _gates(gate):
            exact = _factors(node, {x, gate})
            if exact is None or len(exact[1]) != 2 or not _close(exact[0], k):
                continue
            if {*exact[1]} == {x, gate}:
                return kind, (exact[2] | inside | {gate}) - {node}
    return _gated_halves(node)


def _gated_halves(node: Node) -> Match | None:
    for value, gate in (node.inputs[:2], node.inputs[1::-1]):
        if not isinstance(value, Node) or not isinstance(gate, Node) or gate.kind != "sigmoid":
            continue
        half = gate.inputs[0]
        if (
            value.kind == "split"
            and isinstance(half, Node)
            and half.kind == "split"
            and half is not value
            and half.inputs[0] is value.inputs[0]
        ):
            return "glu", {gate}
    return None


def _gates(gate: Node) -> Iterator[tuple[Node, float, str, set[Node]]]:
    """Yield (x, k, kind, interior): k * x * gate is the activation ``kind`` of x."""
    inside = _sigmoid(gate)
    if gate.kind == "sigmoid" and isinstance(gate.inputs[0], Node):
        for x, a, c, steps in _affine_steps(gate.inputs[0]):
            if c == 0 and a > 0:
                yield x, 1.0, "silu" if a == 1 else "gelu", steps
    elif inside is not None:
        below = _exp_plus_one(gate.inputs[-1], -1.0)
        if below is not None:
            yield below[0], 1.0, "silu", inside
    elif gate.kind == "hardsigmoid" and isinstance(gate.inputs[0], Node):
        yield gate.inputs[0], 1.0, "hardswish", set()
    bounds = _bounds(gate)
    if bounds is not None and bounds[1] == 0 and bounds[2]:
        for x, a, c, steps in _affine_steps(bounds[0]):
            if a > 0 and c != 0:
                yield x, 1.0 / bounds[2], "hardswish", steps | bounds[3]
    if gate.kind == "tanh" and isinstance(gate.inputs[0], Node):
        yield from _mish_gates(gate.inputs[0])
    yield from _gelu_gates(gate)


def _mish_gates(curve: Node) -> Iterator[tuple[Node, float, str, set[Node]]]:
    if curve.kind == "softplus" and isinstance(curve.inputs[0], Node):
        yield curve.inputs[0], 1.0, "mish", {curve}
    match = _logarithm(curve) if curve.kind in ("log", "log1p") else None
    if match is None or match[0] != "softplus":
        return
    exponential = next(n for n in match[1] if n.kind == "exp")
    if isinstance(exponential.inputs[0], Node):
        yield exponential.inputs[0], 1.0, "mish", match[1] | {curve}


def _gelu_gates(gate: Node) -> Iterator[tuple[Node, float, str, set[Node]]]:
    for curve, a, c, steps in _affine_steps(gate):
        if curve.kind not in ("erf", "tanh") or c == 0 or not _close(a, c):
            continue
        argument = curve.inputs[0]
        if not isinstance(argument, Node):
            return
        if curve.kind == "erf":
            for x, scale, shift, inside in _affine_steps(argument):
                if shift == 0 and _close(scale, math.sqrt(0.5)):
                    yield x, 0.5 / c, "gelu", steps | inside | {curve}
            return
        for x in _upstream(argument):
            inside_tanh = _expression(argument, x)
            if inside_tanh is not None:
                yield x, 0.5 / c, "gelu", steps | inside_tanh | {curve}


def _upstream(node: Node) -> list[Node]:
    found: list[Node] = []
    pending = [node]
    while pending and len(found) < 24:
        current = pending.pop(0)
        for value in current.inputs:
            if isinstance(value, Node) and value not in found:
                found.append(value)
                if current.kind in _ELEMENTWISE:
                    pending.append(value)
    return found


_RULES: dict[str, tuple[Callable[[Node], Match | None], ...]] = {
    "clip": (_clip,),
    "maximum": (_clip, _slope),
    "minimum": (_clip,),
    "mul": (_product, _scaled_clip),
    "div": (_quotient, _product, _scaled_clip),
    "reciprocal": (_quotient,),
    "log": (_logarithm,),
    "log1p": (_logarithm,),
    "sub": (_tanhshrink,),
    "where": (_selection,),
}
