# SPDX-License-Identifier: Apache-2.0
"""gpu.py's checks, run on the CPU: they pass what is right, and tell what is not."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def checks(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import gpu_checks

    return gpu_checks


def test_the_cpu_library_passes(checks):
    assert checks.known_answers(checks.on_the_cpu) == (99, [])
    count, differences = checks.compare(checks.on_the_cpu, quick=False)
    assert (count > 4000, differences) == (True, [])


def test_every_kind_of_fault_is_told(checks):
    def faulty(fault):
        def implementation(x, case):
            return checks.on_the_cpu(x, fault(case))

        return implementation

    def without_last(x, case):
        y = checks.on_the_cpu(x, case)
        y.reshape(-1)[-1:].view(np.uint8)[...] ^= 1
        return y

    for implementation in (
        faulty(lambda case: case._replace(seed=case.seed + 1)),
        faulty(lambda case: case._replace(sample_index=0)),
        faulty(lambda case: case._replace(bit_mask=None)),
        faulty(lambda case: case._replace(zero_point=4)),
        without_last,
    ):
        assert checks.compare(implementation, quick=True)[1]
    assert checks.known_answers(without_last)[1]


def test_the_networks_sites_are_checked(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(str(FOLDER))
    import gpu_networks
    import onnx

    gpu_networks.export(tmp_path, ("vgg-a",))
    noisy = gpu_networks.path_of(tmp_path, "vgg-a", True)
    shape = gpu_networks.SHAPES["vgg-a"]
    assert gpu_networks.check(noisy, shape, gpu_networks.CPU) == []
    model = onnx.load(noisy)
    store = next(node for node in model.graph.node if node.op_type == "NoisyStore")
    next(a for a in store.attribute if a.name == "rows_per_sample").i = 0
    onnx.save(model, noisy)

    def as_it_should_be(x, rate, **options):
        return apply(x, rate, **{**options, "rows_per_sample": 1})

    apply = gpu_networks.ortops.apply
    monkeypatch.setattr(gpu_networks.ortops, "apply", as_it_should_be)
    assert "site 0, rate 0.1: other words" in gpu_networks.check(noisy, shape, gpu_networks.CPU)[-1]
    rows = gpu_networks.times(tmp_path, "vgg-a", 1, 2, gpu_networks.CPU)
    assert [row["rate"] for row in rows] == list(gpu_networks.RATES)


def test_the_operator_is_timed_on_a_device(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(FOLDER))
    import gpu

    try:
        device = gpu.Device()
    except gpu.CudaError as error:
        pytest.skip(f"needs CUDA: {error}")
    monkeypatch.setattr(gpu, "TIMED", (2, 40))
    found = gpu.bandwidth(device, quick=True)
    assert [row["rate"] for row in found["rows"]] == list(gpu.RATES) * 4
    assert all(row["us"] > 0 and row["of_copy"] > 0 for row in found["rows"])
    assert [goal["wanted"] for goal in found["goals"]] == list(gpu.COPY_GOALS.values())
    said = capsys.readouterr().out
    assert "in multiples of a copy" in said
    assert said.count("goal ") == len(gpu.COPY_GOALS)


def test_without_a_device_the_script_says_so():
    done = subprocess.run(
        [sys.executable, FOLDER / "gpu.py", "--quick", "--only", "bits"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        pytest.skip("there is a CUDA device")
    assert done.returncode == 2
    assert done.stderr.startswith("gpu.py: ")
    assert done.stderr.count("\n") == 1
