# SPDX-License-Identifier: Apache-2.0
"""`noisystore quantize`: from a trained network to a sweep of its integers, and bad input."""

import json
import shutil

import numpy as np
import onnx
import pytest

from noisystore.runtime import NoisySession
from noisystore.runtime.cli import main
from noisystore.runtime.dataset import load
from noisystore.runtime.evaluate import Evaluator

pytestmark = pytest.mark.usefixtures("one_torch_thread")

KEYS = {
    "path",
    "sites",
    "bits_per_sample",
    "parameter_bits",
    "integer_kernels",
    "quantization",
    "notes",
    "scales",
}


@pytest.fixture(scope="module")
def plain(model, tmp_path_factory):
    """The trained network of `model` as PyTorch's exporter writes it."""
    import torch

    from noisystore.export import load_model

    net, example = load_model("vgg-a", weights=model.parent / "w.safetensors", width=0.0625)
    path = tmp_path_factory.mktemp("plain") / "plain.onnx"
    batch = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.onnx.export(net, example, dynamo=True, dynamic_shapes=batch, verbose=False)
    onnx.save(program.model_proto, path)
    return path


@pytest.fixture(scope="module")
def noisy(plain):
    """The network quantized, with sites on its activations."""
    path = plain.with_name("noisy.onnx")
    words = ["quantize", plain, "--data", "digits", "--normalization", "cifar10", "-o", path]
    assert main([str(word) for word in words]) == 0
    return path


def accuracy(path, rate=0.0):
    evaluator = Evaluator(NoisySession(path, threads=1), load("digits"))
    return float(evaluator.run(rate, seed=1).correct.mean())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--board", "raspberry-pi-5"], "int8"),
        (["--board", "x86-server"], "uint8"),
        (["--board", "raspberry-pi-5", "--activation-type", "uint8"], "uint8"),
    ],
)
def test_a_board_has_its_type_of_activations(plain, tmp_path, ok, words, expected):
    path = tmp_path / "q.onnx"
    words += ["--normalization", "cifar10", "--images", 32]
    result = ok("quantize", plain, "--data", "digits", *words, "-o", path)
    assert result["quantization"]["activation_type"] == expected
    assert {site.word_format for site in NoisySession(path).sites} == {expected}


def test_the_quantized_network_is_as_accurate_and_far_sturdier(model, noisy):
    clean = accuracy(model)
    assert clean > 0.5
    assert abs(accuracy(noisy) - clean) <= 0.01
    # A float32 activation blows up when an exponent bit flips; a stored byte cannot.
    assert accuracy(noisy, 3e-4) > clean - 0.05
    assert accuracy(model, 3e-4) < 0.75 * clean


def test_json(plain, tmp_path, ok):
    path, scales = tmp_path / "q.onnx", tmp_path / "scales.json"
    result = ok(
        "quantize",
        plain,
        "--data",
        "digits",
        "--normalization",
        "0.4914,0.4822,0.4465/0.2470,0.2435,0.2616",
        "--images",
        64,
        "--method",
        "minmax",
        "--seed",
        4,
        "--activation-type",
        "int8",
        "--format",
        "qoperator",
        "--sites",
        "activation,weight,bias",
        "--scales",
        scales,
        "-o",
        path,
    )
    assert result.keys() == KEYS
    assert (result["path"], result["scales"]) == (str(path), str(scales))
    assert result["integer_kernels"] == {"integer": 9, "of": 9, "float": []}
    kinds = [site["kind"] for site in result["sites"]]
    assert {kind: kinds.count(kind) for kind in kinds} == {"activation": 8, "weight": 9, "bias": 9}
    record = json.loads(scales.read_text())
    assert record == result["quantization"]
    wanted = {"images": 64, "seed": 4, "method": "minmax", "activation_type": "int8"}
    assert wanted.items() <= record.items()
    assert record["data"] == "digits/train"
    metadata = {p.key: p.value for p in onnx.load(path).metadata_props}
    assert json.loads(metadata["noisystore.quantization"]) == record
    assert sorted(file.name for file in tmp_path.iterdir()) == ["q.onnx", "scales.json"]
    shown = ok("inspect", path)
    assert [site["name"] for site in shown["sites"]] == [site["name"] for site in result["sites"]]


