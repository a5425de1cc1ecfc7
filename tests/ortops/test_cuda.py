# SPDX-License-Identifier: Apache-2.0
"""The library's CUDA face where there is no device: it loads, and says what is missing."""

import ctypes

import numpy as np
import pytest

from noisystore import ortops
from noisystore.ortops.errors import InputError


def has_device():
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return (
        driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value
    )


def run(x, **options):
    address = x.ctypes.data
    ortops.apply_on_cuda(address, address, x.dtype.name, x.shape, 0.1, **options)


@pytest.mark.skipif(has_device(), reason="there is a CUDA device")
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
