# SPDX-License-Identifier: Apache-2.0
"""Timings: their shape and plausibility, not their size, which depends on the machine."""

import subprocess
import sys

import pytest

from noisystore.runtime import bench


def test_operator():
    result = bench.bench_operator(quick=True, elements=1 << 16)
    assert [row["rate"] for row in result["rows"]] == list(bench.OPERATOR_RATES)
    assert result["memcpy_us"] > 0
    assert result["call_ns"] > 0
    by_rate = {row["rate"]: row for row in result["rows"]}
    assert by_rate[0.0]["us"] < by_rate[1e-2]["us"]
    assert by_rate[0.0]["ns_per_flip"] is None
    assert by_rate[1e-2]["flips"] == pytest.approx((1 << 16) * 32 * 1e-2)
    spent = by_rate[1e-2]["us"] * 1e3 / by_rate[1e-2]["flips"]
    assert by_rate[1e-2]["ns_per_flip"] == pytest.approx(spent)


def test_measurements_alternate():
    order: list[str] = []
    work = {name: [lambda name=name: order.append(name)] for name in "ab"}
    medians = bench.interleaved(work, rounds=3, seconds=0.0)
    assert set(medians) == {"a", "b"}
    assert order[-6:] == ["a", "b"] * 3


HEAVY = ("torch", "onnx", "onnxruntime", "matplotlib", "scipy", "sklearn", "PIL")


def test_imports_stay_light():
    statement = f"import sys, noisystore.runtime; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", statement], capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
    assert set(bench.import_seconds(quick=True)) == {"package", "all"}
