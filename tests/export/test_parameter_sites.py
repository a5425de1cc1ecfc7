# SPDX-License-Identifier: Apache-2.0
"""Weights and biases as sites of PyTorch models: the rules, the bits and training."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_networks import Cnn, Shared, Tied, memory_of
from torch import nn
from torch.func import functional_call

from noisystore.export import NoisyStore, instrument, noise
from noisystore.export.dataflow import Node
from noisystore.export.sites import find_sites
from noisystore.export.torch_graph import dataflow, trace
from noisystore.ortops import reference
from noisystore.ortops.errors import InputError

IMAGE = torch.randn(2, 3, 8, 8)


def chosen(model, args, request):
    traced = trace(model.eval(), args)
    return [(c.name, c.kind, c.op) for c in find_sites(dataflow(traced.module, model), request)]


@pytest.fixture(scope="module")
def graph():
    """The nodes of `Cnn`, traced once."""
    model = Cnn().eval()
    return dataflow(trace(model, IMAGE).module, model)


WEIGHTS = ["first.weight", "second.weight", "head.weight"]


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ("weight", WEIGHTS),
        ("bias", ["first.bias", "head.bias"]),
        (
            ["activation", "weight", "bias"],
            [
                *("first.weight", "first.bias", "relu", "second.weight", "relu:1"),
                *("head.weight", "head.bias"),
            ],
        ),
        (
            "input,layer,weight",
            [
                *("image", "first.weight", "first", "relu", "max_pool"),
                *("second.weight", "second", "relu:1", "head.weight"),
            ],
        ),
        ("*.weight", WEIGHTS),
        ("second.weight", ["second.weight"]),
        ("first*", ["first"]),
        (["first*", "weight"], ["first.weight", "first", "second.weight", "head.weight"]),
        ([nn.Conv2d, "*.bias"], ["first.bias", "first", "second", "head.bias"]),
    ],
)
def test_kinds_and_patterns_in_execution_order(graph, request_, expected):
    assert [choice.name for choice in find_sites(graph, request_)] == expected


def test_kinds_of_records(graph):
    found = {c.name: (c.kind, c.op) for c in find_sites(graph, "weight,bias,layer")}
    assert found["first.weight"] == ("weight", "conv")
    assert found["first"] == ("activation", "conv")
    assert found["head.bias"] == ("bias", "linear")


def test_a_parameter_with_several_readers_and_names_is_one_site():
    assert chosen(Shared(), torch.randn(2, 4), "weight,bias,activation") == [
        ("second.weight", "weight", "linear"),
        ("second.bias", "bias", "linear"),
        ("relu", "activation", "relu"),
    ]
    found = chosen(Tied(), torch.randint(0, 11, (2, 5)), "weight,bias")
    layers = [
        *("encoder.self_attn.in_proj_", "encoder.self_attn.out_proj.", "encoder.norm1."),
        *("encoder.linear1.", "encoder.linear2.", "encoder.norm2."),
    ]
    expected = [layer + role for layer in layers for role in ("weight", "bias")]
    assert [name for name, _, _ in found] == [*expected, "head.weight"]


class Plain(nn.Module):
    """Parameters of its own: a product, its bias, a table of positions, slopes, a factor."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(9, 4)
        self.matrix = nn.Parameter(torch.randn(4, 5))
        self.shift = nn.Parameter(torch.randn(5))
        self.late = nn.Parameter(torch.randn(5))
        self.bare = nn.Linear(5, 5, bias=False)
        self.positions = nn.Parameter(torch.randn(3, 5))
        self.slope = nn.PReLU(3)
        self.factor = nn.Parameter(torch.tensor(2.0))

    def forward(self, tokens):
        y = self.embed(tokens) @ self.matrix + self.shift + self.late
        y = self.slope(self.bare(y) + self.positions)
        return self.bare(y) * self.factor + 1.0


def test_what_is_a_bias_and_what_is_no_parameter():
    assert chosen(Plain(), torch.randint(0, 9, (2, 3)), "weight,bias") == [
        ("matrix", "weight", "linear"),
        ("shift", "bias", "linear"),
        ("bare.weight", "weight", "linear"),
    ]


