# SPDX-License-Identifier: Apache-2.0
"""Sweeps that are stopped, killed, run out of space, or share a file with another one."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from noisystore.ortops import InputError
from noisystore.runtime import Results, sweep
from noisystore.runtime.results import results_rows
from noisystore.runtime.sweep import Interrupted

VARYING = {"seconds", "run_seconds", "measured"}
RATES = "1e-6:1e-2:3/decade"
TRIALS = 4
POINTS = 13 * TRIALS

SCRIPT = """
import resource, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background jobs
from noisystore.ortops import InputError
from noisystore.runtime import sweep
from noisystore.runtime import point_pool
model, data, path, delay, limit = sys.argv[1:]
whole = point_pool.measure
def slow(evaluator, noise, task, tick):
    if task.point is not None:
        time.sleep(float(delay))
        print("point", flush=True)
    return whole(evaluator, noise, task, tick)
point_pool.measure = slow
if int(limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
try:
    sweep(model, data, "1e-6:1e-2:3/decade", trials=4, threads=1, batch_size=50, results=path,
          progress=False)
except InputError as error:
    sys.exit(f"bad: {error}")
except KeyboardInterrupt as error:
    print(error, file=sys.stderr)
    sys.exit(128 + error.signal)
"""


def stable(rows):
    return [{k: v for k, v in row.items() if k not in VARYING} for row in rows]


def start(model, data, path, delay=0.0, limit=0):
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, model, f"npz:{data}", path, str(delay), str(limit)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(model, data, path):
    return sweep(
        model,
        f"npz:{data}",
        RATES,
        trials=TRIALS,
        threads=1,
        batch_size=50,
        results=path,
        progress=False,
    )


@pytest.fixture(scope="module")
def uninterrupted(model_path, small_npz, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "r.sqlite"
    assert finish(model_path, small_npz, path).measured == POINTS
    return stable(results_rows(path))


@pytest.mark.parametrize(
    ("number", "points"),
    [(signal.SIGKILL, 1), (signal.SIGKILL, 23), (signal.SIGTERM, 5), (signal.SIGINT, 5)],
)
def test_stopped_and_resumed(model_path, small_npz, tmp_path, uninterrupted, number, points):
    path = tmp_path / "r.sqlite"
    process = start(model_path, small_npz, path, delay=0.01)
    for _ in range(points):
        assert process.stdout.readline() == "point\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    kept = len(results_rows(path))
    assert points - 1 <= kept < POINTS
    if number == signal.SIGKILL:
        assert process.returncode == -number
    else:
        assert process.returncode == 128 + number
        assert f"interrupted: {kept} of {POINTS} points are in {path}" in errors
        assert "Traceback" not in errors
    assert finish(model_path, small_npz, path).measured == POINTS - kept
    assert stable(results_rows(path)) == uninterrupted


def test_killed_at_any_time(model_path, small_npz, tmp_path, uninterrupted):
    path = tmp_path / "r.sqlite"
    for seconds in (0.25, 0.35, 0.45, 0.55, 0.65):
        process = start(model_path, small_npz, path)
        time.sleep(seconds)
        process.kill()
        process.communicate(timeout=60)
    finish(model_path, small_npz, path)
    assert stable(results_rows(path)) == uninterrupted


def test_killed_while_the_file_is_made(model_path, small_npz, tmp_path, uninterrupted):
    path = tmp_path / "r.sqlite"
    code = (
        "import os, sys\nimport noisystore.runtime.results as r\n"
        "whole = r.create_schema\n"
        "r.create_schema = lambda db: (whole(db), os.kill(os.getpid(), 9))\n"
        "r.Results(sys.argv[1])"
    )
    done = subprocess.run([sys.executable, "-c", code, path], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    finish(model_path, small_npz, path)
    assert stable(results_rows(path)) == uninterrupted


def test_two_processes_write_one_file(model_path, small_npz, tmp_path, uninterrupted):
    path = tmp_path / "r.sqlite"
    processes = [start(model_path, small_npz, path) for _ in range(2)]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert stable(results_rows(path)) == uninterrupted


def test_different_sweeps_in_one_file(make_model, model_path, small_npz, tmp_path, uninterrupted):
    path = tmp_path / "r.sqlite"
    other = make_model(tmp_path / "zother.onnx", seed=1)
    processes = [start(model, small_npz, path) for model in (model_path, other)]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    rows = stable(results_rows(path))
    assert rows[:POINTS] == uninterrupted
    assert {row["model"] for row in rows[POINTS:]} == {"zother.onnx"}
    assert len(rows) == 2 * POINTS


def test_a_full_disk(model_path, small_npz, tmp_path, uninterrupted):
    path = tmp_path / "r.sqlite"
    process = start(model_path, small_npz, path, limit=100_000)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
    assert errors.startswith(f"bad: results file {path}: no space left to write")
    assert errors.count("\n") == 1
    database = sqlite3.connect(path)
    assert database.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    database.close()
    kept = len(results_rows(path))
    assert 0 < kept < POINTS
    assert finish(model_path, small_npz, path).measured == POINTS - kept
    assert stable(results_rows(path)) == uninterrupted


def test_interruption_restores_the_handler(model_path, small_data, monkeypatch):
    def stop(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    previous = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("noisystore.runtime.point_pool.measure", stop)
    with pytest.raises(Interrupted, match="interrupted after 0 of 1 points") as caught:
        sweep(model_path, small_data, 1e-3, trials=1, threads=1, progress=False)
    assert caught.value.signal == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == previous


def test_a_sweep_outside_the_main_thread(model_path, small_data):
    found = []
    thread = threading.Thread(
        target=lambda: found.append(sweep(model_path, small_data, 1e-3, trials=1, progress=False))
    )
    thread.start()
    thread.join(60)
    assert found[0].rows == 1


def test_a_locked_file(model_path, small_data, tmp_path, monkeypatch):
    monkeypatch.setattr("noisystore.runtime.results_file.BUSY_SECONDS", 0.1)
    path = tmp_path / "r.sqlite"
    Results(path).close()
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(InputError, match="another program has held it"):
        sweep(model_path, small_data, 1e-3, trials=1, results=path, progress=False)
    holder.close()
