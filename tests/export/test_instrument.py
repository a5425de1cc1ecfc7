# SPDX-License-Identifier: Apache-2.0
"""Instrumented PyTorch models: sharing, tracing, batch sizes, noise."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from noisystore.export import instrument, noise, vgg
from noisystore.ortops import reference
from noisystore.ortops.errors import InputError


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.3)
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        y = F.relu(self.bn(self.conv(x)))
        return {"logits": self.fc(self.drop(y.mean((2, 3)))), "map": y}


def test_clean_equals_the_model_at_every_batch_size():
    model = Small().eval()
    noisy = instrument(model, sites="layer")
    with pytest.raises(InputError, match="first call"):
        _ = noisy.sites
    for batch in (1, 5, 2):
        x = torch.randn(batch, 3, 6, 6)
        result, expected = noisy(x), model(x)
        assert list(result) == ["logits", "map"]
        for key in expected:
            assert torch.equal(result[key], expected[key])
    assert [s.name for s in noisy.sites] == ["conv", "bn", "relu", "avg_pool"]
    assert len(noisy._traces) == 1


def test_noise_reaches_every_reader_and_is_that_of_the_reference(same_bits):
    model = Small().eval()
    noisy = instrument(model, args=torch.randn(1, 3, 6, 6))
    x = torch.randn(3, 3, 6, 6)
    with noise(noisy, (0.01, 0.002), bit_mask=0xFFFF, seed=-1, sample_index=40):
        result = noisy(x)
    clean = model(x)["map"].detach().numpy()
    expected = reference.apply(clean, (0.01, 0.002), bit_mask=0xFFFF, seed=-1, sample_index=40)
    assert same_bits(result["map"].detach().numpy(), expected)
    torch.testing.assert_close(result["logits"], model.fc(torch.from_numpy(expected).mean((2, 3))))


def test_rates_by_site_and_bad_rates():
    noisy = instrument(Small().eval(), sites="layer", args=torch.randn(1, 3, 6, 6))
    x = torch.randn(2, 3, 6, 6)
    rates = np.zeros((4, 2))
    rates[3] = 0.1
    with noise(noisy, rates):
        result = noisy(x)
    assert torch.equal(result["map"], noisy(x)["map"])
    assert not torch.equal(result["logits"], noisy(x)["logits"])
    for bad in (1.5, float("nan"), np.zeros((3, 2)), "much"):
        with pytest.raises(InputError, match="bit error rate"), noise(noisy, bad):
            pass
    with pytest.raises(InputError, match="bit mask"), noise(noisy, 0.1, bit_mask=[1, 2]):
        pass


def test_training_the_wrapper_trains_the_model():
    model = Small()
    noisy = instrument(model)
    reference_model = copy.deepcopy(model)
    x, y = torch.randn(8, 3, 6, 6), torch.randint(5, (8,))
    for candidate in (noisy, reference_model):
        candidate.train()
        torch.manual_seed(3)
        optimizer = torch.optim.SGD(candidate.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            F.cross_entropy(candidate(x)["logits"], y).backward()
            optimizer.step()
    for (name, a), b in zip(
        model.state_dict().items(), reference_model.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(a, b, msg=name)
    assert int(model.bn.num_batches_tracked) == 2
    noisy.eval()
    reference_model.eval()
    torch.testing.assert_close(noisy(x)["logits"], reference_model(x)["logits"])


def test_training_under_noise_gives_gradients():
    noisy = instrument(Small())
    with noise(noisy, 1e-3, bit_mask=0x7FFFFF, seed=2):
        noisy(torch.randn(4, 3, 6, 6))["logits"].sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in noisy.parameters())


def test_replaced_buffers_are_followed():
    model = Small().eval()
    noisy = instrument(model, args=torch.randn(1, 3, 6, 6))
    model.bn.running_mean = torch.full((4,), 2.0)
    x = torch.randn(2, 3, 6, 6)
    assert torch.equal(noisy(x)["logits"], model(x)["logits"])


def test_tracing_leaves_modes_and_statistics_alone():
    model = vgg("A", width=0.05)
    model.features[1].eval()
    modes = [m.training for m in model.modules()]
    before = copy.deepcopy(model.state_dict())
    fast = torch.backends.mha.get_fastpath_enabled()
    instrument(model, sites="layer", args=torch.randn(1, 3, 32, 32))
    assert [m.training for m in model.modules()] == modes
    assert torch.backends.mha.get_fastpath_enabled() == fast
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_sixteen_bit_tensors_name_their_format():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).to(torch.bfloat16).eval()
    noisy = instrument(model, args=torch.randn(2, 4, dtype=torch.bfloat16))
    assert noisy.sites[0].storage_format == "bfloat16"
    assert noisy.sites[0].bits_per_word == 16
    x = torch.randn(3, 4, dtype=torch.bfloat16)
    with noise(noisy, 0.5, seed=1):
        assert not torch.equal(noisy(x), model(x))
    assert torch.equal(noisy(x), model(x))


def test_bad_arguments():
    model = Small()
    with pytest.raises(InputError, match="storage format"):
        instrument(model, storage_format="float12")
    with pytest.raises(InputError, match="unknown kind of site 'layer'"):
        instrument(model, storage_format="layer=float16")
    with pytest.raises(InputError, match="sites"):
        instrument(model, sites=3)
    with pytest.raises(InputError, match="already"):
        instrument(instrument(model))
    with pytest.raises(InputError, match="no site"):
        instrument(nn.Linear(3, 3), args=torch.randn(2, 3))


def test_arguments_that_do_not_fit():
    class Scaled(nn.Module):
        def forward(self, x, scale=2.0):
            return torch.relu(x) * (scale if scale is True else 5)

    noisy = instrument(Scaled())
    x = torch.randn(2, 4)
    assert torch.equal(noisy(x, 1), torch.relu(x) * 5)
    assert torch.equal(noisy(x, True), torch.relu(x))
    with pytest.raises(InputError, match="'scale' by keyword"):
        noisy(x, scale=3.0)
    with pytest.raises(InputError, match="got ndarray"):
        noisy(x.numpy())
    with pytest.raises(InputError, match=r"torch\.nn\.Module"):
        instrument(torch.relu)
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    with pytest.raises(InputError, match="same dtype"):
        instrument(model, args=torch.randn(2, 4).double())


def test_shared_modules_follow_a_replaced_weight():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = self.second = nn.Linear(4, 4)

        def forward(self, x):
            return self.second(torch.relu(self.first(x)))

    model = Shared()
    noisy = instrument(model, args=torch.randn(2, 4))
    model.first.weight = nn.Parameter(torch.randn(4, 4))
    x = torch.randn(3, 4)
    assert torch.equal(noisy(x), model(x))


class Guarded(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = nn.Linear(4, 4)

    def forward(self, x):
        with torch.no_grad():
            y = torch.relu(self.a(x))
        return torch.tanh(self.b(y))


def test_sites_within_no_grad_and_its_gradients():
    model = Guarded().eval()
    noisy = instrument(model, args=torch.randn(1, 4))
    assert [s.name for s in noisy.sites] == ["relu", "tanh"]
    x = torch.randn(3, 4)
    assert torch.equal(noisy(x), model(x))
    noisy(x).sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is not None] == ["b.weight", "b.bias"]


def test_hidden_activations_are_refused_not_left_out():
    class Branches(nn.Module):
        def forward(self, x):
            return torch.cond(x.sum() > 0, torch.relu, torch.neg, (x,))

    class Cast(nn.Module):
        def forward(self, x):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return torch.relu(x)

    for model in (Branches(), Cast()):
        with pytest.raises(InputError, match="relu inside"):
            instrument(model, args=torch.randn(2, 4))


def test_several_inputs_of_several_kinds():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(10, 4)

        def forward(self, tokens, extra, factor):
            return torch.relu(self.embed(tokens).mean(1) + extra["x"]) * factor

    model = Mixed()
    noisy = instrument(model, sites=["activation", "input"])
    args = (torch.randint(0, 10, (3, 6)), {"x": torch.randn(3, 4)}, 2.0)
    assert torch.equal(noisy(*args), model(*args))
    assert [(s.kind, s.op) for s in noisy.sites] == [("input", "input"), ("activation", "relu")]


def test_named_masks_follow_autocast():
    """Outside of it the same model stores float32, whose masks are others."""
    model, x = nn.Sequential(nn.Linear(8, 64), nn.ReLU()).eval(), torch.randn(4, 8)
    noisy = instrument(model, args=x)
    for kind, width in ((torch.bfloat16, 16), (torch.float16, 16), (None, 32)):
        with (
            torch.autocast("cpu", dtype=kind or torch.bfloat16, enabled=kind is not None),
            torch.no_grad(),
        ):
            clean = noisy(x)
            assert clean.dtype == (kind or torch.float32)
            assert [site.bits_per_word for site in noisy.sites] == [width]
            with noise(noisy, 0.2, bit_mask="sign", seed=1):
                flipped = noisy(x)
        changed = flipped != clean
        assert changed.any()
        assert torch.equal(flipped[changed], -clean[changed])
