# SPDX-License-Identifier: Apache-2.0
"""What onnxruntime's quantizer leaves in a model, read and completed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from itertools import chain, count
from typing import Any

import onnx
from onnx import helper, numpy_helper

from .onnx_model import set_normalization
from .onnx_order import graphs, refill

QUANTIZATION_KEY = "noisystore.quantization"

#: Activations that the quantizer replaces by the saturation of the layer in front.
REMOVED = frozenset({"Relu", "Clip"})

#: What the quantizer appends to the names of the tensors that it makes.
QUANTIZED_ENDS = (
    "_quantized",
    *(f"_{op}Linear_{end}" for op in ("Quantize", "Dequantize") for end in ("Input", "Output")),
)

#: Operators whose third input is a bias, quantized by the scales of the first two.
BIASED = frozenset({"Conv", "ConvTranspose", "Gemm"})

_INTEGERS = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.INT32)


def keep_scopes(floats: onnx.GraphProto, quantized: onnx.GraphProto) -> None:
    """Give nodes the metadata (module paths) that the quantizer drops, in place.

    It removes ReLUs, whose part the saturation of the layer in front takes, and makes integer
    operators without their layer's metadata; inlined functions lose those of the whole graph.
    """
    named = {node.name: node for node in floats.node if node.name}
    makers = {name: node for node in floats.node for name in node.output}
    readers = {name: node for node in floats.node for name in node.input}
    computed = [node for node in quantized.node if node.op_type != "DequantizeLinear"]
    types = {name: node.op_type for node in computed for name in node.output}
    for node in computed:
        if node.metadata_props or not node.output:
            continue
        if node.op_type == "QuantizeLinear":
            # A graph output keeps its name for the value that is read back.
            maker = makers.get(node.input[0].removesuffix("_QuantizeLinear_Input"))
            if maker is None or types.get(node.input[0]) in (None, maker.op_type):
                continue
        else:
            name = node.output[0].removesuffix("_quantized")
            maker, reader = named.get(node.name) or makers.get(name), readers.get(name)
            if maker is None:
                continue
            if name != node.output[0] and reader is not None and reader.op_type in REMOVED:
                gone = not {reader.output[0], f"{reader.output[0]}_quantized"} & types.keys()
                maker = reader if gone else maker
        node.metadata_props.extend(maker.metadata_props)


def own_biases(model: onnx.ModelProto, original: onnx.GraphProto) -> bool:
    """Give each layer a bias of its own, in place: the scale of a bias is that of one layer.

    Layers may share one, and ONNX Runtime's optimizations merge biases of equal values, such as 0.

    Parameters
    ----------
    model : onnx.ModelProto
        Of float32, about to be quantized.
    original : onnx.GraphProto
        What it was optimized from; a bias takes back the name that it has there.

    Returns
    -------
    bool
        Whether any was shared.
    """
    graph = model.graph
    values = {tensor.name: tensor for tensor in graph.initializer}
    readers = Counter(name for node in graph.node for name in node.input)
    layers = [n for n in graph.node if n.op_type in BIASED and len(n.input) > 2]
    shared = [n for n in layers if n.input[2] in values and readers[n.input[2]] > 1]
    if not shared:
        return False
    names = {n.name: n.input[2] for n in original.node if n.name and len(n.input) > 2}
    of_layers = Counter(node.input[2] for node in shared)
    replaced = {name for name, n in of_layers.items() if n == readers[name]}
    taken = ({*values} | {n for node in graph.node for n in (*node.input, *node.output)}) - replaced
    copies: list[onnx.TensorProto] = []
    for node in shared:
        tensor = values[node.input[2]]
        wanted = names.get(node.name) or tensor.name
        numbered = (f"{wanted}_{i}" for i in count(1))
        name = next(n for n in chain([wanted], numbered) if n not in taken)
        taken.add(name)
        copies.append(onnx.TensorProto())
        copies[-1].CopyFrom(tensor)
        copies[-1].name = node.input[2] = name
    kept = [tensor for name, tensor in values.items() if name not in replaced]
    refill(graph.initializer, [*kept, *copies])
    return True


def tensor_scales(model: onnx.ModelProto) -> dict[str, list[float]]:
    """Read the scale and the zero point of every quantized tensor.

    Parameters
    ----------
    model : onnx.ModelProto
        From onnxruntime's quantizer, which names them after the tensor. Integer operators state
        none for a bias, whose scale is that of the input times that of the weight.

    Returns
    -------
    dict
        Tensor to [scale, zero point].
    """
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    scales = {}
    for name, tensor in values.items():
        base = name.removesuffix("_scale")
        zero = values.get(f"{base}_zero_point")
        if base != name and zero is not None and zero.data_type in _INTEGERS:
            scales[base.removesuffix("_quantized")] = [
                float(numpy_helper.to_array(tensor).item()),
                int(numpy_helper.to_array(zero).item()),
            ]
    return scales


def record_quantization(
    model: onnx.ModelProto,
    normalization: Mapping[str, list[float]] | str | None,
    record: Mapping[str, Any],
) -> None:
    """Record how the model was made; drop the domains that ONNX Runtime adds and nobody uses."""
    nodes = [node for graph in graphs(model.graph) for node in graph.node]
    nodes += [node for function in model.functions for node in function.node]
    used = {"", "ai.onnx", *(node.domain for node in nodes)}
    refill(model.opset_import, [opset for opset in model.opset_import if opset.domain in used])
    values = {p.key: p.value for p in model.metadata_props if not p.key.startswith("onnx.")}
    values[QUANTIZATION_KEY] = json.dumps(record)
    helper.set_model_props(model, values)
    set_normalization(model, normalization)
