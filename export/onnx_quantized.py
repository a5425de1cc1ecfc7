# SPDX-License-Identifier: Apache-2.0
"""Quantized graphs and ONNX Runtime's own operators, as the site rules see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from .onnx_constants import Constants
from .onnx_order import graphs, readers, refill, rename_reads

#: Bottom of the range of a quantized type: a zero point there makes saturation a ReLU.
LOWEST: Mapping[int, int] = {
    onnx.TensorProto.UINT8: 0,
    onnx.TensorProto.INT8: -128,
    onnx.TensorProto.UINT16: 0,
    onnx.TensorProto.INT16: -32768,
    onnx.TensorProto.UINT4: 0,
    onnx.TensorProto.INT4: -8,
}

#: Kinds behind which ONNX Runtime's quantizer drops a ReLU or Clip.
_BEFORE_RELU = frozenset({"conv", "gemm", "matmul", "add", "batch_norm"})

#: Types of stored integers.
INTEGERS = frozenset({onnx.TensorProto.UINT8, onnx.TensorProto.INT8})


@dataclass(frozen=True)
class Operands:
    """Where an operator has its tensors.

    Attributes
    ----------
    kind : str
        Neutral name of the operation.
    data : tuple of int
        Inputs that the rules look at.
    parameters : mapping
        Input that holds a stored parameter, by role.
    zero_point : int or None
        Input that holds the output's zero point.
    """

    kind: str
    data: tuple[int, ...] = (0,)
    parameters: Mapping[str, int] | None = None
    zero_point: int | None = None


_AFFINE = {"weight": 1, "bias": 2}

#: By domain and operator; the default domain's others are in `kinds.ONNX_KINDS`.
OPERANDS: Mapping[tuple[str, str], Operands] = {
    ("", "Conv"): Operands("conv", (0, 1, 2), _AFFINE),
    ("", "ConvTranspose"): Operands("conv", (0, 1, 2), _AFFINE),
    ("", "Gemm"): Operands("gemm", (0, 1, 2), _AFFINE),
    ("", "BatchNormalization"): Operands("batch_norm", (0,), _AFFINE),
    ("", "InstanceNormalization"): Operands("instance_norm", (0,), _AFFINE),
    ("", "GroupNormalization"): Operands("group_norm", (0,), _AFFINE),
    ("", "LayerNormalization"): Operands("layer_norm", (0,), _AFFINE),
    ("", "RMSNormalization"): Operands("rms_norm", (0,), {"weight": 1}),
    ("", "SimplifiedLayerNormalization"): Operands("rms_norm", (0,), {"weight": 1}),
    ("", "ConvInteger"): Operands("conv", (0, 1), {"weight": 1}),
    ("", "MatMulInteger"): Operands("matmul", (0, 1)),
    ("", "QLinearConv"): Operands("conv", (0, 3), {"weight": 3, "bias": 8}, 7),
    ("", "QLinearMatMul"): Operands("matmul", (0, 3), None, 7),
    ("com.microsoft", "QGemm"): Operands("gemm", (0, 3, 6), {"weight": 3, "bias": 6}, 8),
    ("com.microsoft", "QLinearAdd"): Operands("add", (0, 3), None, 7),
    ("com.microsoft", "QLinearMul"): Operands("mul", (0, 3)),
    ("com.microsoft", "QLinearSigmoid"): Operands("sigmoid"),
    ("com.microsoft", "QLinearLeakyRelu"): Operands("leaky_relu"),
    ("com.microsoft", "QLinearAveragePool"): Operands("avg_pool"),
    ("com.microsoft", "QLinearGlobalAveragePool"): Operands("avg_pool"),
    ("com.microsoft", "Gelu"): Operands("gelu"),
    ("com.microsoft", "FastGelu"): Operands("gelu"),
    ("com.microsoft", "BiasGelu"): Operands("gelu"),
    ("com.microsoft", "QuickGelu"): Operands("gelu"),
    ("com.microsoft", "SkipLayerNormalization"): Operands(
        "layer_norm", (0, 1), {"weight": 2, "bias": 3}
    ),
    ("com.microsoft", "SkipSimplifiedLayerNormalization"): Operands(
        "rms_norm", (0, 1), {"weight": 2}
    ),
    ("com.microsoft", "GroupNorm"): Operands("group_norm", (0,), _AFFINE),
    ("com.microsoft", "FusedMatMul"): Operands("matmul", (0, 1)),
}

#: Activation functions that ONNX Runtime fuses into FusedConv and FusedGemm.
FUSED: Mapping[tuple[str, str], Operands] = {
    ("com.microsoft", "FusedConv"): Operands("conv", (0, 1, 2), _AFFINE),
    ("com.microsoft", "FusedGemm"): Operands("gemm", (0, 1, 2), _AFFINE),
}


def may_end_in_relu(kind: str, inputs: Sequence[object]) -> bool:
    """Say whether a tool may have dropped a ReLU behind an operation.

    Not behind the sum with one number: that of 1 and erf in a GELU, or of a variance and epsilon,
    is never negative.

    Parameters
    ----------
    kind : str
        Neutral name of the operation.
    inputs : sequence
        As of `dataflow.Node`: a float is a constant of one element.
    """
    return kind in _BEFORE_RELU and not (
        kind == "add" and any(isinstance(value, float) for value in inputs)
    )


def merge_quantizers(model: onnx.ModelProto) -> None:
    """Merge QuantizeLinear operators that make the same integers of one tensor, in place.

    Some tools place one in front of each reader. ONNX Runtime merges them as well: the integers
    lie in memory once.

    Parameters
    ----------
    model : onnx.ModelProto
    """
    graph = model.graph
    constants = Constants(graph)
    for node in graph.node:
        if node.op_type == "Constant":
            constants.take(node, set())
    outputs = {value.name for value in graph.output}
    hidden = _names_inside(graph)
    reading = readers(graph)
    first: dict[tuple[object, ...], str] = {}
    merged: set[int] = set()
    for i, node in enumerate(graph.node):
        if node.op_type != "QuantizeLinear" or node.domain not in ("", "ai.onnx", "com.microsoft"):
            continue
        same = (
            node.domain,
            node.input[0],
            *(_value_of(constants, name) for name in node.input[1:]),
            *sorted(a.SerializeToString() for a in node.attribute),
        )
        kept = first.setdefault(same, node.output[0])
        # A subgraph's own tensor of that name would be read instead.
        if kept == node.output[0] or node.output[0] in outputs or kept in hidden:
            continue
        merged.add(i)
        for reader in reading.get(node.output[0], ()):
            rename_reads(graph.node[reader], {node.output[0]: kept})
    if merged:
        refill(graph.node, [node for i, node in enumerate(graph.node) if i not in merged])


def _value_of(constants: Constants, name: str) -> object:
    array = constants.array(name)
    return name if array is None else (array.dtype.name, array.shape, array.tobytes())


def _names_inside(graph: onnx.GraphProto) -> set[str]:
    """Names that subgraphs have of their own."""
    names: set[str] = set()
    for inner in list(graphs(graph))[1:]:
        names |= {v.name for v in (*inner.input, *inner.initializer)}
        names |= {name for node in inner.node for name in node.output}
    return names
