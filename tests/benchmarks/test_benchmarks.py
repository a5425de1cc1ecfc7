# SPDX-License-Identifier: Apache-2.0
"""The benchmarks run, and flip as many bits as they say; their times are not judged."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

FOLDER = Path(__file__).parents[2] / "benchmarks"


def run(script, *arguments):
    done = subprocess.run(
        [sys.executable, FOLDER / script, "--quick", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_peers_flip_at_equal_effective_rates():
    result = json.loads(run("peers.py", "--json"))
    for name, package in (("MRFI", "mrfi"), ("PyTorchFI", "pytorchfi")):
        if importlib.util.find_spec(package) is None:
            assert f"{name}: not installed (pip install {package})" in result["skipped"]
    measured = [row for row in result["rows"] if row["effective"] is not None]
    assert {"NoisyStore", "dense fliptensors (torch)", "sparse torch"} <= {
        row["operator"] for row in measured
    }
    for row in measured:
        assert row["effective_expected"] == pytest.approx(1, abs=0.02)
        assert abs(row["effective"] - row["effective_expected"]) < 6 * row["error"]
        assert row["us"] is None or row["us"] > 0


def test_end_to_end():
    pytest.importorskip("onnx")
    out = run("end_to_end.py")
    assert "ONNX Runtime" in out
    assert "dense fliptensors" in out
    assert "harness: a sweep takes" in out


def test_splits_of_the_cores_measure_the_same_points():
    result = json.loads(run("workers.py", "--json", "--images", "20"))
    assert result["points"] == 2 * 6
    assert [row["workers"] for row in result["rows"]][::2] in (
        ["auto"],
        [1, "auto"],
        [1, 4, "auto"],
    )
    assert all(row["ratio"] > 0 for row in result["rows"])
