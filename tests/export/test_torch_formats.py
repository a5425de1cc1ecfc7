# SPDX-License-Identifier: Apache-2.0
"""Storage formats and named masks in PyTorch: the operator, modules by hand, exported files."""

import numpy as np
import pytest
import torch
from torch import nn

from noisystore.export import NoisyStore, export_onnx, instrument, noise
from noisystore.export.storage import site_format, word_bits, word_format
from noisystore.export.torch_op import noise_tensors, store
from noisystore.ortops import bit_mask, reference
from noisystore.ortops.errors import InputError
from noisystore.ortops.formats import STORAGE_FORMATS

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
INTEGERS = ["int8", "uint8", "int4", "uint4"]


def patterns(dtype):
    """All bit patterns of a 16-bit type, random ones of a wider one."""
    bits = dtype.itemsize * 8
    rng = np.random.default_rng(bits)
    raw = np.arange(1 << 16) if bits == 16 else rng.integers(0, 1 << 63, 20000) >> (63 - bits)
    signed = {16: torch.int16, 32: torch.int32, 64: torch.int64}[bits]
    raw = raw.astype(np.uint64) << np.uint64(bits == 64)
    return torch.from_numpy(raw.astype(f"uint{bits}").view(f"int{bits}")).to(signed).view(dtype)


def words(x):
    if x.dtype == torch.bfloat16:
        return x.contiguous().view(torch.int16).numpy().view(np.uint16)
    return x.contiguous().numpy()


@pytest.mark.parametrize("rate", [0.0, 0.02, (0.3, 0.1)])
@pytest.mark.parametrize("name", STORAGE_FORMATS)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_bits_are_those_of_the_reference(dtype, name, rate, same_bits):
    x = patterns(dtype).reshape(4, -1)[:, : None if rate == 0 else 701]
    y = store(x, *noise_tensors(3, rate, None, 11, 7), 2, name, 0.25, 3)
    expected = reference.apply(
        words(x), rate, seed=11, site=2, sample_index=7, storage_format=name, scale=0.25,
        zero_point=3,
    )  # fmt: skip
    assert y.dtype == dtype
    assert same_bits(words(y), expected)


def test_bad_scale_and_zero_point():
    x, tensors = torch.ones(2, 3), noise_tensors(1)
    with pytest.raises(InputError, match="scale"):
        store(x, *tensors, 0, "int8", 0.0, 0)
    with pytest.raises(InputError, match="from 0 to 15 for uint4, got 16"):
        store(x, *tensors, 0, "uint4", 1.0, 16)
    with pytest.raises(InputError, match="int8"):
        store(x.to(torch.int8), *tensors, 0, "float16")
    for options, problem in (
        ({"storage_format": "int8", "scale": -1.0}, "scale"),
        ({"storage_format": "uint8", "zero_point": 256}, "from 0 to 255"),
        ({"storage_format": "float12"}, "float12"),
    ):
        with pytest.raises(InputError, match=problem):
            NoisyStore(**options)


def test_formats_of_sites():
    assert site_format("native", torch.float32) == "native"
    assert site_format("native", torch.bfloat16) == "bfloat16"
    assert [site_format(name, torch.float32) for name in ("float64", "float8e5m2")] == [
        "float64",
        "float8e5m2",
    ]
    assert site_format("uint4", torch.float32, scale=0.1, zero_point=15) == "uint4"
    assert site_format("int8", torch.int8) == "int8"
    for name in INTEGERS:
        with pytest.raises(InputError, match=r"noisystore quantize.*NoisyStore modules"):
            site_format(name, torch.float32)
        with pytest.raises(InputError, match="zero_point"):
            site_format(name, torch.float32, scale=1.0, zero_point=999)
    with pytest.raises(InputError, match="stored as it is"):
        site_format("float16", torch.uint8)
    with pytest.raises(InputError, match="complex64"):
        site_format("native", torch.complex64)
    assert word_format("native", torch.int32) == "int32"
    assert (word_bits("int4", torch.float32), word_bits("native", torch.float64)) == (8, 64)


