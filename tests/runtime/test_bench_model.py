# SPDX-License-Identifier: Apache-2.0
"""What is measured of a model: shape and plausibility, not size, which depends on the machine."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time

import numpy as np
import pytest
from parameter_models import small_network
from sensor_files import lay_out, put

from noisystore.runtime import NoisySession, bench_process
from noisystore.runtime import bench_model as bench_model_module
from noisystore.runtime.bench_energy import Run, bench_energy
from noisystore.runtime.bench_model import ENERGY_RATES, MODEL_RATES, bench_model
from noisystore.runtime.board import load_board
from noisystore.runtime.cli import main
from noisystore.runtime.memory import PeakMemory
from noisystore.runtime.model_file import model_sha256

MIB = 1 << 20


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


def test_model_and_the_same_without_sites(models, capsys):
    noisy, plain = models
    words = ["--model", noisy, "--clean", plain, "--batch-size", "20", "--threads", "1"]
    assert main(["bench", "--quick", *map(str, words), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    model = report["model"]
    assert (model["name"], model["batch"], model["threads"]) == ("noisy.onnx", 20, 1)
    assert model["provider"] == "CPUExecutionProvider"
    assert model["sha256"] == NoisySession(noisy).model_sha256
    assert model["clean_sha256"] == model_sha256(plain)
    assert model["formats"] == ["float32"]
    assert [row["rate"] for row in model["rows"]] == list(MODEL_RATES)
    for row in model["rows"]:
        assert row["ratio"] > 0
        assert row["ratio_clean"] > 0
    assert model["harness"]["ratio"] > 1
    found = {(r["graph"], r["rate"], r["batch"]): r for r in report["throughput"]}
    expected = {
        (graph, rate, batch)
        for batch in (1, 20)
        for graph, rate in [
            ("without sites", None),
            *(("noisy", rate) for rate in (0.0, *MODEL_RATES)),
        ]
    }
    assert set(found) == expected
    for (_, _, batch), row in found.items():
        assert row["images_per_second"] == pytest.approx(batch / row["ms"] * 1e3)
    assert found["noisy", 0.0, 20]["ms"] == model["zero_ms"]
    assert found["without sites", None, 20]["ms"] == model["clean_ms"]
    # A batch takes longer than one image.
    assert found["noisy", 0.1, 20]["ms"] > found["noisy", 0.1, 1]["ms"]


def test_noisy_weights_are_timed_apart(tmp_path):
    model = small_network(tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=np.zeros((40, 1, 6, 6), np.float32), y=np.zeros(40, int))
    result = bench_model(str(model), f"npz:{tmp_path / 'd.npz'}", batch=20, quick=True)
    assert result["model"]["prepare_ms"] > 0
    harness = result["model"]["harness"]
    assert harness["seconds"] > harness["prepare_seconds"] + harness["run_seconds"]
    # A run with prepared weights takes no longer than preparing them.
    assert result["model"]["rows"][0]["ms"] < result["model"]["prepare_ms"]


def test_the_first_run_of_a_trial_does_not_count(tmp_path, monkeypatch):
    """A session that is new runs slower; what is timed is the run after that."""
    session = NoisySession(small_network(tmp_path / "m.onnx"), threads=1)
    x = np.zeros((4, 1, 6, 6), np.float32)
    session.run(x)
    run, seen = NoisySession.run, []

    def slow_at_first(self, *arguments, **named):
        before = self.prepare_seconds
        result = run(self, *arguments, **named)
        seen.append(self.prepare_seconds != before)
        if seen[-1]:
            time.sleep(0.05)
        return result

    monkeypatch.setattr(NoisySession, "run", slow_at_first)
    medians = bench_model_module._medians(session, None, x, 3, 0.0)
    assert any(seen)
    assert all(seconds < 0.02 for seconds in medians.values())


def test_a_model_that_fixes_its_batch(make_model, small_npz, tmp_path):
    model = make_model(tmp_path / "m.onnx", batch=7)
    result = bench_model(str(model), f"npz:{small_npz}", batch=20, quick=True)
    assert {row["batch"] for row in result["throughput"]} == {7}
    assert result["start_up"]["images"] == result["memory"]["images"] == 7


def test_start_up(model_path, small_data):
    session = NoisySession(model_path, threads=1)
    start = bench_process.start_up(session, small_data.images[:1], quick=True)
    assert 0 < start["session_seconds"] < start["import_seconds"] < 60
    assert 0 < start["first_seconds"] < 60
    assert start["images"] == 1


def test_memory_grows_with_the_batch(model_path, small_data):
    session = NoisySession(model_path, threads=1)
    few, many = (
        bench_process.memory(session, np.resize(small_data.images, (n, 1, 6, 6)), 0.1)
        for n in (1, 20_000)
    )
    if many["growth"] is None:
        pytest.skip("the system does not tell the largest resident set")
    # x -> 128 floats, 24, 10: the first are stored and read, at most four times held.
    least, most = 20_000 * 128 * 4, 20_000 * 4 * 4 * (128 + 24 + 10) + 32 * MIB
    assert least < many["growth"] < most
    assert many["image"] == pytest.approx(many["growth"] / 20_000)
    assert many["peak"] > few["peak"] + least


def test_a_process_that_fails(model_path, small_data):
    session = NoisySession(model_path)
    session.path = session.path.with_name("gone.onnx")
    for said in (
        bench_process.start_up(session, small_data.images[:1], quick=True),
        bench_process.memory(session, small_data.images[:1], 0.1),
    ):
        assert set(said) == {"reason"}
        assert said["reason"].startswith("the process ended with status 1: ")
        assert "gone.onnx" in said["reason"]


def test_a_python_that_starts_no_programs(model_path, small_npz, tmp_path, monkeypatch, capsys):
    program = tmp_path / "python"
    program.write_bytes(b"\x7fELF of another machine")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    report = tmp_path / "r.json"
    command = ["bench", "--model", model_path, "--data", f"npz:{small_npz}", "--quick"]
    assert main([str(word) for word in [*command, "-o", report]]) == 0
    out = capsys.readouterr().out
    assert "not available: this Python starts no other programs (Exec format error)" in out
    written = json.loads(report.read_text())
    assert written["import_seconds"] == {"package": None, "all": None}
    assert main(["bench", "--compare", str(report), str(report)]) == 0


def test_peak_memory():
    # In a process of its own: what other tests leave may be given back at any time.
    code = """
