# SPDX-License-Identifier: Apache-2.0
"""annotate on subgraphs, functions and operators of other domains, and what it refuses."""

import numpy as np
import onnx
import onnxruntime as ort
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
    stores,
    value,
    weight,
)

from noisystore.export import annotate
from noisystore.export.onnx_sessions import check_loads
from noisystore.ortops.errors import InputError


def branches():
    then = helper.make_graph(
        [NODE("Add", ["r", "x"], ["t0"]), NODE("Relu", ["t0"], ["t"])],
        "then",
        [],
        [value("t", shape=None)],
    )
    other = helper.make_graph(
        [NODE("Sub", ["r", "x"], ["e"])], "else", [], [value("e", shape=None)]
    )
    nodes = [
        NODE("Relu", ["x"], ["r"]),
        NODE("ReduceSum", ["x"], ["s"], keepdims=0),
        NODE("Greater", ["s", "zero"], ["c"]),
        NODE("If", ["c"], ["y"], then_branch=then, else_branch=other),
    ]
    return model(nodes, [value("x")], [value("y")], [constant("zero", np.float32(0))])


def test_subgraphs_read_the_noisy_tensors():
    made = branches()
    result = annotate(made, sites="input,activation")
    assert [s["name"] for s in result.sites] == ["x", "r"]
    assert result.notes[:2] == [
        "subgraphs are left alone, they get no sites: 1 If",
        "the model mixes the samples of a batch: the batch is its sample",  # by its condition
    ]
    assert same(outputs_at(result.model), outputs_at(made))
    runner = session(result.model)
    x = feeds(runner)
    zeroed = {**noise(2, 0.0), "noise.bit_error_rate": np.array([[0.0, 1.0], [0.0, 0.0]])}
    (y,) = runner.run(None, {**x, **zeroed})
    assert not y.any()  # every stored 1 of the input reads as 0, inside the branches too


def test_a_subgraph_s_own_name_hides_the_outer_one():
    body = helper.make_graph(
        [NODE("Add", ["x", "x"], ["t"]), NODE("Identity", ["go"], ["on"])],
        "body",
        [
            value("i", TensorProto.INT64, []),
            value("go", TensorProto.BOOL, []),
            value("x", shape=None),
        ],
        [value("on", TensorProto.BOOL, []), value("t", shape=None)],
    )
    nodes = [
        NODE("Loop", ["trips", "", "x"], ["u"], body=body),
        NODE("Sub", ["u", "x"], ["y"]),
    ]
    made = model(nodes, [value("x")], [value("y")], [constant("trips", np.int64(2))])
    result = annotate(made, sites="input")
    loop = next(node for node in result.model.graph.node if node.op_type == "Loop")
    inner = next(a.g for a in loop.attribute if a.name == "body")
    assert list(loop.input) == ["trips", "", "x.noisy"]
    assert list(inner.node[0].input) == ["x", "x"]
    assert same(outputs_at(result.model), outputs_at(made))
    runner = session(result.model)
    x = feeds(runner)
    (y,) = runner.run(None, {**x, "noise.bit_error_rate": np.array([[0.0, 1.0]])})
    assert not y.any()


def test_names_inside_subgraphs_are_not_taken_again():
    """A branch's own tensor of the new name would hide what it is to read from outside."""
    then = helper.make_graph(
        [NODE("Neg", ["x"], ["x.noisy"]), NODE("Add", ["x.noisy", "x"], ["t"])],
        "then",
        [],
        [value("t", shape=None)],
    )
    other = helper.make_graph([NODE("Abs", ["x"], ["e"])], "else", [], [value("e", shape=None)])
    nodes = [NODE("If", ["yes"], ["y"], then_branch=then, else_branch=other)]
    made = model(nodes, [value("x")], [value("y")], [constant("yes", np.array(True))])
    result = annotate(made, sites="input")
    (node,) = stores(result.model)
    assert list(node.output) == ["x.noisy_"]
    runner = session(result.model)
    x = feeds(runner)
    (y,) = runner.run(None, {**x, **noise(1, 0.1)})
    assert not y.any()  # the noisy input less itself; the clean one would leave a rest


def test_operators_without_a_result():
    sink = helper.make_node("Print", ["r"], [], domain="com.example.debug")
    made = model(
        [NODE("Relu", ["x"], ["r"]), sink, NODE("Neg", ["r"], ["y"])],
        [value("x")],
        [value("y")],
        domains=["com.example.debug"],
    )
    result = annotate(made, sites="layer,input")
    assert [s["name"] for s in result.sites] == ["x", "r"]
    assert [n.op_type for n in result.model.graph.node].count("Print") == 1
    del made.graph.output[:]
    with pytest.raises(InputError, match="without outputs"):
        annotate(made)


