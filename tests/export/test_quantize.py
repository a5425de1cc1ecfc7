# SPDX-License-Identifier: Apache-2.0
"""Static quantization: integer kernels, stored words, and equal faults in uint8 and int8."""

import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from quantizable import SHAPE, calibration_data, flips, run, small_network, stores

from noisystore.export import annotate, quantize
from noisystore.export.integer_kernels import integer_kernels
from noisystore.ortops.errors import InputError
from noisystore.ortops.ort_options import has_vnni
from noisystore.runtime import NoisySession
from noisystore.runtime.dataset import Dataset


@pytest.fixture(scope="module")
def data():
    return calibration_data()


# The result


@pytest.mark.parametrize("graph_format", ["qdq", "qoperator"])
@pytest.mark.parametrize("activation_type", ["uint8", "int8"])
@pytest.mark.parametrize("sites", ["none", "activation", "layer", "input,weight,bias,layer"])
def test_every_layer_runs_in_integers(tmp_path, data, graph_format, activation_type, sites):
    result = quantize(
        small_network(),
        data,
        tmp_path / "q.onnx",
        graph_format=graph_format,
        activation_type=activation_type,
        sites=sites,
    )
    assert (result.kernels.integer, result.kernels.floats) == (3, ())
    assert result.notes == []
    model = onnx.load(tmp_path / "q.onnx")
    onnx.checker.check_model(model)
    assert len(stores(model)) == len(result.sites)
    types = {t.name: t.data_type for t in model.graph.initializer}
    kinds = {"weight": TensorProto.INT8, "bias": TensorProto.INT32}
    for node, record in zip(stores(model), result.sites, strict=True):
        assert record["storage_format"] in (activation_type, "int8", "int32", "native")
        if record["kind"] in kinds:
            assert types[node.input[0]] == kinds[record["kind"]]
            assert record["bits_per_word"] == (32 if record["kind"] == "bias" else 8)
        else:
            assert record["storage_format"] == activation_type
    expected = {"none": 0, "activation": 2, "layer": 3, "input,weight,bias,layer": 10}
    assert len(result.sites) == expected[sites]


@pytest.mark.parametrize("graph_format", ["qdq", "qoperator"])
@pytest.mark.parametrize("method", ["percentile", "minmax", "entropy"])
def test_quantized_outputs_are_close_and_sites_change_nothing(tmp_path, data, method, graph_format):
    network = small_network()
    options = {"method": method, "graph_format": graph_format}
    plain = quantize(network, data, tmp_path / "p.onnx", sites="none", **options)
    noisy = quantize(network, data, tmp_path / "n.onnx", sites="activation", **options)
    x = data.images[:20]
    want = run(network, x)[0]
    got = run(onnx.load(plain.path), x)[0]
    error = np.sqrt(np.mean((got - want) ** 2) / np.mean(want**2))
    assert 0 < error < 0.05
    assert np.array_equal(run(onnx.load(noisy.path), x)[0], got)
    changed = run(onnx.load(noisy.path), x, rates=0.01)[0]
    assert not np.array_equal(changed, got)


def test_batch_normalization_is_folded(tmp_path, data):
    network = small_network(batch_norm=True)
    result = quantize(network, data, tmp_path / "q.onnx")
    model = onnx.load(result.path)
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    assert str(result.kernels) == "3 of 3"
    assert len(result.sites) == 2
    want, got = run(network, data.images)[0], run(model, data.images)[0]
    assert np.sqrt(np.mean((got - want) ** 2) / np.mean(want**2)) < 0.05


