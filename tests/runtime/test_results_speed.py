# SPDX-License-Identifier: Apache-2.0
"""The benchmark of queries runs; with a million points, every query of a part takes under 1 s."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks/results_queries.py"


def run(*arguments):
    pytest.importorskip("pandas")
    command = [sys.executable, str(SCRIPT), "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_queries():
    found = run("--quick")
    assert found["points"] == 10_000
    assert len(found["seconds"]) >= 10
    assert all(0 < seconds < 5 for seconds in found["seconds"].values())


@pytest.mark.long
def test_queries_of_a_million_points():
    found = run()
    assert found["points"] == 1_000_000
    whole = {name for name in found["seconds"] if name.startswith("all points: ")}
    assert len(whole) == 3
    for name in set(found["seconds"]) - whole:
        assert found["seconds"][name] < 1, name
