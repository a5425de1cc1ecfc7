# SPDX-License-Identifier: Apache-2.0
"""Steps that meet a NaN or an Inf change nothing, and are counted; long gradients are scaled."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from noisystore.export import Diverged, TrainingNoise, instrument, noise, train, vgg
from noisystore.export.training_steps import GuardedSteps
from noisystore.ortops.errors import InputError


class Net(nn.Module):
    """Linear, batch normalisation, linear; and a place for a bad value."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.last = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)

    def forward(self, x):
        return self.last(self.norm(self.first(x)))


def steps_of(model, limit=None, momentum=0.9):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    return GuardedSteps(model, optimizer, schedule, limit)


def everything(steps, model):
    return copy.deepcopy((model.state_dict(), steps.optimizer.state_dict()["state"]))


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, tuple):
        return all(map(same, a, b))
    return a == b


class BadGradient(torch.autograd.Function):
    """Gives what it is given, and a gradient of NaN."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * math.nan


def nan_loss(model, x):
    return model(x).square().mean() * math.nan


def infinite_loss(model, x):
    return model(x).square().mean() + math.inf


def nan_gradient(model, x):
    return BadGradient.apply(model(x)).square().mean()


def overflowing_norm(model, x):
    return (model(x) * 1e30).sum()


def infinite_variance(model, x):
    return model(x * 1e30).square().mean()


@pytest.mark.parametrize(
    "bad", [nan_loss, infinite_loss, nan_gradient, overflowing_norm, infinite_variance]
)
@pytest.mark.parametrize("first", [True, False])
def test_a_bad_step_changes_nothing(bad, first):
    model = Net().train()
    steps, x = steps_of(model), torch.randn(8, 3)
    if not first:
        assert steps.take(lambda: model(x).square().mean(), 8)
    before, rate = everything(steps, model), steps.schedule.get_last_lr()[0]
    assert not steps.take(lambda: bad(model, x), 8)
    assert same(everything(steps, model), before)
    assert steps.schedule.get_last_lr()[0] == rate / 2
    assert (steps.steps, steps.skipped) == (2 - first, 1)
    assert all(p.grad is None for p in model.parameters())
    assert steps.take(lambda: model(x).square().mean(), 8)
    assert not same(everything(steps, model), before)
    assert model.norm.num_batches_tracked == 2 - first


def test_the_loss_is_that_of_the_steps_taken():
    model = Net().train()
    steps, x = steps_of(model), torch.randn(8, 3)
    with pytest.raises(Diverged, match="none of 0 steps"):
        _ = steps.loss
    for value, images in ((2.0, 6), (math.nan, 6), (5.0, 2)):
        steps.take(lambda value=value: model(x).sum() * 0 + value, images)
    assert steps.loss == pytest.approx((2 * 6 + 5 * 2) / 8)
    assert issubclass(Diverged, InputError)


def test_a_long_gradient_is_scaled_and_a_short_one_is_left():
    x = torch.randn(8, 3)
    moved = {}
    for limit in (None, 1e-3, 1e6):
        model = Net().train()
        before = [p.detach().clone() for p in model.parameters()]
        steps = steps_of(model, limit, momentum=0.0)
        assert steps.take(lambda model=model: model(x).square().sum(), 8)
        moved[limit] = [p.detach() - b for p, b in zip(model.parameters(), before, strict=True)]
        assert steps.clipped == (limit == 1e-3)
    length = math.sqrt(sum(float(m.square().sum()) for m in moved[1e-3]))
    assert length == pytest.approx(0.1 * 1e-3, rel=1e-2)
    assert all(map(torch.equal, moved[None], moved[1e6]))
    for long, short in zip(moved[None], moved[1e-3], strict=True):
        ratio = length / math.sqrt(sum(float(m.square().sum()) for m in moved[None]))
        torch.testing.assert_close(short, long * ratio, rtol=2e-2, atol=1e-7)


def test_a_parameter_on_which_a_flip_makes_inf():
    model = Net().train()
    with torch.no_grad():
        model.first.weight.fill_(1.5)  # 0x3fc00000; its top exponent bit gives a NaN
    noisy, x = instrument(model, sites="first.weight"), torch.rand(8, 3)
    steps, before = steps_of(model, 5.0), None

    def loss(rates):
        with noise(noisy, rates, "exponent:1", 4):
            return noisy(x).square().mean()

    before = everything(steps, model)
    assert not steps.take(lambda: loss((1.0, 0.0)), 8)
    assert same(everything(steps, model), before)
    assert steps.take(lambda: loss(0.0), 8)
    assert torch.isfinite(model.first.weight).all()


class Masked(Net):
    """With a buffer of Inf, as a mask of attention has; and one that may become so."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.tensor([0.0, -math.inf]))

    def forward(self, x):
        return (super().forward(x) + self.mask).softmax(1)


