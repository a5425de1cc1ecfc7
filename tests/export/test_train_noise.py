# SPDX-License-Identifier: Apache-2.0
"""Noise while training: seeds, schedules, gradients, resuming, and the sites' formats."""

import hashlib
import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_train import tiny, weights
from torch import nn

from noisystore.export import TrainingNoise, accuracy, instrument, noise, train, vgg
from noisystore.export import training as training_module
from noisystore.export.training_noise import evaluation_seed, step_seed
from noisystore.ortops import cuda_architectures, reference
from noisystore.ortops.errors import InputError

MANTISSA = TrainingNoise(1e-3, bit_mask="mantissa")


def narrow(seed=0):
    torch.manual_seed(seed)
    return vgg("A", width=0.03)


def run(noise=MANTISSA, model=None, **keywords):
    x, y = tiny(80)
    model = model or narrow()
    options = {"recipe": "digits", "epochs": 2, "batch": 32, "seed": 3, **keywords}
    return train(model, x, y, x, y, noise=noise, **options), weights(model)


def interrupted(record):
    raise KeyboardInterrupt


@pytest.fixture
def recorded(monkeypatch):
    """Settings of every noisy training step, as they reach the model."""
    seen = []
    setter = training_module.noise

    def record(model, rate, mask, seed, index):
        seen.append((rate, mask, seed, index.tolist()))
        return setter(model, rate, mask, seed, index)

    monkeypatch.setattr(training_module, "noise", record)
    return seen


def test_the_seed_of_a_step_is_the_documented_digest():
    for text, seed in (("1|train|-5|17", step_seed(-5, 17)), ("1|test|8", evaluation_seed(8))):
        assert seed == int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def test_every_step_has_a_seed_of_its_own_and_the_images_places(recorded):
    result, _ = run()
    assert [seed for _, _, seed, _ in recorded] == [step_seed(3, s) for s in range(6)]
    assert {(rate, mask) for rate, mask, _, _ in recorded} == {((1e-3, 1e-3), "mantissa")}
    for epoch in (recorded[:3], recorded[3:]):
        assert sorted(i for *_, chosen in epoch for i in chosen) == list(range(80))
    assert [e.steps for e in result.epochs] == [3, 3]
    assert all(0 <= e.noisy_accuracy <= 1 for e in result.epochs)
    assert result.noisy_accuracy == result.epochs[-1].noisy_accuracy


def test_two_steps_meet_other_flips_and_the_same_step_the_same(same_bits):
    model = nn.Sequential(nn.ReLU()).train()
    noisy, x = instrument(model), torch.rand(4, 3, 8, 8)
    read = []
    for step in (0, 1, 0):
        with noise(noisy, 1e-2, "mantissa", step_seed(1, step), [7, 2, 9, 4]):
            read.append(noisy(x).numpy())
    mask = (1 << 23) - 1
    expected = reference.apply(
        x.numpy(), 1e-2, bit_mask=mask, seed=step_seed(1, 0), sample_index=[7, 2, 9, 4]
    )
    assert same_bits(read[0], expected)
    assert same_bits(read[0], read[2])
    flips = [read[i].view(np.uint32) ^ x.numpy().view(np.uint32) for i in (0, 1)]
    assert (flips[0] != flips[1]).any()
    assert all(f.any() for f in flips)


def test_the_same_seed_repeats_a_run_and_noise_changes_it():
    result, first = run()
    again, second = run()
    assert second == first
    assert [replace(e, seconds=0) for e in again.epochs] == [
        replace(e, seconds=0) for e in result.epochs
    ]
    assert run(seed=4)[1] != first
    assert run(noise=None)[1] != first
    assert run(noise=replace(MANTISSA, bit_error_rate=2e-3))[1] != first


