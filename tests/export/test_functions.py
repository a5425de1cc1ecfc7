# SPDX-License-Identifier: Apache-2.0
"""Every activation function, however it is called, in PyTorch and in ONNX Runtime."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from noisystore import ortops
from noisystore.export import export_onnx, instrument, noise

SLOPE = torch.tensor([0.3])
FORMS = {
    "relu": (nn.ReLU(), nn.ReLU(True), F.relu, F.relu_, torch.relu, lambda x: x.relu_()),
    "relu6": (nn.ReLU6(), nn.Hardtanh(0, 6), F.relu6, lambda x: x.clip(0, 6)),
    "clip": (nn.Hardtanh(), nn.Hardtanh(inplace=True), F.hardtanh_, lambda x: x.clamp_(-1, 1)),
    "hardswish": (nn.Hardswish(), nn.Hardswish(True), F.hardswish),
    "hardsigmoid": (nn.Hardsigmoid(), F.hardsigmoid),
    "silu": (nn.SiLU(), nn.SiLU(True), F.silu, lambda x: x * x.sigmoid()),
    "gelu": (nn.GELU(), nn.GELU("tanh"), F.gelu, lambda x: F.gelu(x, approximate="tanh")),
    "mish": (nn.Mish(), nn.Mish(True), F.mish, lambda x: x * F.softplus(x).tanh()),
    "softplus": (nn.Softplus(), nn.Softplus(2, 10), F.softplus),
    "prelu": (nn.PReLU(), nn.PReLU(4), lambda x: F.prelu(x, SLOPE), lambda x: x.prelu(SLOPE)),
    "elu": (nn.ELU(), nn.ELU(0.5), F.elu, F.elu_),
    "selu": (nn.SELU(), F.selu, torch.selu, torch.selu_),
    "celu": (nn.CELU(), nn.CELU(2.0, True), F.celu, torch.celu_),
    "sigmoid": (nn.Sigmoid(), F.sigmoid, torch.sigmoid, lambda x: x.sigmoid_()),
    "tanh": (nn.Tanh(), F.tanh, torch.tanh, lambda x: x.tanh()),
    "leaky_relu": (nn.LeakyReLU(), nn.LeakyReLU(0.2, True), F.leaky_relu, F.leaky_relu_),
    "logsigmoid": (nn.LogSigmoid(), F.logsigmoid),
    "softsign": (nn.Softsign(), F.softsign),
    "tanhshrink": (nn.Tanhshrink(), F.tanhshrink),
    "glu": (nn.GLU(1), lambda x: F.glu(x, 1)),
}


class Every(nn.Module):
    """One output for each form."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.drop = nn.Dropout()
        self.functions = [f for forms in FORMS.values() for f in forms]
        self.held = nn.ModuleList(f for f in self.functions if isinstance(f, nn.Module))

    def forward(self, x):
        y = 3 * self.conv(self.drop(x))
        return [function(y + 0) for function in self.functions]


def test_each_is_one_site_with_the_same_bits_everywhere(tmp_path, runner, same_bits):
    model = Every().train()
    x = torch.randn(4, 3, 6, 6)
    result = export_onnx(model, x[:1], tmp_path / "m.onnx")
    assert all(module.training for module in model.modules())
    ops = [kind for kind, forms in FORMS.items() for _ in forms]
    assert [site["op"] for site in result.sites] == ops
    model.eval()
    with torch.no_grad():
        expected = [y.numpy() for y in model(x)]
    session = runner(tmp_path / "m.onnx").session
    feeds = {"x": x.numpy()}
    clean = session.run(None, feeds)
    feeds["noise.bit_error_rate"] = np.full((len(ops), 2), 0.03)
    feeds["noise.sample_index"] = np.array([7])
    noisy = session.run(None, feeds)
    instrumented = instrument(model, args=x)
    with torch.no_grad(), noise(instrumented, 0.03, sample_index=7):
        in_torch = instrumented(x)
    for i, kind in enumerate(ops):
        np.testing.assert_allclose(clean[i], expected[i], rtol=1e-4, atol=2e-5, err_msg=kind)
        for before, after in ((clean[i], noisy[i]), (expected[i], in_torch[i].numpy())):
            assert same_bits(after, ortops.apply(before, 0.03, site=i, sample_index=7)), kind
