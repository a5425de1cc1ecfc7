# SPDX-License-Identifier: Apache-2.0
"""The site rules on traced PyTorch models."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from noisystore.export.sites import find_sites
from noisystore.export.torch_graph import dataflow, trace
from noisystore.ortops.errors import InputError


def sites(model, args, request="activation"):
    traced = trace(model.eval(), args)
    return [(c.name, c.op, c.kind) for c in find_sites(dataflow(traced.module, model), request)]


class Between(nn.Module):
    """linear - function - linear."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.a = nn.Linear(4, 4)
        self.b = nn.Linear(4, 4)

    def forward(self, x):
        return self.b(self.function(self.a(x)))


def ops(function, request="layer"):
    found = sites(Between(function), torch.randn(2, 4), request)
    assert found[0] == ("a", "linear", "activation")
    return [op for _, op, _ in found[1:]]


WAYS = {
    "relu": (
        *(nn.ReLU, F.relu, torch.relu, lambda x: x.relu(), lambda x: F.relu(x, inplace=True)),
        lambda x: F.threshold(x, 0, 0),
    ),
    "relu6": (nn.ReLU6, F.relu6, lambda x: x.clamp(0, 6), lambda x: F.hardtanh(x, 0, 6)),
    "leaky_relu": (
        *(nn.LeakyReLU, F.leaky_relu, nn.RReLU, F.rrelu),
        lambda x: torch.where(x > 0, x, 0.01 * x),
        lambda x: torch.maximum(0.1 * x, x),
        lambda x: torch.max(x, x / 5),
    ),
    "prelu": (nn.PReLU,),
    "elu": (nn.ELU, F.elu, lambda x: torch.where(x > 0, x, torch.exp(x) - 1)),
    "selu": (nn.SELU, torch.selu),
    "celu": (nn.CELU, F.celu),
    "gelu": (nn.GELU, F.gelu, lambda x: F.gelu(x, approximate="tanh")),
    "silu": (nn.SiLU, F.silu, lambda x: x * torch.sigmoid(x), lambda x: x / (1 + torch.exp(-x))),
    "mish": (nn.Mish, F.mish, lambda x: x * torch.tanh(F.softplus(x))),
    "sigmoid": (nn.Sigmoid, torch.sigmoid, torch.special.expit, lambda x: 1 / (1 + torch.exp(-x))),
    "hardsigmoid": (nn.Hardsigmoid, F.hardsigmoid, lambda x: F.relu6(x + 3) / 6),
    "hardswish": (nn.Hardswish, F.hardswish, lambda x: x * F.relu6(x + 3) / 6),
    "tanh": (nn.Tanh, torch.tanh, lambda x: x.tanh_()),
    "softplus": (nn.Softplus, F.softplus, lambda x: torch.log(1 + torch.exp(x))),
    "clip": (nn.Hardtanh, F.hardtanh, lambda x: x.clamp(-2, 2)),
    "logsigmoid": (nn.LogSigmoid, F.logsigmoid, lambda x: torch.log(torch.sigmoid(x))),
    "softsign": (nn.Softsign, F.softsign, lambda x: x / (1 + x.abs())),
}


@pytest.mark.parametrize("kind", WAYS)
def test_modules_functions_and_methods_give_the_same_site(kind):
    for way in WAYS[kind]:
        function = way() if isinstance(way, type) else way
        assert ops(function) == [kind]
        assert ops(function, ["activation", "a"]) == [kind]