def test_a_rate_of_zero_trains_as_no_noise_does():
    clean, _ = run(noise=None, epochs=1)
    zero, _ = run(noise=TrainingNoise(0.0, max_gradient_norm=None), epochs=1)
    assert zero.epochs[0].loss == pytest.approx(clean.epochs[0].loss, rel=1e-4)
    assert zero.noisy_accuracy == zero.accuracy
    assert clean.noisy_accuracy is None
    noisy, _ = run(noise=TrainingNoise(0.01, bit_mask="mantissa"), epochs=1)
    assert noisy.epochs[0].loss != pytest.approx(clean.epochs[0].loss, rel=1e-4)


def test_an_interrupted_noisy_run_ends_as_an_uninterrupted_one(tmp_path):
    ramp = TrainingNoise(1e-3, bit_mask="mantissa", schedule="log", start=1e-5)
    expected, whole = run(ramp, epochs=3)

    path = tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        run(ramp, epochs=3, checkpoint=path, progress=interrupted)
    result, resumed = run(ramp, narrow(9), epochs=3, checkpoint=path)
    assert resumed == whole
    assert [replace(e, seconds=0) for e in result.epochs] == [
        replace(e, seconds=0) for e in expected.epochs
    ]
    for other in (None, replace(ramp, start=2e-5), replace(ramp, sites="layer")):
        with pytest.raises(InputError, match="another run, with another noise"):
            run(other, epochs=3, checkpoint=path)
    with pytest.raises(InputError, match="another run, with another origin of the weights"):
        run(ramp, epochs=3, checkpoint=path, origin="elsewhere")


@pytest.mark.parametrize("sites", ["weight", "weight,activation"])
def test_gradients_are_those_of_a_straight_through_step_by_hand(sites):
    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(5)
            self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x):
            return self.second(torch.relu(self.first(x)))

    model, x, y = Small().train(), torch.randn(4, 6), torch.tensor([0, 2, 1, 1])
    noisy = instrument(model, sites=sites, args=x)
    index = torch.tensor([3, 0, 8, 5])
    with noise(noisy, 0.02, "mantissa", 77, index):
        loss = F.cross_entropy(noisy(x), y)
    found = torch.autograd.grad(loss, list(model.parameters()))
    number = {site.name: site.site for site in noisy.sites}

    def store(tensor, name, rows):
        read = reference.apply(
            tensor.detach().numpy(),
            0.02,
            bit_mask=(1 << 23) - 1,
            seed=77,
            site=number[name],
            sample_index=index.numpy(),
            rows_per_sample=rows,
        )
        return tensor + (torch.from_numpy(read) - tensor).detach()

    hidden = F.linear(x, store(model.first.weight, "first.weight", 0), model.first.bias).relu()
    if "activation" in sites:
        name = next(s.name for s in noisy.sites if s.kind == "activation")
        hidden = store(hidden, name, 1)
    logits = F.linear(hidden, store(model.second.weight, "second.weight", 0), model.second.bias)
    by_hand = F.cross_entropy(logits, y)
    torch.testing.assert_close(loss, by_hand, rtol=1e-6, atol=1e-6)
    for a, b in zip(found, torch.autograd.grad(by_hand, list(model.parameters())), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    clean = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
    assert any(not torch.equal(a, b) for a, b in zip(found, clean, strict=True))


@pytest.mark.parametrize("sites", ["weight", "weight,bias,layer"])
def test_parameters_are_trained_through_their_noise(sites):
    result, state = run(replace(MANTISSA, sites=sites))
    assert result.epochs[1].skipped == 0
    assert state != run(noise=None)[1]
    assert np.isfinite(result.epochs[1].loss)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [1e-3] * 5),
        ({"schedule": "linear"}, [0, 2.5e-4, 5e-4, 7.5e-4, 1e-3]),
        ({"schedule": "linear", "start": 2e-3}, [2e-3, 1.75e-3, 1.5e-3, 1.25e-3, 1e-3]),
        ({"schedule": "linear", "ramp": 0.6}, [0, 5e-4, 1e-3, 1e-3, 1e-3]),
        ({"schedule": "log", "start": 1e-7}, [1e-7, 1e-6, 1e-5, 1e-4, 1e-3]),
        ({"schedule": "log", "start": 1e-5, "ramp": 0.5}, [1e-5, 1e-4, 1e-3, 1e-3, 1e-3]),
        ({"schedule": "linear", "ramp": 0.01}, [1e-3] * 5),
        ({"schedule": "linear", "ramp": 1e-9}, [1e-3] * 5),
    ],
)
def test_schedules(changes, expected, recorded):
    pairs = [TrainingNoise(1e-3, **changes).rate_at(step, 5) for step in range(5)]
    assert [p01 for p01, _ in pairs] == pytest.approx(expected)
    assert all(p01 == p10 for p01, p10 in pairs)
    run(replace(MANTISSA, **changes), epochs=5, batch=80)
    assert [rate for rate, *_ in recorded] == pairs