import numpy as np
from noisystore.runtime.memory import PeakMemory
with PeakMemory() as used:
    held = np.ones(64 << 20, np.uint8)
    del held
print(used.growth, used.peak)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    growth, peak = done.stdout.split()
    if growth == "None":
        pytest.skip("the system does not tell the largest resident set")
    assert 60 * MIB < int(growth) < 100 * MIB
    assert int(peak) >= int(growth)


def status(root, resident, highest):
    path = root / "proc/self/status"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"Name:\tpython\nVmHWM:\t{highest} kB\nVmRSS:\t{resident} kB\n")


@pytest.mark.parametrize(("after", "growth"), [(700, 200), (650, None)])
def test_peak_memory_that_cannot_be_set_back(tmp_path, after, growth):
    # Only a new largest set is surely of this time.
    status(tmp_path, 500, 650)
    (tmp_path / "proc/self/clear_refs").mkdir()  # cannot be written
    with PeakMemory(str(tmp_path)) as used:
        status(tmp_path, 400, after)
    assert used.growth == (None if growth is None else growth * 1024)
    assert used.peak == after * 1024


def test_peak_memory_of_other_systems(tmp_path):
    with PeakMemory(str(tmp_path)) as used:
        pass
    assert used.growth is None
    assert used.peak > MIB


