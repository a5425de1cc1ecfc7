# SPDX-License-Identifier: Apache-2.0
"""ONNX front end: shows the main graph of a model to the site rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx
from onnx import helper

from ..ortops.noise_inputs import DOMAIN, OPERATOR
from .dataflow import Node
from .kinds import AGAIN, ONNX_KINDS, STORE
from .onnx_constants import Constants
from .onnx_order import captured, readers
from .onnx_quantized import FUSED, INTEGERS, LOWEST, OPERANDS, Operands, may_end_in_relu
from .onnx_scopes import Scopes
from .onnx_types import FLOATS, Stored, TensorType
from .onnx_written_out import mark_integer_products, mark_normalisations

_DEFAULT = ("", "ai.onnx")
_ALIASES = frozenset({"Identity", "Dropout"})
_QUANTIZE = frozenset({"QuantizeLinear", "DynamicQuantizeLinear"})
#: Below, a clip's bound is none: exporters write the lowest float for it.
_UNBOUNDED = 3e38


def dataflow(model: onnx.ModelProto, types: Mapping[str, TensorType]) -> list[Node]:
    """Show the main graph of a model to the site rules.

    Subgraphs are seen as readers of what they capture; QuantizeLinear and DequantizeLinear are
    seen through, and their integers are what lies in memory.

    Parameters
    ----------
    model : onnx.ModelProto
    types : mapping
        Of `infer_types`.

    Returns
    -------
    list of Node
        Inputs first, in execution order; ``handle`` is a `Stored`.
    """
    nodes = _FrontEnd(model, types).build()
    mark_normalisations(nodes)
    mark_integer_products(nodes)
    return nodes


def is_store(node: onnx.NodeProto) -> bool:
    """Say whether a node is a NoisyStore."""
    return bool(node.domain == DOMAIN and node.op_type == OPERATOR)


class _FrontEnd:
    def __init__(self, model: onnx.ModelProto, types: Mapping[str, TensorType]) -> None:
        self.graph = model.graph
        self.types = types
        self.constants = Constants(model.graph)
        self.scopes = Scopes(model.graph)
        self.readers = readers(model.graph)
        self.outputs = {value.name for value in model.graph.output}
        self.nodes: list[Node] = []
        self.known: dict[str, Node] = {}
        self.parameters: dict[str, Node] = {}
        self.quantized: set[str] = set()
        self.in_integers: dict[tuple[str, bool], Node] = {}
        stores = [n for n in model.graph.node if is_store(n)]
        self.noise = {name for node in stores for name in node.input[1:]}

    def build(self) -> list[Node]:
        for value in self.graph.input:
            if value.name not in self.constants.names | self.noise:
                self.known[value.name] = self._add("input", (), value.name, ())
        for node in self.graph.node:
            inside = captured(node)
            if not any(node.output):
                continue
            if is_store(node):
                self._store(node)
            elif not self.constants.take(node, inside) and not self._seen_through(node):
                self._visit(node, inside)
        for name in self.outputs:
            if name in self.known:
                self.known[name].is_output = True
        return self.nodes

    def _add(
        self,
        kind: str,
        inputs: tuple[Any, ...],
        tensor: str,
        scopes: tuple[Any, ...],
        **more: Any,
    ) -> Node:
        kept = tuple(v if isinstance(v, (Node, float)) else None for v in inputs)
        code = self._type(tensor).code
        more.setdefault("is_float", code in FLOATS or tensor in self.quantized)
        node = Node(
            kind,
            kept,
            scopes=scopes,
            label=tensor,
            handle=Stored(tensor, self._type(tensor)),
            **more,
        )
        self.nodes.append(node)
        return node

    def _type(self, name: str) -> TensorType:
        return self.types.get(name) or TensorType()

    def _value(self, name: str) -> Any:
        """Give what the rules see of a tensor: a Node, a float, or None."""
        return self.known.get(name, self.constants.number(name) if name else None)

    def _operand(self, node: onnx.NodeProto, name: str) -> Any:
        """Give what the rules see of an operand: of a constant integer, the number it stands for.

        Integer operators have scale and zero point of an operand behind it.
        """
        value = self._value(name)
        if isinstance(value, float) and node.op_type.startswith("QLinear"):
            i = list(node.input).index(name)
            scale, zero = (self.constants.number(n) for n in node.input[i + 1 : i + 3])
            return None if scale is None or zero is None else (value - zero) * scale
        return value

    def _seen_through(self, node: onnx.NodeProto) -> bool:
        source = self.known.get(node.input[0]) if node.input else None
        if source is None:
            return False
        domain = "" if node.domain in _DEFAULT else node.domain
        if domain not in ("", "com.microsoft"):
            return False
        output = node.output[0]
        if node.op_type in _QUANTIZE:
            self.known[output] = self._quantize(node, source)
            self.quantized.add(output)
        elif node.op_type == "DequantizeLinear":
            if source.kind == "input":
                source.is_float = True
            self.known[output] = source
        elif domain == "" and node.op_type in _ALIASES:
            self.known[output] = source
            if node.input[0] in self.quantized:
                self.quantized.add(output)
        else:
            return False
        for name in node.output[1:]:
            if name:
                self._add("", (source,), name, ())
        return True

    def _quantize(self, node: onnx.NodeProto, source: Node) -> Node:
        """Say what a QuantizeLinear's integers are: the source itself, or its ReLU.

        Integers of another scale of the same tensor are stored beside the first ones: a node of
        kind `AGAIN`, which nothing reads, since what computes on them computes on the same values.
        """
        name = node.input[0]
        stored = Stored(node.output[0], self._type(node.output[0]))
        stored.type.code = stored.type.code or self._type_of_zero_point(node)
        saturates = len(node.input) > 2 and self._saturates_at_zero(node.input[2], stored.type.code)
        as_relu = saturates and may_end_in_relu(source.kind, source.inputs)
        before = self.in_integers.get((name, as_relu))
        if before is not None:
            label = before.label if as_relu else stored.name
            self._of(before, AGAIN, label, stored, node)
            return before
        only = self._only_quantized(name) and node.op_type == "QuantizeLinear"
        taken = (name, not as_relu) in self.in_integers
        if not only or (source.handle.name != name and not taken):
            return source
        if as_relu:
            source.is_float = taken
            result = self._of(source, "relu", name, stored, node)
        else:
            source.handle, source.is_float = stored, True
            result = source
            if saturates and source.kind == "relu" and len(self.readers[name]) == 1:
                self._fuse(source)
        self.in_integers[name, as_relu] = result
        return result

    def _of(
        self, source: Node, kind: str, label: str, stored: Stored, node: onnx.NodeProto
    ) -> Node:
        """Add the integers of a QuantizeLinear as a result of their own."""
        scopes = self.scopes.of(node) or source.scopes
        made = self._add(kind, (source,), label, scopes, is_float=True, op_type=source.op_type)
        made.handle = stored
        return made

    def _only_quantized(self, name: str) -> bool:
        """Say whether only QuantizeLinear operators read a tensor."""
        nodes = [self.graph.node[i] for i in self.readers.get(name, ())]
        return name not in self.outputs and all(
            node.op_type == "QuantizeLinear" and list(node.input).index(name) == 0 for node in nodes
        )

    def _fuse(self, relu: Node) -> None:
        """Note that a ReLU runs in the kernel of the layer in front.

        The saturation of its integers makes it needless, and ONNX Runtime drops it.
        """
        layer = relu.inputs[0]
        if isinstance(layer, Node) and may_end_in_relu(layer.kind, layer.inputs):
            name = layer.label
            alone = name not in self.outputs and len(self.readers.get(name, ())) == 1
            if alone and layer.handle.name == name:  # else it is stored in integers of its own
                layer.is_float, relu.fused = False, layer

    def _type_of_zero_point(self, node: onnx.NodeProto) -> int:
        known = self._type(node.input[2]).code if len(node.input) > 2 else 0
        return known or onnx.TensorProto.UINT8

    def _saturates_at_zero(self, zero_point: str, code: int) -> bool:
        value = self.constants.number(zero_point) if zero_point else 0.0
        return value is not None and value == LOWEST.get(code)

    def _visit(self, node: onnx.NodeProto, inside: set[str]) -> None:
        names = [*node.input, *sorted(inside)]
        sources = [self.known[name] for name in dict.fromkeys(names) if name in self.known]
        operands = self._operands(node)
        kind, data, attrs = self._kind(node, operands)
        quantized = (
            any(name in self.quantized for name in node.input) or operands.zero_point is not None
        )
        for i, output in enumerate(node.output):
            if not output:
                continue
            if quantized and self._type(output).code in INTEGERS:
                self.quantized.add(output)
            own = kind if i == 0 or kind == "split" else ""
            inputs = tuple(self._operand(node, name) for name in data)
            fused = self._fused(node, operands, inputs) if i == 0 else None
            first = self._add(
                own,
                inputs,
                output,
                self.scopes.of(node),
                attrs=attrs,
                dynamic=bool(sources),
                parameters=self._parameters(node, operands) if i == 0 else {},
                op_type=node.op_type,
            )
            for source in sources:
                if first not in source.readers:
                    source.readers.append(first)
            self.known[output] = first
            if fused is not None:
                first.is_float = False
                self.known[output] = self._add(
                    fused,
                    (first,),
                    output,
                    first.scopes,
                    is_float=True,
                    dynamic=bool(sources),
                    op_type=node.op_type,
                )

    def _store(self, node: onnx.NodeProto) -> None:
        source = self.known.get(node.input[0])
        self.known[node.output[0]] = self._add(
            STORE,
            (source,),
            node.output[0],
            self.scopes.of(node),
            is_float=True,
            dynamic=source is not None and source.dynamic,
            op_type=OPERATOR,
        )
        if node.input[0] in self.quantized:
            self.quantized.add(node.output[0])

    def _operands(self, node: onnx.NodeProto) -> Operands:
        domain = "" if node.domain in _DEFAULT else node.domain
        found = OPERANDS.get((domain, node.op_type)) or FUSED.get((domain, node.op_type))
        if found is not None:
            return found
        kind = ONNX_KINDS.get(node.op_type, "") if domain == "" else ""
        return Operands(kind, tuple(range(len(node.input))))

    def _kind(
        self, node: onnx.NodeProto, operands: Operands
    ) -> tuple[str, list[str], dict[str, Any]]:
        data = [node.input[i] for i in operands.data if i < len(node.input)]
        kind, attributes = operands.kind, _attributes(node)
        if kind == "clip":
            bounds = self._clip_bounds(node, attributes)
            return (kind if bounds is not None else ""), data[:1], bounds or {}
        if kind == "mean":
            return kind, data[:1], {"spatial": self._is_spatial(node, attributes)}
        if kind in ("maximum", "minimum", "add") and len(data) != 2:
            return "", data, {}
        if kind == "split":
            data = data[:1]
        return kind, data, {}

    def _clip_bounds(
        self, node: onnx.NodeProto, attributes: Mapping[str, Any]
    ) -> dict[str, float | None] | None:
        bounds: dict[str, float | None] = {}
        value: Any
        for i, name in ((1, "min"), (2, "max")):
            value = attributes.get(name)
            if len(node.input) > i and node.input[i]:
                value = self.constants.number(node.input[i])
                if value is None:
                    return None
            unbounded = value is None or abs(value) >= _UNBOUNDED
            bounds[name] = None if unbounded else float(value)
        return bounds

    def _is_spatial(self, node: onnx.NodeProto, attributes: Mapping[str, Any]) -> bool:
        axes = attributes.get("axes")
        if len(node.input) > 1 and node.input[1]:
            axes = self.constants.integers(node.input[1])
        shape = self._type(node.input[0]).shape
        if not axes:
            return False
        if shape is None:
            return set(axes) in ({2, 3}, {-1, -2}, {2, 3, 4})
        rank = len(shape)
        return rank >= 4 and {a % rank for a in axes} == set(range(2, rank))

    def _fused(
        self, node: onnx.NodeProto, operands: Operands, inputs: tuple[Any, ...]
    ) -> str | None:
        """Name the activation that ends inside this node, if one does."""
        if (node.domain, node.op_type) in FUSED:
            name = _attributes(node).get("activation", b"").decode()
            return ONNX_KINDS.get(name) or None
        i = operands.zero_point
        if i is None or not may_end_in_relu(operands.kind, inputs):
            return None
        code = self._type(node.output[0]).code or self._type(node.input[i]).code
        return (
            "relu" if i < len(node.input) and self._saturates_at_zero(node.input[i], code) else None
        )

    def _parameters(self, node: onnx.NodeProto, operands: Operands) -> dict[str, Node]:
        """Stored parameters that a node reads, by role; of a product or sum, its constant."""
        places: list[tuple[str, tuple[int, ...]]]
        places = [(role, (i,)) for role, i in (operands.parameters or {}).items()]
        if not places and operands.kind in ("matmul", "mul", "add"):
            places = [("bias" if operands.kind == "add" else "weight", operands.data[:2])]
        found = {}
        for role, inputs in places:
            for i in inputs:
                parameter = self._stored(node, i, role)
                if parameter is not None:
                    found[role] = parameter
        return found

    def _stored(self, node: onnx.NodeProto, i: int, role: str) -> Node | None:
        """Parameter behind a constant input, if it is one of at least one axis."""
        value = self.known.get(node.input[i]) if i < len(node.input) else None
        if value is not None:
            return None if value.dynamic else value  # a NoisyStore's
        name = self.constants.stored.get(node.input[i]) if i < len(node.input) else None
        if name is None or not self._type(name).shape:
            return None
        if name not in self.parameters:
            self.parameters[name] = Node(
                "parameter",
                label=self._parameter_name(node, name, role),
                dynamic=False,
                handle=Stored(name, self._type(name)),
            )
        return self.parameters[name]

    def _parameter_name(self, node: onnx.NodeProto, name: str, role: str) -> str:
        """Initializer's name; the exporter numbers what it folds, which then goes by its layer."""
        scopes = self.scopes.of(node)
        path = scopes[-1].path if scopes else ""
        return f"{path}.{role}" if path and "." not in name else name


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {
        a.name: helper.get_attribute_value(a)
        for a in node.attribute
        if a.type not in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
    }
