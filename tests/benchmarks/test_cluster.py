# SPDX-License-Identifier: Apache-2.0
"""The benchmark of clusters runs; its times are not judged."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("distributed")

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "cluster.py"


def test_efficiency_and_cost():
    command = [sys.executable, SCRIPT, "--quick", "--json", "--images", "20"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["efficiency"]["points"] == 2 * 6
    assert result["cost"]["points"] == 500
    (rows,) = result["efficiency"].pop("rounds")
    assert [row["workers"] for row in rows] == [0, 1, 2]
    assert all(v > 0 for part in ("efficiency", "cost") for v in result[part].values())
