# SPDX-License-Identifier: Apache-2.0
"""Write the annotated models of tests/ortops/parity.py: `python tests/data/make_models.py`.

The files are committed. They need nothing newer than ONNX Runtime 1.17 reads (IR 8, opset 17).
"""

from __future__ import annotations

import json
import pathlib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from noisystore.ortops.formats import ELEMENT_TYPES, STORAGE_FORMATS
from noisystore.ortops.noise_inputs import (
    ALL_BITS,
    BIT_ERROR_RATE,
    BIT_MASK,
    DOMAIN,
    NOISE_INPUTS,
    NOISE_MODEL,
    NOISE_MODEL_KEY,
    OPERATOR,
    SAMPLE_INDEX,
    SEED,
    SITES_KEY,
)

FOLDER = pathlib.Path(__file__).parent
#: Nodes that are no sites carry this mark, by which ONNX Runtime keeps them on the CPU on demand.
HOST_MARK = onnx.StringStringEntryProto(key="layer_ann", value="host")


def store(
    x: str,
    y: str,
    site: int,
    rows_per_sample: int = 1,
    storage_format: str = "native",
    **quantization: float,
) -> onnx.NodeProto:
    """NoisyStore from x to y."""
    return helper.make_node(
        OPERATOR,
        [x, *NOISE_INPUTS],
        [y],
        name=f"store{site}",
        domain=DOMAIN,
        site=site,
        rows_per_sample=rows_per_sample,
        storage_format=storage_format,
        **quantization,
    )


def write(
    name: str,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    initializers: list[onnx.TensorProto],
    elements: list[int],
    bits_per_word: int = 32,
) -> None:
    """Add the noise inputs and the metadata, check, and save."""
    stores = [node for node in nodes if node.op_type == OPERATOR]
    for node in nodes:
        if node.op_type != OPERATOR and not node.metadata_props:
            node.metadata_props.append(HOST_MARK)
    count = len(stores)
    defaults = {
        BIT_ERROR_RATE: np.zeros((count, 2)),
        BIT_MASK: np.full(count, ALL_BITS, np.uint64),
        SEED: np.zeros(1, np.int64),
        SAMPLE_INDEX: np.zeros(1, np.int64),
    }
    noise = [
        helper.make_tensor_value_info(
            key,
            helper.np_dtype_to_tensor_dtype(value.dtype),
            ["noise_samples"] if key == SAMPLE_INDEX else value.shape,
        )
        for key, value in defaults.items()
    ]
    graph = helper.make_graph(
        nodes,
        name,
        [*inputs, *noise],
        outputs,
        [*initializers, *(numpy_helper.from_array(v, k) for k, v in defaults.items())],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    records = []
    for node, size in zip(stores, elements, strict=True):
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        records.append(
            {
                "site": attributes["site"],
                "name": node.input[0],
                "kind": "weight" if attributes["rows_per_sample"] == 0 else "activation",
                "storage_format": attributes["storage_format"].decode(),
                "elements": size,
                "bits_per_word": bits_per_word,
                "rows_per_sample": attributes["rows_per_sample"],
            }
        )
    helper.set_model_props(model, {SITES_KEY: json.dumps(records), NOISE_MODEL_KEY: NOISE_MODEL})
    onnx.checker.check_model(model)
    onnx.save(model, FOLDER / f"{name}.onnx")


def element_type_model(kind: str, code: int, word_bits: int) -> None:
    """x [N, 4, C] -> two sites -> y [N, 8, C]: what the second reads beside what it gives.

    Site 0 may write in place; site 1, which names its format, not: its input has another reader.
    NumPy lacks bfloat16, so that graph begins and ends with float32.
    """
    outer = TensorProto.FLOAT if kind == "bfloat16" else code
    nodes = [
        helper.make_node("Transpose", ["typed_x"], ["t"], perm=[0, 2, 1]),
        store("t", "t.read", 0),
        helper.make_node("Transpose", ["t.read"], ["u"], perm=[0, 2, 1]),
        store("u", "u.read", 1, storage_format=kind if kind in STORAGE_FORMATS else "native"),
        helper.make_node("Concat", ["u", "u.read"], ["typed_y"], axis=1),
    ]
    if outer != code:
        nodes.insert(0, helper.make_node("Cast", ["x"], ["typed_x"], to=code))
        nodes.append(helper.make_node("Cast", ["typed_y"], ["y"], to=outer))
    else:
        nodes[0].input[0], nodes[-1].output[0] = "x", "y"
    write(
        f"type_{kind}",
        nodes,
        [helper.make_tensor_value_info("x", outer, ["N", 4, "C"])],
        [helper.make_tensor_value_info("y", outer, ["N", 8, "C"])],
        [],
        [0, 0],  # the sample's size is the feeder's choice
        word_bits,
    )


def formats_model(kind: str, code: int, word_bits: int) -> None:
    """x [N, C] -> a site for each storage format but its own."""
    outer = TensorProto.FLOAT if kind == "bfloat16" else code
    formats = [name for name in STORAGE_FORMATS if name != kind]
    nodes, outputs, x = [], [], "x"
    if outer != code:
        nodes, x = [helper.make_node("Cast", ["x"], ["typed_x"], to=code)], "typed_x"
    for site, name in enumerate(formats):
        y = name if outer == code else f"typed_{name}"
        nodes.append(store(x, y, site, storage_format=name, scale=0.75, zero_point=6))
        if outer != code:
            nodes.append(helper.make_node("Cast", [y], [name], to=outer))
        outputs.append(helper.make_tensor_value_info(name, outer, ["N", "C"]))
    write(
        f"formats_{kind}",
        nodes,
        [helper.make_tensor_value_info("x", outer, ["N", "C"])],
        outputs,
        [],
        [0] * len(formats),
        word_bits,
    )


def rows_model() -> None:
    """x [R, 5] -> sites of two rows a sample, of all rows sample 0, and of all rows one sample.

    What lies between them moves words: arithmetic, be it a negation, may give any NaN for a NaN.
    """
    nodes, outputs = [], []
    x = "x"
    for site, rows in enumerate((2, 0, -1)):
        nodes += [
            helper.make_node("Gather", [x, "backwards"], [f"x{site}"], axis=1),
            store(f"x{site}", f"y{site}", site, rows),
        ]
        x = f"y{site}"
        outputs.append(helper.make_tensor_value_info(x, TensorProto.FLOAT, ["R", 5]))
    write(
        "rows_per_sample",
        nodes,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["R", 5])],
        outputs,
        [numpy_helper.from_array(np.arange(5)[::-1].copy(), "backwards")],
        [10, 0, 0],
    )


