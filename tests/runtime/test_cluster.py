# SPDX-License-Identifier: Apache-2.0
"""Sweeps on a Dask cluster of real processes: the rows of a serial sweep, whatever happens."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import onnx
import pytest

pytest.importorskip("distributed")

from clusters import (
    OPTIONS,
    PROGRAM,
    RATES,
    Machines,
    deadly_metric,
    largest,
    slow_metric,
    stable,
    stop,
    stored,
    tasks_of,
)
from distributed import Client, LocalCluster

from noisystore.ortops import InputError, ort_options
from noisystore.runtime import Results, cluster_executor, sweep
from noisystore.runtime.cluster import Cluster
from noisystore.runtime.dataset import Dataset


@pytest.fixture(scope="module")
def serial(model_path, small_data):
    return sweep(model_path, small_data, RATES, **OPTIONS)


@pytest.fixture(scope="module")
def serial_metric(model_path, small_data):
    return sweep(model_path, small_data, RATES, metric=largest, metric_name="m", **OPTIONS)


def test_rows_are_those_of_a_serial_sweep(machines, serial, model_path, small_data, tmp_path):
    path = tmp_path / "r.sqlite"
    options = {"cluster": machines.address, "results": path, **OPTIONS}
    found = sweep(model_path, small_data, RATES, **options)
    assert stable(found.points) == stable(serial.points)
    assert (found.measured, found.clean_accuracy) == (serial.measured, serial.clean_accuracy)
    assert found.sweep == serial.sweep
    assert found.inferences == serial.inferences
    again = sweep(model_path, small_data, RATES, **options)
    assert (again.measured, again.points) == (0, found.points)
    more = sweep(model_path, small_data, RATES, **{**options, "trials": 3})
    assert (more.measured, more.rows) == (9, 27)


def test_a_client_of_ones_own_stays_connected(machines, serial, model_path, small_data):
    with Client(machines.address, set_as_default=False) as client:
        for _ in range(2):
            found = sweep(model_path, small_data, RATES, cluster=client, **OPTIONS)
            assert stable(found.points) == stable(serial.points)
        assert client.status == "running"


def test_weight_files_part_of_the_data_and_uint8(machines, make_model, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    model = onnx.load(make_model(tmp_path / "m.onnx", noisy_weight=True))
    place = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0}
    onnx.save(model, folder / "m.onnx", **place)
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (90, 1, 6, 6), dtype=np.uint8)
    data = Dataset("bytes", images, rng.integers(0, 10, 90))
    options = {**OPTIONS, "images": 70, "noisy": "weight,activation"}
    here = sweep(folder / "m.onnx", data, "1e-4,1e-2", **options)
    there = sweep(folder / "m.onnx", data, "1e-4,1e-2", cluster=machines.address, **options)
    assert stable(there.points) == stable(here.points)


def test_the_same_model_under_two_names_at_the_same_time(
    machines, serial_metric, model_path, small_data, tmp_path
):
    """Both sweeps share what the scheduler keeps by its hash."""
    found = []

    def run(model):
        metric = {"metric": slow_metric(0.02), "metric_name": "m"}
        where = {"cluster": machines.address, **OPTIONS}
        found.append(sweep(model, small_data, RATES, **where, **metric))

    other = shutil.copy(model_path, tmp_path / "other.onnx")
    threads = [threading.Thread(target=run, args=(model,)) for model in (model_path, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(found) == 2
    wanted = [{**row, "model": ""} for row in stable(serial_metric.points)]
    for summary in found:
        assert [{**row, "model": ""} for row in stable(summary.points)] == wanted


def test_what_does_not_run_on_the_workers_is_one_line(machines, model_path, small_data):
    def bad_metric(outputs, labels):
        return outputs[:, :2]

    where = {"cluster": Cluster(machines.address, patience=5), **OPTIONS}
    with pytest.raises(InputError, match=r"^worker [ab]: metric: expected one number a sample"):
        sweep(model_path, small_data, RATES, metric=bad_metric, metric_name="m", **where)
    lock = threading.Lock()
    with pytest.raises(InputError, match="metric: expected one that can be sent to workers"):
        sweep(model_path, small_data, RATES, metric=lambda o, y: lock, metric_name="m", **where)
    with pytest.raises(
        InputError, match=r"worker [ab]: execution provider: expected one of .*Warp"
    ):
        sweep(model_path, small_data, RATES, providers="WarpProvider", **where)


LACKING = """
import sys
from pathlib import Path
from noisystore.ortops import InputError
from noisystore.runtime import cluster_parcel, sweep
model, data, address, library = sys.argv[1:]
whole = cluster_parcel._model_files
def then_gone(*names):
    Path(library).unlink()
    return whole(*names)