class ByHand(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = NoisyStore("int8", scale=0.05, zero_point=-3)
        self.second = NoisyStore("float16")

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


def expected_by_hand(x, mask=None, **noise):
    masks = [None, None] if mask is None else [bit_mask(mask, f) for f in ("int8", "float16")]
    hidden = reference.apply(
        x.numpy(), 0.05, site=0, storage_format="int8", scale=0.05,
        zero_point=-3, bit_mask=masks[0], **noise,
    )  # fmt: skip
    return reference.apply(
        np.maximum(hidden, 0), 0.05, site=1, storage_format="float16", bit_mask=masks[1], **noise
    )


def test_modules_by_hand(same_bits):
    model, x = ByHand().eval(), torch.randn(3, 8)
    assert repr(model.first) == "NoisyStore(storage_format='int8', scale=0.05, zero_point=-3)"
    rounded = model(x)
    assert not torch.equal(rounded, torch.relu(x))
    assert (rounded - torch.relu(x)).abs().max() < 0.03
    with noise(model, 0.05, seed=4):
        assert same_bits(model(x).detach().numpy(), expected_by_hand(x, seed=4))
    with noise(model, 0.05, bit_mask="sign", seed=4):
        assert same_bits(model(x).detach().numpy(), expected_by_hand(x, "sign", seed=4))
    with pytest.raises(InputError, match="site 0: bit mask exponent: int8 has no exponent"):
        noise(model, 0.05, bit_mask="exponent").__enter__()


def test_modules_by_hand_in_a_file(tmp_path, runner, same_bits):
    model, x = ByHand().eval(), torch.randn(3, 8)
    result = export_onnx(model, x, tmp_path / "m.onnx", sites=[])
    assert [s["storage_format"] for s in result.sites] == ["int8", "float16"]
    run = runner(tmp_path / "m.onnx")
    assert same_bits(run(x), model(x).detach().numpy())
    y = run(x, 0.05, sites=2, seed=4)
    assert same_bits(y, expected_by_hand(x, seed=4))


@pytest.mark.parametrize("name", ["float16", "float64", "float8e4m3fn"])
def test_a_network_stored_in_another_format(name, tmp_path, runner, same_bits):
    model, x = nn.Sequential(nn.ReLU(), nn.Flatten()).eval(), torch.randn(3, 8)
    result = export_onnx(model, x, tmp_path / "m.onnx", storage_format=name)
    assert [s["storage_format"] for s in result.sites] == [name]
    assert [s["bits_per_word"] for s in result.sites] == [STORAGE_FORMATS[name]]
    clean = torch.relu(x).numpy()
    noisy = instrument(model, storage_format=name)
    for rate in (0.0, 0.05):
        expected = reference.apply(clean, rate, seed=4, storage_format=name)
        with noise(noisy, rate, seed=4):
            assert same_bits(noisy(x).detach().numpy(), expected)
        assert same_bits(runner(tmp_path / "m.onnx")(x, rate, seed=4), expected)


@pytest.mark.parametrize("name", INTEGERS)
def test_integers_need_a_scale(name, tmp_path):
    model, x = nn.Sequential(nn.Linear(8, 8), nn.ReLU()).eval(), torch.randn(3, 8)
    with pytest.raises(InputError, match="scale is not known; quantize"):
        instrument(model, storage_format=name, args=x)
    with pytest.raises(InputError, match="scale is not known; quantize"):
        export_onnx(model, x, tmp_path / "m.onnx", storage_format=name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_masks_by_name(dtype, same_bits):
    model, x = nn.Sequential(nn.Linear(8, 8), nn.ReLU()).eval().to(dtype), torch.randn(3, 8)
    x = x.to(dtype)
    noisy = instrument(model)
    bits = bit_mask("exponent:3-", word_format("native", dtype))
    with noise(noisy, 0.1, bit_mask="exponent:3-", seed=2):
        y = noisy(x)
    expected = reference.apply(words(torch.relu(model[0](x)).detach()), 0.1, bit_mask=bits, seed=2)
    assert same_bits(words(y.detach()), expected)
    with pytest.raises(InputError, match="1 to 8"), noise(noisy, 0.1, bit_mask="exponent:9-"):
        noisy(x)
