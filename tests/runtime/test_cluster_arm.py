# SPDX-License-Identifier: Apache-2.0
"""A worker of this machine and an emulated 64-bit Arm worker measure the same sweep."""

from __future__ import annotations

import os
import shlex

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

pytest.importorskip("distributed")

from clusters import Machines

from noisystore.runtime import sweep
from noisystore.runtime.cluster import Cluster
from noisystore.runtime.dataset import Dataset

COLUMNS = ("p01", "p10", "trial", "noise_seed", "n_run", "correct_bits", "agree_bits")


@pytest.fixture(scope="module")
def arm_python():
    """A Python of 64-bit Arm with NoisyStore and distributed: .ci/check_arm makes one."""
    command = os.environ.get("NOISYSTORE_ARM_PYTHON")
    if not command:
        pytest.skip("needs NOISYSTORE_ARM_PYTHON: an emulated Python with distributed")
    return shlex.split(command)


@pytest.fixture(scope="module")
def whole_numbers(make_model, tmp_path_factory):
    """A model whose logits are sums of small integers: exact on any machine, in any order."""
    path = tmp_path_factory.mktemp("model") / "m.onnx"
    model = onnx.load(make_model(path))
    for tensor in model.graph.initializer:
        if tensor.name.startswith("w"):
            values = np.round(numpy_helper.to_array(tensor) * 16)
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))
    onnx.save(model, path)
    rng = np.random.default_rng(1)
    images = rng.integers(-3, 4, (200, 1, 6, 6)).astype(np.float32)
    return path, Dataset("integers", images, rng.integers(0, 10, 200))


def test_two_kinds_of_machines_give_equal_flips(arm_python, whole_numbers, tmp_path):
    model, data = whole_numbers
    with Machines(tmp_path) as machines:
        machines.worker("here")
        words = ["-m", "noisystore.runtime.cli", "worker", machines.address, "--threads", "1"]
        machines.start(arm_python, words, ["--name", "arm"], name="arm")
        machines.joined("here", "arm")
        # Flipped signs keep integers integers.
        for mask, exact in (("sign", True), (None, False)):
            found = sweep(
                model,
                data,
                "1e-4:1e-1:2/decade",
                trials=3,
                threads=1,
                bit_mask=mask,
                cluster=Cluster(machines.address, mixed="each"),
                progress=False,
            )
            rows = {row["machine"]: [] for row in found.points}
            for row in found.points:
                rows[row["machine"]].append(
                    tuple(row[name] for name in COLUMNS[: 7 if exact else 5])
                )
            assert found.measured == 42
            assert sorted(rows) == ["aarch64", "x86_64"]
            assert rows["aarch64"] == rows["x86_64"]
            accuracies = {row["accuracy"] for row in found.points}
            assert len(accuracies) > 3