def test_loops_and_functions_are_left_alone():
    body = helper.make_graph(
        [
            NODE("Relu", ["acc"], ["ra"]),
            NODE("Add", ["ra", "x"], ["next"]),
            NODE("Identity", ["go"], ["on"]),
        ],
        "body",
        [
            value("i", TensorProto.INT64, []),
            value("go", TensorProto.BOOL, []),
            value("acc", shape=None),
        ],
        [value("on", TensorProto.BOOL, []), value("next", shape=None)],
    )
    twice = helper.make_function(
        "own",
        "Twice",
        ["a"],
        ["b"],
        [NODE("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 17)],
    )
    nodes = [
        NODE("Sigmoid", ["x"], ["s"]),
        NODE("Loop", ["trips", "", "s"], ["u"], body=body),
        NODE("Twice", ["u"], ["v"], domain="own"),
        NODE("Tanh", ["v"], ["y"]),
    ]
    made = model(
        nodes,
        [value("x")],
        [value("y")],
        [constant("trips", np.int64(3))],
        domains=["own"],
        functions=[twice],
    )
    result = annotate(made, sites="activation,input")
    assert [s["name"] for s in result.sites] == ["x", "s", "y"]
    assert result.notes == [
        "subgraphs are left alone, they get no sites: 1 Loop",
        "functions are left alone, their bodies get no sites: 1 Twice",
    ]
    assert result.model.ir_version >= 8
    assert same(outputs_at(result.model), outputs_at(made))


def test_operators_of_other_domains():
    made = model(
        [
            NODE("Gelu", ["x"], ["g"], domain="com.microsoft"),
            NODE("Relu", ["g"], ["y"]),
        ],
        [value("x")],
        [value("y", shape=None)],
        domains=["com.microsoft"],
    )
    result = annotate(made)
    assert [(s["op"], s["elements"]) for s in result.sites] == [("gelu", 4), ("relu", 4)]
    assert {o.domain for o in result.model.opset_import} == {"", "com.microsoft", "noisystore"}
    assert same(outputs_at(result.model), outputs_at(made))


def test_what_onnx_runtime_has_fused(tmp_path):
    nodes = [
        NODE("Conv", ["x", "w", "b"], ["c"]),
        NODE("Relu", ["c"], ["r"]),
        NODE("GlobalAveragePool", ["r"], ["m"]),
        NODE("Flatten", ["m"], ["f"]),
        NODE("MatMul", ["f", "w2"], ["p"]),
        NODE("Gelu", ["p"], ["g"], domain="com.microsoft"),
        NODE("Identity", ["g"], ["y"]),
    ]
    made = model(
        nodes,
        [value("x", shape=("n", 3, 5, 5))],
        [value("y", shape=("n", 2))],
        [weight("w", 4, 3, 3, 3), weight("b", 4), weight("w2", 4, 2)],
        domains=["com.microsoft"],
    )
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    fused = onnx.load(tmp_path / "fused.onnx")
    assert "FusedConv" in {node.op_type for node in fused.graph.node}
    result = annotate(fused, sites="layer,weight,bias")
    assert [(s["kind"], s["op"]) for s in result.sites] == [
        ("weight", "conv"),
        ("bias", "conv"),
        ("activation", "relu"),
        ("activation", "avg_pool"),
        ("weight", "linear"),
        ("activation", "linear"),
        ("activation", "gelu"),
    ]
    close(outputs_at(result.model), outputs_at(fused))


def test_the_long_name_of_onnx_s_domain():
    made = model([NODE("Relu", ["x"], ["y"], domain="ai.onnx")], [value("x")], [value("y")])
    made.opset_import[0].domain = "ai.onnx"
    result = annotate(made)
    assert [s["op"] for s in result.sites] == ["relu"]
    assert same(outputs_at(result.model), outputs_at(made))


def test_operators_that_nobody_knows():
    nodes = [
        NODE("Strange", ["x"], ["a"], domain="their.own"),
        NODE("Relu", ["a"], ["r"]),
        NODE("Strange", ["r"], ["b"], domain="their.own"),
        NODE("Relu", ["b"], ["y"]),
    ]
    made = model(nodes, [value("x")], [value("y")], domains=["their.own"])
    result = annotate(made)
    found = [(s["name"], s["rows_per_sample"], s["elements"]) for s in result.sites]
    assert found == [("r", -1, None), ("y", 1, 4)]
    assert any("types" in note and "Strange" in note for note in result.notes)
    assert any("taken from shapes" in note for note in result.notes)
    assert len(stores(result.model)) == 2


def test_extensions_are_found():
    pytest.importorskip("onnxruntime_extensions")
    made = model(
        [
            NODE("Inverse", ["x"], ["i"], domain="ai.onnx.contrib"),
            NODE("Relu", ["i"], ["y"]),
        ],
        [value("x", shape=(3, 3))],
        [value("y", shape=(3, 3))],
        domains=["ai.onnx.contrib"],
    )
    result = annotate(made)
    assert [s["name"] for s in result.sites] == ["y"]
    assert not any("does not run" in note for note in result.notes)


@pytest.mark.parametrize(
    ("sites", "match"),
    [
        ("activation", "no site for 'activation'"),
        ("weight", "of the graph has a weight"),
        ("Conv", "the model's operators are Mul"),
        ("nothing.*", "the model's tensors are x, y"),
        ("n", r"n: expected a tensor of float32, .* got one of int64"),
        (int, "got the type int; pass a string"),
        ("activation,", "empty item"),
    ],
)
def test_sites_that_are_none(sites, match):
    made = model(
        [NODE("Mul", ["x", "x"], ["y"]), NODE("Cast", ["y"], ["n"], to=TensorProto.INT64)],
        [value("x")],
        [value("n", TensorProto.INT64)],
    )
    with pytest.raises(InputError, match=match):
        annotate(made, sites=sites)


def test_other_bad_arguments(tmp_path):
    made = branches()
    with pytest.raises(InputError, match="annotated already"):
        annotate(annotate(made).model)
    renamed = model([NODE("Relu", ["noise.seed"], ["y"])], [value("noise.seed")], [value("y")])
    with pytest.raises(InputError, match=r"a tensor noise\.seed.*rename it"):
        annotate(renamed)
    for options, match in (
        ({"storage_format": "float12"}, "float12"),
        ({"storage_format": "int8"}, "noisystore quantize"),
        ({"storage_format": {"weights": "float16"}}, "weights"),
        ({"normalization": 3}, "normalization"),
        ({"custom_op_libraries": [tmp_path / "no.so"]}, "no.so"),
        ({"path": tmp_path / "no" / "m.onnx"}, "does not exist"),
    ):
        with pytest.raises(InputError, match=match):
            annotate(made, **options)
    with pytest.raises(InputError, match="got a int"):
        annotate(3)
    assert list(tmp_path.iterdir()) == []


def test_types_that_are_not_stored():
    made = model(
        [NODE("Relu", ["x"], ["r"]), NODE("QuantizeLinear", ["r", "s", "z"], ["y"])],
        [value("x")],
        [value("y", TensorProto.UINT16)],
        [constant("s", np.float32(0.1)), constant("z", np.uint16(5))],
        opset=21,
        ir=10,
    )
    with pytest.raises(InputError, match="got one of uint16"):
        annotate(made)


def test_what_onnx_runtime_does_not_load(tmp_path):
    made = branches()
    notes = []
    good = annotate(made).model
    check_loads(good, made, (), notes)
    assert notes == []
    damaged = onnx.ModelProto()
    damaged.CopyFrom(good)
    store = next(n for n in damaged.graph.node if n.op_type == "NoisyStore")
    store.input[1], store.input[3] = store.input[3], store.input[1]
    with pytest.raises(InputError, match=r"loads the model, but not with these sites: .*int64"):
        check_loads(damaged, made, (), notes)
    unknown = model(
        [NODE("Foo", ["x"], ["f"]), NODE("Relu", ["f"], ["y"])], [value("x")], [value("y")]
    )
    result = annotate(unknown, sites="Relu")
    assert result.notes[-1].startswith(
        "ONNX Runtime loads the model neither annotated nor as it is"
    )


def test_a_model_of_subgraphs_alone_says_so():
    made = branches()
    del made.graph.node[0]
    for node in made.graph.node:
        for attribute in node.attribute:
            for inner in attribute.g.node:
                inner.input[:] = ["x" if name == "r" else name for name in inner.input]
    with pytest.raises(
        InputError, match=r"no site for 'activation'.*subgraphs are left alone.*1 If"
    ):
        annotate(made)
