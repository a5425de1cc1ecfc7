# SPDX-License-Identifier: Apache-2.0
"""The torch operator: its bits, its gradient, and the noise of modules placed by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from noisystore.export import NoisyStore, instrument, noise
from noisystore.export.torch_op import noise_tensors, store
from noisystore.ortops import cuda_architectures, reference
from noisystore.ortops.errors import InputError

TYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "int32": torch.int32,
}


def words(x):
    if x.dtype == torch.bfloat16:
        return x.contiguous().view(torch.int16).numpy().view(np.uint16)
    return x.contiguous().numpy()


@pytest.mark.parametrize("rate", [0.0, 1e-3, (1e-2, 3e-3), 0.2, 1.0])
@pytest.mark.parametrize("name", TYPES)
def test_bits_are_those_of_the_reference(name, rate, same_bits):
    x = (torch.randn(4, 3, 43) * 50).to(TYPES[name])
    before = words(x).copy()
    rates, masks, seed, index = noise_tensors(3, rate, 0xFFFF_FFFF_FFFF_FF7F, 11, [5, 2, 5, 9])
    y = store(x, rates, masks, seed, index, 2)
    expected = reference.apply(
        words(x), rate, bit_mask=0xFFFF_FFFF_FFFF_FF7F, seed=11, site=2, sample_index=[5, 2, 5, 9]
    )
    assert y.dtype == x.dtype
    assert same_bits(words(y), expected)
    assert same_bits(words(x), before)


def test_rows_per_sample_and_strided_input(same_bits):
    x = torch.randn(5, 6, 7).transpose(0, 1)
    y = store(x, *noise_tensors(1, 0.01, None, 3, 4), 0, rows_per_sample=3)
    expected = reference.apply(words(x), 0.01, seed=3, sample_index=4, rows_per_sample=3)
    assert same_bits(words(y), expected)
    assert y.is_contiguous()


def test_masks_may_be_unsigned(same_bits):
    x = torch.randn(4, 50)
    for mask in (2**64 - 1, 0x80000001):
        rates, masks, seed, index = noise_tensors(1, 0.1, mask, 1)
        unsigned = torch.from_numpy(np.array([mask], np.uint64))
        assert same_bits(
            store(x, rates, unsigned, seed, index, 0), store(x, rates, masks, seed, index, 0)
        )


def test_a_scale_where_small_numbers_are_flushed(same_bits):
    x = torch.randn(4, 50)
    noise = noise_tensors(1, 0.1)
    expected = store(x, *noise, 0, "int8", 1e-40, 0, 1)
    torch.set_flush_denormal(True)
    try:
        found = store(x, *noise, 0, "int8", 1e-40, 0, 1)
    finally:
        torch.set_flush_denormal(False)
    assert same_bits(found, expected)


def test_gradient_is_straight_through():
    x = torch.randn(4, 5, requires_grad=True)
    y = store(x, *noise_tensors(1, 0.2, None, 1, 0), 0)
    weight = torch.randn(4, 5)
    (y.nan_to_num() * 0 + y * weight).backward(torch.ones(4, 5))
    torch.testing.assert_close(x.grad, weight)


def test_operator_contract():
    args = (torch.randn(3, 4, requires_grad=True), *noise_tensors(2, 0.01, None, 1, 0), 1)
    torch.library.opcheck(store, args, test_utils=("test_schema", "test_faketensor"))
    assert store(torch.zeros(2, 0, 3), *noise_tensors(1), 0).shape == (2, 0, 3)


def test_bad_input():
    x = torch.randn(2, 3)
    rates, masks, seed, index = noise_tensors(2)
    with pytest.raises(InputError, match="site 2"):
        store(x, rates, masks, seed, index, 2)
    with pytest.raises(InputError, match="complex64"):
        store(x.to(torch.complex64), rates, masks, seed, index, 0)
    with pytest.raises(InputError, match="shape"):
        store(x, rates[0], masks, seed, index, 0)
    with pytest.raises(InputError, match="format"):
        store(x, rates, masks, seed, index, 0, "float12")
    for seeds in (seed.repeat(2), seed[:0], seed[0]):
        with pytest.raises(InputError, match=r"seed of shape \[1\]"):
            store(x, rates, masks, seeds, index, 0)
    with pytest.raises(InputError, match=r"float64 .* got torch.float32"):
        store(x, rates.float(), masks, seed, index, 0)
    with pytest.raises(InputError, match=r"\[0, 1\]"):
        noise_tensors(2, 1.5)
    with pytest.raises(InputError, match="seed"):
        noise_tensors(2, 0.1, None, 1.5)


needs_cuda = pytest.mark.skipif(
    not torch.cuda.is_available() or not cuda_architectures(),
    reason="needs CUDA: no device, or a library without it",
)
FORMATS = (
    "native",
    "float16",
    "bfloat16",
    "float64",
    "float8e4m3fn",
    "float8e5m2",
    "int8",
    "uint4",
)


@needs_cuda
@pytest.mark.parametrize("rates", [0.0, 1e-6, 1e-3, (0.02, 0.001), 0.1, (0.5, 0.25), 1.0])
@pytest.mark.parametrize("format_", FORMATS)
def test_the_bits_of_a_device_are_those_of_the_cpu(same_bits, format_, rates):
    types = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
    for dtype in (*types, torch.int8, torch.uint8, torch.int32):
        if not dtype.is_floating_point and format_ != "native":
            continue
        for shape in ((3, 1), (5, 1023), (2, 70001), (700, 9)):
            x = (torch.randn(shape) * 50).to(dtype)
            index = torch.randperm(shape[0]) * 3 if shape[0] != 3 else 7
            noise_inputs = noise_tensors(2, rates, None, 11, index)
            options = {"storage_format": format_, "scale": 0.5, "zero_point": 3}
            expected = store(x, *noise_inputs, 1, **options)
            on_device = store(x.cuda(), *noise_inputs, 1, **options)
            assert on_device.is_cuda
            assert same_bits(words(on_device.cpu()), words(expected))


@needs_cuda
def test_a_model_on_a_device_meets_the_flips_of_the_cpu(same_bits):
    model, x = ByHand().eval(), torch.randn(3, 8)
    x = (x * 64).round() / 64  # so that products are exact, whatever their order
    for parameter in model.parameters():
        parameter.data = (parameter.data * 64).round() / 64
    with torch.no_grad(), noise(model, 0.02, seed=4, sample_index=[1, 0, 7]):
        expected = model(x)
        assert same_bits(model.cuda()(x.cuda()).cpu(), expected)


@needs_cuda
def test_an_instrumented_model_on_a_device(same_bits):
    model, x = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.ReLU()).eval(), torch.randn(6, 3, 5)
    noisy = instrument(model)
    with noise(noisy, 0.01, seed=2):
        expected = noisy(x)
        assert same_bits(noisy(x.cuda()).cpu(), expected)
        assert same_bits(noisy(x), expected)
    assert [site.rows_per_sample for site in noisy.sites] == [1, 1]


@needs_cuda
def test_gradients_and_streams_of_a_device():
    x = torch.randn(4, 9, device="cuda", requires_grad=True)
    with torch.cuda.stream(torch.cuda.Stream()):
        y = store(x * 1, *noise_tensors(1, 0.1), 0)
        y.sum().backward()
    torch.cuda.synchronize()
    assert torch.equal(x.grad, torch.ones_like(x))


class ByHand(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.first = NoisyStore()
        self.relu = nn.ReLU()
        self.second = NoisyStore()

    def forward(self, x):
        return self.second(self.relu(self.first(self.linear(x))))


def test_modules_by_hand_are_clean_until_noise_is_set(same_bits):
    model, x = ByHand().eval(), torch.randn(3, 8)
    clean = torch.relu(model.linear(x))
    assert torch.equal(model(x), clean)
    assert not model.first.state_dict()
    with noise(model, 0.02, seed=4, sample_index=[1, 0, 7]):
        y = model(x)
    hidden = reference.apply(
        model.linear(x).detach().numpy(), 0.02, seed=4, site=0, sample_index=[1, 0, 7]
    )
    expected = reference.apply(np.maximum(hidden, 0), 0.02, seed=4, site=1, sample_index=[1, 0, 7])
    assert same_bits(y.detach().numpy(), expected)
    assert torch.equal(model(x), clean)


def test_noise_is_restored_after_an_exception_and_nests():
    model, x = ByHand().eval(), torch.randn(3, 8)
    clean = model(x)
    with pytest.raises(RuntimeError, match="stop"), noise(model, 0.5):
        raise RuntimeError("stop")
    assert torch.equal(model(x), clean)
    with noise(model, 0.1, seed=1):
        outer = model(x)
        with noise(model, 0.3, seed=2):
            inner = model(x)
        again = model(x)
    assert outer.detach().numpy().tobytes() == again.detach().numpy().tobytes()
    assert inner.detach().numpy().tobytes() != again.detach().numpy().tobytes()


def test_a_cast_model_keeps_double_rates():
    model = ByHand().to(torch.bfloat16)
    assert model.first.bit_error_rate.dtype == torch.float64
    with noise(model, 1e-9):
        assert model.first.bit_error_rate[0, 0] == 1e-9


def test_noise_needs_a_site():
    with pytest.raises(InputError, match="neither"), noise(nn.Linear(2, 2), 0.1):
        pass


def test_by_hand_sites_keep_their_place_beside_others():
    noisy = instrument(ByHand().eval(), sites=["layer", "input"], args=torch.randn(2, 8))
    assert [(s.name, s.op) for s in noisy.sites] == [
        ("x", "input"),
        ("first", "store"),
        ("second", "store"),
    ]
    only = instrument(ByHand().eval(), sites=[], args=torch.randn(2, 8))
    assert [s.name for s in only.sites] == ["first", "second"]


def test_compilers_keep_it_out_of_cuda_graphs():
    if not hasattr(torch.Tag, "cudagraph_unsafe"):
        pytest.skip("this PyTorch has no tag for it")
    assert torch.Tag.cudagraph_unsafe in torch.ops.noisystore.store.default.tags


@needs_cuda
def test_noise_that_lies_on_a_device(same_bits):
    x, index = torch.randn(4, 9), torch.tensor([3, 1, 4, 1])
    inputs = noise_tensors(1, 0.1, None, 5, index.cuda())
    assert same_bits(store(x.cuda(), *inputs, 0).cpu(), store(x, *inputs, 0))
    for number, name in enumerate(("bit_error_rate", "bit_mask", "seed", "sample_index")):
        moved = [t.cuda() if i == number else t for i, t in enumerate(inputs)]
        with pytest.raises(InputError, match=f"expected {name} on the CPU, got it on cuda:0"):
            store(x.cuda(), *moved, 0)
