# SPDX-License-Identifier: Apache-2.0
"""Sweeps on a Dask cluster of this machine: efficiency of two workers, and what a point costs.

Efficiency: whole sweeps of VGG-A (random weights and images, unless a model and data are given)
with two workers of one thread against one such worker and against this process alone, in turn;
medians of the ratios; and the share of two workers' time that is spent in ONNX Runtime, which other
work on the machine hardly changes. Cost: points in which no bit flips, so that all of the time is
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
from pathlib import Path
from statistics import median
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
            args.model, args.data = split.prepared(folder, args.quick, args.images)
        result = {
            "benchmark": "cluster",
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "machine": bench_report.machine(),
            "load": os.getloadavg()[0],
            "efficiency": efficiency(folder, args),
            "cost": cost(folder, args),
        }
    if args.json:
        print(json.dumps(result, indent=1))
        return
    for part in ("efficiency", "cost"):
        rows = [[name, f"{value:.4g}"] for name, value in result[part].items()]
        print(table([part, ""], rows))


def efficiency(folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """Time whole sweeps, connecting and the sending of the model included."""
    found: dict[int, list[float]] = {0: [], 1: [], 2: []}
    clusters = {}
    for number in (1, 2):
        (folder / str(number)).mkdir()
        clusters[number] = Machines(folder / str(number), number)
    points, stored = 0, folder / "ready.sqlite"
    ready, busy = [], []
    for _ in range(args.rounds):
        for number, spent in found.items():
            begin = time.perf_counter()
            result = sweep(
                args.model,
                args.data,
                split.RATES,
                trials=2 if args.quick else args.trials,
                images=args.images,
                threads=1,
                workers=1,
                cluster=clusters[number].address if number else None,
                progress=False,
            )
            spent.append(time.perf_counter() - begin)
            points = result.rows
            if number == 2:
                busy.append(result.run_seconds / number / spent[-1])
            print(f"{number} workers: {spent[-1]:.2f} s", file=sys.stderr)
        for _ in range(2):  # The second has nothing to measure.
            begin = time.perf_counter()
            sweep(
                args.model,
                args.data,
                1e-18,
                trials=1,
                images=args.images,
                threads=1,
                cluster=clusters[2].address,
                progress=False,
                results=stored,
            )
        ready.append(time.perf_counter() - begin)
    for cluster in clusters.values():
        cluster.close()
    return {
        "points": points,
        "model_bytes": Path(args.model).stat().st_size,
        "seconds_until_2_workers_are_ready": median(ready),
        "seconds_here": median(found[0]),
        "seconds_1_worker": median(found[1]),
        "seconds_2_workers": median(found[2]),
        "1_worker_to_here": median(a / b for a, b in zip(found[0], found[1], strict=True)),
        "2_workers_busy": median(busy),
        "2_workers_to_1": median(a / b / 2 for a, b in zip(found[1], found[2], strict=True)),
        "2_workers_to_here": median(a / b / 2 for a, b in zip(found[0], found[2], strict=True)),
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