def test_a_buffer_that_is_infinite_by_design_does_not_count():
    model = Masked().train()
    steps, x = steps_of(model), torch.randn(8, 3)
    assert steps.take(lambda: model(x)[:, 0].mean() + model.last.weight.square().sum(), 8)
    steps.check()
    assert not steps.take(lambda: infinite_variance(model, x), 8)
    assert torch.isfinite(model.norm.running_var).all()


@pytest.mark.parametrize("place", ["last.weight", "norm.running_var"])
def test_a_model_that_is_not_finite_after_an_epoch(place):
    model = Net().train()
    steps, x = steps_of(model), torch.randn(8, 3)
    assert steps.take(lambda: model(x).square().mean(), 8)
    steps.check()
    with torch.no_grad():
        model.state_dict()[place].fill_(math.inf)
    with pytest.raises(Diverged, match=r"a weight or a running statistic is NaN or Inf"):
        steps.check()


def test_a_run_whose_last_step_makes_inf_ends(tmp_path):
    x, y = data(16)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    with pytest.raises(Diverged, match=r"after an epoch a weight .* is NaN or Inf"):
        train(
            model,
            x,
            y,
            x,
            y,
            recipe="cifar10",
            epochs=1,
            batch=16,
            lr=1e30,
            normalization=(0.0, 1e-12),
            checkpoint=tmp_path / "run.pt",
        )
    assert not model.training
    assert list(tmp_path.iterdir()) == []


def test_a_clean_run_is_not_clipped():
    x, y = data(32)
    for settings, clipped in ((None, 0), (TrainingNoise(0.0, sites="weight"), 2)):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
        with torch.no_grad():
            model[1].weight.mul_(100)
        result = train(model, x, y, x, y, epochs=1, batch=16, lr=1e-6, noise=settings)
        assert result.epochs[0].clipped == clipped


def data(count=64):
    generator = np.random.default_rng(0)
    x = generator.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    return x, generator.integers(0, 10, count)


def test_a_run_skips_clips_and_counts(tmp_path):
    x, y = data()
    seen = []
    torch.manual_seed(0)
    model = vgg("A", width=0.03)
    # So rare that some steps are spared (8 sites of 30,000 bits an image, 16 images a step).
    settings = TrainingNoise(4e-7, max_gradient_norm=1.0)
    result = train(
        model, x, y, x, y, epochs=4, batch=16, noise=settings, progress=seen.append, seed=1
    )
    assert seen == result.epochs
    assert [e.steps for e in seen] == [4] * 4
    assert 0 < sum(e.skipped for e in seen) < 16
    assert 0 < sum(e.clipped for e in seen) <= 16
    assert all(math.isfinite(e.loss) for e in seen)
    assert all(torch.isfinite(v.float()).all() for v in model.state_dict().values())


@pytest.mark.parametrize("sites", ["activation", "weight"])
def test_an_epoch_without_a_finite_step_ends_the_run(tmp_path, sites):
    x, y = data(32)
    torch.manual_seed(0)
    model = vgg("A", width=0.03)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match=r"none of 2 steps.*lower the learning rate.*mantissa"):
        train(
            model,
            x,
            y,
            x,
            y,
            epochs=2,
            batch=16,
            noise=TrainingNoise(0.2, sites=sites),
            checkpoint=tmp_path / "run.pt",
        )
    assert same(dict(model.state_dict()), dict(before))
    assert not model.training
    assert list(tmp_path.iterdir()) == []


def test_a_clean_run_that_diverges_says_so():
    x, y = data(32)
    torch.manual_seed(0)
    with pytest.raises(Diverged, match="lower the learning rate"):
        train(vgg("A", width=0.03), x, y, x, y, recipe="cifar10", epochs=3, batch=16, lr=1e30)