ROOT = math.sqrt(2 / math.pi)
DECOMPOSED = {
    "gelu": (
        lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
        lambda x: x * (0.5 * (1 + torch.erf(x * math.sqrt(0.5)))),
        lambda x: x * (0.5 * torch.erf(x / math.sqrt(2)) + 0.5),
        lambda x: 0.5 * x * (1 + torch.tanh(ROOT * (x + 0.044715 * x**3))),
        lambda x: 0.5 * x * (1 + torch.tanh(ROOT * x * (1 + 0.044715 * x * x))),
        lambda x: x * torch.sigmoid(1.702 * x),
    ),
    "mish": (
        lambda x: x * torch.tanh(torch.log(1 + torch.exp(x))),
        lambda x: x * torch.tanh(torch.log1p(torch.exp(x))),
    ),
    "silu": (
        lambda x: torch.sigmoid(x).mul(x),
        lambda x: x * (1 / (1 + torch.exp(-x))),
    ),
    "hardswish": (
        lambda x: x * F.hardsigmoid(x),
        lambda x: x * (F.relu6(x + 3) / 6),
        lambda x: x * torch.clamp(x + 3, min=0, max=6) * (1 / 6),
        lambda x: x * torch.clamp(x / 6 + 0.5, 0, 1),
    ),
    "relu": (
        lambda x: x.clamp(min=0),
        lambda x: torch.maximum(x, torch.tensor(0.0)),
        lambda x: torch.max(x, torch.tensor(0.0)),
        lambda x: torch.where(x > 0, x, torch.zeros_like(x)),
    ),
    "relu6": (lambda x: torch.minimum(F.relu(x), torch.tensor(6.0)),),
}


@pytest.mark.parametrize("kind", DECOMPOSED)
def test_decomposed_forms_count_once_at_their_end(kind):
    for function in DECOMPOSED[kind]:
        assert ops(function) == [kind]


def test_a_gate_of_another_tensor_is_its_own_site():
    assert ops(lambda x: x * torch.sigmoid(x.flip(1))) == ["sigmoid"]
    assert ops(lambda x: F.silu(x) * x) == ["silu"]
    assert ops(lambda x: F.relu(x) ** 2) == ["relu"]


def test_an_inner_part_that_is_read_elsewhere_stays_a_site():
    def function(x):
        gate = torch.sigmoid(x)
        return x * gate + gate

    assert ops(function) == ["sigmoid", "silu"]


def test_softmax_dropout_and_one_sided_clamps_are_no_activations():
    for function in (
        lambda x: torch.softmax(x, 1),
        lambda x: F.normalize(x),
        lambda x: x.clamp(max=3),
        nn.Dropout(),
        nn.Threshold(0.5, 0),
        lambda x: x - x.max(1, keepdim=True).values,
        lambda x: x - x.max(),
        lambda x: torch.maximum(x, 2 * x),
        lambda x: x + torch.sigmoid(torch.ones(4)),
    ):
        assert ops(function) == []


class Block(nn.Module):
    def __init__(self, functional):
        super().__init__()
        self.conv1 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.functional = functional
        if not functional:
            self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        relu = F.relu if self.functional else self.relu
        y = self.conv2(relu(self.bn1(self.conv1(x))))
        y += x
        return relu(y)


class Net(nn.Module):
    def __init__(self, functional):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.block = Block(functional)
        self.head = nn.Linear(4, 5)

    def forward(self, image):
        y = F.max_pool2d(self.block(self.stem(image)), 2)
        return self.head(F.adaptive_avg_pool2d(y, 1).flatten(1))


IMAGE = torch.randn(2, 3, 8, 8)


@pytest.mark.parametrize("functional", [False, True])
def test_names_order_and_a_module_called_twice(functional):
    assert [name for name, _, _ in sites(Net(functional), IMAGE)] == [
        "block.relu",
        "block.relu:1",
    ]


def test_one_module_under_two_names():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = self.second = nn.ReLU()
            self.linear = nn.Linear(4, 4)

        def forward(self, x):
            return self.second(self.linear(self.first(x)))

    x = torch.randn(2, 4)
    for request in ("activation", [nn.ReLU], ["first", "second"]):
        assert [s[0] for s in sites(Shared(), x, request)] == ["first", "second"]


