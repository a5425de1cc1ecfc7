# SPDX-License-Identifier: Apache-2.0
"""annotate on quantized graphs: sites on the stored integers, and integer kernels that stay."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx_models import close, feeds, noise, outputs_at, same, session, stores
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from torch import nn

from noisystore.export import annotate
from noisystore.export.torch_graph import quiet
from noisystore.ortops import reference


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1 = nn.Conv2d(3, 8, 3, padding=1)
        self.c2 = nn.Conv2d(8, 8, 3, padding=1)
        self.c3 = nn.Conv2d(8, 16, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.f1 = nn.Linear(16, 12)
        self.f2 = nn.Linear(12, 5)

    def forward(self, x):
        y = self.pool(torch.relu(self.c1(x)))
        y = torch.relu(self.c2(y) + y)
        y = nn.functional.silu(nn.functional.relu6(self.c3(y)))
        return self.f2(torch.relu(self.f1(y.mean((2, 3)))))


class Reader(CalibrationDataReader):
    def __init__(self):
        rng = np.random.default_rng(0)
        self.left = [rng.standard_normal((8, 3, 8, 8)).astype(np.float32) for _ in range(4)]

    def get_next(self):
        return {"x": self.left.pop()} if self.left else None


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    """Paths by (format, activation type)."""
    folder = tmp_path_factory.mktemp("quantized")
    torch.manual_seed(0)
    with quiet():
        torch.onnx.export(
            Net().eval(),
            (torch.randn(2, 3, 8, 8),),
            str(folder / "float.onnx"),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
        )
        for form in ("QDQ", "QOperator"):
            for kind in ("QUInt8", "QInt8"):
                quantize_static(
                    folder / "float.onnx",
                    folder / f"{form}-{kind}.onnx",
                    Reader(),
                    quant_format=QuantFormat[form],
                    activation_type=QuantType[kind],
                    weight_type=QuantType.QInt8,
                )
    return folder


FORMS = [("QDQ", "QUInt8"), ("QDQ", "QInt8"), ("QOperator", "QUInt8"), ("QOperator", "QInt8")]
INT8_QDQ = (("session.qdqisint8allowed", "1"),)


@pytest.mark.parametrize(("form", "kind"), FORMS)
def test_sites_are_the_stored_integers(quantized, form, kind):
    path = quantized / f"{form}-{kind}.onnx"
    result = annotate(path, sites="input,layer,weight,bias")
    stored = {"QUInt8": "uint8", "QInt8": "int8"}[kind]
    found = [(s["kind"], s["op"], s["storage_format"], s["elements"]) for s in result.sites]
    assert found == [
        ("input", "input", stored, 192),
        ("weight", "conv", "int8", 216),
        ("bias", "conv", "native", 8),
        ("activation", "relu", stored, 512),
        ("activation", "max_pool", stored, 128),
        ("weight", "conv", "int8", 576),
        ("bias", "conv", "native", 8),
        ("activation", "conv", stored, 128),
        ("activation", "relu", stored, 128),
        ("weight", "conv", "int8", 1152),
        ("bias", "conv", "native", 16),
        ("activation", "relu", stored, 256),
        ("activation", "silu", stored, 256),
        ("activation", "avg_pool", stored, 16),
        ("weight", "linear", "int8", 192),
        ("bias", "linear", "native", 12),
        ("activation", "relu", stored, 12),
        ("weight", "linear", "int8", 60),
        ("bias", "linear", "native", 5),
    ]
    rows = {(s["kind"], s["rows_per_sample"]) for s in result.sites}
    assert rows == {("input", 1), ("activation", 1), ("weight", 0), ("bias", 0)}
    assert {s["bits_per_word"] for s in result.sites if s["kind"] == "bias"} == {32}
    assert result.notes == []
    activations = annotate(path).sites
    assert [s["op"] for s in activations] == ["relu", "relu", "relu", "silu", "relu"]


def kernels(path, optimized, entries):
    session(path, optimized, entries)
    return Counter(node.op_type for node in onnx.load(optimized).graph.node)


@pytest.mark.parametrize("sites", ["activation", "layer", "input,weight,bias"])
@pytest.mark.parametrize(("form", "kind"), FORMS)
def test_integer_kernels_stay(quantized, form, kind, sites, tmp_path):
    clean = quantized / f"{form}-{kind}.onnx"
    result = annotate(clean, tmp_path / "noisy.onnx", sites=sites)
    entries = INT8_QDQ if (form, kind) == ("QDQ", "QInt8") else ()
    before = kernels(clean, tmp_path / "a.onnx", entries)
    after = kernels(tmp_path / "noisy.onnx", tmp_path / "b.onnx", entries)
    assert after["NoisyStore"] == len(result.sites)
    assert (before["QLinearConv"], before["QGemm"], before["QLinearAdd"]) == (3, 2, 1)
    integer = [name for name in before if name.startswith("Q") or name == "DequantizeLinear"]
    assert {name: before[name] for name in integer} == {name: after[name] for name in integer}
    assert not after["Conv"]
    assert not after["Gemm"]
    first, second = session(clean, None, entries), session(tmp_path / "noisy.onnx", None, entries)
    assert same(first.run(None, feeds(first)), second.run(None, feeds(second)))


def test_the_bits_of_a_stored_integer(quantized):
    """Site 0 alone, watched on both sides: the reference's words."""
    result = annotate(quantized / "QDQ-QUInt8.onnx")
    made = result.model
    node = stores(made)[0]
    before, after = node.input[0], node.output[0]
    made.graph.output.extend(onnx.ValueInfoProto(name=name) for name in (before, after))
    runner = session(made)
    x = feeds(runner)
    clean, noisy = runner.run([before, after], {**x, **noise(len(result.sites), 0.01, 9)})
    assert clean.dtype == np.uint8
    assert same([noisy], [reference.apply(clean, 0.01, seed=9, site=0)])
    assert (clean != noisy).any()


