# SPDX-License-Identifier: Apache-2.0
"""Workers that differ: other version, no NoisyStore, other kind of machine, no answer at all."""

from __future__ import annotations

import platform
import signal
import socket
import sys
import threading
import time

import pytest

pytest.importorskip("distributed")

from clusters import OPTIONS, Machines, slow_metric, stable, stored

from noisystore.ortops import InputError
from noisystore.runtime import Results, sweep
from noisystore.runtime.cluster import Cluster

RATES = "1e-4:1e-1:2/decade"
OTHER_NOISE = "from noisystore.ortops import noise_inputs\nnoise_inputs.NOISE_MODEL = '0'"
OTHER_MACHINE = "import platform\nplatform.machine = lambda: 'riscv64'"
HERE = platform.machine()


def outcomes(rows):
    """What rows of any kind of machine have in common."""
    names = ("p01", "p10", "trial", "noise_seed", "n_run", "correct_bits", "agree_bits")
    return [tuple(row[name] for name in names) for row in rows]


@pytest.fixture(scope="module")
def serial(model_path, small_data):
    return sweep(model_path, small_data, RATES, **OPTIONS)


def test_a_worker_of_another_version_gets_nothing(serial, model_path, small_data, tmp_path, capsys):
    with Machines(tmp_path) as machines:
        machines.worker("old", before=OTHER_NOISE)
        machines.joined("old")
        with pytest.raises(InputError, match="worker old: expected noise model 1, got 0"):
            sweep(model_path, small_data, RATES, cluster=machines.address, **OPTIONS)
        good = machines.worker("good")
        machines.joined("good")
        options = {**OPTIONS, "progress": True, "cluster": machines.address}
        found = sweep(model_path, small_data, RATES, **options)
        assert stable(found.points) == stable(serial.points)
        said = "worker old is not used: expected noise model 1, got 0"
        assert capsys.readouterr().err.count(said) == 1
        assert good.poll() is None


def test_late_workers_that_are_wrong_do_no_harm(model_path, small_data, tmp_path, capsys, serial):
    path = tmp_path / "r.sqlite"
    with Machines(tmp_path) as machines:
        machines.worker("good")
        machines.joined("good")
        found = []

        def run():
            metric = {"metric": slow_metric(0.2), "metric_name": "m"}
            where = {"cluster": machines.address, "results": path, "progress": True}
            found.append(sweep(model_path, small_data, RATES, **{**OPTIONS, **where}, **metric))

        thread = threading.Thread(target=run)
        thread.start()
        machines.wait(lambda: stored(path) >= 1)
        machines.worker("old", before=OTHER_NOISE)
        machines.worker("other", before=OTHER_MACHINE)
        machines.start(
            [sys.executable, "-c"],
            [
                "import sys; sys.modules['noisystore'] = None\n"
                "from distributed.cli.dask_worker import main; main()"
            ],
            [machines.address, "--no-nanny", "--nthreads", "1", "--name", "bare", "--no-dashboard"],
            name="bare",
        )
        machines.joined("old", "other")
        machines.wait(lambda: "Registered to" in machines.log("bare"))
        thread.join(timeout=60)
        bare = machines.log("bare")
        assert outcomes(found[0].points) == outcomes(serial.points)
    said = capsys.readouterr().err
    assert "worker old is not used: expected noise model 1, got 0" in said
    kinds = (
        f"this sweep began with workers of the kind {HERE} CPUExecutionProvider, this is riscv64"
    )
    assert f"worker other is not used: {kinds}" in said
    assert "worker bare is not used: expected the same NoisyStore as here: " in said
    assert "Stopping worker" not in bare


def test_points_of_any_kind_count_when_a_sweep_goes_on(model_path, small_data, tmp_path):
    path = tmp_path / "r.sqlite"
    found = []
    for name, before, trials in (("there", OTHER_MACHINE, 1), ("here", "", 2)):
        (tmp_path / name).mkdir()
        with Machines(tmp_path / name) as machines:
            machines.worker(name, before=before)
            machines.joined(name)
            where = Cluster(machines.address, mixed="any")
            options = {**OPTIONS, "trials": trials, "cluster": where, "results": path}
            found.append(sweep(model_path, small_data, RATES, **options))
            options["cluster"] = machines.address
            alone = sweep(model_path, small_data, RATES, **{**options, "results": None})
            assert alone.measured == 7 * trials
    assert [(f.measured, f.rows) for f in found] == [(7, 7), (7, 14)]
    assert {row["machine"] for row in found[1].points} == {HERE, "riscv64"}


