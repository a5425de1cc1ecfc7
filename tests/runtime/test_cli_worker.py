# SPDX-License-Identifier: Apache-2.0
"""`noisystore worker`: how it starts, waits, and ends."""

from __future__ import annotations

import signal

import pytest

pytest.importorskip("distributed")

from clusters import Machines, stop
from distributed import Client


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_cleanly(number, tmp_path):
    with Machines(tmp_path) as machines:
        process = machines.worker("a")
        machines.joined("a")
        assert stop(process, number) == 0
        assert machines.log("a").splitlines() == [
            f"worker a: ready for {machines.address}, 1 threads a point",
            "worker a: stopped after 0 measurements",
        ]


def test_it_listens_where_the_scheduler_does(tmp_path):
    with Machines(tmp_path) as machines:
        machines.worker("a")
        machines.joined("a")
        with Client(machines.address, set_as_default=False) as client:
            (address,) = client.nthreads()
        assert address.startswith("tcp://127.0.0.1:")


def test_a_scheduler_that_ends_it(tmp_path):
    with Machines(tmp_path) as machines:
        process = machines.worker("a")
        machines.joined("a")
        with Client(machines.address, set_as_default=False) as client:
            client.retire_workers(list(client.nthreads()))
        assert process.wait(timeout=20) == 0
        assert machines.log("a").splitlines()[-1] == "worker a: the scheduler ended it"


def test_it_waits_for_a_scheduler_and_finds_it_again(tmp_path):
    with Machines(tmp_path) as machines:
        port = machines.address.rsplit(":", 1)[1]
        machines.scheduler.kill()
        machines.scheduler.wait()
        process = machines.worker("a")
        first = machines.start_scheduler(port, "--host", "127.0.0.1")
        machines.joined("a")
        first.kill()
        first.wait()
        machines.wait(lambda: "lost the scheduler" in machines.log("a"))
        machines.start_scheduler(port, "--host", "127.0.0.1")
        machines.wait(lambda: machines.log("a").count("ready for") == 2)
        assert stop(process) == 0


def test_a_signal_while_it_waits(tmp_path):
    with Machines(tmp_path) as machines:
        machines.scheduler.kill()
        process = machines.worker("a")
        machines.wait(lambda: "waiting for" in machines.log("a"))
        assert stop(process) == 0
        assert machines.log("a") == f"waiting for a scheduler at {machines.address}\n"


def test_a_port_in_use(tmp_path, error):
    with Machines(tmp_path) as machines:
        port = machines.address.rsplit(":", 1)[1]
        said = error("worker", machines.address, "--port", port, "--name", "x")
        assert said.startswith("noisystore: error: worker: ")
        assert "in use" in said


def test_options_of_a_cluster_without_one(error, model_path, small_npz, tmp_path):
    words = ["sweep", model_path, "--data", f"npz:{small_npz}", "-o", tmp_path / "r.sqlite"]
    for option in (["--mixed", "each"], ["--tls-ca", "x"], ["--insecure"], ["--patience", "3"]):
        said = error(*words, *option)
        assert f"{option[0]}: expected --cluster ADDRESS with it, got none" in said
    assert not list(tmp_path.iterdir())
