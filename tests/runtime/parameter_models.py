# SPDX-License-Identifier: Apache-2.0
"""Annotated models with noisy weights and biases, built by hand."""

from __future__ import annotations

import json

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from noisystore.ortops import noise_inputs

BITS = {1: 32, 2: 8, 3: 8, 6: 32, 10: 16, 11: 64, 16: 16}
WORD_BITS = {"float16": 16, "bfloat16": 16, "float32": 32, "float64": 64, "native": None}


def store(x, y, site, rows=0, **attributes):
    return helper.make_node(
        "NoisyStore",
        [x, *noise_inputs.NOISE_INPUTS],
        [y],
        domain=noise_inputs.DOMAIN,
        site=site,
        rows_per_sample=rows,
        **attributes,
    )


def record(site, name, kind, elements, bits=32, storage_format="native", rows=0):
    return {
        "site": site,
        "name": name,
        "kind": kind,
        "storage_format": storage_format,
        "elements": elements,
        "bits_per_word": WORD_BITS.get(storage_format, 8) or bits,
        "rows_per_sample": rows,
        "op": "",
    }


def annotated(nodes, inputs, outputs, initializers, records, *, values=(), opset=17, imports=()):
    """Return the model of a graph with the four noise inputs and its sites' metadata."""
    count = len(records)
    inputs, initializers = list(inputs), list(initializers)
    for name, default, shape in (
        (noise_inputs.BIT_ERROR_RATE, np.zeros((count, 2)), [count, 2]),
        (noise_inputs.BIT_MASK, np.full(count, 2**64 - 1, np.uint64), [count]),
        (noise_inputs.SEED, np.zeros(1, np.int64), [1]),
        (noise_inputs.SAMPLE_INDEX, np.zeros(1, np.int64), ["noise_samples"]),
    ):
        initializers.append(numpy_helper.from_array(default, name))
        kind = helper.np_dtype_to_tensor_dtype(default.dtype)
        inputs.append(helper.make_tensor_value_info(name, kind, shape))
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializers, value_info=list(values))
    opsets = [("", opset), (noise_inputs.DOMAIN, 1), *imports]
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid(*pair) for pair in opsets], ir_version=8
    )
    properties = {
        noise_inputs.SITES_KEY: json.dumps(records),
        noise_inputs.NOISE_MODEL_KEY: noise_inputs.NOISE_MODEL,
    }
    helper.set_model_props(model, properties)
    return model


def tensor(name, words, element_type, how="raw"):
    """Return an initializer of an array (bfloat16 as uint16), its values kept in one way."""
    made = TensorProto(name=name, data_type=element_type, dims=words.shape)
    if how == "raw":
        made.raw_data = words.tobytes()
    elif element_type == TensorProto.FLOAT:
        made.float_data.extend(words.ravel().tolist())
    elif element_type == TensorProto.DOUBLE:
        made.double_data.extend(words.ravel().tolist())
    else:
        plain = words.view(np.uint16) if words.dtype == np.float16 else words
        made.int32_data.extend(plain.ravel().astype(np.int64).tolist())
    return made


def seen_parameter(words, element_type, *, how="raw", **attributes):
    """Return a model that gives x [N, 1] back, and a stored parameter as its readers see it."""
    form = attributes.get("storage_format", "native")
    bits = BITS[element_type]
    nodes = [
        store("w", "w.read", 0, **attributes),
        helper.make_node("Identity", ["x"], ["y"]),
        helper.make_node("Identity", ["w.read"], ["seen"]),
    ]
    return annotated(
        nodes,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1]),
            helper.make_tensor_value_info("seen", element_type, words.shape),
        ],
        [tensor("w", words, element_type, how)],
        [record(0, "w", "weight", words.size, bits, form)],
    )


def small_network(path, *, storage_format="native", bias_format=None, seed=0, width=8):
    """Write x [N, 1, 6, 6] -> Conv, Relu -> Gemm -> logits [N, 10] with five sites.

    In order: weight and bias of the convolution, its activation, weight and bias of the Gemm.
    """
    rng = np.random.default_rng(seed)
    shapes = {"w0": (width, 1, 3, 3), "b0": (width,), "w1": (10, width * 16), "b1": (10,)}
    arrays = {
        name: (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        for name, shape in shapes.items()
    }
    bias_format = bias_format or storage_format
    forms = [storage_format, bias_format, storage_format, storage_format, bias_format]
    nodes = [
        store("w0", "w0.read", 0, storage_format=forms[0]),
        store("b0", "b0.read", 1, storage_format=forms[1]),
        helper.make_node("Conv", ["x", "w0.read", "b0.read"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        store("r", "r.read", 2, 1, storage_format=forms[2]),
        helper.make_node("Flatten", ["r.read"], ["f"]),
        store("w1", "w1.read", 3, storage_format=forms[3]),
        store("b1", "b1.read", 4, storage_format=forms[4]),
        helper.make_node("Gemm", ["f", "w1.read", "b1.read"], ["logits"], transB=1),
    ]
    records = [
        record(0, "conv.weight", "weight", arrays["w0"].size, storage_format=forms[0]),
        record(1, "conv.bias", "bias", width, storage_format=forms[1]),
        record(2, "relu", "activation", width * 16, storage_format=forms[2], rows=1),
        record(3, "linear.weight", "weight", arrays["w1"].size, storage_format=forms[3]),
        record(4, "linear.bias", "bias", 10, storage_format=forms[4]),
    ]
    model = annotated(
        nodes,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 6, 6])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
        records,
        values=[helper.make_tensor_value_info("r", TensorProto.FLOAT, ["N", width, 4, 4])],
    )
    path.write_bytes(model.SerializeToString())
    return path


def saved(model, path, *, external=False):
    """Write a model, with all its tensors beside it where `external`."""
    if external:
        onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    else:
        path.write_bytes(model.SerializeToString())
    return path
