# SPDX-License-Identifier: Apache-2.0
"""annotate on PyTorch's exports: the same sites and bits as export_onnx, at rate 0 the model."""

import numpy as np
import onnx
import onnx_models as om
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from noisystore.export import annotate, export_onnx, vgg
from noisystore.export.torch_graph import quiet
from noisystore.ortops.errors import InputError

RATES = (0.0, 1e-4, 0.02, 0.5)


def warmed(model):
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    return model.eval()


class Plain(nn.Module):
    """Layers that the exporter leaves as they are: no batch normalisation to merge."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Hardswish())
        self.norm = nn.GroupNorm(2, 4)
        self.block = nn.Sequential(nn.Conv2d(4, 6, 3, bias=False), nn.SiLU(), nn.MaxPool2d(2))
        self.fc = nn.Linear(6, 5)
        self.last = nn.Linear(5, 3)

    def forward(self, x):
        y = self.block(self.norm(self.stem(x))).mean((2, 3))
        return self.last(F.gelu(self.fc(y)))


def plain_export(model, example, path):
    with quiet():
        torch.onnx.export(
            model,
            (example,),
            str(path),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            external_data=False,
        )
    return path


def legacy_export(model, example, path, opset):
    with quiet():
        torch.onnx.export(
            model,
            (example,),
            str(path),
            dynamo=False,
            opset_version=opset,
            input_names=["x"],
            dynamic_axes={"x": {0: "n"}},
        )
    return path


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A network, its example and its plain export."""
    torch.manual_seed(0)
    model, example = Plain().eval(), torch.randn(2, 3, 8, 8)
    path = tmp_path_factory.mktemp("plain") / "plain.onnx"
    return model, example, plain_export(model, example, path)


def assert_same_sites_and_bits(
    model, example, plain, sites, tmp_path, runner, same_bits, **options
):
    annotated = annotate(plain, tmp_path / "annotated.onnx", sites=sites, **options)
    other = export_onnx(model, example, tmp_path / "exported.onnx", sites=sites, **options)
    assert annotated.sites == other.sites
    assert annotated.bits_per_sample == other.bits_per_sample
    assert annotated.parameter_bits == other.parameter_bits
    first, second = runner(tmp_path / "annotated.onnx"), runner(tmp_path / "exported.onnx")
    x = torch.randn(4, *example.shape[1:])
    for rate in RATES:
        arguments = (x, rate, len(annotated.sites), 5, 7)
        assert same_bits(first(*arguments), second(*arguments))
    assert not same_bits(first(x, 0.02, len(annotated.sites)), first(x))
    return annotated


def test_vgg_activation(tmp_path, runner, same_bits):
    model, example = warmed(vgg("A", width=0.1)), torch.randn(2, 3, 32, 32)
    plain = plain_export(model, example, tmp_path / "plain.onnx")
    result = assert_same_sites_and_bits(
        model, example, plain, "activation", tmp_path, runner, same_bits
    )
    assert [s["name"] for s in result.sites][:2] == ["features.2", "features.6"]
    clean = runner(plain)
    x = torch.randn(3, 3, 32, 32)
    assert same_bits(runner(tmp_path / "annotated.onnx")(x), clean(x))


def test_resnet_with_merged_batch_normalisation(tmp_path, runner, same_bits):
    torchvision = pytest.importorskip("torchvision")
    model = warmed(torchvision.models.resnet18(weights=None))
    example = torch.randn(2, 3, 32, 32)
    plain = plain_export(model, example, tmp_path / "plain.onnx")
    result = assert_same_sites_and_bits(
        model, example, plain, "activation", tmp_path, runner, same_bits
    )
    assert len(result.sites) == 17
    assert result.sites[1]["name"] == "layer1.0.relu"


@pytest.mark.parametrize("sites", ["weight", "input,layer,weight,bias", "block.*,fc.weight"])
def test_every_kind_of_site(exported, sites, tmp_path, runner, same_bits):
    assert_same_sites_and_bits(*exported, sites, tmp_path, runner, same_bits)


def test_formats_by_kind(exported, tmp_path, runner, same_bits):
    formats = {"weight": "bfloat16", "activation": "float16"}
    result = assert_same_sites_and_bits(
        *exported,
        "activation,weight,bias",
        tmp_path,
        runner,
        same_bits,
        storage_format=formats,
    )
    named = {(s["kind"], s["storage_format"], s["bits_per_word"]) for s in result.sites}
    assert named == {
        ("weight", "bfloat16", 16),
        ("activation", "float16", 16),
        ("bias", "native", 32),
    }


ACTIVATIONS = {"resnet18": 17, "mobilenet_v3_small": 42, "efficientnet_b0": 65}
QUICK = {("resnet18", 11), ("mobilenet_v3_small", 13)}