@pytest.mark.parametrize("graph_format", ["qdq", "qoperator"])
@pytest.mark.parametrize("bias", ["shared", "equal", "zero"])
def test_each_layer_has_a_bias_of_its_own(tmp_path, data, graph_format, bias):
    """ONNX Runtime merges equal ones, but each has the scale of its layer."""
    network = small_network()
    network.graph.node[3].CopyFrom(network.graph.node[0])  # conv2 like conv1, twice as large
    second = network.graph.node[3]
    second.name, second.input[0], second.output[0] = "conv2", "p1", "c2"
    values = {t.name: numpy_helper.to_array(t) for t in network.graph.initializer}
    values["conv2.weight"] = 4 * np.random.default_rng(3).normal(0, 0.3, (8, 8, 3, 3))
    values["fc.weight"] = values["fc.weight"][:, : 8 * 2 * 2]
    if bias == "zero":
        values["conv1.bias"] = np.zeros(8)
    values["conv2.bias"] = values["conv1.bias"]
    second.input[1:] = ["conv2.weight", "conv1.bias" if bias == "shared" else "conv2.bias"]
    del network.graph.initializer[:]
    network.graph.initializer.extend(
        numpy_helper.from_array(v.astype(np.float32), name) for name, v in values.items()
    )
    result = quantize(
        network, data, tmp_path / "q.onnx", graph_format=graph_format, sites="layer,bias"
    )
    assert str(result.kernels) == "3 of 3"
    named = "conv1.bias_1" if bias == "shared" else "conv2.bias"
    biases = [site["name"] for site in result.sites if site["kind"] == "bias"]
    assert biases == ["conv1.bias", named, "fc.bias"]
    want, got = run(network, data.images)[0], run(onnx.load(result.path), data.images)[0]
    assert np.sqrt(np.mean((got - want) ** 2) / np.mean(want**2)) < 0.05


@pytest.mark.parametrize("sites", ["zork", "layer,features.0", ["r1", "zork_output"]])
def test_a_mistake_in_the_sites_is_told_before_the_calibration(tmp_path, data, sites):
    seen = []
    with pytest.raises(InputError, match=r"sites: nothing matches '(zork|features)"):
        quantize(
            small_network(),
            data,
            tmp_path / "q.onnx",
            sites=sites,
            progress=lambda *phase: seen.append(phase),
        )
    assert not seen
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("graph_format", "sites"),
    [
        ("qdq", "ConvBnFusion_W_conv1.weight"),
        ("qdq", "ConvBnFusion_BN_B_bn.shift"),
        ("qoperator", "c?_quant*"),
    ],
)
def test_sites_by_names_that_tools_give(tmp_path, data, graph_format, sites):
    """ONNX Runtime's optimizations, and its quantizer."""
    network = small_network(batch_norm=True)
    path = tmp_path / "q.onnx"
    assert quantize(network, data, path, sites=sites, graph_format=graph_format).sites


@pytest.mark.parametrize(
    ("graph_format", "sites", "count"),
    [
        ("qoperator", "QLinearConv", 2),
        ("qoperator", "c1,c2_quantized", 2),
        ("qdq", "Conv,fc.weight", 3),
        ("qdq", "r1,r2_QuantizeLinear_Output", 2),
    ],
)
def test_sites_by_names_of_either_model(tmp_path, data, graph_format, sites, count):
    result = quantize(
        small_network(), data, tmp_path / "q.onnx", graph_format=graph_format, sites=sites
    )
    assert len(result.sites) == count


@pytest.mark.parametrize("opset", [11, 12, 13, 20, 21])
@pytest.mark.parametrize("activation_type", ["uint8", "int8"])
def test_opsets(tmp_path, data, opset, activation_type):
    network = small_network(opset=opset)
    network.ir_version = 10
    result = quantize(network, data, tmp_path / "q.onnx", activation_type=activation_type)
    assert str(result.kernels) == "3 of 3"
    assert [site["storage_format"] for site in result.sites] == [activation_type] * 2


def test_a_layer_without_integer_kernel_is_told(tmp_path, data):
    result = quantize(small_network(transposed=True), data, tmp_path / "q.onnx")
    assert result.kernels.integer == 2
    assert len(result.kernels.floats) == 1
    assert result["integer_kernels"]["of"] == 3
    assert "1 of 3 convolutions and matrix products stay in floating point" in result.notes[-1]


def test_integer_kernels_sees_float_layers():
    found = integer_kernels(small_network())
    assert (found.integer, len(found.floats), found.total) == (0, 3, 3)