def test_layers_without_the_graph_output():
    assert [name for name, _, _ in sites(Net(False), IMAGE, "layer")] == [
        "stem",
        "block.conv1",
        "block.bn1",
        "block.relu",
        "block.conv2",
        "block.relu:1",
        "max_pool",
        "avg_pool",
    ]


def test_inputs_types_and_patterns():
    net = Net(False)
    assert sites(net, IMAGE, "input") == [("image", "input", "input")]
    assert next(s[0] for s in sites(net, IMAGE, ["activation", "input"])) == "image"
    assert next(s[0] for s in sites(net, IMAGE, "activation,input")) == "image"
    assert [s[0] for s in sites(net, IMAGE, [nn.Linear, nn.BatchNorm2d])] == ["block.bn1", "head"]
    assert [s[0] for s in sites(net, IMAGE, ["block.conv?"])] == ["block.conv1", "block.conv2"]
    assert [s[0] for s in sites(net, IMAGE, [Block])] == ["block.relu"]
    assert [s[0] for s in sites(net, IMAGE, ["max_pool"])] == ["max_pool"]


@pytest.mark.parametrize(
    ("request_", "word"),
    [
        ("weights", "weights"),
        ("", "empty"),
        ([], "empty"),
        (3, "3"),
        ([3], "3"),
        ("activations", "activations"),
        ([nn.GELU], "GELU"),
        (["nothing.*"], "nothing"),
    ],
)
def test_bad_requests_name_the_valid_forms(request_, word):
    with pytest.raises(InputError) as caught:
        sites(Net(False), IMAGE, request_)
    message = str(caught.value)
    assert word in message
    assert "\n" not in message
    assert "'activation', 'layer', 'input'" in message or "modules are" in message


def test_in_place_on_a_view():
    class Half(nn.Module):
        def __init__(self, function):
            super().__init__()
            self.function = function

        def forward(self, x):
            y = x * 2
            self.function(y[:, :2])
            return torch.relu(y)

    x = torch.randn(3, 4)
    model = Half(lambda part: part.add_(1))
    traced = trace(model, torch.randn(2, 4))
    torch.testing.assert_close(traced.module(x)[0], model(x))
    with pytest.raises(InputError, match="in place by relu"):
        trace(Half(torch.relu_), torch.randn(2, 4))
    with pytest.raises(InputError, match="in place by clip"):
        trace(Half(lambda part: part.clamp_(0, 6)), torch.randn(2, 4))


def test_in_place_operations_leave_the_input_alone():
    class Changing(nn.Module):
        def forward(self, x):
            return x.relu_() + 1

    traced = trace(Changing(), torch.randn(2, 4))
    x = -torch.ones(2, 4)
    assert traced.module(x)[0].eq(1).all()
    assert x.eq(-1).all()


def test_readers_of_a_tensor_changed_in_place_read_the_site():
    class Late(nn.Module):
        def forward(self, x):
            y = x * 2
            F.relu(y, inplace=True)
            return y + 1

    model = Late()
    traced = trace(model, torch.randn(2, 4))
    nodes = dataflow(traced.module, model)
    site = find_sites(nodes, "activation")[0].node
    assert [reader.kind for reader in site.readers] == ["add"]


def test_models_that_cannot_be_traced():
    class Branch(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    class Fixed(nn.Module):
        def forward(self, x):
            return torch.relu(x.view(2, 4))

    class Keyword(nn.Module):
        def forward(self, x, *, scale):
            return torch.relu(x * scale)

    for arguments in (torch.randn(2, 4), (torch.randn(2, 4), {"scale": 2.0})):
        with pytest.raises(InputError, match="keyword-only argument 'scale'"):
            trace(Keyword(), arguments)
    with pytest.raises(InputError, match="cannot trace Branch"):
        trace(Branch(), torch.randn(2, 4))
    with pytest.raises(InputError, match="fixes the batch size"):
        trace(Fixed(), torch.randn(2, 4))
    with pytest.raises(InputError, match="batch axis"):
        trace(nn.ReLU(), torch.tensor(1.0))
