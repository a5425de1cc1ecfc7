# SPDX-License-Identifier: Apache-2.0
"""Sweeps by several processes of one machine: the same rows, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import types
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from noisystore.ortops import InputError
from noisystore.runtime import point_pool, sweep
from noisystore.runtime.point_task import EvaluatorSource
from noisystore.runtime.results import results_rows
from noisystore.runtime.session import NoisySession

RATES = "1e-5:1e-2:2/decade"
TRIALS = 3
POINTS = 7 * TRIALS
METRIC = """
import os, time
def first_logit(outputs, labels):
    return outputs[:, 0]
def slow(outputs, labels):
    time.sleep(0.1)
    return outputs[:, 0]
def dies(outputs, labels):
    os._exit(9)
"""
SCRIPT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, sys.argv[4])
import metrics_of_mine
from noisystore.runtime import sweep
if __name__ == "__main__":
    try:
        sweep(sys.argv[1], f"npz:{sys.argv[2]}", "1e-5:1e-2:2/decade", trials=3, workers=2,
              results=sys.argv[3], progress=False, metric=metrics_of_mine.slow)
    except KeyboardInterrupt as error:
        print(error, file=sys.stderr)
        sys.exit(128 + error.signal)
"""


def measured(model, data, **options):
    options = {"trials": TRIALS, "batch_size": 50, "progress": False, **options}
    return sweep(model, data, RATES, **options)


def stable(rows):
    varying = {"seconds", "run_seconds", "measured", "threads"}
    return [{k: v for k, v in row.items() if k not in varying} for row in rows]


@pytest.fixture
def metrics(tmp_path, monkeypatch):
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "metrics_of_mine.py").write_text(METRIC)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "metrics_of_mine", raising=False)
    import metrics_of_mine

    return metrics_of_mine