def test_the_stored_words_are_the_scaled_values(tmp_path, data):
    result = quantize(small_network(), data, tmp_path / "q.onnx", sites="input", method="minmax")
    scales = result.quantization["scales"]
    model = onnx.load(result.path)
    scale, zero_point = scales["x"]
    low, high = data.images.min(), data.images.max()
    assert scale == pytest.approx((high - low) / 255, rel=1e-6)
    words = run(model, data.images, extra=[stores(model)[0].input[0]])[1]
    want = np.clip(np.rint(data.images / np.float32(scale)) + zero_point, 0, 255)
    assert np.array_equal(words, want)
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    original = {t.name: numpy_helper.to_array(t) for t in small_network().graph.initializer}
    for name in ("conv1.weight", "conv2.weight", "fc.weight"):
        scale, zero_point = scales[name]
        assert zero_point == 0
        off = weights[f"{name}_quantized"] * np.float32(scale) - original[name]
        assert np.abs(off).max() <= scale / 2 * (1 + 1e-5)
    assert scales["conv1.bias"][0] == pytest.approx(scales["x"][0] * scales["conv1.weight"][0])


def test_the_file_remembers_how_it_was_made(tmp_path, data):
    path = tmp_path / "q.onnx"
    result = quantize(small_network(), data, path, images=40, seed=3, method="entropy")
    texts = {p.key: p.value for p in onnx.load(path).metadata_props}
    record = json.loads(texts["noisystore.quantization"])
    assert record == result.quantization
    assert (record["images"], record["seed"], record["method"]) == (40, 3, "entropy")
    assert (record["data"], record["onnxruntime"]) == ("noise/train", ort.__version__)
    assert {o.domain for o in onnx.load(path).opset_import} == {"", "noisystore"}


def test_names_of_the_modules_survive(tmp_path):
    import torch
    from torch import nn

    from noisystore.export import export_onnx

    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU6()
    ).eval()
    x = torch.randn(32, *SHAPE)
    want = export_onnx(net, x, tmp_path / "float.onnx").sites
    plain = torch.onnx.export(
        net, (x,), dynamo=True, dynamic_shapes=({0: torch.export.Dim.DYNAMIC},), verbose=False
    ).model_proto
    for graph_format in ("qdq", "qoperator"):
        path = tmp_path / f"{graph_format}.onnx"
        got = quantize(plain, Dataset("x", x.numpy()), path, graph_format=graph_format).sites
        assert [s["name"] for s in got] == [s["name"] for s in want] == ["2", "4"]


# The same faults with uint8 and int8 activations


@pytest.fixture(scope="module")
def both(tmp_path_factory, data):
    """The same network with uint8 and with int8 activations."""
    folder = tmp_path_factory.mktemp("both")
    results = [
        quantize(
            small_network(),
            data,
            folder / f"{kind}.onnx",
            activation_type=kind,
            sites="input,layer",
        )
        for kind in ("uint8", "int8")
    ]
    return results, [onnx.load(result.path) for result in results]


def test_int8_has_the_scales_of_uint8(both):
    unsigned, signed = (result.quantization["scales"] for result in both[0])
    assert unsigned.keys() == signed.keys()
    activations = [name for name in unsigned if not name.endswith((".weight", ".bias"))]
    assert len(activations) >= 4
    for name in unsigned:
        shift = 128 if name in activations else 0
        assert signed[name] == [unsigned[name][0], unsigned[name][1] - shift]


@pytest.mark.parametrize("rate", [0.003, 0.05])
def test_equal_rates_flip_the_same_bits(both, data, rate):
    x = data.images[:16]
    unsigned, signed = (flips(model, x, rates=rate) for model in both[1])
    assert len(unsigned) == len(signed) == 4
    for u, s in zip(unsigned, signed, strict=True):
        assert u.any()
        assert np.array_equal(u, s)
    outputs = [run(model, x, rates=rate)[0] for model in both[1]]
    assert np.array_equal(*outputs)


@pytest.mark.parametrize("rates", [(0.004, 0.001), (0.09, 0.04)])
def test_unequal_rates_change_places_in_the_top_bit_alone(both, data, rates):
    x = data.images[:16]
    low = [flips(model, x, rates=rates, mask=0x7F) for model in both[1]]
    for u, s in zip(*low, strict=True):
        assert u.any()
        assert np.array_equal(u, s)
    top = flips(both[1][0], x, rates=rates, mask=0x80)
    swapped = flips(both[1][1], x, rates=rates[::-1], mask=0x80)
    same = flips(both[1][1], x, rates=rates, mask=0x80)
    for u, s, other in zip(top, swapped, same, strict=True):
        assert u.any()
        assert np.array_equal(u, s)
        assert not np.array_equal(u, other)


