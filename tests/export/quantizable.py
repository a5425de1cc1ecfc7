# SPDX-License-Identifier: Apache-2.0
"""A small convolutional network to quantize, and what lies in the memories of the result."""

import pathlib
import tempfile

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from noisystore.export.onnx_sessions import exact_session
from noisystore.runtime.dataset import Dataset

SHAPE = (3, 10, 10)
CLASSES = 6


def small_network(
    *,
    batch="N",
    batch_norm=False,
    transposed=False,
    scale=1.0,
    bias=0.5,
    opset=17,
    seed=0,
):
    """x -> Conv, Relu, MaxPool -> Conv, Relu -> Gemm -> logits, a plain float32 model."""
    rng = np.random.default_rng(seed)
    values = {
        "conv1.weight": rng.normal(0, 0.3, (8, 3, 3, 3)) * scale,
        "conv1.bias": rng.normal(0, bias, 8) if bias > 0 else np.full(8, bias),
        "conv2.weight": rng.normal(0, 0.2, (12, 8, 3, 3)),
        "conv2.bias": rng.normal(0, 0.5, 12),
        "fc.weight": rng.normal(0, 0.2, (CLASSES, 12 * 2 * 2)),
        "fc.bias": rng.normal(0, 0.2, CLASSES),
    }
    first = [helper.make_node("Conv", ["x", "conv1.weight", "conv1.bias"], ["c1"], name="conv1")]
    if batch_norm:
        for name in ("scale", "shift", "mean", "var"):
            values[f"bn.{name}"] = rng.uniform(0.5, 1.5, 8)
        inputs = ["c1.raw", "bn.scale", "bn.shift", "bn.mean", "bn.var"]
        first[0].output[0] = "c1.raw"
        first.append(helper.make_node("BatchNormalization", inputs, ["c1"], name="bn"))
    second = "Conv"
    if transposed:
        second = "ConvTranspose"
        values["conv2.weight"] = rng.normal(0, 0.2, (8, 12, 3, 3))
        values["fc.weight"] = rng.normal(0, 0.05, (CLASSES, 12 * 6 * 6))
    nodes = [
        *first,
        helper.make_node("Relu", ["c1"], ["r1"], name="relu1"),
        helper.make_node(
            "MaxPool", ["r1"], ["p1"], name="pool", kernel_shape=[2, 2], strides=[2, 2]
        ),
        helper.make_node(second, ["p1", "conv2.weight", "conv2.bias"], ["c2"], name="conv2"),
        helper.make_node("Relu", ["c2"], ["r2"], name="relu2"),
        helper.make_node("Flatten", ["r2"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "fc.weight", "fc.bias"], ["logits"], name="fc", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, *SHAPE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, CLASSES])],
        [numpy_helper.from_array(v.astype(np.float32), name) for name, v in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def calibration_data():
    """96 float images as `small_network` takes them."""
    rng = np.random.default_rng(5)
    return Dataset("noise/train", rng.normal(0.2, 1, (96, *SHAPE)).astype(np.float32))


def run(model, x, *, rates=0.0, mask=None, seed=1, extra=()):
    """Outputs of a model, annotated or not, and further tensors of it."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in extra)
    feeds = {"x": x}
    if "noise.seed" in {value.name for value in model.graph.input}:
        count = len(stores(model))
        feeds["noise.bit_error_rate"] = np.broadcast_to(np.asarray(rates, float), (count, 2)).copy()
        feeds["noise.seed"] = np.array([seed], np.int64)
        if mask is not None:
            feeds["noise.bit_mask"] = np.full(count, mask, np.uint64)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.onnx"
        path.write_bytes(copy.SerializeToString())
        return exact_session(str(path)).run(None, feeds)


def stores(model):
    """NoisyStore nodes by site."""
    nodes = [n for n in model.graph.node if n.op_type == "NoisyStore"]
    return sorted(nodes, key=lambda n: next(a.i for a in n.attribute if a.name == "site"))


def flips(model, x, **noise):
    """Stored words XOR loaded words of every site, as uint8."""
    nodes = stores(model)
    names = [name for node in nodes for name in (node.input[0], node.output[0])]
    arrays = run(model, x, extra=names, **noise)[1:]
    pairs = zip(arrays[::2], arrays[1::2], strict=True)
    return [stored.view(np.uint8) ^ loaded.view(np.uint8) for stored, loaded in pairs]
