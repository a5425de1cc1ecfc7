# SPDX-License-Identifier: Apache-2.0
"""Sweeps that are killed, or lose the power, at 100 random moments each."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from noisystore.runtime import sweep
from noisystore.runtime.results import results_rows

HERE = Path(__file__).parent
TIMES = 100
VARYING = {"seconds", "run_seconds", "measured"}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def crash(what, model, data, path, seed, **environment):
    command = [sys.executable, HERE / "crashes.py", what, model, data, path, str(TIMES), str(seed)]
    done = subprocess.run(
        list(map(str, command)),
        env={**ENVIRONMENT, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def stable(rows):
    return [{name: row[name] for name in row if name not in VARYING} for row in rows]


def test_killed_at_100_random_moments(model_path, small_npz, tmp_path):
    path = tmp_path / "r.sqlite"
    found = crash("killed", model_path, small_npz, path, seed=1)
    assert found["lost"] == found["repeated"] == 0
    # It was killed before the first point, while the clean network ran, and amid points.
    assert 10 <= found["empty"] <= 90
    assert found["points"] > 100
    # What is there is what a sweep gives that nobody killed; with two trials, which were measured.
    options = dict(trials=2, images=20, threads=1, workers=1, progress=False)
    arguments = (model_path, f"npz:{small_npz}", "1e-6:1e-2:10/decade")
    whole = sweep(*arguments, **options).points
    assert sweep(*arguments, **options, results=path).measured == 0
    rows = stable(results_rows(path))
    assert len(rows) == found["points"]
    assert [row for row in rows if row["trial"] < 2] == stable(whole)


@pytest.fixture(scope="module")
def synced_copies(tmp_path_factory):
    """A library that keeps, beside each file, what of it was synced."""
    compiler = os.environ.get("CXX") or shutil.which("c++")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C++ compiler and Linux: what is on the disk is seen by a library")
    library = tmp_path_factory.mktemp("synced") / "synced_copies.so"
    command = [*compiler.split(), "-std=c++17", "-O1", "-shared", "-fPIC"]
    command += [str(HERE / "synced_copies.cc"), "-o", str(library), "-ldl"]
    subprocess.run(command, check=True, timeout=120)
    return library


def test_without_power_at_100_random_moments(model_path, small_npz, tmp_path, synced_copies):
    path = tmp_path / "r.sqlite"
    found = crash(
        "without_power", model_path, small_npz, path, seed=2, LD_PRELOAD=str(synced_copies)
    )
    assert found["lost"] == 0
    assert 5 <= found["empty"] <= 95
    assert found["points"] > 50
