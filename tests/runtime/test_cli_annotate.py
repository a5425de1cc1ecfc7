# SPDX-License-Identifier: Apache-2.0
"""`noisystore annotate` and what `inspect` and `sweep` make of its files."""

import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from noisystore.runtime.cli import main


def _weight(name, *shape):
    values = np.random.default_rng(len(shape)).normal(0, 0.3, shape).astype(np.float32)
    return numpy_helper.from_array(values, name)


@pytest.fixture
def plain(tmp_path):
    """x [N, 1, 6, 6] -> Conv, Relu -> If -> Gemm -> logits [N, 10]."""
    node, info = helper.make_node, helper.make_tensor_value_info
    branches = [
        helper.make_graph([node(op, ["f"], [f"{op}.y"])], op, [], [info(f"{op}.y", 1, None)])
        for op in ("Identity", "Neg")
    ]
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"]),
        node("Relu", ["c"], ["r"]),
        node("Flatten", ["r"], ["f"]),
        node("If", ["yes"], ["i"], then_branch=branches[0], else_branch=branches[1]),
        node("Gemm", ["i", "w2"], ["logits"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [info("x", TensorProto.FLOAT, ["N", 1, 6, 6])],
        [info("logits", TensorProto.FLOAT, ["N", 10])],
        [
            _weight("w", 4, 1, 3, 3),
            _weight("b", 4),
            _weight("w2", 10, 64),
            numpy_helper.from_array(np.array(True), "yes"),
        ],
    )
    folder = tmp_path / "in"
    folder.mkdir()
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), folder / "plain.onnx")
    return folder / "plain.onnx"


def test_annotate_inspect_and_sweep(plain, tmp_path, ok, capsys):
    out = tmp_path / "noisy.onnx"
    result = ok("annotate", plain, "--sites", "activation,weight,bias", "-o", out)
    assert result["path"] == str(out)
    assert [s["name"] for s in result["sites"]] == ["w", "b", "r", "w2"]
    assert result["bits_per_sample"] == 64 * 32
    assert result["parameter_bits"] == (36 + 4 + 640) * 32
    assert result["notes"] == ["subgraphs are left alone, they get no sites: 1 If"]
    shown = ok("inspect", out, "--rate", "1e-3")
    assert shown["bits_per_sample"] == result["bits_per_sample"]
    assert shown["parameter_bits"] == result["parameter_bits"]
    assert shown["flips_per_sample"] == pytest.approx(64 * 32e-3)
    assert shown["parameter_flips"] == pytest.approx(680 * 32e-3)
    by_name = {s["name"]: s for s in shown["sites"]}
    assert (by_name["w"]["bits_per_sample"], by_name["w"]["parameter_bits"]) == (0, 36 * 32)
    assert (by_name["r"]["bits_per_sample"], by_name["r"]["parameter_bits"]) == (64 * 32, 0)
    data = tmp_path / "d.npz"
    rng = np.random.default_rng(0)
    np.savez(
        data,
        images=rng.standard_normal((12, 1, 6, 6)).astype(np.float32),
        labels=rng.integers(0, 10, 12),
    )
    rows = ok(
        *("sweep", out, "--data", f"npz:{data}", "--rates", "1e-4,1e-2", "--trials", "1"),
        *("-o", tmp_path / "r.sqlite"),
    )
    assert rows["rows"] == 2
    capsys.readouterr()
    assert main(["annotate", str(plain), "--sites", "weight", "-o", str(out)]) == 0
    said = capsys.readouterr()
    assert "2 sites, 0 noisy bits per sample, 21,632 of weights and biases" in said.out
    assert said.err == "note: subgraphs are left alone, they get no sites: 1 If\n"
    assert main(["inspect", str(out)]) == 0
    text = capsys.readouterr().out
    assert "weights and biases, written once:" in text
    assert "native (float32)" in text
    assert "shared by all samples" in text


