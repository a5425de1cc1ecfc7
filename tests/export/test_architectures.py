# SPDX-License-Identifier: Apache-2.0
"""Residual networks, torchvision's models and transformers export and run."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from noisystore.export import export_onnx, instrument, load_model


def counts(result):
    ops = [site["op"] for site in result.sites]
    return {op: ops.count(op) for op in set(ops)}


def check(model, args, path, runner, x, **keywords):
    result = export_onnx(model, args, path, **keywords)
    run = runner(path)
    with torch.no_grad():
        expected = model(x).numpy()
    np.testing.assert_allclose(run(x), expected, atol=1e-4)
    names = [site["name"] for site in result.sites]
    assert all(names)
    assert len(set(names)) == len(names)
    assert [site["site"] for site in result.sites] == list(range(len(names)))
    return result, run


class Residual(nn.Module):
    def __init__(self, functional):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.a = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 10)
        self.relu = F.relu if functional else nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.relu(self.stem(x))
        y = self.b(self.relu(self.norm(self.a(x))))
        y += x
        x = self.relu(y)
        return self.head(x.mean((2, 3)))


def test_residual_adds_written_either_way(tmp_path, runner, same_bits):
    outputs = []
    x = torch.randn(3, 3, 8, 8)
    for functional in (False, True):
        torch.manual_seed(1)
        model = Residual(functional).eval()
        result, run = check(model, x[:1], tmp_path / f"{functional}.onnx", runner, x)
        assert [s["name"] for s in result.sites] == ["relu", "relu:1", "relu:2"]
        outputs.append(run(x, 1e-3, 3, seed=2))
    assert same_bits(*outputs)


TORCHVISION = {
    "resnet18": {"relu": 17},
    "mobilenet_v3_small": {"hardswish": 19, "relu": 14, "hardsigmoid": 9},
    "vgg11_bn": {"relu": 10},
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(name, tmp_path, runner):
    models = pytest.importorskip("torchvision.models", reason="needs torchvision")
    if name not in models.list_models():
        pytest.skip(f"this torchvision has no {name}")
    model, _ = load_model(f"torchvision:{name}")
    x = torch.randn(3, 3, 64, 64)
    result, _ = check(model, x[:1], tmp_path / "m.onnx", runner, x)
    assert counts(result) == TORCHVISION[name]
    assert {site["rows_per_sample"] for site in result.sites} == {1}


class Encoder(nn.Module):
    def __init__(self, activation):
        super().__init__()
        self.embed = nn.Linear(6, 16)
        layer = nn.TransformerEncoderLayer(16, 4, 24, activation=activation, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        return self.head(self.encoder(self.embed(x)).mean(1))


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_transformer_encoder(activation, tmp_path, runner, same_bits):
    model = Encoder(activation).eval()
    x = torch.randn(6, 7, 6)
    result, run = check(model, x[:1], tmp_path / "m.onnx", runner, x)
    assert [s["name"] for s in result.sites] == [
        f"encoder.layers.{i}.{activation}" for i in range(2)
    ]
    assert [s["rows_per_sample"] for s in result.sites] == [1, 1]
    assert split_invariant(run, x, len(result.sites))


def test_the_fused_encoder_path_hides_no_site():
    model = Encoder("relu").eval().requires_grad_(False)
    with torch.no_grad():
        noisy = instrument(model, args=torch.randn(2, 7, 6))
    assert len(noisy.sites) == 2


class Attention(nn.Module):
    """Scores [N*heads, T, T] through an activation, tokens [N*T, E], and [T, N, E]."""

    def __init__(self):
        super().__init__()
        self.query = nn.Linear(8, 8)
        self.out = nn.Linear(8, 3)

    def forward(self, x):
        n, t, _ = x.shape
        q = self.query(x).view(n, t, 4, 2).transpose(1, 2).reshape(n * 4, t, 2)
        scores = torch.tanh(q @ q.transpose(1, 2))
        y = (scores @ q).view(n, 4, t, 2).transpose(1, 2).reshape(n * t, 8)
        y = torch.relu(y).view(n, t, 8)
        z = torch.sigmoid(y.transpose(0, 1)).transpose(0, 1)
        return self.out(y + z).flatten(1)


def test_rows_per_sample_of_reshaped_tensors(tmp_path, runner):
    model = Attention().eval()
    x = torch.randn(6, 5, 8)
    result, run = check(model, x[:1], tmp_path / "m.onnx", runner, x)
    assert [(s["op"], s["rows_per_sample"], s["elements"]) for s in result.sites] == [
        ("tanh", 4, 100),
        ("relu", 5, 40),
        ("sigmoid", -1, 40),
    ]
    assert not split_invariant(run, x, 3)
    result, run = check(
        model, x[:1], tmp_path / "split.onnx", runner, x, sites=["tanh", "relu", "query"]
    )
    assert [s["rows_per_sample"] for s in result.sites] == [1, 4, 5]
    assert split_invariant(run, x, 3)


def split_invariant(run, x, sites):
    """Say whether every way of cutting the data into batches gives the same bits."""
    whole = run(x, 3e-3, sites, seed=5, sample_index=20)
    for order in ([[0, 1], [2, 3], [4, 5]], [[5, 0, 3], [1, 4], [2]]):
        for part in order:
            index = np.array(part)
            got = run(x[index], 3e-3, sites, seed=5, sample_index=20 + index)
            if not np.allclose(got, whole[index], rtol=1e-3, atol=1e-5, equal_nan=True):
                return False
    return True


def test_a_tensor_without_the_batch_in_front(tmp_path, runner):
    class Mixed(nn.Module):
        def forward(self, x):
            return x + torch.tanh(x.mean(0, keepdim=True)) + torch.relu(x - x.mean(0))

    x = torch.randn(4, 3)
    result, _ = check(Mixed(), x, tmp_path / "m.onnx", runner, x)
    assert [(s["op"], s["rows_per_sample"], s["elements"]) for s in result.sites] == [
        ("tanh", -1, 3),
        ("relu", -1, 3),
    ]


def test_samples_that_mix_behind_the_last_site(tmp_path):
    class Centred(nn.Module):
        def forward(self, x):
            y = torch.relu(x)
            return y - y.mean(0), y

    x = torch.randn(4, 3)
    result = export_onnx(Centred(), x, tmp_path / "m.onnx")
    assert [s["rows_per_sample"] for s in result.sites] == [-1]


def test_outputs_of_one_axis(tmp_path):
    x = torch.randn(4, 3)
    for end in (lambda y: y.argmax(1), lambda y: y.sum(1), lambda y: y.sum()):

        class Ending(nn.Module):
            def forward(self, x, end=end):
                return end(torch.relu(x))

        result = export_onnx(Ending(), x, tmp_path / "m.onnx")
        assert [s["rows_per_sample"] for s in result.sites] == [1]


def test_an_output_whose_length_depends_on_the_values(tmp_path):
    class Chosen(nn.Module):
        def forward(self, x):
            y = torch.relu(x)
            return torch.nonzero(y > 0.1), y

    result = export_onnx(Chosen(), torch.randn(4, 30), tmp_path / "m.onnx")
    assert [s["rows_per_sample"] for s in result.sites] == [1]
