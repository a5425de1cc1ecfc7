# SPDX-License-Identifier: Apache-2.0
"""What is in a results file, in numbers that fit on a page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..ortops.errors import InputError
from .results import Results

# One pass over an index, and one over the table: a second for a million points.
_SWEEPS = """
SELECT s.key, SUM(n) AS points, COUNT(*) AS rates, MAX(n) AS trials, MIN(p01) AS low,
  MAX(p01) AS high
FROM (SELECT sweep, p01, p10, COUNT(*) AS n FROM points GROUP BY sweep, p01, p10) g
JOIN sweeps s ON s.id = g.sweep GROUP BY g.sweep
"""
_RUNS = """
SELECT r.uuid, g.points, g.seconds
FROM (SELECT run, COUNT(*) AS points, TOTAL(seconds) AS seconds FROM points GROUP BY run) g
JOIN runs r ON r.id = g.run
"""
_MACHINE = ("host", "cpu", "threads", "onnxruntime_version", "library_version")
_NONE = {"points": 0, "rates": 0, "trials": 0, "low": None, "high": None}


@dataclass(frozen=True)
class Summary:
    """What is in a results file.

    Attributes
    ----------
    path : str
    schema : int
        Version.
    bytes : int
        Size of the file and its write-ahead log.
    points : int
    sweeps : list of dict
        The columns that all points of a sweep share (see `Results.rows`); ``points``; ``rates``,
        the number of pairs; ``low`` and ``high``, of p01 (None: no point); ``trials``, the most at
        one pair.
    machines : list of dict
        host, cpu, threads, onnxruntime_version, library_version, ``runs``, ``points``, and the
        ``seconds`` that these took.
    """

    path: str
    schema: int
    bytes: int
    points: int
    sweeps: list[dict[str, Any]]
    machines: list[dict[str, Any]]


def summarize(results: Results) -> Summary:
    """Return what is in a results file.

    Parameters
    ----------
    results : Results
        Of a file.

    Raises
    ------
    InputError
        The file cannot be read or is damaged.
    """
    found = {row.pop("key"): row for row in results.select(_SWEEPS)}
    # SQLite takes text for larger than any number.
    if any(not isinstance(row["high"], float) for row in found.values()):
        raise InputError(f"results file {results.path}: damaged: column p01: not a number")
    sweeps = [{**row, **found.get(row["sweep"], _NONE)} for row in results.sweep_rows()]
    measured = {row.pop("uuid"): row for row in results.select(_RUNS)}
    machines: dict[tuple[Any, ...], dict[str, Any]] = {}
    for run in results.run_rows():
        key = tuple(run[name] for name in _MACHINE)
        empty = {**dict(zip(_MACHINE, key, strict=True)), "runs": 0, "points": 0, "seconds": 0.0}
        machine = machines.setdefault(key, empty)
        machine["runs"] += 1
        for name, value in measured.get(run["run"], {}).items():
            machine[name] += value
    assert results.path is not None
    log = Path(f"{results.path}-wal")
    return Summary(
        path=str(results.path),
        schema=results.schema,
        bytes=results.path.stat().st_size + (log.stat().st_size if log.exists() else 0),
        points=len(results),
        sweeps=sweeps,
        machines=list(machines.values()),
    )