def test_the_harness_computes_the_same_with_both(both, data):
    # Exact integer arithmetic in both, whatever instructions the processor has.
    for rate in (0.0, 0.003, 0.05):
        outputs = [
            NoisySession(result.path, threads=1).run(data.images, rate, seed=1)
            for result in both[0]
        ]
        assert np.array_equal(*outputs)


def with_nodes(network, first, *nodes):
    """The network with nodes in place of its first ReLU's; they read c1 and make r1."""
    kept = [n for n in network.graph.node if n.name != first]
    position = next(i for i, n in enumerate(network.graph.node) if n.name == first)
    del network.graph.node[:]
    network.graph.node.extend([*kept[:position], *nodes, *kept[position:]])
    return network


def test_a_gelu_of_operators_is_one_site(tmp_path, data):
    """The sum of 1 and erf is never negative: its zero point is no sign of a ReLU."""
    network = with_nodes(
        small_network(),
        "relu1",
        helper.make_node("Div", ["c1", "root"], ["g.d"]),
        helper.make_node("Erf", ["g.d"], ["g.e"]),
        helper.make_node("Add", ["g.e", "one"], ["g.a"]),
        helper.make_node("Mul", ["c1", "g.a"], ["g.m"]),
        helper.make_node("Mul", ["g.m", "half"], ["r1"]),
    )
    for name, number in (("root", 2**0.5), ("one", 1), ("half", 0.5)):
        network.graph.initializer.append(numpy_helper.from_array(np.float32(number), name))
    expected = [site["op"] for site in annotate(network).sites]
    assert expected == ["gelu", "relu"]
    for graph_format in ("qdq", "qoperator"):
        for kind in ("uint8", "int8"):
            options = {"graph_format": graph_format, "activation_type": kind}
            found = quantize(network, data, tmp_path / "q.onnx", **options).sites
            assert [site["op"] for site in found] == expected, options


def test_masks_of_zeros_are_no_dead_activations(tmp_path, data):
    network = with_nodes(
        small_network(),
        "relu1",
        helper.make_node("Shape", ["c1"], ["m.s"]),
        helper.make_node("ConstantOfShape", ["m.s"], ["m.z"]),
        helper.make_node("Add", ["c1", "m.z"], ["m.a"]),
        helper.make_node("Relu", ["m.a"], ["r1"]),
    )
    result = quantize(network, data, tmp_path / "q.onnx")
    assert str(result.kernels) == "3 of 3"


@pytest.mark.skipif(not has_vnni(), reason="needs VNNI: this processor saturates such products")
@pytest.mark.parametrize("graph_format", ["qdq", "qoperator"])
@pytest.mark.parametrize("sites", ["layer", "weight,bias"])
def test_a_layer_that_runs_twice(tmp_path, data, graph_format, sites):
    again = helper.make_node("Conv", ["r2", "conv3", "conv2.bias"], ["c3"], name="conv3")
    more = helper.make_node("Conv", ["c3", "conv3", "conv2.bias"], ["r3"], name="conv4")
    for node in (again, more):
        node.attribute.append(helper.make_attribute("pads", [1] * 4))
    network = with_nodes(small_network(), "flatten", again, more)
    network.graph.node.insert(
        len(network.graph.node) - 1, helper.make_node("Flatten", ["r3"], ["f"], name="flatten")
    )
    weight = np.random.default_rng(4).normal(0, 0.1, (12, 12, 3, 3)).astype(np.float32)
    network.graph.initializer.append(numpy_helper.from_array(weight, "conv3"))
    options = {"graph_format": graph_format, "sites": sites}
    result = quantize(network, data, tmp_path / "q.onnx", **options)
    assert str(result.kernels) == "5 of 5"
    names = [site["name"] for site in result.sites if site["kind"] == "weight"]
    assert names.count("conv3") == (sites != "layer")  # it lies in memory once
    session = NoisySession(result.path, threads=1)
    want = run(network, data.images)[0]
    got = session.run(data.images)
    assert np.sqrt(np.mean((got - want) ** 2) / np.mean(want**2)) < 0.05
    assert not np.array_equal(session.run(data.images, 0.01, seed=1), got)
