# SPDX-License-Identifier: Apache-2.0
"""The library's CUDA face: without a device it says what is missing; with one, what goes wrong.

The bits of a device are compared by benchmarks/gpu.py; .ci/check_emulated_cuda runs both on an
emulated one.
"""

import ctypes
from pathlib import Path

import numpy as np
import pytest

from noisystore import ortops
from noisystore.ortops.errors import InputError


def devices():
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    good = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    return count.value if good else 0


@pytest.fixture
def device_of(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import cuda_driver

    return cuda_driver.Device


def run(x, **options):
    address = x.ctypes.data
    ortops.apply_on_cuda(address, address, x.dtype.name, x.shape, 0.1, **options)


@pytest.mark.skipif(devices() > 0, reason="there is a CUDA device")
def test_what_is_missing_is_said():
    x = np.ones((2, 5), np.float32)
    built = ortops.cuda_architectures()
    match = "CUDA: .*driver" if built else "built without it; build NoisyStore where nvcc is found"
    with pytest.raises(InputError, match=match):
        run(x)
    assert (x == 1).all()
    if built:
        run(x[:0])  # nothing to do


def test_bad_arguments_are_told_before_the_device_is_asked():
    x = np.ones((4, 5), np.float32)
    for options, match in (
        ({"storage_format": "float12"}, "unknown format 'float12'"),
        ({"rows_per_sample": 3}, "no multiple of rows_per_sample"),
        ({"sample_index": [1, 2]}, "one a sample"),
        ({"seed": 1.5}, "seed"),
    ):
        with pytest.raises(InputError, match=match):
            run(x, **options)
    with pytest.raises(InputError, match=r"x: expected one of .*complex64"):
        ortops.apply_on_cuda(0, 0, "complex64", (1,), 0.1)


def test_architectures_are_numbers():
    assert all(name.isdigit() and int(name) >= 50 for name in ortops.cuda_architectures())


needs_device = pytest.mark.skipif(
    devices() == 0 or not ortops.cuda_architectures(),
    reason="needs CUDA: no device, or a library without it",
)


@needs_device
def test_memory_that_cannot_be_words_is_refused(device_of):
    device = device_of()
    x = np.ones((2, 5), np.float32)
    place = device.allocate(2 * x.nbytes)
    device.write(place, x)
    for source, target in ((place + 2, place), (place, place + 1)):
        with pytest.raises(InputError, match="aligned to their elements of 4 bytes"):
            ortops.apply_on_cuda(source, target, "float32", x.shape, 0.5)
    assert (device.read(place, x) == x).all()
    # Any element will do.
    ortops.apply_on_cuda(place + 4, place + 4, "float32", (1, 1), 0.5, seed=3)
    expected = x.copy().reshape(-1)
    ortops.apply(expected[1:2].reshape(1, 1), 0.5, seed=3, out=expected[1:2].reshape(1, 1))
    assert (device.read(place, x).reshape(-1) == expected).all()
    device.free(place)


@needs_device
@pytest.mark.parametrize("rate", [0.01, 0.5])
def test_memory_of_the_host_does_not_spoil_the_device(device_of, rate):
    device = device_of()
    if device.reaches_host:
        pytest.skip("this device reaches the host's memory")
    x, y = np.ones((2, 50), np.float32), np.zeros((2, 50), np.float32)
    place = device.allocate(x.nbytes)
    device.write(place, x)
    expected = ortops.apply(x, rate)
    for source, target in ((x.ctypes.data, place), (place, y.ctypes.data)):
        with pytest.raises(InputError, match="memory of the host, which the device does not reach"):
            ortops.apply_on_cuda(source, target, "float32", x.shape, rate)
    ortops.apply_on_cuda(place, place, "float32", x.shape, rate)
    assert device.read(place, x).tobytes() == expected.tobytes()
    device.free(place)


@needs_device
@pytest.mark.parametrize("kind", ["int8", "float16"])
def test_ends_of_tensors(device_of, kind):
    """Flips in words of four bytes that are the tensor's in part; nothing lies behind it."""
    device = device_of()
    for elements in range(1, 40):
        x = np.zeros((1, elements), kind)
        shift = elements % 5 * x.itemsize
        memory = np.full(shift + x.nbytes, 0xA5, np.uint8)
        memory[shift:] = 0
        place = device.allocate(memory.nbytes)
        for seed in range(8):
            device.write(place, memory)
            ortops.apply_on_cuda(place + shift, place + shift, kind, x.shape, 1 / 33, seed=seed)
            got = device.read(place, memory)
            expected = ortops.apply(x, 1 / 33, seed=seed)
            assert got[shift:].tobytes() == expected.tobytes()
            assert (got[:shift] == 0xA5).all()
        device.free(place)


@needs_device
def test_samples_beyond_what_a_launch_lists(device_of):
    device = device_of()
    x = np.random.default_rng(0).standard_normal((1500, 3), np.float32)
    index = np.random.default_rng(1).permutation(1500)
    for rate in (0.01, 0.3):
        place = device.allocate(x.nbytes)
        device.write(place, x)
        ortops.apply_on_cuda(place, place, "float32", x.shape, rate, sample_index=index)
        got = device.read(place, x)
        expected = ortops.apply(x, rate, sample_index=index)
        assert got.tobytes() == expected.tobytes() != x.tobytes()
        device.free(place)


@needs_device
def test_work_on_a_stream(device_of):
    device = device_of()
    x = np.random.default_rng(0).standard_normal((4, 999), np.float32)
    place, other, stream = device.allocate(x.nbytes), device.allocate(x.nbytes), device.stream()
    device.write(place, x)
    for seed in range(3):  # each reads what the one before it has written
        ortops.apply_on_cuda(place, other, "float32", x.shape, 1e-3, seed=seed, stream=stream)
        ortops.apply_on_cuda(other, place, "float32", x.shape, 0.2, seed=seed, stream=stream)
        x = ortops.apply(ortops.apply(x, 1e-3, seed=seed), 0.2, seed=seed)
    assert device.read_on(stream, place, x).tobytes() == x.tobytes()


@pytest.mark.skipif(devices() < 2, reason="needs CUDA: no two devices")
def test_work_is_done_where_the_memory_lies(device_of):
    x = np.random.default_rng(0).standard_normal((3, 1000), np.float32)
    second = device_of(1)
    place, other = second.allocate(x.nbytes), second.allocate(x.nbytes)
    second.write(place, x)
    first = device_of(0)
    for options in ({"storage_format": "int8", "scale": 0.01}, {}):
        ortops.apply_on_cuda(place, other, "float32", x.shape, 0.01, **options)
        assert first.is_current()
        expected = ortops.apply(x, 0.01, **options)
        second.make_current()
        assert second.read(other, x).tobytes() == expected.tobytes()
        first.make_current()


@pytest.mark.skipif(devices() < 2, reason="needs CUDA: no two devices")
def test_what_cuda_refuses_is_said(device_of):
    x = np.ones((3, 1000), np.float32)
    strange = device_of(1).stream()
    first = device_of(0)
    place = first.allocate(x.nbytes)
    first.write(place, x)
    for rate in (1e-3, 0.2):
        with pytest.raises(
            InputError, match=r"^CUDA: the kernel does not start: .*InvalidResource"
        ):
            ortops.apply_on_cuda(place, place, "float32", x.shape, rate, stream=strange)
    assert (first.read(place, x) == x).all()
    ortops.apply_on_cuda(place, place, "float32", x.shape, 0.2)
    assert first.read(place, x).tobytes() == ortops.apply(x, 0.2).tobytes()