def test_text(plain, tmp_path, capsys):
    path = tmp_path / "q.onnx"
    words = ["quantize", plain, "--data", "digits", "--normalization", "cifar10", "--sites", "none"]
    assert main([*map(str, words), "--images", "32", "-o", str(path)]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        f"wrote {path}: 0 sites, 0 noisy bits per sample",
        "calibrated on 32 images of digits/train; integer kernels: 9 of 9",
    ]
    assert captured.err.splitlines() == ["ranges: 32 images", "calibration: 32 images"]
    assert main(["annotate", str(path), "-o", str(tmp_path / "n.onnx")]) == 0
    assert len(NoisySession(tmp_path / "n.onnx", threads=1).sites) == 8


def test_a_data_set_without_train_split_is_told(plain, tmp_path, capsys):
    rng = np.random.default_rng(0)
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    rows = rng.integers(0, 256, (10000, 3073)).astype(np.uint8)
    rows[:, 0] %= 10
    (folder / "test_batch.bin").write_bytes(rows.tobytes())
    words = ["quantize", plain, "--data", f"cifar10:{tmp_path}", "--images", "8"]
    words += ["--normalization", "cifar10", "-o", tmp_path / "q.onnx"]
    assert main([str(word) for word in words]) == 0
    captured = capsys.readouterr()
    assert "8 images of cifar10/test" in captured.out
    assert "note: the data set has no train split" in captured.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"--data": "digit"}, "data set: expected cifar10:DIR"),
        ({"--data": "cifar10:nowhere"}, "cifar10:nowhere"),
        ({"--data": "npz:grey.npz"}, "expected images of shape [N, 3, 32, 32] for input"),
        ({"--data": "npz:blank.npz"}, "each of the 9 images drawn is of one value"),
        ({"--data": "npz:nan.npz"}, "expected finite values"),
        ({"--normalization": None}, "it does not say how images are normalized"),
        ({"--normalization": "1,2/3"}, "expected cifar10, imagenet, none or M,M,M/S,S,S"),
        ({"--normalization": "0.5/0.5,x"}, "expected cifar10, imagenet, none or M,M,M/S,S,S"),
        ({"--images": "0"}, "--images: expected an integer of 1 or more"),
        ({"--images": "2000"}, "images: expected a number from 1 to 1297"),
        ({"--method": "mean"}, "method: expected minmax, entropy, percentile, got 'mean'"),
        ({"--activation-type": "int4"}, "activation type: expected uint8, int8"),
        ({"--format": "tflite"}, "graph format: expected qdq, qoperator"),
        ({"--sites": "nothing.*"}, "nothing"),
        ({"--scales": "nowhere/s.json"}, "the folder nowhere does not exist"),
        ({"--scales": "./q.onnx"}, "-o, --scales: expected different files"),
        ({"-o": "nowhere/q.onnx"}, "the folder nowhere does not exist"),
        ({"MODEL": "missing.onnx"}, "model missing.onnx: expected an ONNX file"),
        ({"MODEL": "text.onnx"}, "model text.onnx: expected an ONNX"),
        ({"MODEL": "half.onnx"}, "model half.onnx: expected an ONNX file"),
        ({"MODEL": "noisy.onnx"}, "it is annotated already: quantize the plain model"),
    ],
)
def test_bad_input(plain, noisy, tmp_path, monkeypatch, error, options, message):
    monkeypatch.chdir(tmp_path)
    shutil.copy(plain, "plain.onnx")
    shutil.copy(noisy, "noisy.onnx")
    whole = plain.read_bytes()
    (tmp_path / "half.onnx").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.onnx").write_text("no model\n")
    np.savez("grey.npz", x=np.zeros((9, 1, 32, 32), np.uint8))
    np.savez("blank.npz", x=np.full((9, 3, 32, 32), 255, np.uint8))
    np.savez("nan.npz", x=np.full((9, 3, 32, 32), np.nan, np.float32))
    before = sorted(file.name for file in tmp_path.iterdir())
    words = {
        "MODEL": "plain.onnx",
        "--data": "digits",
        "--normalization": "cifar10",
        "-o": "q.onnx",
        **options,
    }
    name = words.pop("MODEL")
    given = [word for pair in words.items() if pair[1] is not None for word in pair]
    assert message in error("quantize", name, *given)
    assert sorted(file.name for file in tmp_path.iterdir()) == before
