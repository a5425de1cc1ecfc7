# SPDX-License-Identifier: Apache-2.0
"""annotate on QDQ graphs as other tools write them: kept ReLUs, a QuantizeLinear a reader."""

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx_models import NODE, constant, model, outputs_at, same, stores, value

from noisystore.export import annotate
from noisystore.export.integer_kernels import integer_kernels


def pair(source, scale, zero, stored, result):
    return [
        NODE("QuantizeLinear", [source, scale, zero], [stored]),
        NODE("DequantizeLinear", [stored, scale, zero], [result]),
    ]


def residual(*, relu=True, zero_point=0, again=None, scale_again=0.03):
    """Conv, ReLU, Conv and a sum of the two, in uint8; the ReLU's result quantized once or twice.

    ``again``: name of the scale of the second QuantizeLinear, which the sum reads.
    """
    rng = np.random.default_rng(0)
    scalars = {
        "s": np.float32(0.05),
        "z": np.uint8(128),
        "s.relu": np.float32(0.03),
        "s.again": np.float32(scale_again),
        "z.relu": np.uint8(zero_point),
        "s.w": np.float32(0.02),
        "z.w": np.int8(0),
    }
    weights = {
        "w1": rng.integers(-50, 50, (4, 3, 3, 3)).astype(np.int8),
        "w2": rng.integers(-50, 50, (4, 4, 3, 3)).astype(np.int8),
    }

    nodes = [
        *pair("x", "s", "z", "x.q", "x.d"),
        NODE("DequantizeLinear", ["w1", "s.w", "z.w"], ["w1.d"]),
        NODE("DequantizeLinear", ["w2", "s.w", "z.w"], ["w2.d"]),
        NODE("Conv", ["x.d", "w1.d"], ["c"], pads=[1] * 4),
    ]
    if relu:
        nodes.append(NODE("Relu", ["c"], ["r"]))
    result = "r" if relu else "c"
    nodes += pair(result, "s.relu", "z.relu", "r.q", "r.d")
    if again is not None:
        nodes += pair(result, again, "z.relu", "r.q2", "r.d2")
    nodes += [
        NODE("Conv", ["r.d", "w2.d"], ["c2"], pads=[1] * 4),
        *pair("c2", "s", "z", "c2.q", "c2.d"),
        NODE("Add", ["c2.d", "r.d" if again is None else "r.d2"], ["a"]),
        *pair("a", "s", "z", "a.q", "y"),
    ]
    values = [constant(name, array) for name, array in {**scalars, **weights}.items()]
    shape = ("n", 4, 8, 8)
    return model(nodes, [value("x", shape=("n", 3, 8, 8))], [value("y", shape=shape)], values)


def annotated(made, sites):
    """Sites of a model that computes what it computed, with the integer kernels that it had."""
    result = annotate(made, sites=sites)
    assert same(outputs_at(result.model), outputs_at(made))
    before, after = integer_kernels(made), integer_kernels(result.model)
    assert (after.integer, after.total) == (before.integer, before.total)
    assert not same(outputs_at(result.model, 0.05, len(result.sites)), outputs_at(made))
    return [(s["name"], s["op"], s["storage_format"]) for s in result.sites]


@pytest.mark.parametrize("sites", ["layer", "activation", "Conv", "Relu", ["c"]])
def test_a_kept_relu_runs_in_its_convolution_s_kernel(sites):
    """Its float result lies in no memory: what the kernel stores are the ReLU's integers."""
    second = [("c2", "conv", "uint8")] if sites in ("layer", "Conv") else []
    made = residual()
    assert integer_kernels(made).integer == 2
    assert annotated(made, sites) == [("r", "relu", "uint8"), *second]


def test_a_relu_that_saturation_does_not_replace_is_a_result_of_its_own():
    made = residual(zero_point=10)
    assert integer_kernels(made).integer == 1  # ONNX Runtime computes the other one in floats
    assert annotated(made, "layer") == [
        ("c", "conv", "native"),
        ("r", "relu", "uint8"),
        ("c2", "conv", "uint8"),
    ]


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("again", ["s.relu", "s.again"])
def test_equal_quantizers_of_one_tensor_store_it_once(relu, again):
    made = residual(relu=relu, again=again)  # by one name, or by equal values
    name = "r" if relu else "c"
    assert annotated(made, "layer") == [(name, "relu", "uint8"), ("c2", "conv", "uint8")]


@pytest.mark.parametrize(
    ("relu", "zero_point", "expected"),
    [
        (True, 0, [("c", "conv", "native"), ("r", "relu", "uint8"), ("r.q2", "relu", "uint8")]),
        (False, 0, [("c", "relu", "uint8"), ("c:1", "relu", "uint8")]),
        (False, 10, [("c", "conv", "uint8"), ("r.q2", "conv", "uint8")]),
    ],
)
def test_each_of_two_scales_is_stored(relu, zero_point, expected):
    made = residual(relu=relu, zero_point=zero_point, again="s.again", scale_again=0.04)
    assert annotated(made, "layer") == [*expected, ("c2", "conv", "uint8")]
    quantizers = {"r.q", "r.q2"}
    assert quantizers <= {n.output[0] for n in stores(annotate(made, sites="layer").model)}