def test_an_example_and_formats(plain, tmp_path, ok):
    example = tmp_path / "example.npz"
    np.savez(example, x=np.ones((2, 1, 6, 6), np.float32))
    result = ok(
        *("annotate", plain, "--example", example, "--sites", "layer,weight"),
        *("--storage-format", "activation=float16,weight=bfloat16", "-o", tmp_path / "m.onnx"),
    )
    formats = {s["name"]: s["storage_format"] for s in result["sites"]}
    assert formats == {"w": "bfloat16", "c": "float16", "r": "float16", "w2": "bfloat16"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sites", "none.*"], "nothing matches 'none.*'"),
        (["--sites", "activation,,input"], "got 'activation,,input'"),
        (["--storage-format", "float17"], "float17"),
        (["--storage-format", "int8"], "noisystore quantize"),
        (["--storage-format", "weights=float16"], "weights"),
        (["--custom-ops", "missing.so"], "missing.so"),
        (["--example", "missing.npz"], "missing.npz"),
    ],
)
def test_bad_options(plain, tmp_path, error, options, message):
    assert message in error("annotate", plain, *options, "-o", tmp_path / "m.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["in"]
    assert [p.name for p in plain.parent.iterdir()] == ["plain.onnx"]


def test_bad_examples(plain, tmp_path, error):
    out = tmp_path / "m.onnx"
    example = tmp_path / "e.npz"
    for content, message in (
        ({"y": np.ones(3)}, "one array for each of the inputs x, got y"),
        ({"x": np.ones((2, 1, 6, 6))}, "expected an array of float32, got float64"),
        ({"x": np.ones((2, 1, 6, 5), np.float32)}, "expected shape [N, 1, 6, 6]"),
    ):
        np.savez(example, **content)
        assert message in error("annotate", plain, "--example", example, "-o", out)
    example.write_bytes(b"PK no archive")
    assert "e.npz" in error("annotate", plain, "--example", example, "-o", out)
    assert not out.exists()


def test_bad_models(plain, tmp_path, ok, error):
    out = tmp_path / "m.onnx"
    assert "missing.onnx" in error("annotate", tmp_path / "missing.onnx", "-o", out)
    broken = tmp_path / "broken.onnx"
    for data in (b"no model " * 50, plain.read_bytes()[:900], b""):
        broken.write_bytes(data)
        assert "expected an ONNX" in error("annotate", broken, "-o", out)
    assert "does not exist" in error("annotate", plain, "-o", tmp_path / "no" / "m.onnx")
    assert "got a folder" in error("annotate", plain, "-o", tmp_path)
    ok("annotate", plain, "-o", out)
    before = out.read_bytes()
    assert "annotated already" in error("annotate", out, "-o", tmp_path / "twice.onnx")
    assert out.read_bytes() == before
    assert "`noisystore annotate`" in error("inspect", plain)


def test_without_onnx(plain, tmp_path, error, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    line = error("annotate", plain, "-o", tmp_path / "m.onnx")
    assert "pip install noisystore[export]" in line


def test_the_model_is_not_written_over(plain, tmp_path, error):
    before = plain.read_bytes()
    assert "which is read" in error("annotate", plain, "-o", plain)
    options = ["--data", "digits", "-o", tmp_path / "q.onnx", "--scales", plain]
    assert "which is read" in error("quantize", plain, *options)
    assert plain.read_bytes() == before


def test_outputs_that_are_no_files(plain, tmp_path, error):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert "got a device or a pipe" in error("annotate", plain, "-o", pipe)
    assert pipe.is_fifo()


def test_inputs_of_any_type_are_inspected(tmp_path, ok):
    node, info = helper.make_node, helper.make_tensor_value_info
    inputs = [info("x", TensorProto.FLOAT, ["N", 4]), info("which", TensorProto.BOOL, ["N", 4])]
    nodes = [node("Relu", ["x"], ["r"]), node("Where", ["which", "r", "x"], ["y"])]
    graph = helper.make_graph(nodes, "g", inputs, [info("y", TensorProto.FLOAT, ["N", 4])])
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "m.onnx")
    ok("annotate", tmp_path / "m.onnx", "-o", tmp_path / "noisy.onnx")
    assert ok("inspect", tmp_path / "noisy.onnx")["bits_per_sample"] == 128
