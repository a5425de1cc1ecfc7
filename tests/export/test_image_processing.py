# SPDX-License-Identifier: Apache-2.0
"""A file that takes the bytes of an image: the same result as reading it in Python."""

import io
import sys

import numpy as np
import onnx
import onnxruntime as ort
import onnxruntime_extensions
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper
from PIL import Image
from torch import nn

from noisystore import ortops
from noisystore.export import export_onnx
from noisystore.export.image_processing import add_image_processing
from noisystore.ortops.errors import InputError
from noisystore.runtime import NoisySession
from noisystore.runtime.cli import main
from noisystore.runtime.dataset import prepare

NORMALIZATION = {"mean": [0.5, 0.4, 0.3], "std": [0.25, 0.2, 0.3]}
SIZE = 20


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.fc = nn.Linear(6, 5)

    def forward(self, image):
        return self.fc(F.relu(self.conv(image)).mean((2, 3)) * 4)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("image") / "small.onnx"
    result = export_onnx(Small().eval(), torch.randn(2, 3, SIZE, SIZE), path)
    return NoisySession(path, threads=1), len(result.sites)


@pytest.fixture(scope="module")
def session(network):
    model = onnx.load(network[0].path)
    add_image_processing(model, NORMALIZATION)
    onnx.checker.check_model(model)
    return open_session(model)


def open_session(model):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    ortops.register(options)
    options.register_custom_ops_library(onnxruntime_extensions.get_library_path())
    return ort.InferenceSession(model.SerializeToString(), options)


def encode(pixels, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, **options)
    return file.getvalue()


def feed(data, sites, rate=0.0, index=0):
    return {
        "image": np.frombuffer(data, dtype=np.uint8),
        "noise.bit_error_rate": np.full((sites, 2), rate),
        "noise.seed": np.array([11]),
        "noise.sample_index": np.array([index]),
    }


def in_python(data, network, rate=0.0, index=0):
    """Label and score of a file read with Pillow."""
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    x = prepare(pixels.transpose(2, 0, 1)[None], NORMALIZATION)
    logits = network[0].run(x, rate, seed=11, sample_index=index)[0].astype(np.float64)
    label = int(np.argmax(logits))
    with np.errstate(all="ignore"):
        scores = np.exp(logits - logits.max())
        return label, (scores / scores.sum())[label]


@pytest.mark.parametrize("rate", [0.0, 1e-3, 0.05])
@pytest.mark.parametrize(
    "options", [{"format": "PNG"}, {"format": "JPEG", "quality": 95, "subsampling": 0}]
)
def test_label_and_score_are_those_of_python(network, session, options, rate):
    rng = np.random.default_rng(3)
    labels = set()
    for index in range(40):
        pixels = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        pixels[..., index % 3] //= 1 + index % 5
        data = encode(pixels, **options)
        label, score = session.run(None, feed(data, network[1], rate, index))
        expected = in_python(data, network, rate, index)
        assert label.shape == score.shape == (1,)
        if options["format"] == "PNG" or rate == 0:
            assert label[0] == expected[0]
            close = 1e-5 if options["format"] == "PNG" else 5e-3
            np.testing.assert_allclose(score[0], expected[1], atol=close, equal_nan=True)
        labels.add(int(label[0]))
    assert len(labels) > 1 or rate > 0.01


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("annotated")
    torch.manual_seed(1)
    plain, path = folder / "plain.onnx", folder / "image.onnx"
    export_onnx(
        Small().eval(),
        torch.randn(2, 3, SIZE, SIZE),
        plain,
        sites="none",
        normalization=NORMALIZATION,
    )
    assert main(["annotate", str(plain), "--preprocess", "image", "-o", str(path)]) == 0
    return path


