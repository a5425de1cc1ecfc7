# SPDX-License-Identifier: Apache-2.0
"""Sweeps that end at random moments: run as a program, one line of JSON says what was found.

The sweeps are forked from a process that has imported everything, so that a hundred take seconds.
They report each point when it is measured and when it is stored.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import sys
import time
from pathlib import Path

import onnxruntime  # noqa: F401

from noisystore.runtime import Results
from noisystore.runtime.cli import build_parser, main
from noisystore.runtime.results import rates_key

Point = tuple[str, int]
SECTOR = 512


class Sweep:
    """One process that runs `noisystore sweep`."""

    def __init__(self, arguments: list[str], checkpoint: int | None = None) -> None:
        self._reports, writer = os.pipe()
        self._rest = b""
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._reports)
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 1)
            os.dup2(null, 2)
            _report(writer, checkpoint)
            os._exit(main(arguments))
        os.close(writer)

    def reports(self, seconds: float) -> list[list[str]]:
        """Return what was reported, at the latest after some seconds."""
        if not select.select([self._reports], [], [], seconds)[0]:
            return []
        *lines, self._rest = (self._rest + os.read(self._reports, 1 << 20)).split(b"\n")
        return [line.decode().split() for line in lines]

    def end(self, number: int) -> list[list[str]]:
        """Send a signal, wait for the end, and return the last reports."""
        os.kill(self.pid, number)
        os.waitpid(self.pid, 0)
        reports = []
        while some := self.reports(0):
            reports += some
        os.close(self._reports)
        return reports


def _report(writer: int, checkpoint: int | None) -> None:
    add, make = Results.add_point, Results.__init__

    def add_point(self, sweep, run, point, *more):
        key = f"{rates_key(point.p01, point.p10)} {point.trial}"
        os.write(writer, f"measured {key}\n".encode())
        stored = add(self, sweep, run, point, *more)
        os.write(writer, f"stored {key}\n".encode())
        return stored

    def init(self, *args, **options):
        make(self, *args, **options)
        if checkpoint is not None:
            self._db.execute(f"PRAGMA wal_autocheckpoint = {checkpoint}")

    Results.add_point, Results.__init__ = add_point, init


def _stored(reports: list[list[str]]) -> set[Point]:
    return {(rates, int(trial)) for what, rates, trial in reports if what == "stored"}


def stored_in(path: Path) -> set[Point]:
    """Return the points in a file, which has to be sound."""
    with Results(path) as results:
        assert results.select("PRAGMA integrity_check") == [{"integrity_check": "ok"}]
        assert results.select("PRAGMA foreign_key_check") == []
        assert len(results.select("SELECT point FROM bits")) == len(results)
        return {
            point
            for row in results.select("SELECT id FROM sweeps")
            for point in results.measured(row["id"])
        }


def killed(arguments: list[str], path: Path, times: int, seed: int) -> dict[str, int]:
    """Kill a sweep at random moments, some of them just around a commit; see what is kept."""
    rng = random.Random(seed)
    known: set[Point] = set()
    lost = repeated = empty = 0
    for _ in range(times):
        process, new = Sweep(arguments), []
        if rng.random() < 0.5:
            time.sleep(rng.uniform(0, 0.15))
        else:
            wanted = rng.randrange(1, 30)
            until = time.monotonic() + 20
            while len(new) < wanted and time.monotonic() < until:
                new += process.reports(0.05)
            time.sleep(rng.uniform(0, 0.005))
        new += process.end(signal.SIGKILL)
        repeated += sum(
            (rates, int(trial)) in known for what, rates, trial in new if what == "measured"
        )
        reported = _stored(new)
        empty += not reported
        known |= reported
        if path.exists():
            there = stored_in(path)
            lost += len(known - there)
            known |= there
        else:
            lost += len(known)
    return dict(lost=lost, repeated=repeated, empty=empty, points=len(known))


def power_loss(path: Path, copy: Path, rng: random.Random) -> None:
    """Write what a disk may hold after a power loss: of what was not synced, any sectors or none.

    Beside each file of a database lies what of it was synced, as FILE.disk (synced_copies.cc).
    """
    share = rng.choice((0.0, 0.5, 1.0))
    for end in ("", "-wal", "-journal"):
        Path(f"{copy}{end}").unlink(missing_ok=True)
        now, disk = Path(f"{path}{end}"), Path(f"{path}{end}.disk")
        if not now.exists():
            continue
        written, safe = now.read_bytes(), disk.read_bytes() if disk.exists() else b""
        size = rng.choice((len(written), max(len(safe), rng.randint(0, len(written)))))
        sectors = bytearray(safe.ljust(size, b"\0")[:size])
        for place in range(0, size, SECTOR):
            if rng.random() < share:
                sectors[place : place + SECTOR] = written[place : min(place + SECTOR, size)]
        Path(f"{copy}{end}").write_bytes(sectors)


def without_power(arguments: list[str], path: Path, times: int, seed: int) -> dict[str, int]:
    """Copy what is on the disk at random moments of sweeps; see what the copies hold."""
    rng = random.Random(seed)
    lost = reported = empty = 0
    copy = path.with_name("copy.sqlite")
    for moment in range(times):
        if moment % 10 == 0:
            for old in path.parent.glob(f"{path.name}*"):
                old.unlink()
            process, known = Sweep(arguments, checkpoint=rng.choice((5, 30, 1000))), set()
            if moment % 20 == 0:
                known |= _stored(process.reports(20))
        time.sleep(rng.uniform(0, 0.04))
        os.kill(process.pid, signal.SIGSTOP)
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), "the sweep was over too soon"
        while reports := process.reports(0):
            known |= _stored(reports)
        power_loss(path, copy, rng)
        if moment % 10 == 9:
            process.end(signal.SIGKILL)
            reported += len(known)
        else:
            os.kill(process.pid, signal.SIGCONT)
        empty += not known
        lost += len(known - stored_in(copy))
    return dict(lost=lost, empty=empty, points=reported)


if __name__ == "__main__":
    build_parser()  # Imports all commands.
    what, model, data, path, times, seed = sys.argv[1:]
    words = ["sweep", model, "--data", f"npz:{data}", "--rates", "1e-6:1e-2:10/decade"]
    words += ["--trials", "60", "--images", "20", "--threads", "1", "--workers", "1", "-o", path]
    work = {"killed": killed, "without_power": without_power}[what]
    print(json.dumps(work(words, Path(path), int(times), int(seed))))
