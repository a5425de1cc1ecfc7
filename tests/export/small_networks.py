# SPDX-License-Identifier: Apache-2.0
"""Small networks of the tests of weights and biases as sites, and what their memories hold."""

import torch
import torch.nn.functional as F
from torch import fx, nn

from noisystore.export.torch_op import noise_tensors


class Cnn(nn.Module):
    """Two convolutions, one without a bias, and a linear layer; no normalisation."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 6, 3, bias=False)
        self.head = nn.Linear(6, 5)

    def forward(self, image):
        y = F.max_pool2d(F.relu(self.first(image)), 2)
        return self.head(F.relu(self.second(y)).amax((2, 3)))


class Tied(nn.Module):
    """An encoder whose head has the embedding's weight."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        return self.head(self.encoder(self.embed(tokens)))


class Shared(nn.Module):
    """One linear layer under two names, called twice."""

    def __init__(self):
        super().__init__()
        self.first = self.second = nn.Linear(4, 4)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


def warmed(model):
    """Give normalisations and biases values that exporters cannot leave out or merge."""
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            nn.init.uniform_(parameter, 0.5, 1.5 if name.endswith("weight") else 0.7)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    return model.eval()


class _Memory(fx.Interpreter):
    def __init__(self, module):
        super().__init__(module)
        self.held = {}

    def run_node(self, node):
        value = super().run_node(node)
        if node.target is torch.ops.noisystore.store.default:
            self.held[node.args[5]] = value.detach().numpy()
        return value


def memory_of(noisy, x, **settings):
    """Run an instrumented model; what it reads from each site, by number."""
    traced = noisy.traced((x,))
    memory = _Memory(traced.trace.module)
    with torch.no_grad():
        memory.run(x, *noise_tensors(len(traced.sites), **settings))
    return dict(sorted(memory.held.items()))
