# SPDX-License-Identifier: Apache-2.0
"""Static quantization: the choice of images, and what is refused."""

import json
import logging
import tempfile

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from quantizable import CLASSES, SHAPE, calibration_data, run, small_network

from noisystore.export import annotate, quantize
from noisystore.ortops.errors import InputError
from noisystore.runtime.dataset import Dataset


@pytest.fixture(scope="module")
def data():
    return calibration_data()


# Calibration


def test_the_seed_chooses_the_images(tmp_path, data):
    def made(seed):
        return quantize(
            small_network(), data, tmp_path / "q.onnx", images=16, seed=seed, method="minmax"
        ).quantization

    assert made(1) == made(1)
    assert made(1)["sha256"] != made(2)["sha256"]
    assert made(1)["scales"]["x"] != made(2)["scales"]["x"]


def test_all_images_of_a_small_set_are_taken_and_any_number_works(tmp_path, data):
    assert quantize(small_network(), data, tmp_path / "q.onnx").quantization["images"] == 96
    # A prime number of images makes batches of one.
    result = quantize(small_network(), data, tmp_path / "q.onnx", images=37)
    assert result.quantization["images"] == 37


def test_percentile_ranges_are_narrower(tmp_path, data):
    images = data.images.copy()
    images[3, 0, 0, 0] = 40
    outlier = Dataset("outlier", images)
    scale = {}
    for method in ("minmax", "percentile"):
        result = quantize(small_network(), outlier, tmp_path / "q.onnx", method=method)
        scale[method] = result.quantization["scales"]["x"][0]
    assert scale["percentile"] < 0.5 * scale["minmax"]


def test_uint8_images_are_normalized(tmp_path, data):
    images = np.random.default_rng(0).integers(0, 256, (32, *SHAPE)).astype(np.uint8)
    norm = ([0.5, 0.4, 0.3], [0.25, 0.25, 0.5])
    result = quantize(
        small_network(),
        Dataset("bytes", images),
        tmp_path / "q.onnx",
        normalization=norm,
        method="minmax",
    )
    # Channel values run from (0 - mean) / std to (1 - mean) / std.
    assert result.quantization["scales"]["x"][0] == pytest.approx((2.4 + 2) / 255, rel=1e-4)
    texts = {p.key: p.value for p in onnx.load(result.path).metadata_props}
    assert json.loads(texts["noisystore.normalization"]) == {"mean": norm[0], "std": norm[1]}
    again = small_network()
    helper.set_model_props(again, {"noisystore.normalization": texts["noisystore.normalization"]})
    same = quantize(again, Dataset("bytes", images), tmp_path / "r.onnx", method="minmax")
    assert same.quantization == result.quantization
    bare = quantize(again, Dataset("bytes", images), tmp_path / "s.onnx", normalization="none")
    assert bare.quantization["scales"]["x"][0] == pytest.approx(1 / 255, rel=1e-3)
    names = {p.key for p in onnx.load(bare.path).metadata_props}
    assert "noisystore.quantization" in names
    assert "noisystore.normalization" not in names


def test_a_fixed_batch_is_kept(tmp_path, data):
    network = small_network(batch=12)
    result = quantize(network, data, tmp_path / "q.onnx")
    assert result.quantization["images"] == 96
    assert run(onnx.load(result.path), data.images[:12])[0].shape == (12, CLASSES)
    with pytest.raises(InputError, match="expected a multiple of 12, got 32"):
        quantize(network, data, tmp_path / "r.onnx", images=32)


def test_weights_in_another_file(tmp_path, data):
    path = tmp_path / "big.onnx"
    onnx.save(small_network(), path, save_as_external_data=True, size_threshold=0, location="w")
    want = quantize(small_network(), data, tmp_path / "a.onnx")
    got = quantize(path, data, tmp_path / "b.onnx")
    assert got.quantization == want.quantization
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_it_says_nothing_and_leaves_nothing(tmp_path, data, monkeypatch, capfd):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    handlers, disabled = list(logging.root.handlers), logging.root.manager.disable
    phases = []
    quantize(
        small_network(),
        data,
        tmp_path / "q.onnx",
        images=48,
        progress=lambda *args: phases.append(args),
    )
    assert capfd.readouterr() == ("", "")
    assert list(folder.iterdir()) == []
    assert (logging.root.handlers, logging.root.manager.disable) == (handlers, disabled)
    for phase in ("ranges", "calibration"):
        done = [args[1:] for args in phases if args[0] == phase]
        assert done[-1] == (48, 48)


def test_nearly_constant_values_need_minmax(tmp_path):
    # Two neighbouring float32 values: onnxruntime's histograms cannot part them.
    steps = np.random.default_rng(0).integers(0, 2, (8, *SHAPE))
    given = Dataset("flat", (1000 + steps * 6.2e-5).astype(np.float32))
    with pytest.raises(InputError, match=r"Too many bins.*; the method minmax may do"):
        quantize(small_network(), given, tmp_path / "q.onnx", method="percentile")
    assert list(tmp_path.iterdir()) == []
    assert quantize(small_network(), given, tmp_path / "q.onnx").sites


