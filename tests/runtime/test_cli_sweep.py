# SPDX-License-Identifier: Apache-2.0
"""The command `sweep`: from a model to results and plots, bad input, interruptions, full disks."""

import argparse
import importlib.util
import platform
import signal
import sqlite3
import subprocess
import sys
import time

import numpy as np
import onnxruntime
import pytest

from noisystore.runtime import Results
from noisystore.runtime.cli import main
from noisystore.runtime.commands.common import use_board

pytestmark = pytest.mark.usefixtures("one_torch_thread")


def sweep_options(model, path, **changes):
    options = {
        "--data": "digits",
        "--rates": "1e-5,1e-3,1e-1",
        "--trials": 2,
        "--images": 40,
        "-o": path,
        **changes,
    }
    return ["sweep", model, *(word for pair in options.items() for word in pair)]


def test_sweep_and_fit(model, tmp_path, ok, capsys):
    path = tmp_path / "r.sqlite"
    result = ok(*sweep_options(model, path, **{"--rates": "1e-6:1e-1:1/decade"}))
    assert {"rows", "clean_accuracy", "images", "seconds", "inferences"} <= set(result)
    assert (result["rows"], result["images"], result["measured"]) == (12, 40, 12)
    again = ok(*sweep_options(model, path, **{"--rates": "1e-6:1e-1:1/decade"}))
    assert (again["rows"], again["measured"], again["inferences"]) == (12, 0, 0)
    masked = ok(*sweep_options(model, path, **{"--mask": "0x40000000", "--trials": 1}))
    assert masked["rows"] == 3
    groups = ok("fit", path)
    assert [group["mask"] for group in groups] == ["0x40000000", "all"]
    for group in groups:
        assert group["clean_accuracy"] == result["clean_accuracy"]


def test_a_board_gives_what_no_option_says(model, tmp_path, ok, capsys):
    from noisystore.runtime.board import board_text

    other = "aarch64" if platform.machine() == "x86_64" else "x86_64"
    text = board_text("raspberry-pi-5").replace("threads = 4", "threads = 1")
    text = text.replace('"aarch64"', f'"{platform.machine()}"').replace("_size = 16", "_size = 7")
    text = text.replace('"aarch64-linux-gnu"', '"native"')
    board, path = tmp_path / "b.toml", tmp_path / "r.sqlite"
    board.write_text(text)
    ok(*sweep_options(model, path, **{"--board": board}))
    assert "note:" not in capsys.readouterr().err
    ok(*sweep_options(model, path, **{"--board": board, "--batch-size": 9, "--threads": 2}))
    board.write_text(text.replace(f'"{platform.machine()}"', f'"{other}"'))
    with Results(path, readonly=True) as results:
        rows = results.rows()
    assert {(row["batch_size"], row["threads"]) for row in rows} == {(7, 1), (9, 2)}
    options = sweep_options(model, tmp_path / "o.sqlite", **{"--board": board})
    assert main([*map(str, options), "--provider", "cpu"]) == 0
    error = capsys.readouterr().err
    assert f"note: raspberry-pi-5 is {other}, this machine {platform.machine()}" in error


def board_with_options(tmp_path):
    from noisystore.runtime.board import board_text

    table = '[onnxruntime.options.CPUExecutionProvider]\narena_extend_strategy = "kSame"\n\n[run]'
    path = tmp_path / "options.toml"
    path.write_text(board_text("x86-server").replace("[run]", table))
    return str(path)


@pytest.mark.parametrize("provider", [None, "cpu", "CPUExecutionProvider"])
def test_a_board_s_providers_have_its_options(tmp_path, provider):
    args = argparse.Namespace(
        board=board_with_options(tmp_path), threads=None, batch_size=None, provider=provider
    )
    use_board(args)
    assert args.provider == [("CPUExecutionProvider", {"arena_extend_strategy": "kSame"})]


def test_a_board_whose_provider_is_not_installed(model, tmp_path, error):
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("needs an ONNX Runtime without CUDA")
    options = sweep_options(model, tmp_path / "r.sqlite", **{"--board": "cuda-server"})
    said = error(*options)
    assert "board cuda-server: expected an ONNX Runtime with CUDAExecutionProvider" in said
    assert "--provider cpu" in said
    assert main([*map(str, options), "--provider", "cpu"]) == 0


