# SPDX-License-Identifier: Apache-2.0
"""The annotated file: metadata, types, defaults, parity, and what may not happen to it."""

import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto
from torch import nn

from noisystore import ortops
from noisystore.export import NoisyStore, export_onnx, instrument, noise, vgg
from noisystore.ortops import reference
from noisystore.ortops.errors import InputError
from noisystore.ortops.noise_inputs import NOISE_INPUTS


class Small(nn.Module):
    normalization = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 5)

    def forward(self, image):
        y = F.relu(self.bn(self.conv(image)))
        return self.fc(torch.sigmoid(y.mean((2, 3))))


def warmed(model):
    """Give batch normalisation statistics that are not the identity."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    return model.eval()


def stores(model):
    return [n for n in model.graph.node if n.op_type == "NoisyStore"]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    torch.manual_seed(0)
    model = warmed(Small()).train()
    path = tmp_path_factory.mktemp("onnx") / "small.onnx"
    result = export_onnx(model, torch.randn(1, 3, 6, 6), path, sites=["layer", "input"])
    assert model.training
    return model.eval(), path, result


def test_inputs_defaults_and_versions(small):
    _, path, result = small
    model = onnx.load(path)
    onnx.checker.check_model(model)
    count = len(result.sites)
    assert [v.name for v in model.graph.input] == ["image", *NOISE_INPUTS]
    kinds = [v.type.tensor_type.elem_type for v in model.graph.input[1:]]
    assert kinds == [TensorProto.DOUBLE, TensorProto.UINT64, TensorProto.INT64, TensorProto.INT64]
    dims = [
        [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in model.graph.input
    ]
    assert dims == [["batch", 3, 6, 6], [count, 2], [count], [1], ["noise_samples"]]
    defaults = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    assert not defaults["noise.bit_error_rate"].any()
    assert (defaults["noise.bit_mask"] == np.uint64(2**64 - 1)).all()
    assert defaults["noise.seed"].tolist() == defaults["noise.sample_index"].tolist() == [0]
    assert model.ir_version <= 9
    versions = {o.domain: o.version for o in model.opset_import}
    assert versions.keys() == {"", "noisystore"}
    assert versions["noisystore"] == 1
    assert versions[""] <= 18
    assert not any(n.metadata_props for n in model.graph.node)


def test_nodes_and_metadata(small):
    _, path, result = small
    model = onnx.load(path)
    props = {p.key: p.value for p in model.metadata_props}
    assert props["noisystore.noise_model"] == "1"
    assert json.loads(props["noisystore.normalization"]) == {"mean": [0.5] * 3, "std": [0.25] * 3}
    records = json.loads(props["noisystore.sites"])
    assert records == result.sites == result["sites"]
    assert [r["name"] for r in records] == [
        "image",
        "conv",
        "bn",
        "relu",
        "avg_pool",
        "sigmoid",
    ]
    assert records[0]["kind"] == "input"
    assert records[3] == {
        "site": 3,
        "name": "relu",
        "kind": "activation",
        "op": "relu",
        "storage_format": "native",
        "elements": 144,
        "bits_per_word": 32,
        "rows_per_sample": 1,
    }
    assert result.bits_per_sample == 32 * (108 + 3 * 144 + 4 + 4)
    assert result.path == str(path)
    for number, node in enumerate(stores(model)):
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        assert attributes == {"site": number, "rows_per_sample": 1}
        assert list(node.input[1:]) == list(NOISE_INPUTS)


def test_one_session_clean_and_noisy(small, runner, same_bits):
    model, path, result = small
    count = len(result.sites)
    run = runner(path)
    x = torch.randn(5, 3, 6, 6)
    clean = run(x)
    np.testing.assert_allclose(clean, model(x).detach().numpy(), atol=1e-5)
    noisy = run(x, 1e-2, count, seed=3, sample_index=8)
    assert not np.array_equal(noisy, clean, equal_nan=True)
    assert not same_bits(run(x, 1e-2, count, seed=4, sample_index=8), noisy)
    assert same_bits(run(x, 1e-2, count, seed=3, sample_index=[8, 9, 10, 11, 12]), noisy)
    assert same_bits(run(x, 1e-2, count, seed=3, sample_index=8), noisy)
    assert same_bits(run(x, 1e-2, count, seed=3, mask=0), clean)
    assert same_bits(run(x), clean)


def test_nothing_is_folded_or_captured(small, runner, tmp_path):
    _, path, result = small
    optimized = tmp_path / "optimized.onnx"
    runner(path, optimized)
    model = onnx.load(optimized)
    nodes = stores(model)
    assert len(nodes) == len(result.sites)
    assert {v.name for v in model.graph.input} >= set(NOISE_INPUTS)
    produced = {name for n in model.graph.node for name in n.output}
    for node in nodes:
        assert list(node.input[1:]) == list(NOISE_INPUTS)
        assert node.input[0] in produced | {"image"}


def test_runs_without_naming_a_noise_input(small, runner):
    _, path, _ = small
    overridable = runner(path).session.get_overridable_initializers()
    assert {v.name for v in overridable} == set(NOISE_INPUTS)
    assert [v.name for v in runner(path).session.get_inputs()] == ["image"]


class Through(nn.Module):
    """Gives its input as it comes out of the memory."""

    def __init__(self, rows=1):
        super().__init__()
        self.store = NoisyStore()
        self.rows = rows

    def forward(self, x):
        return self.store(x.unflatten(1, (self.rows, -1)).flatten(0, 1)).flatten(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int8, torch.uint8])
@pytest.mark.parametrize("rate", [1e-3, 0.04, 0.5])
def test_bits_of_torch_onnx_runtime_and_reference(dtype, rate, tmp_path, runner, same_bits):
    x = (torch.randn(3, 8, 33) * 40).to(dtype)
    model = Through(4).eval()
    result = export_onnx(model, x, tmp_path / "m.onnx", sites=[])
    assert [s["rows_per_sample"] for s in result.sites] == [4]
    assert result.bits_per_sample == 8 * 33 * dtype.itemsize * 8
    in_ort = runner(tmp_path / "m.onnx")(x, rate, seed=9, sample_index=[6, 0, 2])
    noisy = instrument(model, sites=[])
    with noise(noisy, rate, seed=9, sample_index=[6, 0, 2]):
        in_torch = noisy(x).numpy()
    rows = x.numpy().reshape(12, 2, 33)
    expected = reference.apply(rows, rate, seed=9, sample_index=[6, 0, 2], rows_per_sample=4)
    assert same_bits(in_ort, expected.reshape(12, 66))
    assert same_bits(in_torch, in_ort)


@pytest.mark.parametrize("name", ["A", "B", "D", "E"])
def test_vgg_activation_is_bit_for_bit_the_plain_export(name, tmp_path, runner, same_bits):
    model = warmed(vgg(name, width=0.1))
    x = torch.randn(4, 3, 32, 32)
    result = export_onnx(model, x[:1], tmp_path / "noisy.onnx")
    convolutions = {"A": 8, "B": 10, "D": 13, "E": 16}[name]
    assert len(result.sites) == convolutions
    assert all(s["name"].startswith("features.") and s["op"] == "relu" for s in result.sites)
    batch = torch.export.Dim("batch")
    torch.onnx.export(
        model, (x,), tmp_path / "plain.onnx", dynamo=True, dynamic_shapes=({0: batch},)
    )
    plain, noisy = runner(tmp_path / "plain.onnx"), runner(tmp_path / "noisy.onnx")
    assert same_bits(noisy(x), plain(x))
    np.testing.assert_allclose(noisy(x), model(x).detach().numpy(), atol=1e-4)


def test_vgg_layer_sites(tmp_path, runner):
    model = warmed(vgg("A", width=0.1))
    result = export_onnx(model, torch.randn(1, 3, 32, 32), tmp_path / "m.onnx", sites="layer")
    assert [s["name"] for s in result.sites] == [f"features.{i}" for i in range(29)]
    x = torch.randn(4, 3, 32, 32)
    np.testing.assert_allclose(runner(tmp_path / "m.onnx")(x), model(x).detach().numpy(), atol=1e-4)


def test_an_instrumented_model_exports_with_its_sites(tmp_path):
    noisy = instrument(Small(), sites="input")
    with noise(noisy, 0.5):
        result = export_onnx(noisy, torch.randn(2, 3, 6, 6), tmp_path / "m.onnx")
    assert [s["name"] for s in result.sites] == ["image"]
    assert not noisy.model.conv.weight.isnan().any()


def test_opset_20_and_explicit_normalization(tmp_path, runner):
    model = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 2)).eval()
    x = torch.randn(2, 4)
    result = export_onnx(
        model, x, tmp_path / "m.onnx", opset_version=20, normalization=([0.1], [0.3])
    )
    assert [s["name"] for s in result.sites] == ["1"]
    loaded = onnx.load(tmp_path / "m.onnx")
    assert max(o.version for o in loaded.opset_import) <= 20
    props = {p.key: p.value for p in loaded.metadata_props}
    assert json.loads(props["noisystore.normalization"]) == {"mean": [0.1], "std": [0.3]}
    np.testing.assert_allclose(runner(tmp_path / "m.onnx")(x), model(x).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bit_tensors_name_their_format(dtype, tmp_path):
    kind = getattr(torch, dtype)
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).to(kind).eval()
    result = export_onnx(model, torch.randn(2, 4, dtype=kind), tmp_path / "m.onnx")
    assert result.sites[0]["storage_format"] == dtype
    assert result.sites[0]["bits_per_word"] == 16
    (node,) = stores(onnx.load(tmp_path / "m.onnx"))
    formats = [a.s.decode() for a in node.attribute if a.name == "storage_format"]
    assert formats == [dtype]


def test_bad_arguments(tmp_path):
    model, x = Small().eval(), torch.randn(1, 3, 6, 6)
    cases = [
        ({"sites": "conv.bias"}, "conv.bias"),
        ({"storage_format": "float12"}, "storage format"),
        ({"normalization": "imagenet"}, "normalization"),
        ({"normalization": ([0.1], [0.0])}, "normalization"),
        ({"opset_version": 25}, "opset_version"),
    ]
    for keywords, match in cases:
        with pytest.raises(InputError, match=match):
            export_onnx(model, x, tmp_path / "m.onnx", **keywords)
    with pytest.raises(InputError, match="does not exist"):
        export_onnx(model, x, tmp_path / "none" / "m.onnx")
    (tmp_path / "taken.onnx").mkdir()
    with pytest.raises(InputError, match="cannot be written"):
        export_onnx(model, x, tmp_path / "taken.onnx")
    with pytest.raises(InputError, match="cannot trace"):
        export_onnx(model, torch.randn(1, 7), tmp_path / "m.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["taken.onnx"]


def test_the_file_needs_the_library(small):
    _, path, _ = small
    with pytest.raises(Exception, match="noisystore"):
        ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert ortops.library_path()


def test_inputs_named_like_the_noise_and_as_long_as_the_batch(tmp_path, runner):
    class Product(nn.Module):
        def forward(self, noise_seed, noise_bit_mask):
            return torch.relu(noise_seed @ noise_bit_mask)

    args = (torch.randn(4, 4), torch.randn(4, 3))
    export_onnx(Product(), args, tmp_path / "m.onnx")
    inputs = onnx.load(tmp_path / "m.onnx").graph.input
    assert [v.name for v in inputs] == ["noise_seed", "noise_bit_mask", *NOISE_INPUTS]
    x = torch.randn(7, 4)
    run = runner(tmp_path / "m.onnx").session.run
    (got,) = run(None, {"noise_seed": x.numpy(), "noise_bit_mask": args[1].numpy()})
    np.testing.assert_allclose(got, torch.relu(x @ args[1]), atol=1e-5)


def test_the_same_model_gives_the_same_bytes_and_a_named_batch(tmp_path):
    class Two(nn.Module):
        def forward(self, left, right):
            return torch.relu(left - right)

    args = (torch.randn(1, 4), torch.randn(1, 4))
    for name in ("a.onnx", "b.onnx"):
        export_onnx(Two(), args, tmp_path / name)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    graph = onnx.load(tmp_path / "a.onnx").graph
    for value in (*graph.input[:2], *graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"