@pytest.mark.parametrize(
    ("name", "opset"),
    [
        pytest.param(name, opset, marks=() if (name, opset) in QUICK else pytest.mark.long)
        for name in ACTIVATIONS
        for opset in (11, 13, 17, None)
    ],
)
def test_torchvision_by_both_exporters(name, opset, tmp_path, runner):
    torchvision = pytest.importorskip("torchvision")
    model = warmed(getattr(torchvision.models, name)(weights=None))
    x = torch.randn(2, 3, 32, 32)
    if opset is None:
        plain = plain_export(model, x, tmp_path / "plain.onnx")
    else:
        plain = legacy_export(model, x, tmp_path / "plain.onnx", opset)
    result = annotate(plain, tmp_path / "noisy.onnx")
    assert len(result.sites) == ACTIVATIONS[name]
    assert result.notes == []
    assert {s["rows_per_sample"] for s in result.sites} == {1}
    assert all(s["elements"] > 0 for s in result.sites)
    om.close([runner(tmp_path / "noisy.onnx")(x)], [runner(plain)(x)])
    made = onnx.load(tmp_path / "noisy.onnx")
    assert made.ir_version <= 9
    assert max(o.version for o in made.opset_import if not o.domain) <= 20


@pytest.mark.parametrize("opset", [11, 14, 17])
def test_written_out_functions_count_once(opset, tmp_path, runner):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)
            self.norm = nn.GroupNorm(2, 4)
            self.ln = nn.LayerNorm(4)

        def forward(self, x):
            y = F.mish(F.hardswish(self.norm(self.conv(x))))
            y = F.softplus(F.silu(y)).mean((2, 3))
            return F.gelu(self.ln(y)) * 2

    x = torch.randn(2, 3, 8, 8)
    plain = legacy_export(Net().eval(), x, tmp_path / "plain.onnx", opset)
    result = annotate(plain, tmp_path / "noisy.onnx", sites="layer")
    assert [s["op"] for s in result.sites] == [
        *("conv", "group_norm", "hardswish", "mish", "silu", "softplus"),
        *("avg_pool", "layer_norm", "gelu"),
    ]
    om.close([runner(tmp_path / "noisy.onnx")(x)], [runner(plain)(x)])
    parameters = annotate(plain, sites="weight,bias").sites
    assert [(s["kind"], s["op"], s["elements"]) for s in parameters] == [
        ("weight", "conv", 108),
        ("bias", "conv", 4),
        ("weight", "group_norm", 4),
        ("bias", "group_norm", 4),
        ("weight", "layer_norm", 4),
        ("bias", "layer_norm", 4),
    ]


def test_operators_tensors_and_patterns_choose_sites(exported):
    plain = exported[2]
    by_operator = annotate(plain, sites=["Conv"]).sites
    assert [s["name"] for s in by_operator] == ["stem.0", "block.0"]
    assert [s["name"] for s in annotate(plain, sites="block.*").sites] == [
        "block.0",
        "block.1",
        "block.2",
    ]
    tensor = next(n.output[0] for n in onnx.load(plain).graph.node if n.op_type == "MaxPool")
    assert [s["name"] for s in annotate(plain, sites=[tensor]).sites] == ["block.2"]
    assert [s["name"] for s in annotate(plain, sites="*.weight").sites] == [
        *("stem.0.weight", "norm.weight", "block.0.weight", "fc.weight", "last.weight"),
    ]


def test_rows_of_a_sample_are_measured(tmp_path, runner):
    class Heads(nn.Module):
        def forward(self, x):
            y = torch.relu(x.unflatten(1, (2, 3)).flatten(0, 1))
            mixed = torch.sigmoid(y - y.mean(0))
            turned = torch.tanh(x.t())
            return y.sum() + mixed.sum() + turned.sum()

    plain = plain_export(Heads(), torch.randn(2, 6), tmp_path / "plain.onnx")
    result = annotate(plain, tmp_path / "noisy.onnx")
    found = {s["op"]: (s["rows_per_sample"], s["elements"]) for s in result.sites}
    assert found == {"relu": (2, 6), "sigmoid": (-1, 6), "tanh": (-1, 6)}
    assert result.notes == ["2 of 3 sites have no batch axis in front: batches stay whole"]
    values = [runner(p)(torch.randn(3, 6)) for p in (plain, tmp_path / "noisy.onnx")]
    assert np.isfinite(values).all()


def test_a_format_without_its_sites_is_refused_by_both_ways(exported, tmp_path):
    model, example, plain = exported
    for write in (
        lambda path: annotate(plain, path, storage_format="weight=bfloat16"),
        lambda path: export_onnx(model, example, path, storage_format="weight=bfloat16"),
    ):
        with pytest.raises(InputError, match="bfloat16 is for weight sites"):
            write(tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())