def test_sweep_with_a_plot_and_text(model, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    plot = tmp_path / "p.png"
    options = sweep_options(model, tmp_path / "r.sqlite", **{"--plot": plot})
    status = main([*map(str, options)])
    captured = capsys.readouterr()
    if status == 0:
        assert plot.read_bytes().startswith(b"\x89PNG")
        assert f"6 points of this sweep in {tmp_path / 'r.sqlite'} (6 measured" in captured.out
    else:
        assert "all points are kept" in captured.err


def test_what_a_sweep_says(model_path, small_npz, tmp_path, capsys, monkeypatch):
    """Of its own points, one or more, in a file that has others; and what to do next here."""
    path = tmp_path / "my r.sqlite"
    words = ["sweep", str(model_path), "--data", f"npz:{small_npz}", "-o", str(path)]
    assert main([*words, "--rates", "1e-3,1e-2", "--trials", "1"]) == 0
    assert f"2 points of this sweep in {path} (2 measured now): clean" in capsys.readouterr().out
    find = importlib.util.find_spec
    for found, plot in ((find, " --plot midpoint.png"), (lambda name: None, "")):
        monkeypatch.setattr(importlib.util, "find_spec", found)
        assert main([*words, "--rates", "1e-4", "--trials", "1"]) == 0
        captured = capsys.readouterr()
        first, following = captured.out.splitlines()
        assert first.startswith(f"1 point of this sweep in {path} (")
        assert "note:" not in captured.err
        assert "warning:" not in captured.err
        if plot and find("matplotlib") is None:
            plot = ""
        assert following == f"next: noisystore fit '{path}'{plot}"


def test_images_that_no_model_normalizes(model, model_path, tmp_path, capsys):
    rng = np.random.default_rng(0)
    images = {"bytes": rng.integers(0, 256, (40, 1, 6, 6), dtype=np.uint8)}
    images["floats"] = images["bytes"].astype(np.float32)
    for name, x in images.items():
        np.savez(tmp_path / f"{name}.npz", x=x, y=rng.integers(0, 10, 40))
        words = ["sweep", model_path, "--data", f"npz:{tmp_path / name}.npz", "--rates", "1e-3"]
        words += ["--trials", "2", "-o", tmp_path / f"{name}.sqlite"]
        assert main([*map(str, words)]) == 0
        said = capsys.readouterr().err
        note = "note: images as x / 255: the model names no normalization\n"
        assert said.count(note) == (name == "bytes")
    assert main([*map(str, sweep_options(model, tmp_path / "r.sqlite"))]) == 0
    assert "note:" not in capsys.readouterr().err


def test_a_network_that_guesses(model_path, small_data, tmp_path, capsys):
    """It is said once the clean network has run, and where a sweep of it goes on."""
    wrong = tmp_path / "wrong.npz"
    np.savez(wrong, x=small_data.images, y=(small_data.labels + 5) % 10)
    words = ["sweep", model_path, "--data", f"npz:{wrong}", "--rates", "1e-3"]
    words += ["-o", tmp_path / "r.sqlite", "--trials"]
    for trials in (1, 2):
        assert main([*map(str, words), str(trials)]) == 0
        said = capsys.readouterr().err.splitlines()
        (warning,) = (line for line in said if line.startswith("warning:"))
        assert "clean accuracy 0.0000 is not clearly above chance (0.1), of 157 images: " in warning
        assert said.index(warning) < len(said) - 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--rates": "2"}, "in [0, 1], got 2"),
        ({"--rates": "nan"}, "got nan"),
        ({"--rates": "1e-8:1e-1"}, "LOW:HIGH:N/decade"),
        ({"--rates": "1e-1:1e-8:4/decade"}, "LOW <= HIGH"),
        ({"--rates": "few"}, "rates: expected"),
        ({"--rates": "1e-320:1:1/decade"}, "rates: expected 1e-300 <= LOW"),
        ({"--rates": f"1e-3:1:{10**400}/decade"}, "at most 100000 a decade"),
        ({"--trials": 0}, "1 or more, got '0'"),
        ({"--images": 501}, "from 1 to 500"),
        ({"--images": "all"}, "got 'all'"),
        ({"--mask": "fraction"}, "expected all, sign, exponent, mantissa, msb:9-31"),
        ({"--mask": "255"}, "expected all"),
        ({"--mask": "0x0"}, "from 0x1"),
        ({"--mask": "0x1ffffffffffffffff"}, "from 0x1"),
        ({"--seed": str(1 << 64)}, "64 bits"),
        ({"--data": "mnist"}, "cifar10:DIR, npz:FILE, digits, images:DIR or raw:DIR"),
        ({"--data": "cifar10:missing"}, "missing"),
        ({"--data": "npz:missing.npz"}, "missing.npz"),
        ({"--provider": "tpu"}, "execution provider: expected one of"),
        ({"--batch-size": "-1"}, "1 or more"),
        ({"--threads": "0"}, "1 or more"),
    ],
)
def test_sweep_with_bad_input(model, tmp_path, error, changes, message):
    assert message in error(*sweep_options(model, tmp_path / "r.sqlite", **changes))