def test_a_ramp_is_not_a_step_longer_for_its_rounding():
    ramp = TrainingNoise(1e-3, schedule="linear", ramp=0.07)
    assert 0.07 * 100 > 7
    assert ramp.rate_at(5, 100)[0] < 1e-3
    assert ramp.rate_at(6, 100)[0] == 1e-3


def test_schedules_of_unequal_rates():
    unequal = TrainingNoise((1e-3, 0.0), schedule="log", start=(1e-5, 0.0))
    assert unequal.rate_at(1, 3) == (pytest.approx(1e-4), 0.0)
    linear = TrainingNoise((1e-3, 4e-3), schedule="linear", start=1e-3)
    assert linear.rate_at(1, 3) == pytest.approx((1e-3, 2.5e-3))


def test_masks_by_name_fit_the_format_of_each_site(recorded):
    mixed = {"weight": "bfloat16", "activation": "float16"}
    settings = TrainingNoise(
        1e-2, sites="weight,activation", storage_format=mixed, bit_mask="mantissa:2-"
    )
    result, _ = run(settings, epochs=1)
    assert result.epochs[0].skipped == 0
    with pytest.raises(InputError, match=r"mantissa:8: expected FIRST-LAST within 1 to 7"):
        run(replace(settings, bit_mask="mantissa:8"))
    json.dumps(asdict(settings))


def test_the_noisy_accuracy_is_that_of_the_instrumented_model():
    x, y = tiny(80)
    model = narrow()
    result, _ = run(model=model, epochs=1)
    noisy = instrument(model, args=torch.zeros(2, 3, 32, 32))
    with noise(noisy, 1e-3, "mantissa", evaluation_seed(3), 0):
        expected = accuracy(noisy, x, y, normalization=model.normalization, batch=len(y))
    assert result.noisy_accuracy == expected


def test_the_noisy_accuracy_does_not_depend_on_batches():
    x, y = tiny(300)
    model = narrow()
    settings = TrainingNoise(2e-3, sites="layer", bit_mask="exponent:5-")
    result = train(model, x[:64], y[:64], x, y, batch=32, epochs=1, noise=settings, seed=3)
    noisy = instrument(model, sites="layer", args=torch.zeros(2, 3, 32, 32))
    found = {}
    for size in (300, 256):
        places = range(0, 300, size)
        parts = [slice(start, start + size) for start in places]
        for first in {0, *places}:  # of all batches alike, or each its own
            logits = []
            for start, part in zip(places, parts, strict=True):
                index = start if first else 0
                with noise(noisy, 2e-3, "exponent:5-", evaluation_seed(3), index), torch.no_grad():
                    scaled = training_module.normalizer(None, model)(torch.from_numpy(x[part]))
                    logits.append(noisy(scaled))
            found[size, first > 0] = float((torch.cat(logits).argmax(1).numpy() == y).mean())
    assert found[256, True] == found[300, False] == result.noisy_accuracy
    assert found[256, False] != result.noisy_accuracy, "choose a seed that tells them apart"


