# SPDX-License-Identifier: Apache-2.0
"""Weights and biases as sites of exported files: names, order, bits and sizes."""

import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from small_networks import Cnn, Shared, Tied, memory_of, warmed
from torch import nn

from noisystore import ortops
from noisystore.export import NoisyStore, annotate, export_onnx, instrument, vgg
from noisystore.ortops import reference
from noisystore.ortops.errors import InputError
from noisystore.runtime.cli import main

IMAGE = torch.randn(2, 3, 8, 8)


def named(result, *kinds):
    return [r["name"] for r in result.sites if r["kind"] in (kinds or ("weight", "bias"))]


def held_by_runtime(path, x, rate, sites, seed=0, sample_index=0):
    """Run a file in ONNX Runtime; what NoisyStore reads and gives at each site, by number."""
    model = onnx.load(path)
    stores = [n for n in model.graph.node if n.op_type == "NoisyStore"]
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    del model.graph.output[:]
    wanted = {}
    for node in stores:
        (number,) = (a.i for a in node.attribute if a.name == "site")
        wanted[number] = (node.input[0], node.output[0])
    tensors = {name for pair in wanted.values() for name in pair if name not in constants}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(tensors))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    ortops.register(options)
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feeds = {
        session.get_inputs()[0].name: x.numpy(),
        "noise.bit_error_rate": np.full((sites, 2), rate),
        "noise.seed": np.array([seed]),
        "noise.sample_index": np.array([sample_index]),
    }
    values = dict(zip(sorted(tensors), session.run(sorted(tensors), feeds), strict=True))
    values |= {name: value for name, value in constants.items() if name not in values}
    return {number: (values[a], values[b]) for number, (a, b) in wanted.items()}


def test_vgg_a_has_nine_weights_and_nine_biases(tmp_path, runner):
    model = warmed(vgg("A", width=0.1))
    result = export_onnx(
        model, torch.randn(1, 3, 32, 32), tmp_path / "m.onnx", sites="weight,bias,activation"
    )
    convolutions = [f"features.{i}" for i in (0, 4, 8, 11, 15, 18, 22, 25)]
    layers = [*convolutions, "classifier"]
    assert named(result, "weight") == [f"{layer}.weight" for layer in layers]
    assert named(result, "bias") == [f"{layer}.bias" for layer in layers]
    kinds = [r["kind"] for r in result.sites]
    assert kinds == ["weight", "bias", "activation"] * 8 + ["weight", "bias"]
    assert [r["site"] for r in result.sites] == list(range(26))
    assert {r["rows_per_sample"] for r in result.sites if r["kind"] != "activation"} == {0}
    activations = [r for r in result.sites if r["kind"] == "activation"]
    assert result.bits_per_sample == sum(32 * r["elements"] for r in activations)
    folded = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d)]
    convolved = sum(weight.numel() + len(weight) for weight in folded)
    linear = model.classifier.weight.numel() + 10
    assert result.parameter_bits == result["parameter_bits"] == 32 * (convolved + linear)
    file = onnx.load(tmp_path / "m.onnx")
    props = {p.key: p.value for p in file.metadata_props}
    assert json.loads(props["noisystore.sites"]) == result.sites
    x = torch.randn(4, 3, 32, 32)
    np.testing.assert_allclose(runner(tmp_path / "m.onnx")(x), model(x).detach().numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("sites", "expected"),
    [
        ("weight", ["first.weight", "second.weight", "head.weight"]),
        ("bias", ["first.bias", "head.bias"]),
        ("second.weight", ["second.weight"]),
        (["*.bias", "relu*"], ["first.bias", "relu", "relu:1", "head.bias"]),
        (["input", "head.*"], ["image", "head.weight", "head.bias"]),
        (
            ["layer", "weight"],
            [
                "first.weight",
                "first",
                "relu",
                "max_pool",
                "second.weight",
                "second",
                "relu:1",
                "head.weight",
            ],
        ),
    ],
)
def test_each_kind_alone_and_patterns(sites, expected, tmp_path, runner):
    model = Cnn().eval()
    result = export_onnx(model, IMAGE, tmp_path / "m.onnx", sites=sites)
    assert [r["name"] for r in result.sites] == expected
    run = runner(tmp_path / "m.onnx")
    clean = run(IMAGE)
    np.testing.assert_allclose(clean, model(IMAGE).detach().numpy(), atol=1e-5)
    assert not np.array_equal(run(IMAGE, 0.2, len(expected), mask=0x7FFFFF), clean)


