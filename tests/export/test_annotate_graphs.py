# SPDX-License-Identifier: Apache-2.0
"""annotate on graphs of any opset, float type, batch and shape."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnx_models import (
    NODE,
    close,
    constant,
    feeds,
    model,
    noise,
    outputs_at,
    same,
    session,
    value,
    weight,
)

from noisystore.export import annotate
from noisystore.ortops import reference
from noisystore.ortops.errors import InputError
from noisystore.ortops.noise_inputs import NOISE_INPUTS


def convolution(opset, ir):
    """Conv, Clip, pooling and Gemm as this opset writes them."""
    clip = (
        NODE("Clip", ["c"], ["r"], min=0.0, max=6.0)
        if opset < 11
        else NODE("Clip", ["c", "low", "high"], ["r"])
    )
    axes = {"axes": [2, 3]} if opset < 18 else {}
    mean = ["d"] if opset < 18 else ["d", "axes"]
    nodes = [
        NODE("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        clip,
        NODE("Dropout", ["r"], ["d"]),
        NODE("ReduceMean", mean, ["m"], keepdims=0, **axes),
        NODE("Gemm", ["m", "w2", "b2"], ["y"], transB=1),
    ]
    initializers = [weight("w", 4, 3, 3, 3), weight("b", 4), weight("w2", 2, 4), weight("b2", 2)]
    if opset >= 11:
        initializers += [constant("low", np.float32(0)), constant("high", np.float32(6))]
    if opset >= 18:
        initializers.append(constant("axes", [2, 3]))
    inputs = [value("x", shape=("n", 3, 5, 5))]
    if ir < 4:  # which lists initializers as inputs
        inputs += [value(t.name, t.data_type, t.dims) for t in initializers]
    return model(nodes, inputs, [value("y", shape=("n", 2))], initializers, opset=opset, ir=ir)


OPSETS = [(7, 3), (9, 4), (10, 5), (11, 6), (12, 7), (13, 7), (15, 8), (17, 8), (18, 8), (19, 9)]
OPSETS += [(20, 9), (21, 10), (22, 10), (23, 11), (24, 12)]


@pytest.mark.parametrize(("opset", "ir"), OPSETS)
def test_every_opset(opset, ir):
    made = convolution(opset, ir)
    try:
        onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own class
        if opset <= 23:
            raise
        pytest.skip(f"ONNX Runtime {onnxruntime.__version__} takes no opset {opset}: {error}")
    result = annotate(made, sites="input,layer,weight,bias")
    assert [(s["name"], s["kind"], s["op"], s["elements"]) for s in result.sites] == [
        ("x", "input", "input", 75),
        ("w", "weight", "conv", 108),
        ("b", "bias", "conv", 4),
        ("c", "activation", "conv", 100),
        ("r", "activation", "relu6", 100),
        ("m", "activation", "avg_pool", 4),
        ("w2", "weight", "linear", 8),
        ("b2", "bias", "linear", 2),
    ]
    assert [s["rows_per_sample"] for s in result.sites] == [1, 0, 0, 1, 1, 1, 0, 0]
    assert result.parameter_bits == 32 * (108 + 4 + 8 + 2)
    onnx.checker.check_model(result.model, full_check=False)
    close(outputs_at(result.model), outputs_at(made))
    assert not same(outputs_at(result.model, 0.3, 8), outputs_at(result.model))
    assert result.model.ir_version <= 9
    assert [v.name for v in result.model.graph.input][-4:] == list(NOISE_INPUTS)


def test_the_source_is_left_as_it_is():
    made = convolution(17, 8)
    before = made.SerializeToString()
    annotate(made, sites="layer,weight")
    assert made.SerializeToString() == before


def test_metadata_and_normalization():
    made = convolution(17, 8)
    helper.set_model_props(made, {"author": "somebody"})
    result = annotate(made, normalization=([0.5] * 3, [0.25] * 3))
    props = {p.key: p.value for p in result.model.metadata_props}
    assert props["author"] == "somebody"
    assert props["noisystore.noise_model"] == "1"
    assert json.loads(props["noisystore.sites"]) == result.sites
    stated = {"mean": [0.5] * 3, "std": [0.25] * 3}
    assert json.loads(props["noisystore.normalization"]) == stated
    helper.set_model_props(made, {"noisystore.normalization": json.dumps(stated)})
    for given, expected in ((None, stated), ("none", None)):
        props = {p.key: p.value for p in annotate(made, normalization=given).model.metadata_props}
        assert json.loads(props.get("noisystore.normalization", "null")) == expected


def test_bits_are_the_reference_s():
    made = model(
        [NODE("Neg", ["x"], ["a"]), NODE("Relu", ["a"], ["r"]), NODE("Identity", ["r"], ["y"])],
        [value("x", shape=("n", 3, 7))],
        [value("y", shape=("n", 3, 7)), value("r", shape=("n", 3, 7))],
    )
    result = annotate(made)
    runner = session(result.model)
    x = feeds(runner)
    for rate in (1e-3, 0.2):
        index = np.array([5, 0, 9, 1])
        noisy = runner.run(None, {**x, **noise(1, rate, 3), "noise.sample_index": index})
        expected = reference.apply(np.maximum(-x["x"], 0), rate, seed=3, sample_index=index)
        assert same(noisy, [expected, expected])


@pytest.mark.parametrize(
    ("kind", "dtype", "format_", "bits"),
    [
        (TensorProto.FLOAT16, np.float16, "float16", 16),
        (TensorProto.DOUBLE, np.float64, "native", 64),
    ],
)
def test_other_float_types(kind, dtype, format_, bits):
    made = model(
        [NODE("Gemm", ["x", "w"], ["g"], transB=1), NODE("Relu", ["g"], ["y"])],
        [value("x", kind)],
        [value("y", kind, ("n", 2))],
        [weight("w", 2, 4, dtype=dtype)],
    )
    result = annotate(made, sites="input,weight,activation")
    assert {(s["storage_format"], s["bits_per_word"]) for s in result.sites} == {(format_, bits)}
    close(outputs_at(result.model), outputs_at(made))


def test_a_float16_model_of_onnx_runtime_s_converter():
    float16 = pytest.importorskip("onnxruntime.transformers.float16")
    made = float16.convert_float_to_float16(convolution(17, 8), keep_io_types=True)
    result = annotate(made, sites="layer,weight,bias")
    assert {s["storage_format"] for s in result.sites} == {"float16"}
    assert [s["op"] for s in result.sites if s["kind"] == "activation"] == [
        *("conv", "relu6", "avg_pool", "linear"),  # the output itself is a Cast
    ]
    (got,), (expected,) = outputs_at(result.model), outputs_at(made)
    np.testing.assert_allclose(got, expected, atol=2e-3 * np.abs(expected).max())


@pytest.mark.parametrize(("batch", "rows"), [(1, 4), (4, 4), ("n", 4)])
def test_fixed_and_free_batches(batch, rows):
    made = model(
        [
            NODE("Relu", ["x"], ["r"]),
            NODE("Reshape", ["r", "shape"], ["q"]),
            NODE("Sigmoid", ["q"], ["s"]),
            NODE("Transpose", ["s"], ["t"], perm=[1, 0]),
            NODE("Tanh", ["t"], ["y"]),
        ],
        [value("x", shape=(batch, 4, 2))],
        [value("y", shape=(2, None))],
        [constant("shape", [-1, 2])],
    )
    result = annotate(made)
    # A batch of one is the sample, whatever its axes; else the transposed tensor mixes samples.
    last = (2, 8) if batch == 1 else (-1, 8 if batch == "n" else 32)
    found = [(s["rows_per_sample"], s["elements"]) for s in result.sites]
    assert found == [(1, 8), (rows, 8), last]
    assert same(outputs_at(result.model), outputs_at(made))


def test_free_axes_beside_the_batch():
    made = model(
        [
            NODE("Conv", ["x", "w"], ["c"]),
            NODE("Relu", ["c"], ["r"]),
            NODE("GlobalAveragePool", ["r"], ["y"]),
        ],
        [value("x", shape=("n", 3, "h", "w0"))],
        [value("y", shape=("n", 4, 1, 1))],
        [weight("w", 4, 3, 3, 3)],
    )
    result = annotate(made, sites="layer")
    assert [(s["rows_per_sample"], s["elements"]) for s in result.sites] == [(1, None), (1, None)]
    assert result.bits_per_sample == 0
    close(outputs_at(result.model, free=9), outputs_at(made, free=9))


def test_tokens_and_an_example():
    made = model(
        [
            NODE("Gather", ["table", "ids"], ["e"]),
            NODE("MatMul", ["e", "w"], ["p"]),
            NODE("Add", ["p", "b"], ["a"]),
            NODE("Tanh", ["a"], ["y"]),
        ],
        [value("ids", TensorProto.INT64, ("n", "t"))],
        [value("y", shape=("n", "t", 4))],
        [weight("table", 3, 4), weight("w", 4, 4), weight("b", 4)],
    )
    drawn = annotate(made, sites="layer,weight,bias")
    assert [(s["name"], s["rows_per_sample"]) for s in drawn.sites] == [
        ("w", 0),
        ("b", 0),
        ("a", 1),
        ("y", 1),
    ]
    ids = np.array([[0, 1, 2], [2, 2, 1]])
    for example in (ids, [ids], {"ids": ids}):
        assert annotate(made, sites="layer,weight,bias", example=example).sites == drawn.sites
    for example, match in (
        (ids.astype(np.int32), "expected an array of int64, got int32"),
        (ids[0], r"expected shape \[N, N\], got \[3\]"),
        ({"x": ids}, "the inputs ids, got x"),
        ([ids, ids], "the inputs ids, got 2"),
        (ids[:0], "got \\[0, 3\\]"),
    ):
        with pytest.raises(InputError, match=match):
            annotate(made, example=example)


def test_constants_ties_and_transposed_weights():
    nodes = [
        NODE("Constant", [], ["w"], value=weight("v", 4, 4)),
        NODE("MatMul", ["x", "w"], ["p"]),
        NODE("Add", ["p", "b"], ["a"]),
        NODE("Relu", ["a"], ["r"]),
        NODE("Transpose", ["w"], ["turned"], perm=[1, 0]),
        NODE("MatMul", ["r", "turned"], ["y"]),
    ]
    made = model(nodes, [value("x")], [value("y")], [weight("b", 4)])
    result = annotate(made, sites="weight,bias,layer")
    names = [(s["name"], s["kind"]) for s in result.sites]
    assert names == [("w", "weight"), ("b", "bias"), ("a", "activation"), ("r", "activation")]
    assert "w" in {t.name for t in result.model.graph.initializer}
    runner = session(result.model)
    table = np.zeros((4, 2))
    table[0] = 0.4
    x = feeds(runner)
    (got,) = runner.run(None, {**x, "noise.bit_error_rate": table, "noise.seed": np.array([2])})
    kept = onnx.numpy_helper.to_array(made.graph.node[0].attribute[0].t)
    bias = onnx.numpy_helper.to_array(made.graph.initializer[0])
    w = reference.apply(kept, 0.4, seed=2, site=0, rows_per_sample=0)
    with np.errstate(all="ignore"):
        expected = np.maximum(x["x"] @ w + bias, 0) @ w.T
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_integers_that_are_asked_for_by_name():
    made = model(
        [NODE("Cast", ["x"], ["f"], to=TensorProto.FLOAT), NODE("Relu", ["f"], ["y"])],
        [value("x", TensorProto.UINT8)],
        [value("y")],
    )
    result = annotate(made, sites=["x", "activation"])
    assert [(s["name"], s["kind"], s["storage_format"]) for s in result.sites] == [
        ("x", "input", "uint8"),
        ("y", "activation", "native"),
    ]
    assert same(outputs_at(result.model), outputs_at(made))
    runner = session(result.model)
    x = feeds(runner)
    table = np.array([[0.02, 0.02], [0.0, 0.0]])
    (got,) = runner.run(None, {**x, "noise.bit_error_rate": table, "noise.seed": np.array([4])})
    assert same([got], [reference.apply(x["x"], 0.02, seed=4, site=0).astype(np.float32)])


@pytest.mark.parametrize("shape", [None, ("n", 4), (None, 4)])
def test_a_rank_that_is_unknown_stays_unknown(shape):
    """ONNX Runtime folds what it takes for known: the shape of Y must not be made up."""
    nodes = [
        NODE("Reshape", ["x", "s"], ["a"]),
        NODE("Relu", ["a"], ["r"]),
        NODE("Shape", ["r"], ["whole"]),
        NODE("Neg", ["r"], ["m"]),
        NODE("Softmax", ["m"], ["p"]),
        NODE("Reshape", ["p", "whole"], ["y"]),
    ]
    inputs = [value("x", shape=("n", 4)), value("s", TensorProto.INT64, (2,))]
    made = model(nodes, inputs, [value("y", shape=None)])
    if shape is not None:
        made.graph.value_info.append(value("a", shape=shape))
    result = annotate(made)
    x = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    for target in ([6, 4], [3, 8], [-1, 2]) if shape is None else ([6, 4], [-1, 4]):
        fed = {"x": x, "s": np.array(target)}
        (got,), (expected,) = (session(m).run(None, fed) for m in (result.model, made))
        assert same([got], [expected])


def test_negative_extents_are_free():
    made = convolution(17, 8)
    for dim in made.graph.input[0].type.tensor_type.shape.dim[::2]:
        dim.dim_value = -1
    result = annotate(made)
    assert [s["rows_per_sample"] for s in result.sites] == [1]
    assert not any("does not run" in note for note in result.notes)