def test_results_files_that_cannot_be_written(model, tmp_path, error):
    assert "got a folder" in error(*sweep_options(model, tmp_path))
    assert "does not exist" in error(*sweep_options(model, tmp_path / "no" / "r.sqlite"))
    text = tmp_path / "text"
    text.write_text("hello " * 100)
    assert "another kind of file" in error(*sweep_options(model, text))
    assert text.read_text() == "hello " * 100
    foreign = tmp_path / "foreign"
    with sqlite3.connect(foreign) as database:
        database.execute("CREATE TABLE t (x)")
    assert "another SQLite database" in error(*sweep_options(model, foreign))
    plot = {"--plot": tmp_path / "no" / "p.png"}
    assert "does not exist" in error(*sweep_options(model, tmp_path / "r.sqlite", **plot))
    assert not (tmp_path / "r.sqlite").exists()


def test_data_that_do_not_fit_the_model(model, tmp_path, error):
    np.savez(tmp_path / "small.npz", x=np.zeros((4, 3, 8, 8), np.uint8), y=np.zeros(4, np.int64))
    np.savez(tmp_path / "labels.npz", x=np.zeros((4, 3, 32, 32), np.uint8), y=np.full(4, 10))
    for name, message in (("small", "shape"), ("labels", "labels from 0 to 9")):
        changes = {"--data": f"npz:{tmp_path / name}.npz", "--images": 4}
        assert message in error(*sweep_options(model, tmp_path / "r.sqlite", **changes))
    assert not list(tmp_path.glob("r.sqlite*"))


def test_a_sweep_is_interrupted_and_goes_on(model, tmp_path):
    whole, path = tmp_path / "whole.sqlite", tmp_path / "r.sqlite"
    changes = {"--rates": "1e-5:1e-1:8/decade", "--images": 500, "--trials": 6, "--threads": 1}
    words = [sys.executable, "-m", "noisystore.runtime.cli"]
    started = subprocess.Popen(
        [*words, *map(str, sweep_options(model, path, **changes))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for _ in range(600):
        time.sleep(0.05)
        if path.exists() and _points(path) > 2:
            break
    started.send_signal(signal.SIGINT)
    out, err = started.communicate(timeout=60)
    assert started.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    last = err.splitlines()[-1]
    assert last.startswith("noisystore: interrupted")
    assert str(path) in last
    assert 0 < _points(path) < 33 * 6
    for file in (path, whole):
        assert main([*map(str, sweep_options(model, file, **changes))]) == 0
    assert _rows(path) == _rows(whole)


def _points(path):
    try:
        with sqlite3.connect(path) as database:
            return database.execute("SELECT COUNT(*) FROM points").fetchone()[0]
    except sqlite3.Error:
        return 0


def _rows(path):
    with sqlite3.connect(path) as database:
        query = "SELECT p01, p10, trial, noise_seed, correct, agreement, correct_bits FROM points "
        query += "JOIN bits ON point = points.id"
        return sorted(database.execute(query))


def test_a_full_disk_during_a_sweep(model, tmp_path, run_program):
    import resource

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    path = tmp_path / "r.sqlite"
    changes = {"--rates": "1e-5:1e-1:16/decade", "--images": 500, "--trials": 3}
    result = run_program(*sweep_options(model, path, **changes), preexec_fn=limit)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "no space left" in result.stderr.splitlines()[-1]
    assert main([*map(str, sweep_options(model, path, **changes))]) == 0
    assert _points(path) == 65 * 3
