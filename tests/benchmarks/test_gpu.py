# SPDX-License-Identifier: Apache-2.0
"""gpu.py's checks, run on the CPU: they pass what is right, and tell what is not."""

import json
import shutil
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


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder with one of the networks."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("networks")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        import gpu_networks

        assert gpu_networks.export(folder, ("vgg-a",)) == []
    return folder


@pytest.fixture
def on_the_cpu(monkeypatch):
    """The script, whose networks run on the CPU instead."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import gpu

    monkeypatch.setattr(gpu.gpu_networks, "cuda", lambda options=None: gpu.gpu_networks.CPU)
    monkeypatch.setattr(gpu, "BATCHES", (1, 2))
    return gpu


def test_networks_are_checked_and_timed(on_the_cpu, exported, capsys):
    found = on_the_cpu.networks(exported, quick=True)
    assert (found["left_out"], found["differences"]) == ([], [])
    assert len(found["rows"]) == 2 * 2 * len(on_the_cpu.gpu_networks.RATES)
    assert all(row["ratio"] > 0 for row in found["rows"])
    assert len(found["goals"]) == 2 * len(on_the_cpu.NETWORK_GOALS)
    assert all(goal["met"] == (goal["got"] <= goal["wanted"]) for goal in found["goals"])
    assert capsys.readouterr().out.count("vgg-a, batch 2, float32, rate ") == 3


def test_what_does_not_fit_is_left_out(on_the_cpu, exported, tmp_path, monkeypatch, capsys):
    times = on_the_cpu.gpu_networks.times

    def small(folder, name, batch, *others):
        if batch > 1:
            raise RuntimeError("Failed to allocate\nmemory")
        return times(folder, name, batch, *others)

    monkeypatch.setattr(on_the_cpu.gpu_networks, "times", small)
    found = on_the_cpu.networks(exported, quick=False)
    assert [line.partition(":")[0] for line in found["left_out"]] == ["vgg-e", "torchvision"]
    wrong = [row for row in found["rows"] if "error" in row]
    assert [(row["batch"], row["error"]) for row in wrong] == [(2, "Failed to allocate memory")] * 2
    assert found["goals"] == []
    assert "batch 2, float32: not timed: Failed to allocate memory" in capsys.readouterr().out
    assert on_the_cpu.networks(tmp_path, quick=True) == {"skipped": "no network is left"}


def test_a_part_that_breaks_off_leaves_the_others(on_the_cpu, tmp_path, monkeypatch, capsys):
    class NoDevice:
        name, capability, cuda = "none", "0", "0.0"

    def breaks(*arguments):
        raise RuntimeError("an illegal memory\naccess")

    monkeypatch.setattr(on_the_cpu, "Device", NoDevice)
    monkeypatch.setattr(on_the_cpu.ortops, "cuda_architectures", lambda: ["90"])
    monkeypatch.setattr(on_the_cpu, "bits", breaks)
    monkeypatch.setattr(on_the_cpu.shutil, "which", lambda name: None)
    path = tmp_path / "gpu.json"
    words = ["gpu.py", "--only", "bits", "--only", "sanitizer", "-o", str(path)]
    monkeypatch.setattr(sys, "argv", words)
    assert on_the_cpu.main() == 1
    kept = json.loads(path.read_text())
    assert kept["bits"] == {"error": "an illegal memory access"}
    assert "needs compute-sanitizer" in kept["sanitizer"]["skipped"]
    assert kept["commit"] is None
    assert "bits broke off: an illegal memory access" in capsys.readouterr().out


def test_a_sanitizer_that_does_not_run_here_is_no_difference(on_the_cpu, tmp_path, monkeypatch):
    tool = tmp_path / "compute-sanitizer"
    for said, code, differences in (
        ("========= Error: no supported device", 1, 0),
        ("========= Error: process did not terminate successfully", 255, 3),
        ("========= ERROR SUMMARY: 0 errors", 0, 0),
        ("========= ERROR SUMMARY: 2 errors", 9, 3),
    ):
        tool.write_text(f"#!/bin/sh\necho '{said}'\nexit {code}\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        found = on_the_cpu.sanitizer()
        assert len(found["differences"]) == differences
        assert all(said in line for line in found["said"].values())


def test_the_networks_sites_are_checked(exported, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import gpu_networks
    import onnx

    shutil.copytree(exported, tmp_path, dirs_exist_ok=True)
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