@pytest.mark.parametrize("rate", [0.0, 1e-4])
def test_the_annotated_file_in_a_session(network, file, rate):
    pixels = np.random.default_rng(6).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    data = encode(pixels, format="PNG")
    both = NoisySession(file, threads=1)
    label, score = both.run(np.frombuffer(data, np.uint8), rate, seed=11, sample_index=5)
    assert (label[0], pytest.approx(score[0], abs=1e-5)) == in_python(data, network, rate, 5)
    assert both.inferences == 1
    assert [site.name for site in both.sites] == [site.name for site in network[0].sites]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"hello world",
        lambda data: data[:2] + bytes(200),
        lambda data: data[: len(data) // 3],
        lambda data: b"",
        lambda data: data[:20] + bytes(40) + data[60:],
    ],
)
@pytest.mark.parametrize("name", ["PNG", "JPEG"])
@pytest.mark.parametrize("pillow", [True, False])
def test_damaged_files_are_refused(file, name, damage, pillow, monkeypatch):
    if not pillow:
        monkeypatch.setitem(sys.modules, "PIL.Image", None)
    pixels = np.random.default_rng(8).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    data = np.frombuffer(damage(encode(pixels, format=name)), np.uint8)
    with pytest.raises(InputError) as caught:
        NoisySession(file, threads=1).run(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
@pytest.mark.parametrize("pillow", [True, False])
def test_jpegs_of_other_colours_are_refused(file, mode, pillow, monkeypatch):
    if not pillow:
        monkeypatch.setitem(sys.modules, "PIL.Image", None)
    stream = io.BytesIO()
    Image.new(mode, (SIZE, SIZE)).save(stream, format="JPEG")
    with pytest.raises(InputError, match="JPEG file of three components"):
        NoisySession(file, threads=1).run(np.frombuffer(stream.getvalue(), np.uint8))


def test_a_sweep_of_such_a_file_is_refused(file, tmp_path, capsys):
    images = np.zeros((4, 3, SIZE, SIZE), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", x=images)
    options = ["--data", f"npz:{tmp_path}/x.npz", "-o", str(tmp_path / "r.sqlite")]
    assert main(["sweep", str(file), *options]) == 2
    assert "takes the bytes of one image file" in capsys.readouterr().err


def test_grey_files(network, session):
    rng = np.random.default_rng(4)
    grey = rng.integers(0, 256, (SIZE, SIZE), dtype=np.uint8)
    data = encode(grey, format="PNG")
    label, score = session.run(None, feed(data, network[1]))
    assert (label[0], pytest.approx(score[0], abs=1e-5)) == in_python(data, network)


@pytest.mark.parametrize("shape", [(40, 40), (31, 47), (10, 15), (64, 21)])
def test_other_sizes_are_resized_and_cropped(network, session, shape):
    rng = np.random.default_rng(5)
    small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    whole = small.resize(shape[::-1], Image.Resampling.BICUBIC)
    ratio = max(SIZE / shape[0], SIZE / shape[1])
    height, width = (round(side * ratio) for side in shape)
    top, left = (height - SIZE) // 2, (width - SIZE) // 2
    cropped = whole.resize((width, height), Image.Resampling.BILINEAR).crop(
        (left, top, left + SIZE, top + SIZE)
    )
    label, score = session.run(None, feed(encode(np.asarray(whole), format="PNG"), network[1]))
    expected = in_python(encode(np.asarray(cropped), format="PNG"), network)
    assert label[0] == expected[0]
    assert score[0] == pytest.approx(expected[1], abs=0.01)


def test_nan_is_the_largest_logit():
    shape = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 2, 2])
    out = helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n", 4])
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("ReduceMax", ["flat", "one"], ["zero"], keepdims=1),
        helper.make_node("Mul", ["zero", "none"], ["nothing"]),
        helper.make_node("Add", ["nothing", "values"], ["score"]),
    ]
    constants = [
        helper.make_tensor("one", TensorProto.INT64, [1], [1]),
        helper.make_tensor("none", TensorProto.FLOAT, [1], [0.0]),
        helper.make_tensor("values", TensorProto.FLOAT, [4], [1.0, np.inf, np.nan, np.nan]),
    ]
    graph = helper.make_graph(nodes, "g", [shape], [out], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    add_image_processing(model, NORMALIZATION)
    session = open_session(model)
    data = encode(np.full((2, 2, 3), 128, dtype=np.uint8), format="PNG")
    label, _ = session.run(None, {"image": np.frombuffer(data, dtype=np.uint8)})
    assert label.tolist() == [2]


def test_pixels_that_are_only_scaled(tmp_path):
    """--normalization none overrules what the file states."""
    plain = tmp_path / "plain.onnx"
    model, example = Small().eval(), torch.randn(2, 3, SIZE, SIZE)
    export_onnx(model, example, plain, sites="none", normalization=NORMALIZATION)
    words = ["annotate", str(plain), "--preprocess", "image", "--normalization", "none", "-o"]
    assert main([*words, str(tmp_path / "image.onnx")]) == 0
    pixels = np.random.default_rng(6).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    session = NoisySession(tmp_path / "image.onnx", threads=1)
    assert session.normalization is None
    label, score = session.run(np.frombuffer(encode(pixels, format="PNG"), np.uint8))
    x = torch.from_numpy(pixels.transpose(2, 0, 1)[None] / np.float32(255))
    expected = torch.softmax(model(x).detach(), 1)[0]
    assert label[0] == int(expected.argmax())
    assert score[0] == pytest.approx(float(expected.max()), abs=1e-5)


def plain(shape, element=TensorProto.FLOAT, op="GlobalAveragePool", opset=18):
    x = helper.make_tensor_value_info("x", element, shape)
    y = helper.make_tensor_value_info("y", element, ["n", 3])
    nodes = [helper.make_node(op, ["x"], ["p"]), helper.make_node("Flatten", ["p"], ["y"])]
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(helper.make_graph(nodes, "g", [x], [y]), opset_imports=opsets)


def test_operators_that_a_runtime_adds_have_no_versions():
    model = plain(["n", 3, 4, 4], op="SimplifiedLayerNormalization", opset=17)
    add_image_processing(model, NORMALIZATION)
    assert {o.version for o in model.opset_import if not o.domain} == {18}


@pytest.mark.parametrize(
    ("model", "normalization", "expected"),
    [
        (plain(["n", 3, "h", "w"]), NORMALIZATION, "H and W fixed, got float [n, 3, h, w]"),
        (plain(["n", 1, 4, 4]), NORMALIZATION, "got float [n, 1, 4, 4]"),
        (plain([8, 3, 4, 4]), NORMALIZATION, "got float [8, 3, 4, 4]"),
        (plain(["n", 3, 4, 4], TensorProto.UINT8), NORMALIZATION, "got uint8"),
        (plain(["n", 3, 4, 4]), None, "normalization of the images is not known"),
        (plain(["n", 3, 4, 4]), {"mean": [1, 2], "std": [1]}, "expected mean for 3 channels"),
        (plain(["n", 3, 4, 4], op="ReduceMean", opset=13), NORMALIZATION, "in which ReduceMean"),
    ],
)
def test_what_does_not_fit_is_refused(model, normalization, expected):
    with pytest.raises(InputError, match="preprocess image") as caught:
        add_image_processing(model, normalization)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