def test_mixed(model_path, small_data, tmp_path, serial, run_program, small_npz):
    with Machines(tmp_path) as machines:
        machines.worker("here")
        machines.worker("there", before=OTHER_MACHINE)
        machines.joined("here", "there")
        where = {"cluster": machines.address, **OPTIONS}
        path = tmp_path / "r.sqlite"
        kinds = rf"several kinds \(riscv64 CPUExecutionProvider, {HERE} CPUExecutionProvider\)"
        with pytest.raises(InputError, match=kinds):
            sweep(model_path, small_data, RATES, results=path, **where)
        assert not path.exists()

        each = {**where, "cluster": Cluster(machines.address, mixed="each")}
        found = sweep(model_path, small_data, RATES, results=path, **each)
        assert (found.measured, found.rows) == (14 * 2, 14 * 2)
        with Results(path, readonly=True) as results:
            by = {m: results.rows(machine=m) for m in (HERE, "riscv64")}
        assert outcomes(by[HERE]) == outcomes(by["riscv64"]) == outcomes(serial.points)
        assert sweep(model_path, small_data, RATES, results=path, **each).measured == 0

        some = {**where, "cluster": Cluster(machines.address, mixed="any")}
        other = tmp_path / "any.sqlite"
        options = {"metric": slow_metric(0.05), "metric_name": "m", "results": other, **some}
        found = sweep(model_path, small_data, RATES, **options)
        assert (found.measured, found.rows) == (14, 14)
        assert sorted(outcomes(found.points)) == sorted(outcomes(serial.points))
        assert {row["machine"] for row in found.points} == {HERE, "riscv64"}
        again = sweep(model_path, small_data, RATES, **options)
        assert (again.measured, again.rows) == (0, 14)

        words = [
            "sweep",
            model_path,
            "--data",
            f"npz:{small_npz}",
            "--rates",
            "1e-3",
            "--trials",
            "1",
        ]
        words += ["--cluster", machines.address, "-o", tmp_path / "c.sqlite", "--threads", "1"]
        assert "choose --mixed each" in run_program(*words).stderr
        assert "2 points of this sweep in" in run_program(*words, "--mixed", "each").stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixed": "both"}, "mixed: expected each or any, got 'both'"),
        ({"patience": 0}, "patience: expected seconds, more than 0, got 0"),
    ],
)
def test_bad_clusters(options, message):
    with pytest.raises(InputError, match=message):
        Cluster("tcp://localhost:1", **options)


def test_what_is_no_client(model_path, small_data):
    with pytest.raises(InputError, match=r"expected an address or a synchronous .*, got int"):
        sweep(model_path, small_data, "1e-3", cluster=7, progress=False)


@pytest.mark.parametrize("stopped", [True, False])
def test_workers_that_do_not_answer_are_named(
    stopped, model_path, small_data, tmp_path, monkeypatch
):
    """One that is stopped, or has an address that the scheduler cannot connect to."""
    # So that the scheduler gives up, and is asked again.
    monkeypatch.setenv("DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT", "1s")
    with Machines(tmp_path) as machines, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        if stopped:
            process = machines.worker("asleep")
            machines.joined("asleep")
            process.send_signal(signal.SIGSTOP)
            address = r"tcp://127\.0\.0\.1:\d+"
        else:
            address = f"tcp://127.0.0.1:{closed.getsockname()[1]}"
            words = ["--no-nanny", "--nthreads", "1", "--name", "asleep", "--no-dashboard"]
            words += ["--listen-address", "tcp://127.0.0.1:0", "--contact-address", address]
            machines.start(
                [sys.executable, "-m", "distributed.cli.dask_worker", machines.address],
                words,
                name="asleep",
            )
            machines.wait(lambda: "Registered to" in machines.log("asleep"))
        where = {"cluster": Cluster(machines.address, patience=2), **OPTIONS}
        said = rf"no worker was ready for 2 s.*; worker asleep \({address}\): registered, but no "
        begin = time.monotonic()
        with pytest.raises(InputError, match=said):
            sweep(model_path, small_data, RATES, **where)
        assert time.monotonic() - begin < 8
