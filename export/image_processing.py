# SPDX-License-Identifier: Apache-2.0
"""Image decoding in front of a network and its label behind it, built into the ONNX file."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..ortops.errors import InputError
from ..ortops.noise_inputs import NOISE_INPUTS, PREPROCESS_KEY
from .onnx_order import refill

#: Names of the file's data input and outputs.
IMAGE, LABEL, SCORE = "image", "label", "score"
#: The lowest opset whose Resize has an antialiasing filter.
OPSET = 18
_EXTENSIONS = "com.microsoft.extensions"
_PIXELS = "noisystore.pixels"


def add_image_processing(
    model: onnx.ModelProto, normalization: Mapping[str, Sequence[float]] | None
) -> None:
    """Make a network take the bytes of a PNG or JPEG file and give label and score, in place.

    The image is decoded to RGB and, if it has another size, resized (bilinear, antialiased, aspect
    kept, no side smaller than the network's) and cropped at the centre; then divided by 255 and
    normalised in float32 as `noisystore.runtime.dataset.prepare` does.

    Parameters
    ----------
    model : onnx.ModelProto
        One data input [N, 3, H, W] of float or float16 with H and W fixed, logits [N, classes] as
        first output, opset 18 or what may be marked so; its noise inputs stay as they are.
    normalization : mapping with ``mean`` and ``std``, or None
        One value a channel, on x / 255.

    Raises
    ------
    InputError
        onnxruntime-extensions is missing, or the network takes or gives something else.

    Notes
    -----
    Input ``image``: uint8 [bytes], one file. Outputs: ``label``, int64 [1], the arg-max of the
    logits with NaN as the largest; ``score``, float [1], its softmax. The operators of the decoder
    are those of onnxruntime-extensions, which a session has to register.
    """
    graph = model.graph
    data = [v for v in graph.input if v.name not in NOISE_INPUTS]
    if len(data) != 1:
        raise InputError(
            f"preprocess image: expected a network with one data input, got {len(data)}"
        )
    height, width = _size(data[0])
    logits = graph.output[0]
    if len(logits.type.tensor_type.shape.dim) != 2:
        raise InputError(
            "preprocess image: expected logits [N, classes] as first output, got "
            f"{_shape_text(logits)}"
        )
    mean, std = _per_channel(normalization)
    _mark_opset(model, OPSET)
    for name in (IMAGE, LABEL, SCORE):
        _rename(graph, name, f"network.{name}")
    decoder = _decoder(height, width, _opset(model))
    element = data[0].type.tensor_type.elem_type
    nodes, constants = _scaling(mean, std, data[0].name, element)
    behind = _classification(logits.name)
    body = list(graph.node)
    del graph.node[:]
    graph.node.extend([*decoder.graph.node, *nodes, *body, *behind])
    graph.initializer.extend([*decoder.graph.initializer, *constants])
    kept = [v for v in graph.input if v.name in NOISE_INPUTS]
    refill(graph.input, [_value(IMAGE, TensorProto.UINT8, ["bytes"]), *kept])
    graph.value_info.append(data[0])
    outputs = [_value(LABEL, TensorProto.INT64, [1]), _value(SCORE, TensorProto.FLOAT, [1])]
    graph.value_info.extend(graph.output[:1])
    refill(graph.output, outputs)
    if all(o.domain != _EXTENSIONS for o in model.opset_import):
        model.opset_import.append(helper.make_opsetid(_EXTENSIONS, 1))
    values = {p.key: p.value for p in model.metadata_props}
    helper.set_model_props(model, {**values, PREPROCESS_KEY: "image"})


def _size(value: onnx.ValueInfoProto) -> tuple[int, int]:
    tensor = value.type.tensor_type
    dims = tensor.shape.dim
    fixed = [d.dim_value for d in dims]
    good = len(dims) == 4 and not dims[0].dim_value > 1 and fixed[1] == 3 and min(fixed[2:]) > 0
    if not good or tensor.elem_type not in (TensorProto.FLOAT, TensorProto.FLOAT16):
        raise InputError(
            "preprocess image: expected a network that takes float images [N, 3, H, W] with H and "
            f"W fixed, got {_shape_text(value)}"
        )
    return fixed[2], fixed[3]


def _shape_text(value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    dims = ", ".join(d.dim_param or str(d.dim_value or "?") for d in tensor.shape.dim)
    return f"{TensorProto.DataType.Name(tensor.elem_type).lower()} [{dims}]"


def _per_channel(
    normalization: Mapping[str, Sequence[float]] | None,
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    if normalization is None:
        raise InputError(
            "preprocess image: the normalization of the images is not known; name it "
            "(mean and standard deviation, on x / 255)"
        )
    parts = []
    for name in ("mean", "std"):
        values = np.asarray(normalization[name], dtype=np.float32).reshape(-1)
        if values.size not in (1, 3):
            raise InputError(
                f"preprocess image: expected {name} for 3 channels, got {values.size} values"
            )
        parts.append(np.broadcast_to(values, 3).reshape(1, 3, 1, 1).copy())
    return parts[0], parts[1]


def _opset(model: onnx.ModelProto) -> int:
    return next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))


def _mark_opset(model: onnx.ModelProto, opset: int) -> None:
    """Mark a model with a higher opset, which must mean the same for each of its nodes.

    Raises
    ------
    InputError
        An operator changed in between.
    """
    current = _opset(model)
    if current >= opset:
        return
    if model.functions:
        raise InputError(
            f"preprocess image: expected opset {opset} or newer in a model with functions, "
            f"got {current}"
        )
    for node in _all_nodes(model.graph):
        standard = node.domain in ("", "ai.onnx")
        if standard and _since(node.op_type, current) != _since(node.op_type, opset):
            raise InputError(
                f"preprocess image: expected a model of opset {opset} or newer, got {current}, in "
                f"which {node.op_type} differs; convert it with onnx.version_converter"
            )
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = opset


def _since(operator: str, opset: int) -> int:
    """Opset that an operator has its present form since; 0 where a runtime added it to ONNX's."""
    try:
        return int(onnx.defs.get_schema(operator, opset, "").since_version)
    except onnx.defs.SchemaError:
        return 0


def _all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from _all_nodes(inner)


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Rename a tensor wherever it occurs; a subgraph's own tensor of that name goes with it."""
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        if value.name == old:
            value.name = new
    for node in graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name == old:
                    names[i] = new
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                _rename(inner, old, new)


def _decoder(height: int, width: int, opset: int) -> onnx.ModelProto:
    """Make the graph from a file's bytes to its pixels, uint8 [H, W, 3], as RGB."""
    try:
        from onnxruntime_extensions.tools import pre_post_processing as steps
    except ImportError:
        raise InputError(
            "preprocess image: onnxruntime-extensions is missing: "
            "pip install noisystore[preprocess]"
        ) from None
    pixels = _value("decoded", TensorProto.UINT8, [height, width, 3])
    passed_on = helper.make_graph(
        [helper.make_node("Identity", ["decoded"], [_PIXELS])],
        "pixels",
        [pixels],
        [_value(_PIXELS, TensorProto.UINT8, [height, width, 3])],
    )
    opsets = [helper.make_opsetid("", opset)]
    pipeline = steps.PrePostProcessor(
        [steps.create_named_value(IMAGE, TensorProto.UINT8, ["bytes"])], opset
    )
    pipeline.add_pre_processing(
        [
            steps.ConvertImageToBGR(),
            steps.ReverseAxis(axis=2, dim_value=3, name="BGR_to_RGB"),
            steps.Resize((height, width)),
            steps.CenterCrop(height, width),
        ]
    )
    with contextlib.redirect_stdout(io.StringIO()):
        return pipeline.run(helper.make_model(passed_on, opset_imports=opsets))


def _scaling(
    mean: np.ndarray[Any, Any], std: np.ndarray[Any, Any], network_input: str, element: int
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Nodes from pixels to the network's input: the operations of `prepare`, in its order."""
    name = "noisystore.image"
    constants: dict[str, np.ndarray[Any, Any]] = {
        "axis": np.array([0], dtype=np.int64),
        "scale": np.array(255, dtype=np.float32),
        "mean": mean,
        "std": std,
    }
    steps: list[tuple[str, str, dict[str, Any]]] = [
        ("Cast", "", {"to": TensorProto.FLOAT}),
        ("Transpose", "", {"perm": [2, 0, 1]}),
        ("Unsqueeze", "axis", {}),
        ("Div", "scale", {}),
        ("Sub", "mean", {}),
        ("Div", "std", {}),
    ]
    if element != TensorProto.FLOAT:
        steps.append(("Cast", "", {"to": element}))
    nodes, current = [], _PIXELS
    for i, (op, constant, attributes) in enumerate(steps):
        following = network_input if i == len(steps) - 1 else f"{name}.{i}"
        inputs = [current, f"{name}.{constant}"] if constant else [current]
        nodes.append(helper.make_node(op, inputs, [following], **attributes))
        current = following
    return nodes, [numpy_helper.from_array(v, f"{name}.{k}") for k, v in constants.items()]


def _classification(logits: str) -> list[onnx.NodeProto]:
    """Nodes from logits to label and score. NaN counts as the largest logit, as in NumPy."""
    name = "noisystore.label"
    make = helper.make_node
    axis: dict[str, Any] = {"axis": -1, "keepdims": 0}
    nodes = [
        make("Cast", [logits], [f"{name}.logits"], to=TensorProto.FLOAT),
        make("IsNaN", [f"{name}.logits"], [f"{name}.nan"]),
        make("Cast", [f"{name}.nan"], [f"{name}.nans"], to=TensorProto.INT32),
        make("ArgMax", [f"{name}.nans"], [f"{name}.first_nan"], **axis),
        make("ReduceMax", [f"{name}.nans"], [f"{name}.most"], keepdims=0),
        make("Cast", [f"{name}.most"], [f"{name}.any"], to=TensorProto.BOOL),
        make("ArgMax", [f"{name}.logits"], [f"{name}.largest"], **axis),
        make("Where", [f"{name}.any", f"{name}.first_nan", f"{name}.largest"], [LABEL]),
        make("Softmax", [f"{name}.logits"], [f"{name}.scores"], axis=-1),
        make("Constant", [], [f"{name}.axis"], value_ints=[1]),
        make("Unsqueeze", [LABEL, f"{name}.axis"], [f"{name}.column"]),
        make("GatherElements", [f"{name}.scores", f"{name}.column"], [f"{name}.score"], axis=1),
        make("Squeeze", [f"{name}.score", f"{name}.axis"], [SCORE]),
    ]
    return nodes


def _value(name: str, element: int, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, element, list(shape))