def test_energy_of_runs(tmp_path, model_path, small_npz):
    lay_out("jetson-orin-nano", tmp_path)  # 5.08 W at the input, whatever runs
    result = bench_model(
        str(model_path), f"npz:{small_npz}", batch=10, quick=True, root=str(tmp_path)
    )
    energy = result["energy"]
    assert (energy["reason"], energy["counted"]) == ("", ["VDD_IN"])
    assert energy["idle_watts"] == pytest.approx(5.08)
    assert [(row["graph"], row["rate"]) for row in energy["rows"]] == [
        ("noisy", rate) for rate in ENERGY_RATES
    ]
    for row in energy["rows"]:
        assert row["seconds"] >= 1
        assert row["images"] % 10 == 0
        assert row["watts"] == pytest.approx(5.08)
        assert row["joules_per_image"] == pytest.approx(5.08 * row["seconds"] / row["images"])
        assert row["net_joules_per_image"] == pytest.approx(0, abs=1e-9)
        assert row["meters"] == pytest.approx(
            {"VDD_IN": 5.08, "VDD_CPU_GPU_CV": 1.016, "VDD_SOC": 1.50368}, rel=0.02
        )


def test_energy_above_idle(tmp_path):
    lay_out("jetson-orin-nano", tmp_path)
    current = tmp_path / "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1/curr1_input"

    def call():
        put(current, 3000)  # three times the power
        time.sleep(0.2)
        put(current, 1000)

    energy = bench_energy([Run("noisy", 0.0, call)], 4, "CPUExecutionProvider", True, str(tmp_path))
    assert energy["idle_watts"] == pytest.approx(5.08)
    (row,) = energy["rows"]
    assert 2 * 5.08 < row["watts"] < 3.01 * 5.08
    above = (row["watts"] - 5.08) * row["seconds"] / row["images"]
    assert row["net_joules_per_image"] == pytest.approx(above)


def test_counters_that_stand_still(tmp_path):
    # As in virtual machines.
    lay_out("x86-haswell", tmp_path)
    run = Run("noisy", 0.0, lambda: time.sleep(0.1))
    energy = bench_energy([run], 5, "CPUExecutionProvider", True, str(tmp_path))
    assert energy["reason"] == "the meters stand still"
    assert (energy["rows"], energy["counted"], energy["idle_watts"]) == ([], [], None)


def test_a_board_whose_settings_are_used(model_path, small_npz, tmp_path, capsys):
    here = platform.machine()
    board = load_board("x86-server" if here == "aarch64" else "raspberry-pi-5")
    out = tmp_path / "report.json"
    words = ["--model", model_path, "--data", f"npz:{small_npz}", "--board", board.name]
    assert main(["bench", "--quick", *map(str, words), "--threads", "2", "-o", str(out)]) == 0
    captured = capsys.readouterr()
    assert f"note: {board.name} is {board.architecture}, this machine {here}" in captured.err
    report = json.loads(out.read_text())
    assert report["board"] == board.name
    assert report["model"]["threads"] == 2  # an option of its own wins
    assert report["model"]["batch"] == board.batch_size
    note = f"The figures are those of this machine ({here}) with the settings of the board"
    assert report["notes"][0].startswith(note)
    assert note in captured.out
    assert report["before_measuring"] == [*board.power_modes, *board.hints]
    for line in report["before_measuring"]:
        assert f"set before measuring: {line}" in captured.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--clean", "x.onnx"], "expected --model too"),
        (["--model", "missing.onnx"], "missing.onnx"),
        (["--batch-size", "0"], "1 or more"),
        (["-o", "report.txt"], "ends in .json or .md"),
        (["-o", "missing/report.md"], "does not exist"),
        (["--board", "unheard-of"], "expected one of"),
        (["--model", "{model}", "--provider", "tpu"], "execution provider"),
    ],
)
def test_bad_input(error, model_path, arguments, message):
    assert message in error("bench", *(word.format(model=model_path) for word in arguments))


def test_a_clean_model_that_is_none(error, model_path, small_npz, tmp_path):
    garbage = tmp_path / "garbage.onnx"
    garbage.write_bytes(b"no model")
    words = ["--model", model_path, "--data", f"npz:{small_npz}", "--clean"]
    assert f"clean model {garbage}" in error("bench", *words, garbage)
    assert "gone.onnx" in error("bench", *words, tmp_path / "gone.onnx")