def small(nodes, *, output="y", opset=17, ir=8, extra=()):
    """A graph on x [n, 4] with scales s and t and zero points z (128) and z0 (0) of uint8."""
    values = {"s": np.float32(0.05), "t": np.float32(0.03), "z": np.uint8(128), "z0": np.uint8(0)}
    constants = [constant(name, array) for name, array in values.items()]
    return model(nodes, [value("x")], [value(output)], [*constants, *extra], opset=opset, ir=ir)


def readers_that_changed(made, sites):
    """Which of the outputs y, y1... noise at some of the sites reaches."""
    result = annotate(made, sites=sites)
    clean = outputs_at(result.model)
    noisy = outputs_at(result.model, 0.5, len(result.sites))
    return [not same([a], [b]) for a, b in zip(clean, noisy, strict=True)]


@pytest.mark.parametrize("source", ["x", "r"])
@pytest.mark.parametrize("by_name", [True, False])
def test_all_readers_of_a_tensor_of_two_scales_read_noise(source, by_name):
    nodes = [NODE("Relu", ["x"], ["r"])] if source == "r" else []
    nodes += [*pair(source, "s", "z", "q1", "y"), *pair(source, "t", "z", "q2", "y1")]
    made = small(nodes)
    made.graph.output.append(value("y1"))
    sites = [source] if by_name else "input" if source == "x" else "activation"
    assert readers_that_changed(made, sites) == [True, True]
    kinds = {site["kind"] for site in annotate(made, sites=sites).sites}
    assert kinds == {"input" if source == "x" else "activation"}


def test_integers_between_a_layer_and_its_relu_are_stored():
    made = residual()
    graph = made.graph
    relu = next(node for node in graph.node if node.op_type == "Relu")
    relu.input[0] = "c.d"
    i = list(graph.node).index(relu)
    nodes = [*graph.node[:i], *pair("c", "s", "z", "c.q", "c.d"), *graph.node[i:]]
    del graph.node[:]
    graph.node.extend(nodes)
    found = annotate(made, sites="layer").sites
    assert [(s["name"], s["op"]) for s in found] == [("c", "conv"), ("r", "relu"), ("c2", "conv")]
    assert {s["storage_format"] for s in found} == {"uint8"}
    assert len(annotate(made, sites=["c.q"]).sites) == 1


def test_a_written_out_silu_of_two_scales_counts_once():
    nodes = [
        *pair("x", "s", "z", "x.q", "x.d"),
        *pair("x", "t", "z", "x.q2", "x.d2"),
        NODE("Sigmoid", ["x.d"], ["g"]),
        NODE("Mul", ["x.d2", "g"], ["m"]),
        *pair("m", "s", "z", "m.q", "y"),
    ]
    (site,) = annotate(small(nodes)).sites
    assert (site["op"], site["storage_format"]) == ("silu", "uint8")


def test_a_dynamic_quantizer_beside_a_static_one_reads_noise():
    nodes = [
        NODE("Relu", ["x"], ["r"]),
        *pair("r", "s", "z", "q", "y"),
        NODE("DynamicQuantizeLinear", ["r"], ["d.q", "d.s", "d.z"]),
        NODE("DequantizeLinear", ["d.q", "d.s", "d.z"], ["y1"]),
    ]
    made = small(nodes)
    made.graph.output.append(value("y1"))
    assert readers_that_changed(made, "activation") == [True, True]


def test_integers_of_different_types_are_not_merged():
    nodes = [
        NODE("QuantizeLinear", ["x", "s", "zi"], ["a"]),
        NODE("QuantizeLinear", ["x", "s", "zu"], ["b"]),
        NODE("DequantizeLinear", ["a", "s", "zi"], ["a.d"]),
        NODE("DequantizeLinear", ["b", "s", "zu"], ["b.d"]),
        NODE("Sub", ["a.d", "b.d"], ["d"]),
        NODE("Relu", ["d"], ["y"]),
    ]
    zeros = [
        helper.make_tensor("zi", TensorProto.INT4, [], [0]),
        helper.make_tensor("zu", TensorProto.UINT4, [], [0]),
    ]
    made = small(nodes, opset=21, ir=10, extra=zeros)
    assert same(outputs_at(annotate(made).model), outputs_at(made))


def test_a_name_that_a_subgraph_has_of_its_own_is_not_read_instead():
    then = helper.make_graph(
        [NODE("DequantizeLinear", ["q1", "s", "z"], ["yes.y"])],
        "then",
        [],
        [value("yes.y", shape=None)],
    )
    own = constant("q1", np.full((1, 4), 128, np.uint8))
    other = helper.make_graph(
        [
            NODE("DequantizeLinear", ["q2", "s", "z"], ["no.y"]),
            NODE("Identity", ["q1"], ["unused"]),
        ],
        "else",
        [],
        [value("no.y", shape=None)],
        [own],
    )
    nodes = [
        NODE("Relu", ["x"], ["r"]),
        NODE("QuantizeLinear", ["r", "s", "z"], ["q1"]),
        NODE("QuantizeLinear", ["r", "s", "z"], ["q2"]),
        NODE("If", ["no"], ["y"], then_branch=then, else_branch=other),
    ]
    made = small(nodes, extra=[constant("no", np.array(False))])
    (clean,) = outputs_at(made)
    assert clean.any()
    assert same(outputs_at(annotate(made).model), [clean])