def test_integers_by_name_and_bad_formats(quantized):
    path = quantized / "QDQ-QUInt8.onnx"
    graph = onnx.load(path).graph
    name = next(n.output[0] for n in graph.node if n.op_type == "QuantizeLinear")
    (site,) = annotate(path, sites=[name]).sites
    assert (site["kind"], site["storage_format"]) == ("input", "uint8")
    assert [s["op"] for s in annotate(path, sites="Conv").sites] == ["relu", "conv", "relu"]
    with pytest.raises(ValueError, match="float16"):
        annotate(path, storage_format="float16")


@pytest.mark.parametrize("operators", [["MatMul", "Gemm"], ["Conv", "MatMul", "Gemm"]])
def test_dynamic_quantization(quantized, tmp_path, operators):
    """The layers' float results lie in memory, whether their products are of integers or not."""
    from onnxruntime.quantization import quantize_dynamic

    with quiet():
        try:
            quantize_dynamic(
                quantized / "float.onnx",
                tmp_path / "d.onnx",
                op_types_to_quantize=operators,
                weight_type=QuantType.QUInt8,
            )
        except onnx.shape_inference.InferenceError as error:
            pytest.skip(f"ONNX Runtime {onnxruntime.__version__} does not quantize it: {error}")
    result = annotate(tmp_path / "d.onnx", sites="layer,weight,bias")
    expected = annotate(quantized / "float.onnx", sites="layer,weight,bias").sites
    keys = ("kind", "op", "elements")
    assert [[s[k] for k in keys] for s in result.sites] == [[s[k] for k in keys] for s in expected]
    # The range of an activation is that of the batch.
    assert "the model mixes the samples of a batch: the batch is its sample" in result.notes
    assert {s["rows_per_sample"] for s in result.sites if s["kind"] == "activation"} == {-1}
    kinds = {(s["op"], s["storage_format"]) for s in result.sites if s["kind"] == "weight"}
    stored = "uint8" if "Conv" in operators else "native"
    assert kinds == {("conv", stored), ("linear", "uint8")}
    close(outputs_at(result.model), outputs_at(tmp_path / "d.onnx"))
    if "Conv" in operators:
        assert [s["op"] for s in annotate(tmp_path / "d.onnx", sites="ConvInteger").sites] == [
            *("conv", "conv", "conv"),
        ]
