# SPDX-License-Identifier: Apache-2.0
"""Results files of other machines and days put together, each point once."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from ..ortops.errors import InputError
from .metrics import Scores
from .results import Results
from .results_columns import POINT, RUN
from .results_point import IDENTITY, Point, sweep_key

_Row = dict[str, Any]
# What the same noise gives everywhere. Not `n_run`: whether samples without a flip are run is a
# choice.
_OUTCOME = ("noise_seed", "correct", "top5", "agreement", "metric", "correct_bits", "agree_bits")
_COUNTED = {"correct_bits": "correct", "agree_bits": "agreement"}
_COLUMNS = [name for name in (*POINT, *RUN) if name != "accuracy"]
_LOST = "SELECT 1 FROM points WHERE sweep NOT IN (SELECT id FROM sweeps) LIMIT 1"
_CLEAN = ("classes", "chance_accuracy", "clean_accuracy", "clean_top5", "clean_metric")


@dataclass(frozen=True)
class Merged:
    """What a merge took from one file.

    Attributes
    ----------
    source : pathlib.Path
    sweeps : int
        Sweeps that were new.
    points : int
        Points that were new.
    known : int
        Points that were there already, with the same outcome.
    """

    source: Path
    sweeps: int
    points: int
    known: int


def merge_results(
    path: str | os.PathLike[str],
    sources: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str] | None = None,
) -> list[Merged]:
    """Put the points of several results files into one: all of them, or nothing.

    Parameters
    ----------
    path : path of a results file
        Gets the points of the others, unless there is an `output`.
    sources : sequence of paths of results files
        They are only read; of any schema.
    output : path, optional
        A new file, with the points of `path`, too, which then is only read.

    Returns
    -------
    list of Merged
        One a source; first `path`, where there is an `output`.

    Raises
    ------
    InputError
        A file cannot be read or written, is damaged, or holds another outcome for a point or a
        clean network than a file before it. Nothing was written.

    Notes
    -----
    A point is the same if sweep, rates and trial are. Its outcome (counts, bits, metric) has to be
    the same, too: noise is a function of these.
    """
    path, files = Path(path), [Path(source) for source in sources]
    if output is None:
        for file in files:
            if file.exists() and path.exists() and file.samefile(path):
                raise InputError(f"merge: expected other files than {path}, got it twice")
        Results(path, readonly=True).close()
        with Results(path) as results:
            return _merge(results, files)
    return _merge_new(Path(output), [path, *files])


def _merge_new(output: Path, files: list[Path]) -> list[Merged]:
    if output.exists() or output.is_symlink():
        raise InputError(f"output {output}: expected a new file, got one that exists")
    if not output.parent.is_dir():
        raise InputError(f"output {output}: there is no folder {output.parent}: create it first")
    temporary = output.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        with Results(temporary) as results:
            merged = _merge(results, files)
            # One file, without a write-ahead log beside it, can be moved.
            results._db.execute("PRAGMA journal_mode = DELETE")
        os.replace(temporary, output)
    except InputError as error:
        raise InputError(str(error).replace(str(temporary), str(output))) from None
    finally:
        for end in ("", "-wal", "-shm", "-journal"):
            with suppress(OSError):
                os.unlink(f"{temporary}{end}")
    return merged


def _merge(results: Results, files: list[Path]) -> list[Merged]:
    with results.transaction():
        merged = []
        for file in files:
            with Results(file, readonly=True) as source:
                merged.append(_Merge(results, source).run())
        return merged


class _Merge:
    """One file's sweeps, runs and points on their way into another file."""

    def __init__(self, target: Results, source: Results) -> None:
        self._target, self._source = target, source
        self._name = f"results file {source.path}"
        self._runs: dict[str, int] = {}

    def run(self) -> Merged:
        if self._source.select(_LOST):
            raise InputError(f"{self._name}: damaged: a point without its sweep")
        sweeps = points = known = 0
        for shared in self._source.sweep_rows():
            number, new = self._sweep(shared)
            sweeps += new
            there = {} if new else {_key(row): row for row in _rows(self._target, shared)}
            for row in _rows(self._source, shared):
                if _key(row) in there:
                    self._compare(row, there[_key(row)], shared)
                    known += 1
                else:
                    self._add(number, row, shared)
                    points += 1
        assert self._source.path is not None
        return Merged(self._source.path, sweeps, points, known)

    def _sweep(self, shared: _Row) -> tuple[int, bool]:
        """Return the id of a sweep in the target, and whether it is new there."""
        identity = {name: shared[name] for name in IDENTITY if name != "metric"}
        identity.update(metric=shared["metric_name"], noisy=shared["noisy"])
        if sweep_key(identity) != shared["sweep"]:
            raise InputError(f"{self._name}: damaged: a sweep's key is not that of its columns")
        own = self._source.find_sweep(identity)
        assert own is not None
        there = self._target.find_sweep(identity)
        if there is None:
            names = ("model", "sites", "storage_format", "data", *_CLEAN)
            description = {name: shared[name] for name in names}
            description.update(mask_name=shared["mask"], clean_scores=own[1].to_bytes())
            with self._blamed():
                return self._target.add_sweep(identity, description), True
        for field in fields(Scores):
            ours, theirs = getattr(there[1], field.name), getattr(own[1], field.name)
            if not _same_arrays(ours, theirs):
                raise InputError(
                    f"{self._name}: the clean network of {_title(shared)} has other "
                    f"{field.name} than in {self._target.path}: the same model, data and kind of "
                    "machine have the same scores, so keep these files apart; nothing was merged"
                )
        return there[0], False

    def _compare(self, row: _Row, there: _Row, shared: _Row) -> None:
        """Refuse a point that has another outcome in the target."""
        for name in _OUTCOME:
            if not _same(row[name], there[name]):
                values = "" if name in _COUNTED else f" {row[name]} here, {there[name]} there"
                raise InputError(
                    f"{self._name}: the point p01 {row['p01']!r}, p10 {row['p10']!r}, trial "
                    f"{row['trial']} of {_title(shared)} has another outcome than in "
                    f"{self._target.path}: {name}{values} ({row['cpu']} on {row['host']} here, "
                    f"{there['cpu']} on {there['host']} there): one point has one outcome, so "
                    "keep these files apart; nothing was merged"
                )

    def _add(self, sweep: int, row: _Row, shared: _Row) -> None:
        for name, count in _COUNTED.items():
            if row[name] is not None and int.from_bytes(row[name], "big").bit_count() != row[count]:
                raise InputError(f"{self._name}: damaged: column {name}: not as many as {count}")
        names = [field.name for field in fields(Point) if field.name != "images"]
        point = Point(images=shared["images"], **{name: row[name] for name in names})
        with self._blamed():
            self._target.add_point(sweep, self._run(row), point, row["measured"])

    def _run(self, row: _Row) -> int:
        if row["run"] not in self._runs:
            environment = {name: row[name] for name in RUN if name != "run"}
            self._runs[row["run"]] = self._target.add_run({**environment, "uuid": row["run"]})
        return self._runs[row["run"]]

    @contextmanager
    def _blamed(self) -> Iterator[None]:
        """Blame the source for values that the target's tables refuse."""
        try:
            yield
        except InputError as error:
            if "constraint failed" not in str(error):
                raise
            raise InputError(
                str(error).replace(str(self._target.path), str(self._source.path))
            ) from None


def _title(shared: _Row) -> str:
    return f"{shared['model']} (mask {shared['mask']}, sweep {shared['sweep'][:12]})"


def _rows(results: Results, shared: _Row) -> Iterator[_Row]:
    for block in results.blocks(_COLUMNS, sweep=shared["sweep"]):
        for values in zip(*(block.column(name) for name in _COLUMNS), strict=True):
            yield dict(zip(_COLUMNS, values, strict=True))


def _key(row: _Row) -> tuple[float, float, int]:
    return row["p01"], row["p10"], row["trial"]


def _same(first: Any, second: Any) -> bool:
    return bool(first == second or (first != first and second != second))  # NaN is like NaN.


def _same_arrays(first: Any, second: Any) -> bool:
    if first is None or second is None:
        return first is second
    return np.array_equal(first, second, equal_nan=first.dtype.kind == "f")