def convolution_models() -> None:
    """x [N, 3, 16, 16] -> Conv, Relu, site 0 -> Conv, Relu, site 1 -> mean -> Gemm -> y [N, 10].

    `conv_relu_probed` also gives what the sites read and write, which rules out in-place use.
    """
    rng = np.random.default_rng(1)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        values = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape).astype(np.float32)
        return numpy_helper.from_array(values, name)

    weights = [weight("w0", 16, 3, 3, 3), weight("w1", 16, 16, 3, 3), weight("w2", 10, 16)]
    pads = [1, 1, 1, 1]
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["c0"], pads=pads),
        helper.make_node("Relu", ["c0"], ["r0"]),
        store("r0", "r0.read", 0),
        helper.make_node("Conv", ["r0.read", "w1"], ["c1"], pads=pads),
        helper.make_node("Relu", ["c1"], ["r1"]),
        store("r1", "r1.read", 1),
        helper.make_node("ReduceMean", ["r1.read"], ["m"], axes=[2, 3], keepdims=0),
        helper.make_node("Gemm", ["m", "w2"], ["y"], transB=1),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 16, 16])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 10])
    probes = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 16, 16, 16])
        for name in ("r0", "r0.read", "r1", "r1.read")
    ]
    elements = [16 * 16 * 16] * 2
    write("conv_relu", nodes, [x], [y], weights, elements)
    write("conv_relu_probed", nodes, [x], [y, *probes], weights, elements)


if __name__ == "__main__":
    for element_type in ELEMENT_TYPES.values():
        element_type_model(*element_type)
        if "float" in element_type.name:
            formats_model(*element_type)
    rows_model()
    convolution_models()
