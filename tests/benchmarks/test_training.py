# SPDX-License-Identifier: Apache-2.0
"""The benchmark of training runs, and measures all that it says; its times are not judged."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "training.py"


def test_training():
    done = subprocess.run(
        [sys.executable, SCRIPT, "--quick", "--rounds", "1", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    rows = {(row["sites"], row["rate"]): row["ratio"] for row in result["rows"]}
    sites = ("layer", "weight")
    assert set(rows) == {(kind, rate) for kind in sites for rate in (0.0, 1e-6, 1e-4, 1e-3)}
    assert all(ratio > 0 for ratio in rows.values())
    assert result["clean_ms"] > 0
