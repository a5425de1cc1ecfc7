# SPDX-License-Identifier: Apache-2.0
"""A Dask scheduler and workers as processes of their own that talk TCP, and metrics they run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

PROGRAM = [sys.executable, "-m", "noisystore.runtime.cli"]
#: Of the sweeps that are compared, on a cluster and not.
RATES = "1e-5:1e-1:2/decade"
OPTIONS = {"trials": 2, "batch_size": 50, "threads": 1, "progress": False}
VARYING = {"seconds", "run_seconds", "measured", "started", "host", "cpu", "threads"}


def stable(rows):
    """What rows must have in common, wherever they were measured."""
    return [{k: v for k, v in row.items() if k not in VARYING} for row in rows]


class Machines:
    """A scheduler and workers on loopback; what is left of them is killed at the end."""

    def __init__(self, folder: Path, *, scheduler: bool = True, options=("--host", "127.0.0.1")):
        self.folder = folder
        self.file = folder / "scheduler.json"
        self.processes = []
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.scheduler = None
        if scheduler:
            self.scheduler = self.start_scheduler("0", *options)

    def start_scheduler(self, port, *options):
        self.file.unlink(missing_ok=True)
        process = self.start(
            [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", port],
            [*options, "--no-dashboard", "--dashboard-address", "127.0.0.1:0"],
            ["--scheduler-file", str(self.file)],
            name="scheduler",
        )
        self.wait(lambda: self.file.exists() and self.file.read_text().strip().endswith("}"))
        self.address = json.loads(self.file.read_text())["address"]
        return process

    def start(self, *words, name, **environment):
        log = (self.folder / f"{name}.log").open("w")
        process = subprocess.Popen(
            [str(word) for part in words for word in part],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**self.environment, **environment},
        )
        self.processes.append(process)
        return process

    def worker(self, name, *options, before="", **environment):
        """Start `noisystore worker`; `before` is Python that runs first."""
        program = PROGRAM
        if before:
            code = (
                f"{before}\nimport sys\nfrom noisystore.runtime.cli import main\nsys.exit(main())"
            )
            program = [sys.executable, "-c", code]
        words = ["worker", self.address, "--threads", "1", "--name", name, "--wait", "30", *options]
        return self.start(program, words, name=name, **environment)

    def log(self, name):
        return (self.folder / f"{name}.log").read_text()

    def joined(self, *names):
        """Wait until workers have joined, and return self."""
        self.wait(lambda: all("ready for" in self.log(name) for name in names))
        return self

    def wait(self, condition, seconds=40):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, {
                f.name: f.read_text() for f in self.folder.glob("*.log")
            }
            time.sleep(0.05)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()


def largest(outputs, labels):
    """The metric that the others have, too."""
    return np.nan_to_num(outputs.max(axis=1), nan=0.0, posinf=1e9, neginf=-1e9)


def slow_metric(seconds):
    """Sleep, ten times as long on a worker that is told to be slow, for each batch."""

    def slow(outputs, labels):
        import os
        import time

        import numpy as np

        time.sleep(seconds * (10 if os.environ.get("SLOW") else 1))
        return np.nan_to_num(outputs.max(axis=1), nan=0.0, posinf=1e9, neginf=-1e9)

    return slow


def deadly_metric(limit=1e9):
    """End the process where nearly all outputs are huge: very high rates give that."""

    def deadly(outputs, labels):
        import os
        import signal

        import numpy as np

        if (np.abs(outputs) < limit).mean() < 0.1:
            os.kill(os.getpid(), signal.SIGKILL)
        return outputs.max(axis=1)

    return deadly


def stored(path, columns="COUNT(*)"):
    """Read the number of points in a results file that is being written."""
    import sqlite3

    if not path.exists():
        return 0
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as db:
        try:
            return db.execute(f"SELECT {columns} FROM points").fetchone()[0]
        except sqlite3.OperationalError:
            return 0


def stop(process, number=signal.SIGTERM):
    process.send_signal(number)
    return process.wait(timeout=20)


def tasks_of(client):
    """What a scheduler keeps of sweeps."""
    keys = client.run_on_scheduler(lambda dask_scheduler: list(map(str, dask_scheduler.tasks)))
    return [key for key in keys if key.startswith("noisystore")]