# Loaded here, and gone when the workers look: they are other machines then.
cluster_parcel._model_files = then_gone
try:
    options = {"cluster": address, "progress": False}
    sweep(model, f"npz:{data}", 1e-3, custom_op_libraries=[library], **options)
except InputError as error:
    print(error)
"""


def test_a_library_that_workers_lack(machines, make_model, small_npz, tmp_path):
    pytest.importorskip("onnxruntime_extensions")
    model = make_model(tmp_path / "other.onnx", seed=9)  # else workers have it, it is not sent
    library = tmp_path / "libother.so"
    shutil.copy(ort_options.extensions_library(), library)
    # In a process of its own: one that has two copies of the library crashes.
    done = subprocess.run(
        [sys.executable, "-c", LACKING, model, small_npz, machines.address, library],
        capture_output=True,
        text=True,
    )
    assert re.match(r"cluster .*: worker [ab]: .*libother.so", done.stdout), done.stderr


def test_killed_late_and_slow_workers(serial_metric, model_path, small_data, tmp_path):
    """Two workers die in mid-sweep, two come late, and one is ten times slower than the others."""
    path = tmp_path / "r.sqlite"
    with Machines(tmp_path) as machines:
        first = [machines.worker("a"), machines.worker("b")]
        machines.joined("a", "b")
        found = []

        def run():
            metric = {"metric": slow_metric(0.1), "metric_name": "m"}
            where = {"cluster": machines.address, "results": path}
            found.append(sweep(model_path, small_data, RATES, **where, **metric, **OPTIONS))

        thread = threading.Thread(target=run)
        thread.start()
        machines.worker("slow", SLOW="1")
        machines.wait(lambda: stored(path) >= 2)
        first[0].kill()
        machines.worker("late1")
        machines.joined("slow")
        first[1].kill()
        machines.worker("late2")
        thread.join(timeout=60)
        assert found
        assert stable(found[0].points) == stable(serial_metric.points)
        assert found[0].measured == 18
        for process in machines.processes[4:]:
            assert stop(process) == 0
        logs = [machines.log(name) for name in ("late1", "late2")]
        assert sum(int(log.rsplit("after ", 1)[1].split()[0]) for log in logs) > 0, logs
        with Results(path, readonly=True) as results:
            assert len(results.rows()) == 18


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_all_workers_go_and_others_come(number, serial_metric, model_path, small_data, tmp_path):
    path = tmp_path / "r.sqlite"
    with Machines(tmp_path) as machines:
        only = machines.worker("only")
        machines.joined("only")
        found = []

        def run():
            metric = {"metric": slow_metric(0.05), "metric_name": "m"}
            where = {"cluster": machines.address, "results": path}
            found.append(sweep(model_path, small_data, RATES, **where, **metric, **OPTIONS))

        thread = threading.Thread(target=run)
        thread.start()
        machines.wait(lambda: stored(path) >= 3)
        assert stop(only, number) == (0 if number == signal.SIGTERM else -number)
        time.sleep(2)
        machines.worker("next")
        thread.join(timeout=60)
        assert stable(found[0].points) == stable(serial_metric.points)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_client_goes_on(
    number, machines, make_model, run_program, ok, tmp_path, small_data
):
    """The scheduler drops what it wanted, and the same command measures the rest."""
    model = make_model(tmp_path / "m.onnx")
    images = np.tile(small_data.images, (200, 1, 1, 1))
    np.savez(tmp_path / "d.npz", x=images, y=np.tile(small_data.labels, 200))
    path = tmp_path / "r.sqlite"
    words = ["sweep", model, "--data", f"npz:{tmp_path / 'd.npz'}", "--rates", "1e-3:1e-1:4/decade"]
    words += ["--trials", "3", "--threads", "1", "--batch-size", "50", "--workers", "1"]
    remote = ["--cluster", machines.address, "-o", path]
    process = machines.start(PROGRAM, words, remote, name="client")
    machines.wait(lambda: stored(path) >= 3)
    status = stop(process, number)
    assert status in (-signal.SIGKILL, 128 + signal.SIGTERM)
    if number == signal.SIGTERM:
        assert f"points are in {path}; the same command goes on" in machines.log("client")
    kept = stored(path)
    assert 3 <= kept < 27
    found = ok(*words, *remote)
    assert (found["rows"], found["measured"]) == (27, 27 - kept)
    ok(*words, "-o", tmp_path / "serial.sqlite")
    rows = [Results(p, readonly=True).rows() for p in (path, tmp_path / "serial.sqlite")]
    assert stable(rows[0]) == stable(rows[1])
    with Client(machines.address, set_as_default=False) as client:
        machines.wait(lambda: not tasks_of(client))


def test_a_lost_scheduler_is_one_line_and_points_are_kept(model_path, small_data, tmp_path):
    path = tmp_path / "r.sqlite"
    with Machines(tmp_path) as machines:
        worker = machines.worker("a", "--wait", "1")
        machines.joined("a")
        timer = threading.Thread(
            target=lambda: (machines.wait(lambda: stored(path) >= 3), machines.scheduler.kill())
        )
        timer.start()
        metric = {"metric": slow_metric(0.05), "metric_name": "m"}
        with pytest.raises(InputError, match=r"the scheduler is gone.*\d points stored"):
            sweep(
                model_path,
                small_data,
                RATES,
                cluster=machines.address,
                results=path,
                **metric,
                **OPTIONS,
            )
        timer.join()
        assert stored(path) >= 3
        assert worker.wait(timeout=30) == 2
        log = machines.log("a").splitlines()
        assert log[1] == "worker a: lost the scheduler"
        assert "expected a Dask scheduler there" in log[-1]
        assert len(log) <= 4


def test_a_point_that_ends_every_worker_is_named_and_others_are_kept(
    model_path, small_data, tmp_path
):
    import dask

    path = tmp_path / "r.sqlite"
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        pytest.raises(InputError, match=r"died, .*: rates 0.5/0.5 trial 0, one of 1 "),
    ):
        sweep(
            model_path,
            small_data,
            "0.5,1e-5,1e-4,1e-3",
            cluster=cluster.scheduler_address,
            results=path,
            metric=deadly_metric(),
            metric_name="m",
            **{**OPTIONS, "trials": 1},
        )
    assert stored(path) == 3


def test_nobody_left_is_one_line_and_points_are_kept(model_path, small_data, tmp_path):
    path = tmp_path / "r.sqlite"
    with Machines(tmp_path) as machines:
        machines.worker("a")
        machines.joined("a")
        with pytest.raises(InputError, match=r"no worker was ready for 2 s.*[123] points stored"):
            sweep(
                model_path,
                small_data,
                "1e-5,1e-4,1e-3,0.5",
                cluster=Cluster(machines.address, patience=2),
                results=path,
                metric=deadly_metric(),
                metric_name="m",
                **{**OPTIONS, "trials": 1},
            )
    assert 1 <= stored(path) <= 3


def test_the_scheduler_needs_noisystore_too(model_path, small_data, tmp_path):
    with Machines(tmp_path, scheduler=False) as machines:
        code = "import sys; sys.modules['noisystore'] = None\n"
        code += "from distributed.cli.dask_scheduler import main; main()"
        words = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
        words += ["--dashboard-address", "127.0.0.1:0", "--scheduler-file", machines.file]
        machines.start([sys.executable, "-c", code], words, name="scheduler")
        machines.wait(lambda: machines.file.exists() and machines.file.read_text().endswith("}"))
        address = json.loads(machines.file.read_text())["address"]
        with pytest.raises(InputError, match="expected NoisyStore where the scheduler runs, too: "):
            sweep(model_path, small_data, RATES, cluster=address, **OPTIONS)


def test_a_worker_that_forgets_a_sweep_is_made_ready_again(
    serial_metric, model_path, small_data, tmp_path
):
    """Two sweeps share a worker that keeps one model only."""
    before = "from noisystore.runtime import cluster_worker\ncluster_worker.KEPT = 1"
    with Machines(tmp_path) as machines:
        machines.worker("a", before=before)
        machines.joined("a")
        found = []

        def run():
            metric = {"metric": slow_metric(0.02), "metric_name": "m"}
            where = {"cluster": machines.address}
            found.append(sweep(model_path, small_data, RATES, **where, **metric, **OPTIONS))

        threads = [threading.Thread(target=run) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        assert len(found) == 2
        for summary in found:
            assert stable(summary.points) == stable(serial_metric.points)


def test_the_only_worker_ends_between_two_points(
    serial_metric, model_path, small_data, tmp_path, monkeypatch
):
    """Nothing is on its way just then: the sweep has to wait, not to end."""
    monkeypatch.setattr(cluster_executor, "_AHEAD", 1)
    with Machines(tmp_path) as machines:
        first = machines.worker("a")
        machines.joined("a")
        seen = []

        def ended_after_three(self, queue):
            send(self, queue)
            if self._sent == 3 and not seen:
                machines.wait(lambda: self._answers.qsize() > 0)
                stop(first)
                self._looked = 0.0
                seen.append(machines.worker("b"))

        send = cluster_executor.ClusterExecutor._send
        monkeypatch.setattr(cluster_executor.ClusterExecutor, "_send", ended_after_three)
        metric = {"metric": slow_metric(0.01), "metric_name": "m"}
        found = sweep(model_path, small_data, RATES, cluster=machines.address, **metric, **OPTIONS)
        assert seen
        assert stable(found.points) == stable(serial_metric.points)
