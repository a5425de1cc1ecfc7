# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the export tests: few threads, and sessions with the operator library."""

import pathlib
import sys

import numpy as np
import onnxruntime as ort
import pytest
import torch

from noisystore import ortops

sys.path.insert(0, str(pathlib.Path(__file__).parent))  # helpers beside the tests


@pytest.fixture(autouse=True)
def _deterministic():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


class Runner:
    """An ONNX Runtime session of one file, fed by position."""

    def __init__(self, path, optimized=None):
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        if optimized is not None:
            options.optimized_model_filepath = str(optimized)
        ortops.register(options)
        self.session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.name = self.session.get_inputs()[0].name

    def __call__(self, x, rate=None, sites=1, seed=0, sample_index=0, mask=None):
        feeds = {self.name: x.numpy() if isinstance(x, torch.Tensor) else x}
        if rate is not None:
            feeds["noise.bit_error_rate"] = np.full((sites, 2), rate, np.float64)
            feeds["noise.seed"] = np.array([seed], np.int64)
            feeds["noise.sample_index"] = np.atleast_1d(np.asarray(sample_index, np.int64))
        if mask is not None:
            feeds["noise.bit_mask"] = np.full(sites, mask, np.uint64)
        return self.session.run(None, feeds)[0]


@pytest.fixture
def runner():
    return Runner


def same_bits(a, b):
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.fixture(name="same_bits")
def _same_bits():
    return same_bits