# Refusals


def with_half(model):
    model.graph.initializer[1].CopyFrom(
        numpy_helper.from_array(np.ones(8, np.float16), "conv1.bias")
    )
    return model


def with_two_inputs(model):
    model.graph.input.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1]))
    return model


def without_layers():
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["logits"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *SHAPE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", *SHAPE])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def with_overflow():
    model = small_network()
    for node in model.graph.node:
        if node.op_type == "Relu":
            node.op_type = "Exp"
    return model


def images(values, shape=(8, *SHAPE)):
    return Dataset("given", np.broadcast_to(np.asarray(values, np.float32), shape).copy())


GOOD = object()


@pytest.mark.parametrize(
    ("model", "given", "options", "message"),
    [
        (lambda: with_half(small_network()), GOOD, {}, "expected a float32 model, got float16"),
        (lambda: small_network(opset=10), GOOD, {}, "expected opset 11 or newer, got 10"),
        (without_layers, GOOD, {}, "expected convolutions or matrix products"),
        (lambda: with_two_inputs(small_network()), GOOD, {}, r"expected one input .*'x', 'z'"),
        (lambda: small_network(scale=np.nan), GOOD, {}, "weight conv1.weight holds NaN"),
        (with_overflow, GOOD, {}, "is NaN or infinite on calibration batch 0"),
        (lambda: small_network(scale=0, bias=-1.0), GOOD, {}, "tensor r1 is 0 on all 96"),
        (small_network, images(0.5), {}, "each of the 8 images drawn is of one value"),
        (small_network, images(0.5, (8, 3, 9, 9)), {}, r"expected .*\[N, 3, 10, 10\] for input x"),
        (small_network, images(0.5, (8, 10)), {}, r"expected images of shape .* got \[8, 10\]"),
        (small_network, [1, 2], {}, "expected a Dataset or its specification"),
        (small_network, "npz:missing.npz", {}, "npz:missing.npz"),
        (small_network, GOOD, {"images": 97}, "expected a number from 1 to 96"),
        (small_network, GOOD, {"images": 0}, "expected a number from 1 to 96"),
        (lambda: small_network(batch=100), GOOD, {}, "runs 100 images at a time, but there are 96"),
        (small_network, GOOD, {"seed": -1}, "seed: expected an integer"),
        (small_network, GOOD, {"method": "mean"}, "method: expected minmax, entropy, percentile"),
        (small_network, GOOD, {"activation_type": "int4"}, "activation type: expected uint8, int8"),
        (small_network, GOOD, {"graph_format": "tflite"}, "graph format: expected qdq, qoperator"),
        (small_network, GOOD, {"sites": "nothing.*"}, "nothing"),
    ],
)
def test_refusals(tmp_path, data, monkeypatch, model, given, options, message):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    with np.errstate(invalid="ignore"), pytest.raises(InputError, match=message) as caught:
        quantize(model(), data if given is GOOD else given, tmp_path / "q.onnx", **options)
    assert "\n" not in str(caught.value)
    assert [file.name for file in tmp_path.rglob("*")] == ["temporary"]


def test_bytes_need_a_normalization(tmp_path):
    bytes_ = np.random.default_rng(0).integers(0, 256, (8, *SHAPE)).astype(np.uint8)
    given = Dataset("bytes", bytes_)
    for norm, message in (
        (None, "it does not say how images are normalized"),
        (([0.5], [0.0]), "normalization: expected"),
        ("imagenet", "normalization: expected"),
        (([0.5, 0.5], [1.0, 1.0]), "normalisation of 2 channels"),
    ):
        with pytest.raises(InputError, match=message):
            quantize(small_network(), given, tmp_path / "q.onnx", normalization=norm)
    for text in (
        "[" * 5000,
        '{"mean": [' + "9" * 400 + '], "std": [1]}',
        '{"mean": [NaN], "std": [1]}',
    ):
        model = small_network()
        model.metadata_props.add(key="noisystore.normalization", value=text)
        with pytest.raises(InputError, match="normalization: expected"):
            quantize(model, given, tmp_path / "q.onnx")
    assert list(tmp_path.iterdir()) == []
    result = quantize(small_network(), given, tmp_path / "q.onnx", normalization="none")
    assert result.quantization["scales"]["x"][0] == pytest.approx(1 / 255, rel=1e-3)


def test_quantized_and_annotated_models_are_refused(tmp_path, data):
    noisy = annotate(small_network(), sites="activation").model
    with pytest.raises(InputError, match="annotated already: quantize the plain model"):
        quantize(noisy, data, tmp_path / "q.onnx")
    for graph_format in ("qdq", "qoperator"):
        path = tmp_path / f"{graph_format}.onnx"
        quantize(small_network(), data, path, sites="none", graph_format=graph_format)
        with pytest.raises(InputError, match="quantized already: noisystore annotate puts sites"):
            quantize(path, data, tmp_path / "q.onnx")
    assert not (tmp_path / "q.onnx").exists()
