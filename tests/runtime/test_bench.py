# SPDX-License-Identifier: Apache-2.0
"""Timings: their shape and plausibility, not their size, which depends on the machine."""

import json
import subprocess
import sys

import numpy as np
import pytest
from parameter_models import small_network

from noisystore.runtime import bench
from noisystore.runtime.cli import main


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


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    torch = pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    from noisystore.export import load_model

    folder = tmp_path_factory.mktemp("models")
    noisy, plain = folder / "noisy.onnx", folder / "plain.onnx"
    assert main(["export", "vgg-a", "--width", "0.0625", "-o", str(noisy)]) == 0
    network, example = load_model("vgg-a", width=0.0625)
    torch.onnx.export(
        network,
        example,
        plain,
        dynamo=True,
        verbose=False,
        dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
    )
    return noisy, plain


def test_noisy_weights_are_timed_apart(tmp_path, capsys):
    model = small_network(tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=np.zeros((40, 1, 6, 6), np.float32), y=np.zeros(40, int))
    result = bench.bench_model(str(model), f"npz:{tmp_path / 'd.npz'}", batch=20, quick=True)
    assert result["prepare_ms"] > 0
    harness = result["harness"]
    assert harness["seconds"] > harness["prepare_seconds"] + harness["run_seconds"]
    # A run with prepared weights takes no longer than preparing them.
    assert result["rows"][0]["ms"] < result["prepare_ms"]


def test_model(models, capsys):
    noisy, plain = models
    arguments = [
        "bench",
        "--quick",
        "--model",
        str(noisy),
        "--clean",
        str(plain),
        "--batch-size",
        "20",
    ]
    assert main([*arguments, "--json"]) == 0
    model = json.loads(capsys.readouterr().out)["model"]
    assert [row["rate"] for row in model["rows"]] == list(bench.MODEL_RATES)
    for row in model["rows"]:
        assert row["ratio"] > 0
        assert row["ratio_clean"] > 0
    assert model["harness"]["ratio"] > 1
    assert main(["bench", "--quick"]) == 0
    out = capsys.readouterr().out
    assert "x memcpy" in out
    assert "import noisystore.runtime" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--clean", "x.onnx"], "expected --model too"),
        (["--model", "missing.onnx"], "missing.onnx"),
        (["--batch-size", "0"], "1 or more"),
    ],
)
def test_bad_input(capsys, arguments, message):
    assert main(["bench", *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err.splitlines()[-1]
    assert "Traceback" not in err


def test_a_clean_model_that_is_none(models, tmp_path, capsys):
    garbage = tmp_path / "garbage.onnx"
    garbage.write_bytes(b"no model")
    assert main(["bench", "--model", str(models[0]), "--clean", str(garbage)]) == 2
    assert "clean model" in capsys.readouterr().err.splitlines()[-1]