def children(pid):
    """Return the processes whose parent is `pid`, as /proc tells."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


def alive(pids):
    """Return those of the processes that still run (a zombie does not)."""
    running = []
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            running.append(pid)
    return running


def gone(pids):
    deadline = time.monotonic() + 20
    while alive(pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not alive(pids)


@pytest.mark.parametrize("by_name", [True, False])
def test_the_same_rows(model_path, small_npz, small_data, tmp_path, by_name, metrics):
    data = f"npz:{small_npz}" if by_name else small_data
    options = {"metric": metrics.first_logit}
    alone = measured(model_path, data, threads=1, results=tmp_path / "1.sqlite", **options)
    two = measured(model_path, data, workers=2, results=tmp_path / "2.sqlite", **options)
    assert two.measured == two.rows == POINTS
    rows = [stable(results_rows(tmp_path / f"{n}.sqlite")) for n in (1, 2)]
    assert rows[0] == rows[1]
    assert (two.inferences, two.skipped) == (alone.inferences, alone.skipped)
    assert two.run_seconds > 0


def test_a_session_and_more_points(model_path, small_data, tmp_path):
    path = tmp_path / "r.sqlite"
    first = measured(model_path, small_data, trials=1, results=path)
    more = measured(NoisySession(model_path), small_data, workers=2, results=path)
    assert (more.measured, more.rows) == (POINTS - first.rows, POINTS)
    assert stable(more.points) == stable(measured(model_path, small_data).points)


def test_long_sweeps_are_spread(model_path, small_data, monkeypatch):
    pids = []
    monkeypatch.setattr(point_pool, "available_cores", lambda: 2)
    whole = point_pool.Processes.run

    def run(self, queue, tick):
        pids.append(len(queue))
        yield from whole(self, queue, tick)

    monkeypatch.setattr(point_pool.Processes, "run", run)
    short = measured(model_path, small_data, workers="auto")
    assert not pids
    monkeypatch.setattr(point_pool, "SPREAD_AFTER", 0.0)
    monkeypatch.setattr(point_pool, "SPREAD_FOR", 0.0)
    long = measured(model_path, small_data, workers="auto")
    assert pids == [POINTS]  # all but the clean network
    assert stable(long.points) == stable(short.points)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_stopped_and_resumed(model_path, small_npz, tmp_path, metrics, number):
    path, script = tmp_path / "r.sqlite", tmp_path / "script.py"
    script.write_text(SCRIPT)
    arguments = [model_path, small_npz, path, tmp_path / "modules"]
    process = subprocess.Popen(
        [sys.executable, script, *arguments], stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and not (path.exists() and len(rows_of(path)) >= 2):
        time.sleep(0.05)
    workers = children(process.pid)
    assert len(workers) >= 2
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert gone(workers)
    kept = len(rows_of(path))
    assert 2 <= kept < POINTS
    if number != signal.SIGKILL:
        assert process.returncode == 128 + number
        assert errors == (
            f"interrupted: {kept} of {POINTS} points are in {path}; the same command goes on from "
            "there\n"
        )
    again = sweep(
        model_path,
        f"npz:{small_npz}",
        RATES,
        trials=TRIALS,
        workers=2,
        metric=metrics.slow,
        results=path,
        progress=False,
    )
    assert (again.measured, again.rows) == (POINTS - kept, POINTS)


def test_a_signal_to_all_processes(model_path, small_npz, tmp_path, metrics):
    """As Ctrl-C in a terminal sends it, to processes that just start, too."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    for wait in (0.0, 0.05, 0.2):
        path = tmp_path / f"{wait}.sqlite"
        process = subprocess.Popen(
            [sys.executable, script, model_path, small_npz, path, tmp_path / "modules"],
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        while len(children(process.pid)) < 2:  # the first is the resource tracker
            time.sleep(0.01)
        time.sleep(wait)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 128 + signal.SIGINT
        assert errors == (
            f"interrupted: {len(rows_of(path))} of {POINTS} points are in {path}; the same command "
            "goes on from there\n"
        )


def rows_of(path):
    try:
        return results_rows(path)
    except InputError:  # not made yet
        return []


def test_a_worker_that_dies(model_path, small_data, tmp_path, metrics):
    path = tmp_path / "r.sqlite"
    with pytest.raises(InputError, match="one of the processes died, for want of memory perhaps"):
        measured(model_path, small_data, workers=2, metric=metrics.dies, results=path)
    assert measured(model_path, small_data, workers=2, results=path).measured == POINTS


def test_a_killed_worker_leaves_the_points(model_path, small_npz, tmp_path, metrics):
    path, script = tmp_path / "r.sqlite", tmp_path / "script.py"
    script.write_text(SCRIPT.replace("KeyboardInterrupt", "Exception").replace("error.signal", "0"))
    process = subprocess.Popen(
        [sys.executable, script, model_path, small_npz, path, tmp_path / "modules"],
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not (path.exists() and len(rows_of(path)) >= 2):
        time.sleep(0.05)
    for child in children(process.pid):
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
            os.kill(child, signal.SIGKILL)
            break
    _, errors = process.communicate(timeout=60)
    assert "one of the processes died" in errors
    assert f"({len(rows_of(path))} points stored by this run)" in errors


def test_metrics_that_cannot_be_sent(model_path, small_data):
    with pytest.raises(InputError, match="metric: several workers take a function of a module"):
        measured(
            model_path,
            small_data,
            workers=2,
            metric=lambda outputs, labels: outputs[:, 0],
            metric_name="first",
        )


def test_a_metric_of_a_notebook(model_path, small_data, monkeypatch):
    def metric(outputs, labels):
        return outputs[:, 0]

    metric.__module__, metric.__qualname__ = "__main__", "metric"
    notebook = types.ModuleType("__main__")
    notebook.metric = metric
    monkeypatch.setitem(sys.modules, "__main__", notebook)
    with pytest.raises(InputError, match="metric: several workers take a function of a module"):
        measured(model_path, small_data, workers=2, metric=metric)


def test_left_to_itself_any_metric_will_do(model_path, small_data, at_once):
    found = measured(
        model_path,
        small_data,
        workers="auto",
        metric=lambda outputs, labels: outputs[:, 0],
        metric_name="first",
    )
    assert found.measured == POINTS
    assert not at_once


def test_left_to_itself_it_stays_within_the_memory(model_path, small_data, monkeypatch, at_once):
    assert point_pool.processes_that_fit() > 0
    for fit, number in [(0, []), (1, []), (2, [2])]:
        at_once.clear()
        monkeypatch.setattr(point_pool, "processes_that_fit", lambda fit=fit: fit)
        found = measured(model_path, small_data, workers="auto", skip_clean=False)
        assert found.measured == POINTS
        assert at_once == number


@pytest.fixture
def at_once(monkeypatch):
    """Numbers of processes of sweeps that spread over 4 cores as soon as they may."""
    numbers = []
    monkeypatch.setattr(point_pool, "available_cores", lambda: 4)
    monkeypatch.setattr(point_pool, "SPREAD_AFTER", 0.0)
    monkeypatch.setattr(point_pool, "SPREAD_FOR", 0.0)

    whole = point_pool.Processes.run

    def run(self, queue, tick):
        numbers.append(self._workers)
        yield from whole(self, queue, tick)

    monkeypatch.setattr(point_pool.Processes, "run", run)
    return numbers


def test_two_threads_sweep(model_path, small_data, metrics):
    """The one that ends first leaves the other's processes alone."""
    with ThreadPoolExecutor() as threads:
        long = threads.submit(measured, model_path, small_data, workers=2, metric=metrics.slow)
        for _ in range(2):
            measured(model_path, small_data, workers=2, trials=1, metric=metrics.first_logit)
        assert not long.done()
        assert long.result().measured == POINTS


def test_only_the_images_asked_for_are_sent(model_path, small_data, monkeypatch):
    sent = []
    begin = point_pool.Processes.__init__

    def init(self, source, *more):
        sent.append(source.data)
        begin(self, source, *more)

    monkeypatch.setattr(point_pool.Processes, "__init__", init)
    measured(model_path, small_data, images=20, workers=2, trials=1)
    assert [len(data) for data in sent] == [20]
    assert sent[0].sha256 == small_data.sha256


def test_a_script_without_a_guard(model_path, small_npz, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom noisystore.runtime import sweep\n"
        'sweep(sys.argv[1], f"npz:{sys.argv[2]}", 1e-3, workers=2, progress=False)\n'
    )
    done = subprocess.run(
        [sys.executable, script, model_path, small_npz], capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0
    assert 'is sweep() called under `if __name__ == "__main__"`?' in done.stderr


@pytest.mark.parametrize("workers", [0, -1, "two", 1.5, None])
def test_bad_numbers_of_workers(model_path, small_data, workers):
    with pytest.raises(InputError, match='workers: expected a positive integer or "auto", got'):
        measured(model_path, small_data, workers=workers)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_sha256": "00"}, "model .*: changed while the sweep runs: expected SHA-256 00"),
        ({"data_sha256": "11"}, "data set .*: changed while the sweep runs"),
        ({"model": "/no/such.onnx"}, "No such file or directory"),
    ],
)
def test_files_that_change(model_path, small_data, change, message):
    session = NoisySession(model_path)
    source = EvaluatorSource(
        model=str(model_path),
        model_sha256=session.model_sha256,
        data_sha256=small_data.sha256,
        providers=session.maker.providers,
        threads=1,
        libraries=(),
        data=small_data,
        images=20,
        batch_size=50,
        metric=None,
    )
    assert len(source.open()) == 20
    with pytest.raises(InputError, match=message):
        replace(source, **change).open()


def test_the_split_of_the_cores(monkeypatch):
    monkeypatch.setattr(point_pool, "available_cores", lambda: 8)
    asked = [(None, None), (2, None), (None, 4), (3, 2), (16, None), (None, 16)]
    assert [point_pool.split_cores(*a) for a in asked] == [
        *((8, 1), (2, 4), (2, 4), (3, 2), (16, 1), (1, 16))
    ]


def test_the_command(model_path, small_npz, tmp_path, ok, error, capsys):
    path = tmp_path / "r.sqlite"
    arguments = ["sweep", str(model_path), "--data", f"npz:{small_npz}", "--rates", "1e-3,1e-2"]
    arguments += ["--trials", "2", "-o", str(path), "--workers"]
    assert ok(*arguments, "2", "--json")["measured"] == 4
    assert ok(*arguments, "auto", "--json")["measured"] == 0
    message = error(*arguments, "none")
    assert "--workers: expected an integer of 1 or more, or auto, got 'none'" in message
    assert np.unique([row["threads"] for row in results_rows(path)]).size == 1
