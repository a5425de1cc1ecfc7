# SPDX-License-Identifier: Apache-2.0
"""The results of sweeps in one SQLite file, whose tables docs/results.md describes."""

from __future__ import annotations

import os
import uuid
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

from ..ortops.errors import InputError
from .results_file import open_file, release, sqlite3
from .results_point import (
    IDENTITY,
    Point,
    pack_bits,
    rates_key,
    signed,
    sweep_key,
    unpack_bits,
)
from .results_queries import Queries
from .results_schema import SCHEMA_VERSION, create_schema, migrate

__all__ = [
    "IDENTITY",
    "Point",
    "Results",
    "pack_bits",
    "rates_key",
    "results_rows",
    "sweep_key",
    "unpack_bits",
]


class Results(Queries):
    """Measured points, in a file or in memory.

    Parameters
    ----------
    path : path of an SQLite file, optional
        Made if it is missing, migrated if it is of an older schema. None: in memory.
    readonly : bool
        For readers: the file must exist. Neither it nor its write-ahead log is changed; of a file
        of an older schema a copy in memory is migrated.

    Attributes
    ----------
    path : pathlib.Path or None
    schema : int
        Schema version that the file had when it was opened.

    Raises
    ------
    InputError
        The path is a directory, a foreign file or of a newer schema (it stays untouched), or
        cannot be read, migrated or written.

    Examples
    --------
    >>> from noisystore.runtime import Results
    >>> with Results() as results:
    ...     len(results.rows())
    0
    """

    def __init__(
        self, path: str | os.PathLike[str] | None = None, *, readonly: bool = False
    ) -> None:
        if sqlite3 is None:
            raise InputError(
                "results: this Python has no sqlite3, which keeps them: install SQLite (Debian, "
                "Ubuntu: apt install libsqlite3-0 libpython3-stdlib)"
            )
        self.readonly, self.schema = readonly, 0
        if path is None:
            super().__init__(sqlite3.connect(":memory:", isolation_level=None), None)
        else:
            database, self.schema, identity = open_file(Path(path), readonly)
            super().__init__(database, Path(path))
            # Also of results that are forgotten without `close`.
            self._release = weakref.finalize(self, release, identity)
        try:
            with self._errors():
                self._db.execute("PRAGMA foreign_keys = ON")
                if not readonly:
                    self._create()
        except BaseException:
            self.close()
            raise

    def add_sweep(self, identity: Mapping[str, Any], description: Mapping[str, Any]) -> int:
        """Store a sweep, unless it is there, and return its id.

        The description's ``sites`` are to hold the identity's ``noisy``, if any.
        """
        columns = {name: identity[name] for name in IDENTITY}
        values = {"key": sweep_key(identity), **columns, **description}
        with self.transaction():
            self._insert("sweeps", values)
            row = self._db.execute("SELECT id FROM sweeps WHERE key = ?", (values["key"],))
            return int(row.fetchone()["id"])

    def add_run(self, environment: Mapping[str, Any]) -> int:
        """Store where points are measured and return the run's id.

        It starts now, and has a new UUID, unless `environment` has ``started`` and ``uuid``; a run
        whose UUID is there is not stored again.
        """
        values = {"uuid": str(uuid.uuid4()), "started": utc_now(), **environment}
        with self.transaction():
            self._insert("runs", values)
            row = self._db.execute("SELECT id FROM runs WHERE uuid = ?", (values["uuid"],))
            return int(row.fetchone()["id"])

    def add_point(self, sweep: int, run: int, point: Point, measured: str | None = None) -> bool:
        """Store one point in a transaction; False if it was there already.

        Parameters
        ----------
        sweep, run : int
            Ids.
        point : Point
        measured : str, optional
            UTC, ISO 8601; None: now.
        """
        values = {"sweep": sweep, "run": run, **vars(point), "measured": measured or utc_now()}
        values["noise_seed"] = signed(point.noise_seed)
        bits = {name: values.pop(name) for name in ("correct_bits", "agree_bits")}
        with self.transaction():
            if not self._insert("points", values):
                return False
            if any(value is not None for value in bits.values()):
                last = self._db.execute("SELECT last_insert_rowid()").fetchone()[0]
                self._insert("bits", {"point": last, **bits})
            return True

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Store all that is added inside, or, where an exception leaves it, nothing of it."""
        with self._errors():
            if self._db.in_transaction:
                yield
                return
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Close the file."""
        self._db.close()
        if self.path is not None:
            self._release()

    def __enter__(self) -> Results:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _create(self) -> None:
        if self.schema == 0:
            with self.transaction():
                create_schema(self._db)
        elif self.schema < SCHEMA_VERSION:
            migrate(self._db)
        if self.path is not None:
            # Busy: another process, which is making the file just now, does the same.
            with suppress(sqlite3.OperationalError):
                self._db.execute("PRAGMA journal_mode = WAL")
            # A power loss takes no point that was reported as stored; a commit takes 3 ms.
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("ROLLBACK")

    def _insert(self, table: str, values: Mapping[str, Any]) -> bool:
        names = ", ".join(values)
        marks = ", ".join("?" * len(values))
        cursor = self._db.execute(
            f"INSERT INTO {table} ({names}) VALUES ({marks}) ON CONFLICT DO NOTHING",
            tuple(values.values()),
        )
        return cursor.rowcount == 1


def results_rows(
    source: Results | str | os.PathLike[str] | Iterable[dict[str, Any]],
    columns: Iterable[str] | None = None,
) -> list[dict[str, Any]]:
    """Return the rows of a `Results`, of a results file (opened read-only), or as they are.

    Parameters
    ----------
    source : Results, path, or rows
    columns : iterable of str, optional
        What is read; None: all.

    Raises
    ------
    InputError
        As `Results` and `Results.rows`.
    """
    if isinstance(source, Results):
        return source.rows(columns=columns)
    if isinstance(source, (str, os.PathLike)):
        with Results(source, readonly=True) as results:
            return results.rows(columns=columns)
    return list(source)


def utc_now() -> str:
    """Return the time as results hold it: UTC, ISO 8601, seconds."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
