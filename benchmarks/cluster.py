# SPDX-License-Identifier: Apache-2.0
"""Sweeps on a Dask cluster of this machine: efficiency of two workers, and what a point costs.

Efficiency: whole sweeps of VGG-A (random weights and images, unless a model and data are given)
with two workers of one thread against one such worker and against this process alone, in turn;
and the share of two workers' time that is spent in ONNX Runtime, which other work on the machine
hardly changes. Cost: points in which no bit flips, so that all of the time is
spent on handling them; processor time of client and scheduler, of which each is one process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import workers as split

from noisystore.runtime import bench_report, sweep
from noisystore.runtime.commands.common import table

#: Workers that the estimate is for.
MANY = 1000


class Machines:
    """A scheduler and workers, as processes that talk TCP on loopback."""

    def __init__(self, folder: Path, workers: int) -> None:
        file = folder / "scheduler.json"
        dask = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1"]
        dask += ["--port", "0", "--no-dashboard", "--dashboard-address", "127.0.0.1:0"]
        self.scheduler = start([*dask, "--scheduler-file", str(file)])
        wait(file.exists)
        time.sleep(0.2)
        self.address: str = json.loads(file.read_text())["address"]
        command = [sys.executable, "-m", "noisystore.runtime.cli", "worker", self.address]
        self.processes = [self.scheduler]
        self.processes += [start([*command, "--threads", "1"]) for _ in range(workers)]
        from distributed import Client

        self.client = Client(self.address, set_as_default=False)
        self.client.wait_for_workers(workers)

    def close(self) -> None:
        self.client.close()
        for process in self.processes:
            process.kill()
            process.wait()


def start(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait(condition: Any) -> None:
    while not condition():
        time.sleep(0.05)


def cpu_seconds(process: int) -> float:
    """Return the processor time of a process so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def machine_seconds() -> float:
    """Return the processor time of all processes so far."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a narrow network, few rounds")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--model", help="annotated ONNX file")
    parser.add_argument("--data", help="its data set, as `noisystore sweep` takes it")
    parser.add_argument("--images", type=int, default=500, help="of a point (default: 500)")
    parser.add_argument("--trials", type=int, default=10, help="of each rate (default: 10)")
    parser.add_argument("--rounds", type=int, default=5, help="of sweeps in turn (default: 5)")
    args = parser.parse_args()
    args.rounds = 1 if args.quick else args.rounds
    if (args.model is None) != (args.data is None):
        parser.error("expected --model and --data together")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.model is None:
            args.model, args.data = split.prepared(
                folder, 0.0625 if args.quick else 1.0, args.images
            )
        result = {
            "benchmark": "cluster",
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "machine": bench_report.machine(),
            "versions": {name: version(name) for name in ("distributed", "onnxruntime", "numpy")},
            "efficiency": efficiency(folder, args),
            "cost": cost(folder, args),
        }
    if args.json:
        print(json.dumps(result, indent=1))
        return
    for part in ("efficiency", "cost"):
        rows = [[n, f"{v:.4g}"] for n, v in result[part].items() if not isinstance(v, list)]
        print(table([part, ""], rows))


def efficiency(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Time whole sweeps, connecting and the sending of the model included.

    The figures are those of the round in which others disturbed the two workers least.
    """
    clusters: dict[int, Any] = {0: None}
    for number in (1, 2):
        (folder / str(number)).mkdir()
        clusters[number] = Machines(folder / str(number), number)
    own = [os.getpid()]
    own += [process.pid for number in (1, 2) for process in clusters[number].processes]

    def timed(number: int, rates: Any, trials: int, results: Path | None) -> dict[str, float]:
        before = machine_seconds(), sum(map(cpu_seconds, own))
        begin = time.perf_counter()
        found = sweep(
            args.model,
            args.data,
            rates,
            trials=trials,
            images=args.images,
            threads=1,
            workers=1,
            cluster=clusters[number].address if number else None,
            results=results,
            progress=False,
        )
        seconds = time.perf_counter() - begin
        others = machine_seconds() - before[0] - (sum(map(cpu_seconds, own)) - before[1])
        return {
            "workers": number,
            "points": found.rows,
            "seconds": seconds,
            "run_seconds": found.run_seconds,
            "cores_of_others": others / seconds,
        }

    rounds = []
    for _ in range(args.rounds):
        trials = 2 if args.quick else args.trials
        rounds.append([timed(number, split.RATES, trials, None) for number in clusters])
        print(*(f"{row['seconds']:.1f} s" for row in rounds[-1]), file=sys.stderr)
    # The second time there is nothing to measure.
    ready = [timed(2, 1e-18, 1, folder / "ready.sqlite") for _ in range(2)][1]
    for number in (1, 2):
        clusters[number].close()
    here, one, two = min(rounds, key=lambda rows: rows[2]["cores_of_others"])
    return {
        "points": here["points"],
        "model_bytes": Path(args.model).stat().st_size,
        "seconds_until_2_workers_are_ready": ready["seconds"],
        "1_worker_to_here": here["seconds"] / one["seconds"],
        "2_workers_to_1": one["seconds"] / two["seconds"] / 2,
        "2_workers_to_here": here["seconds"] / two["seconds"] / 2,
        "2_workers_in_onnxruntime": two["run_seconds"] / two["seconds"] / 2,
        "rounds": rounds,
    }


def cost(folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """Measure what points cost that need no run."""
    (folder / "cost").mkdir()
    machines = Machines(folder / "cost", 2)
    points = 500 if args.quick else 5000
    rows = []
    for _ in range(min(3, args.rounds)):
        for cluster in (None, machines.client):
            before = cpu_seconds(os.getpid()), cpu_seconds(machines.scheduler.pid)
            begin = time.perf_counter()
            found = sweep(
                args.model,
                args.data,
                1e-18,
                trials=points,
                images=1,
                threads=1,
                workers=1,
                cluster=cluster,
                progress=False,
                results=folder / f"{time.time()}.sqlite",
            )
            spent = time.perf_counter() - begin
            assert found.rows == points
            assert found.skipped == points
            after = cpu_seconds(os.getpid()), cpu_seconds(machines.scheduler.pid)
            rows.append([spent, *(b - a for a, b in zip(before, after, strict=True))])
    machines.close()
    here, there = (np.median(rows[i::2], axis=0) / points for i in (0, 1))
    client, scheduler = there[1], there[2]
    return {
        "points": points,
        "ms_here": 1e3 * here[0],
        "ms_2_workers": 1e3 * there[0],
        "cpu_ms_client": 1e3 * client,
        "cpu_ms_scheduler": 1e3 * scheduler,
        "points_per_second_at_most": 1 / max(client, scheduler),
        f"least_seconds_of_a_point_for_{MANY}_workers": MANY * max(client, scheduler),
    }


if __name__ == "__main__":
    main()