@pytest.mark.parametrize("rate", [1e-3, 0.3])
def test_bits_of_pytorch_onnx_runtime_and_reference(rate, tmp_path, same_bits):
    model = Cnn().eval()
    sites = "input,weight,bias,layer"
    result = export_onnx(model, IMAGE, tmp_path / "m.onnx", sites=sites)
    noisy = instrument(model, sites=sites, args=IMAGE)
    assert [s.as_dict() for s in noisy.sites] == result.sites
    in_torch = memory_of(noisy, IMAGE, bit_error_rate=rate, seed=3, sample_index=5)
    count = len(result.sites)
    in_ort = held_by_runtime(tmp_path / "m.onnx", IMAGE, rate, count, seed=3, sample_index=5)
    for record in result.sites:
        number = record["site"]
        clean, got = in_ort[number]
        index = 5 if record["rows_per_sample"] else 0
        expected = reference.apply(
            clean,
            rate,
            seed=3,
            site=number,
            sample_index=index,
            rows_per_sample=record["rows_per_sample"],
        )
        assert same_bits(got, expected), record
        if record["kind"] in ("weight", "bias", "input"):
            assert same_bits(got, in_torch[number]), record


def test_a_shared_module_and_tied_weights(tmp_path):
    x = torch.randn(2, 4)
    result = export_onnx(warmed(Shared()), x, tmp_path / "m.onnx", sites="weight,bias,activation")
    assert [r["name"] for r in result.sites] == ["second.weight", "second.bias", "relu"]
    nodes = onnx.load(tmp_path / "m.onnx").graph.node
    stored = {n.output[0] for n in nodes if n.op_type == "NoisyStore"}
    gemms = [n for n in nodes if n.op_type == "Gemm"]
    assert len(gemms) == 2
    assert all({*n.input[1:]} <= stored for n in gemms)


def test_a_transformer_has_the_names_of_its_modules(tmp_path):
    model = warmed(Tied())
    tokens = torch.randint(0, 11, (2, 5))
    sites = "weight,bias,activation"
    result = export_onnx(model, tokens, tmp_path / "m.onnx", sites=sites)
    traced = instrument(model, sites=sites, args=tokens)
    expected = {
        (s.name, s.kind) for s in traced.sites if s.name != "encoder.self_attn.in_proj_weight"
    } | {("encoder.self_attn.weight", "weight")}
    assert {(r["name"], r["kind"]) for r in result.sites} == expected


def test_resnet18_counts(tmp_path):
    models = pytest.importorskip("torchvision.models")
    model = warmed(models.resnet18(num_classes=10))
    x = torch.randn(1, 3, 32, 32)
    result = export_onnx(model, x, tmp_path / "m.onnx", sites="weight,bias")
    assert len(named(result, "weight")) == len(named(result, "bias")) == 21
    assert result.sites[0]["name"] == "conv1.weight"
    assert result.sites[-1]["name"] == "fc.bias"
    assert result.bits_per_sample == 0
    folded = sum(m.weight.numel() + len(m.weight) for m in model.modules() if type(m) is nn.Conv2d)
    assert result.parameter_bits == 32 * (folded + 512 * 10 + 10)
    noisy = instrument(model, sites="weight,bias", args=x)
    assert [s.kind for s in noisy.sites].count("weight") == 41
    assert [s.kind for s in noisy.sites].count("bias") == 21


def test_formats_of_files(tmp_path, same_bits):
    model = Cnn().eval()
    result = export_onnx(
        model,
        IMAGE,
        tmp_path / "m.onnx",
        sites="weight,activation",
        storage_format="weight=bfloat16,activation=float16",
    )
    assert [r["storage_format"] for r in result.sites] == [
        *("bfloat16", "float16", "bfloat16", "float16", "bfloat16")
    ]
    assert {r["bits_per_word"] for r in result.sites} == {16}
    clean, got = held_by_runtime(tmp_path / "m.onnx", IMAGE, 0.02, 5, seed=1)[2]
    expected = reference.apply(
        clean, 0.02, seed=1, site=2, storage_format="bfloat16", rows_per_sample=0
    )
    assert same_bits(got, expected)
    half = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).half().eval()
    x = torch.randn(2, 4).half()
    result = export_onnx(half, x, tmp_path / "h.onnx", sites="weight,bias,activation")
    assert [r["storage_format"] for r in result.sites] == ["float16"] * 3