def test_normalisations_and_computed_weights():
    model = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.ConvTranspose2d(3, 4, 3)),
        nn.BatchNorm2d(4),
        nn.GroupNorm(2, 4),
        nn.InstanceNorm2d(4, affine=True),
        nn.BatchNorm2d(4, affine=False),
        nn.LayerNorm(10, bias=False),
    )
    assert chosen(model, IMAGE, "weight,bias") == [
        ("0.weight", "weight", "conv"),
        ("0.bias", "bias", "conv"),
        ("1.weight", "weight", "batch_norm"),
        ("1.bias", "bias", "batch_norm"),
        ("2.weight", "weight", "group_norm"),
        ("2.bias", "bias", "group_norm"),
        ("3.weight", "weight", "instance_norm"),
        ("3.bias", "bias", "instance_norm"),
        ("5.weight", "weight", "layer_norm"),
    ]
    noisy = instrument(model, sites="weight", args=IMAGE)
    with noise(noisy, 0.5, bit_mask=0x7FFFFF, seed=1):
        assert not torch.equal(noisy(IMAGE), model(IMAGE))
        noisy(IMAGE).sum().backward()
    original = model[0].parametrizations.weight.original1
    assert original.grad is not None
    assert original.grad.any()


@pytest.mark.parametrize(
    ("model", "request_", "words"),
    [
        (nn.Linear(4, 4, bias=False), "bias", "of the graph has a bias"),
        (nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU()), "activation,bias", "has a bias"),
        (nn.ReLU(), "weight", "has a weight"),
        (nn.Linear(4, 4), "weights", "'weight', 'bias'"),
        (nn.Linear(4, 4), "other.weight", "its parameters are weight, bias"),
    ],
)
def test_requests_that_match_nothing(model, request_, words):
    with pytest.raises(InputError) as caught:
        chosen(model, torch.randn(2, 4), request_)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("rate", [1e-3, (0.02, 0.001), 0.3])
def test_bits_are_those_of_the_reference_whatever_the_batch(rate, same_bits):
    model = Cnn().eval()
    noisy = instrument(model, sites="weight,bias,activation", args=IMAGE[:1])
    assert [s.rows_per_sample for s in noisy.sites] == [0, 0, 1, 0, 1, 0, 0]
    assert [s.elements for s in noisy.sites] == [108, 4, 256, 216, 24, 30, 5]
    parameters = [s for s in noisy.sites if s.kind != "activation"]
    for x, index in ((IMAGE, 7), (torch.randn(5, 3, 8, 8), [3, 1, 4, 1, 5])):
        held = memory_of(noisy, x, bit_error_rate=rate, seed=11, sample_index=index)
        for site in parameters:
            clean = model.get_parameter(site.name).detach().numpy()
            expected = reference.apply(clean, rate, seed=11, site=site.site, rows_per_sample=0)
            assert same_bits(held[site.site], expected)


def test_clean_equals_the_model_and_all_readers_read_the_site():
    model = Shared().eval()
    noisy = instrument(model, sites="weight,bias")
    x = torch.randn(3, 4)
    assert torch.equal(noisy(x), model(x))
    settings = {"bit_error_rate": 0.2, "bit_mask": 0x7FFFFF, "seed": 5}
    held = memory_of(noisy, x, **settings)
    changed = copy.deepcopy(model)
    changed.first.weight.data, changed.first.bias.data = map(torch.from_numpy, held.values())
    with noise(noisy, **settings):
        assert torch.equal(noisy(x), changed(x))
    assert not torch.equal(changed(x), model(x))


def test_the_embedding_of_a_tied_weight_reads_the_site_too():
    model = Tied().eval()
    tokens = torch.randint(0, 11, (2, 5))
    noisy = instrument(model, sites="head.weight", args=tokens)
    settings = {"bit_error_rate": 0.2, "bit_mask": 0x7FFFFF, "seed": 5}
    (held,) = memory_of(noisy, tokens, **settings).values()
    changed = copy.deepcopy(model)
    changed.embed.weight.data = torch.from_numpy(held)
    with noise(noisy, **settings):
        torch.testing.assert_close(noisy(tokens), changed(tokens))


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        return self.fc(F.relu(self.bn(self.conv(x))).mean((2, 3)))


def test_a_training_step_takes_the_gradient_at_the_noisy_parameters():
    model = Normed().train()
    noisy = instrument(model, sites="weight,bias")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x, labels = torch.randn(6, 3, 6, 6), torch.randint(5, (6,))
    settings = {"bit_error_rate": 0.05, "bit_mask": 0x7FFFFF, "seed": 9}
    held = memory_of(noisy, x, **settings)
    names = [site.name for site in noisy.sites]
    assert names == [
        f"{layer}.{role}" for layer in ("conv", "bn", "fc") for role in ("weight", "bias")
    ]
    model.load_state_dict(before)
    stored = {
        n: torch.tensor(v, requires_grad=True) for n, v in zip(names, held.values(), strict=True)
    }
    F.cross_entropy(functional_call(copy.deepcopy(model), stored, (x,)), labels).backward()
    optimizer = torch.optim.SGD(noisy.parameters(), lr=0.1)
    with noise(noisy, **settings):
        F.cross_entropy(noisy(x), labels).backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert not torch.equal(stored[name], before[name]), name
        torch.testing.assert_close(parameter.grad, stored[name].grad, msg=name)
        torch.testing.assert_close(parameter.data, before[name] - 0.1 * stored[name].grad, msg=name)
    assert int(model.bn.num_batches_tracked) == 1