def test_huge_running_statistics_of_one_flip_do_not_stay(monkeypatch, tmp_path):
    settings, model, other = TrainingNoise(1e-6, sites="layer"), narrow(), narrow()

    def variance(model):
        state = model.state_dict().items()
        return max(float(v.max()) for name, v in state if "running_var" in name)

    path = tmp_path / "run.pt"
    result, whole = run(settings, model, seed=5)
    assert variance(model) < 100
    with pytest.raises(KeyboardInterrupt):
        run(settings, other, seed=5, checkpoint=path, progress=interrupted)
    assert variance(other) < 100
    assert torch.load(path)["state_dict"].keys() == other.state_dict().keys()
    assert run(settings, other, seed=5, checkpoint=path)[1] == whole
    x, _ = tiny(80)
    scaled = training_module.normalizer(None, model)(torch.from_numpy(x))
    torch.optim.swa_utils.update_bn(scaled.split(32), model)
    assert weights(model) == whole
    monkeypatch.setattr(training_module, "update_bn", lambda *_: None)
    without, _ = run(settings, other := narrow(), seed=5)
    assert variance(other) > 1e9
    assert without.accuracy < result.accuracy


def test_a_clean_run_keeps_its_running_statistics(monkeypatch):
    monkeypatch.setattr(training_module, "update_bn", None)
    run(noise=None, epochs=1)


@pytest.mark.parametrize(
    ("keywords", "match"),
    [
        ({"bit_error_rate": 1.5}, r"\[0, 1\], got 1.5"),
        ({"bit_error_rate": "often"}, "got 'often'"),
        ({"bit_mask": "exponents"}, "bit mask: expected"),
        ({"schedule": "cosine"}, "constant, linear, log, got 'cosine'"),
        ({"start": 1e-5}, "a constant rate has none"),
        ({"schedule": "log"}, "start above 0"),
        ({"schedule": "log", "start": 1e-3, "bit_error_rate": 0.0}, "start above 0"),
        ({"schedule": "log", "bit_error_rate": 0.0}, "expected a rate above 0"),
        ({"schedule": "linear", "start": -1.0}, r"\[0, 1\], got -1.0"),
        ({"ramp": 0}, "ramp: expected .* got 0"),
        ({"ramp": float("nan")}, "ramp"),
        ({"max_gradient_norm": 0}, "max_gradient_norm: .* got 0"),
        ({"max_gradient_norm": float("inf")}, "max_gradient_norm"),
    ],
)
def test_bad_noise(keywords, match):
    with pytest.raises(InputError, match=match):
        TrainingNoise(**{"bit_error_rate": 1e-3, **keywords})


@pytest.mark.parametrize(
    ("noise_", "match"),
    [
        (TrainingNoise(1e-3, sites="no-such"), "no-such"),
        (TrainingNoise(1e-3, sites=[]), "no site for an empty list"),
        (TrainingNoise(1e-3, storage_format="float12"), "float12"),
        (TrainingNoise(1e-3, bit_mask="exponent:9-"), "exponent:9-"),
        (TrainingNoise(1e-3, bit_mask=[1, 2]), "got 2"),
    ],
)
def test_noise_that_does_not_fit_the_model_changes_nothing(noise_, match, tmp_path):
    model = narrow()
    before = weights(model)
    with pytest.raises(InputError, match=match):
        run(noise_, model, checkpoint=tmp_path / "run.pt")
    assert weights(model) == before
    assert list(tmp_path.iterdir()) == []


def test_devices():
    numbers = [(f"cuda:{number}", str(number)) for number in (99, 200, 256, 1000, 10**8)]
    for device, match in (("tpu", "expected cpu, cuda"), ("meta", "cpu, cuda"), *numbers):
        with pytest.raises(InputError, match=f"device.*{match}"):
            run(device=device)


@pytest.mark.skipif(
    not torch.cuda.is_available() or not cuda_architectures(),
    reason="needs CUDA: no device, or a library without it",
)
@pytest.mark.parametrize("sites", ["activation", "weight,layer"])
def test_training_on_a_device(sites):
    model = narrow()
    result, _ = run(replace(MANTISSA, sites=sites), model, device="cuda")
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    assert result.epochs[-1].skipped == 0
    assert result.accuracy == pytest.approx(
        run(replace(MANTISSA, sites=sites))[0].accuracy, abs=0.2
    )