def test_errors_leave_no_file(tmp_path):
    bare = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU())
    cases = [
        (bare, {"sites": "bias"}, "of the graph has a bias"),
        (bare, {"sites": "activation,bias"}, "has a bias"),
        (bare, {"sites": "1.weight"}, "its parameters are 0.weight"),
        (bare, {"sites": "weight", "storage_format": "weight=int8"}, "quantize"),
        (nn.ReLU(), {"sites": "weight"}, "has a weight"),
    ]
    for model, keywords, words in cases:
        with pytest.raises(InputError) as caught:
            export_onnx(model.eval(), torch.randn(2, 4), tmp_path / "m.onnx", **keywords)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_annotating_a_plain_export_gives_the_same_file(tmp_path, runner, same_bits):
    model = warmed(vgg("A", width=0.05))
    x = torch.randn(2, 3, 32, 32)
    sites = "weight,bias,activation"
    result = export_onnx(model, x, tmp_path / "a.onnx", sites=sites)
    batch = torch.export.Dim("batch")
    torch.onnx.export(
        model, (x,), tmp_path / "plain.onnx", dynamo=True, dynamic_shapes=({0: batch},)
    )
    annotated = annotate(tmp_path / "plain.onnx", tmp_path / "b.onnx", sites=sites)
    assert annotated.sites == result.sites
    assert annotated.parameter_bits == result.parameter_bits
    one, other = runner(tmp_path / "a.onnx"), runner(tmp_path / "b.onnx")
    for rate in (0.0, 1e-4, 0.2):
        assert same_bits(one(x, rate, 26, seed=4), other(x, rate, 26, seed=4))


def test_patterns_name_the_parameters_of_the_file(tmp_path):
    model = warmed(vgg("A", width=0.05))
    x = torch.randn(1, 3, 32, 32)
    result = export_onnx(model, x, tmp_path / "m.onnx", sites="features.?.*,features.6")
    names = [f"features.{i}.{role}" for i in (0, 4, 8) for role in ("weight", "bias")]
    assert [r["name"] for r in result.sites] == [*names[:4], "features.6", *names[4:]]
    for gone in ("features.1.bias", "Conv"):
        with pytest.raises(InputError, match=f"nothing matches '{gone}'"):
            export_onnx(model, x, tmp_path / "m.onnx", sites=["activation", gone])


def test_the_command_line(tmp_path, capsys):
    options = ["export", "vgg-a", "--width", "0.0625", "-o", str(tmp_path / "m.onnx")]
    formats = ["--storage-format", "weight=bfloat16,activation=float16"]
    assert main([*options, "--sites", "weight,bias,activation", *formats, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    found = {(r["kind"], r["storage_format"]) for r in result["sites"]}
    assert found == {("weight", "bfloat16"), ("bias", "native"), ("activation", "float16")}
    once = [r for r in result["sites"] if r["kind"] != "activation"]
    bits = sum(r["elements"] * r["bits_per_word"] for r in once)
    assert result["parameter_bits"] == bits > 0
    (tmp_path / "m.onnx").unlink()
    for bad, words in (
        (["--sites", "weights"], "'weight', 'bias'"),
        (["--storage-format", "weights=float16"], "unknown kind of site 'weights'"),
        (["--sites", "weight", "--storage-format", "weight=int4"], "noisystore quantize"),
        (["--sites", "features.99.bias"], "its parameters are features.0.weight"),
    ):
        assert main([*options, *bad]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert words in line
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_the_model_places_on_a_weight(tmp_path, same_bits):
    class Placed(nn.Module):
        def __init__(self):
            super().__init__()
            self.store = NoisyStore("bfloat16")
            self.linear = nn.Linear(4, 6)

        def forward(self, x):
            return torch.relu(F.linear(x, self.store(self.linear.weight), self.linear.bias))

    model, x = Placed().eval(), torch.randn(2, 4)
    result = export_onnx(model, x, tmp_path / "m.onnx", sites="weight,bias,activation")
    found = [(r["name"], r["kind"], r["rows_per_sample"]) for r in result.sites]
    assert found == [("store", "weight", 0), ("linear.bias", "bias", 0), ("relu", "activation", 1)]
    assert result.parameter_bits == 24 * 16 + 6 * 32
    clean, got = held_by_runtime(tmp_path / "m.onnx", x, 0.1, 3, seed=2)[0]
    expected = reference.apply(clean, 0.1, seed=2, storage_format="bfloat16", rows_per_sample=0)
    assert same_bits(clean, model.linear.weight.detach().numpy())
    assert same_bits(got, expected)
