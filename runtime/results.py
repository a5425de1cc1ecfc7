# SPDX-License-Identifier: Apache-2.0
"""The results of sweeps in one SQLite file.

Schema 1 (``application_id`` 0x4E6F6953, "NoiS"; ``user_version`` 1):

``sweeps``: what is measured, one row a combination. Columns: ``id``; ``key``, unique, the SHA-256
of the identity below; the identity: ``model_sha256``, ``data_sha256``, ``images``, ``seed`` (the
user's), ``batch_size``, ``bit_mask`` (a hexadecimal number, or a JSON list of one a site),
``metric`` (its name, or empty), ``provider``, ``machine`` (x86_64, aarch64...), ``noise_model``;
its description: ``model`` (file name), ``sites`` (a JSON object: number, kinds, and, where only
some sites have the swept rates, ``noisy``: these, and the rates of others; it is part of the key),
``storage_format``, ``data``, ``mask_name``, ``classes``, ``chance_accuracy``; and the clean
network: ``clean_accuracy``, ``clean_top5``, ``clean_metric``, ``clean_scores`` (a blob, npz).

``runs``: where points were measured: ``library_version``, ``onnxruntime_version``, ``threads``
(0: ONNX Runtime's choice), ``cpu``, ``host``, ``started`` (UTC, ISO 8601).

``points``: one row a measured point, written in a transaction of its own; unique by
(``sweep``, ``rates``, ``trial``), where ``rates`` is ``p01|p10`` as Python's float.hex(), so that
repeating a point changes nothing. Further columns: ``run``; ``p01``, ``p10``; ``noise_seed``;
``images``; ``n_run``, the samples really run (the others have no flip and hence the clean
prediction); ``correct``, ``top5``, ``agreement``: numbers of samples (NULL without labels, or
without predictions); ``metric``, the mean of the user's metric (NULL where it is NaN);
``seconds``, ``run_seconds`` (of these inside ONNX Runtime); ``correct_bits``, ``agree_bits``: one
bit a sample, first sample first, most significant bit first (NumPy's packbits); ``measured`` (UTC,
ISO 8601).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from ..ortops.errors import InputError
from .metrics import Scores
from .results_file import check_file, connect, create_schema, explain, sqlite3
from .results_row import checked, select

IDENTITY = (
    "model_sha256",
    "data_sha256",
    "images",
    "seed",
    "batch_size",
    "bit_mask",
    "metric",
    "provider",
    "machine",
    "noise_model",
)


@dataclass(frozen=True)
class Point:
    """One measured point: a column of the table ``points`` each (see the module's docstring)."""

    p01: float
    p10: float
    trial: int
    noise_seed: int
    images: int
    n_run: int
    correct: int | None
    top5: int | None
    agreement: int | None
    metric: float | None
    seconds: float
    run_seconds: float
    correct_bits: bytes | None
    agree_bits: bytes | None


def pack_bits(values: npt.NDArray[np.bool_]) -> bytes:
    """Pack booleans [samples] into bytes, first sample in the most significant bit."""
    return np.packbits(values).tobytes()


def unpack_bits(blob: bytes, samples: int) -> npt.NDArray[np.bool_]:
    """Return the booleans [samples] that `pack_bits` packed."""
    return np.unpackbits(np.frombuffer(blob, dtype=np.uint8), count=samples).astype(bool)


def rates_key(p01: float, p10: float) -> str:
    """Return the exact text that identifies a pair of rates in the table ``points``."""
    return f"{float(p01).hex()}|{float(p10).hex()}"


class Results:
    """Measured points, in a file or in memory.

    Parameters
    ----------
    path : path of an SQLite file, optional
        Made if it is missing. None: in memory.
    readonly : bool
        For readers: the file must exist. Neither it nor its write-ahead log is changed.

    Attributes
    ----------
    path : pathlib.Path or None

    Raises
    ------
    InputError
        The path is a directory, a foreign file or of another schema version (it stays
        untouched), or cannot be read or written.

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
        self.path = None if path is None else Path(path)
        self.readonly = readonly
        if self.path is not None:
            exists = check_file(self.path, readonly)
            self._db = connect(self.path, readonly)
        else:
            exists = False
            self._db = sqlite3.connect(":memory:", isolation_level=None)
        self._db.row_factory = sqlite3.Row
        try:
            with self._errors():
                self._db.execute("PRAGMA foreign_keys = ON")
                if not readonly:
                    self._create(exists)
        except BaseException:
            self._db.close()
            raise

    def sweeps(self) -> list[dict[str, Any]]:
        """Return the table ``sweeps``, without blobs, ordered by model, mask and key."""
        query = "SELECT * FROM sweeps ORDER BY model, mask_name, key"
        with self._errors():
            rows = self._db.execute(query).fetchall()
        return [{k: row[k] for k in row.keys() if k != "clean_scores"} for row in rows]  # noqa: SIM118

    def rows(self, **equal: Any) -> list[dict[str, Any]]:
        """Return the points, each with its sweep and its run, in an order of their contents.

        Parameters
        ----------
        **equal
            Wanted values of columns, for example ``sweep=KEY`` or ``mask="all"``.

        Returns
        -------
        list of dict
            Keys: model, model_sha256, storage_format, sites, data, data_sha256, images, classes,
            mask, bit_mask, noisy (empty: all sites), seed, batch_size, provider, machine,
            noise_model, metric_name, chance_accuracy, clean_accuracy, clean_top5, clean_metric,
            p01, p10, trial, noise_seed, n_run, correct, top5, agreement, metric, accuracy
            (correct / images), seconds, run_seconds, correct_bits, agree_bits, clean_bits (which
            samples were right, had the clean prediction, are right without noise; see
            `unpack_bits`), measured, library_version, onnxruntime_version, threads, cpu,
            host, sweep (its key). None: not measured; a metric that was NaN is NaN.

        Raises
        ------
        InputError
            The file cannot be read or is damaged, or there is no such column.
        """
        query, values = select(equal)
        source = "results" if self.path is None else f"results file {self.path}"
        with self._errors():
            rows = [checked(dict(row), source) for row in self._db.execute(query, values)]
        clean = {key: self.clean_bits(key) for key in dict.fromkeys(row["sweep"] for row in rows)}
        packed = {k: None if bits is None else pack_bits(bits) for k, bits in clean.items()}
        for row in rows:
            row["clean_bits"] = packed[row["sweep"]]
        return rows

    def clean_bits(self, sweep: str) -> npt.NDArray[np.bool_] | None:
        """Return which samples [images] the clean network classifies rightly.

        Parameters
        ----------
        sweep : str
            Key of the sweep, as rows hold it.

        Returns
        -------
        array [images] of bool; None without labels, or without such a sweep

        Raises
        ------
        InputError
            The file cannot be read or is damaged.
        """
        found = self._clean_scores(sweep)
        return None if found is None else found[1].correct

    def to_arrays(self, **equal: Any) -> dict[str, npt.NDArray[Any]]:
        """Return the numeric columns of `rows` as arrays [points], and the sweep's key.

        Counts and metrics that were not measured are NaN.
        """
        rows = self.rows(**equal)
        whole = ("images", "trial", "noise_seed", "n_run")
        real = (
            *("p01", "p10", "correct", "top5", "agreement", "metric", "accuracy"),
            *("clean_accuracy", "chance_accuracy", "seconds", "run_seconds"),
        )
        arrays: dict[str, npt.NDArray[Any]] = {
            name: np.array([row[name] for row in rows], dtype=np.int64) for name in whole
        }
        for name in real:
            values = [np.nan if row[name] is None else row[name] for row in rows]
            arrays[name] = np.array(values, dtype=np.float64)
        arrays["sweep"] = np.array([row["sweep"] for row in rows], dtype=np.str_)
        return arrays

    def find_sweep(self, identity: Mapping[str, Any]) -> tuple[int, Scores] | None:
        """Return the id and the clean network's scores of a sweep, or None where there is none.

        Parameters
        ----------
        identity : mapping
            All of `IDENTITY`; ``noisy`` where only some sites have the swept rates.

        Raises
        ------
        InputError
            The file cannot be read or is damaged.
        """
        return self._clean_scores(sweep_key(identity))

    def _clean_scores(self, key: str) -> tuple[int, Scores] | None:
        query = "SELECT id, images, clean_scores FROM sweeps WHERE key = ?"
        with self._errors():
            row = self._db.execute(query, (key,)).fetchone()
        if row is None:
            return None
        try:
            if not isinstance(row["clean_scores"], bytes):
                raise InputError("expected bytes")
            return row["id"], Scores.from_bytes(row["clean_scores"], row["images"])
        except InputError as error:
            raise InputError(
                f"results file {self.path}: damaged: the clean scores of sweep {key[:12]}: {error}"
            ) from None

    def add_sweep(self, identity: Mapping[str, Any], description: Mapping[str, Any]) -> int:
        """Store a sweep, unless it is there, and return its id.

        The description's ``sites`` are to hold the identity's ``noisy``, if any.
        """
        columns = {name: identity[name] for name in IDENTITY}
        values = {"key": sweep_key(identity), **columns, **description}
        with self._transaction():
            self._insert("sweeps", values)
            row = self._db.execute("SELECT id FROM sweeps WHERE key = ?", (values["key"],))
            return int(row.fetchone()["id"])

    def add_run(self, environment: Mapping[str, Any]) -> int:
        """Store where points are measured from now on and return the run's id."""
        with self._transaction():
            self._insert("runs", {**environment, "started": _now()})
            return int(self._db.execute("SELECT last_insert_rowid()").fetchone()[0])

    def add_point(self, sweep: int, run: int, point: Point) -> bool:
        """Store one point in a transaction; False if it was there already."""
        values = {"sweep": sweep, "run": run, "rates": rates_key(point.p01, point.p10)}
        values.update(asdict(point), measured=_now(), noise_seed=_signed(point.noise_seed))
        with self._transaction():
            return self._insert("points", values)

    def measured(self, sweep: int) -> set[tuple[str, int]]:
        """Return (rates key, trial) of the points of a sweep."""
        query = "SELECT rates, trial FROM points WHERE sweep = ?"
        with self._errors():
            return {(row["rates"], row["trial"]) for row in self._db.execute(query, (sweep,))}

    def has_point(self, sweep: int, p01: float, p10: float, trial: int) -> bool:
        """Return whether a point of a sweep is stored."""
        query = "SELECT 1 FROM points WHERE sweep = ? AND rates = ? AND trial = ?"
        with self._errors():
            found = self._db.execute(query, (sweep, rates_key(p01, p10), trial)).fetchone()
        return found is not None

    def __len__(self) -> int:
        with self._errors():
            return int(self._db.execute("SELECT COUNT(*) FROM points").fetchone()[0])

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def __enter__(self) -> Results:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _create(self, exists: bool) -> None:
        if not exists:
            with self._transaction():
                create_schema(self._db)
        if self.path is not None:
            # Busy: another process, which is making the file just now, does the same.
            with suppress(sqlite3.OperationalError):
                self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
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

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._errors():
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OverflowError) as error:
            raise InputError(explain(self.path, error)) from None


def sweep_key(identity: Mapping[str, Any]) -> str:
    """Return the SHA-256 that identifies a sweep: of its identity as JSON, in a fixed order.

    A sweep of all sites has the key that it had before there was a choice.
    """
    values = [identity[name] for name in IDENTITY]
    values += [identity["noisy"]] if identity.get("noisy") else []
    text = json.dumps(values, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def results_rows(
    source: Results | str | os.PathLike[str] | Iterable[dict[str, Any]],
) -> list[dict[str, Any]]:
    """Return the rows of a `Results`, of a results file (opened read-only), or as they are."""
    if isinstance(source, Results):
        return source.rows()
    if isinstance(source, (str, os.PathLike)):
        with Results(source, readonly=True) as results:
            return results.rows()
    return list(source)


def _signed(seed: int) -> int:
    """Return the int64 of a 64-bit pattern, as SQLite and the noise input hold it."""
    seed &= (1 << 64) - 1
    return seed - (1 << 64) if seed >> 63 else seed


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