def test_replaced_parameters_are_followed(same_bits):
    model = Shared().eval()
    noisy = instrument(model, sites="weight", args=torch.randn(2, 4))
    model.first.weight = nn.Parameter(torch.randn(4, 4))
    x = torch.randn(3, 4)
    assert torch.equal(noisy(x), model(x))
    (held,) = memory_of(noisy, x, bit_error_rate=0.1, seed=1).values()
    clean = model.first.weight.detach().numpy()
    assert same_bits(held, reference.apply(clean, 0.1, seed=1, rows_per_sample=0))


def test_a_store_placed_on_a_weight_is_its_site(same_bits):
    class Placed(nn.Module):
        def __init__(self):
            super().__init__()
            self.store = NoisyStore("bfloat16")
            self.linear = nn.Linear(4, 6)

        def forward(self, x):
            return F.linear(x, self.store(self.linear.weight), self.linear.bias)

    model = Placed().eval()
    noisy = instrument(model, sites="weight,bias", args=torch.randn(2, 4))
    found = [(s.name, s.kind, s.storage_format, s.rows_per_sample) for s in noisy.sites]
    assert found == [
        ("store", "weight", "bfloat16", 0),
        ("linear.bias", "bias", "native", 0),
    ]
    held = memory_of(noisy, torch.randn(2, 4), bit_error_rate=0.1, seed=1)
    clean = model.linear.weight.detach().numpy()
    stored = reference.apply(clean, 0.1, seed=1, storage_format="bfloat16", rows_per_sample=0)
    assert same_bits(held[0], stored)


def test_formats_by_kind_and_of_sixteen_bit_models(same_bits):
    model = Cnn().eval()
    formats = {"weight": "bfloat16", "activation": "float16"}
    noisy = instrument(model, sites="weight,bias,activation", storage_format=formats, args=IMAGE)
    named = [s.storage_format for s in noisy.sites]
    assert named == ["bfloat16", "native", "float16", "bfloat16", "float16", "bfloat16", "native"]
    assert [s.bits_per_word for s in noisy.sites] == [16, 32, 16, 16, 16, 16, 32]
    held = memory_of(noisy, IMAGE, bit_error_rate=0.1, seed=1)
    clean = model.first.weight.detach().numpy()
    stored = reference.apply(clean, 0.1, seed=1, storage_format="bfloat16", rows_per_sample=0)
    assert same_bits(held[0], stored)
    half = nn.Linear(4, 4).to(torch.bfloat16).eval()
    noisy = instrument(half, sites="weight,bias", args=torch.randn(2, 4, dtype=torch.bfloat16))
    assert [s.storage_format for s in noisy.sites] == ["bfloat16", "bfloat16"]
    with pytest.raises(InputError, match="scale"):
        instrument(model, sites="weight", storage_format={"weight": "int8"}, args=IMAGE)


def test_rates_by_site_leave_the_others_clean():
    model = Cnn().eval()
    noisy = instrument(model, sites="weight,bias", args=IMAGE)
    rates = np.zeros((5, 2))
    rates[1] = 0.5
    held = memory_of(noisy, IMAGE, bit_error_rate=rates, seed=2)
    for site in noisy.sites:
        same = np.array_equal(held[site.site], model.get_parameter(site.name).detach().numpy())
        assert same == (site.site != 1)


@pytest.mark.parametrize(
    ("label", "kind", "name"),
    [
        ("conv.weight", "weight", "conv.weight"),
        ("conv.weight_bias", "bias", "conv.bias"),
        ("conv.weight_bias_quantized", "bias", "conv.bias"),
        ("conv.weight_quantized", "weight", "conv.weight"),
        ("conv.weight_bias", "weight", "conv.weight_bias"),
    ],
)
def test_names_without_what_tools_append(label, kind, name):
    image = Node("input", label="x")
    parameter = Node("parameter", label=label, dynamic=False)
    layer = Node("conv", (image, None), parameters={kind: parameter}, is_output=True)
    assert [choice.name for choice in find_sites([image, layer], kind)] == [name]
