# SPDX-License-Identifier: Apache-2.0
"""What is asked of a results file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..ortops.errors import InputError
from .metrics import Scores
from .results_columns import BITS, chosen
from .results_file import explain, sqlite3
from .results_point import pack_bits, rates_key, sweep_key
from .results_reader import Block, Reader, to_arrays, to_frame, to_rows

if TYPE_CHECKING:
    import pandas as pd

#: Columns of `Results.to_arrays` unless others are asked for.
_NUMBERS = (
    *("images", "trial", "noise_seed", "n_run", "p01", "p10", "correct", "top5", "agreement"),
    *("metric", "accuracy", "clean_accuracy", "chance_accuracy", "seconds", "run_seconds", "sweep"),
)


class Queries:
    """The questions of `Results`.

    Parameters
    ----------
    database : sqlite3.Connection
    path : pathlib.Path or None
        The file, for messages.
    """

    def __init__(self, database: sqlite3.Connection, path: Path | None) -> None:
        self._db, self.path = database, path
        self._db.row_factory = sqlite3.Row
        self._reader = Reader(self._db, self._source, self._packed_clean_bits)

    def sweeps(self) -> list[dict[str, Any]]:
        """Return the table ``sweeps``, without blobs, ordered by model, mask and key."""
        query = "SELECT * FROM sweeps ORDER BY model, mask_name, key"
        with self._errors():
            rows = self._db.execute(query).fetchall()
        return [{k: row[k] for k in row.keys() if k != "clean_scores"} for row in rows]  # noqa: SIM118

    def sweep_rows(self) -> list[dict[str, Any]]:
        """Return the columns of `rows` that all points of a sweep share, one dict a sweep."""
        with self._errors():
            return [shared for _, shared in self._reader.sweeps({})]

    def run_rows(self) -> list[dict[str, Any]]:
        """Return the columns of `rows` that belong to a run, one dict a run."""
        with self._errors():
            return list(self._reader.runs({}).values())

    def select(self, query: str, values: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Return the rows of an SQL query of one's own, which changes nothing.

        Parameters
        ----------
        query : str
            Of the tables in docs/results.md.
        values : sequence
            Of its question marks.

        Raises
        ------
        InputError
            The query or the file is no good.
        """
        with self._errors():
            before = self._db.execute("PRAGMA query_only").fetchone()[0]
            self._db.execute("PRAGMA query_only = ON")
            try:
                return [dict(row) for row in self._db.execute(query, values)]
            finally:
                self._db.execute(f"PRAGMA query_only = {before}")

    def rows(
        self, *, columns: Iterable[str] | None = None, limit: int | None = None, **equal: Any
    ) -> list[dict[str, Any]]:
        """Return the points, each with its sweep and its run, in an order of their contents.

        Of many points `to_arrays` and `to_frame` are several times faster.

        Parameters
        ----------
        columns : iterable of str, optional
            Wanted keys; None: all. Bits that are not among them are not read.
        limit : int, optional
            Most points; None: all.
        **equal
            Wanted values of columns, for example ``sweep=KEY`` or ``mask="all"``.

        Returns
        -------
        list of dict
            Keys: model, model_sha256, storage_format, sites, data, data_sha256, images, classes,
            mask, bit_mask, noisy (empty: all sites), seed, batch_size, provider, machine,
            noise_model, metric_name, chance_accuracy, clean_accuracy, clean_top5, clean_metric,
            p01, p10, trial, noise_seed, n_run, correct, top5, agreement, metric, accuracy
            (correct / images), seconds, run_seconds, correct_bits, agree_bits, measured,
            library_version, onnxruntime_version, threads, cpu, host, sweep (its key), clean_bits
            (which samples were right, had the clean prediction, are right without noise; see
            `unpack_bits`). None: not measured; a metric that was NaN is NaN. By name only: run (a
            UUID), started.

        Raises
        ------
        InputError
            The file cannot be read or is damaged, or there is no such column.
        """
        names = chosen(columns)
        with self._errors():
            return to_rows(self.blocks(names, limit=limit, **equal), names)

    def blocks(
        self, columns: Sequence[str], *, limit: int | None = None, **equal: Any
    ) -> Iterator[Block]:
        """Yield the points as `rows` takes them, the columns of one sweep at a time."""
        with self._errors():
            yield from self._reader.blocks(columns, equal, limit)

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

    def to_arrays(
        self, *, columns: Iterable[str] | None = None, limit: int | None = None, **equal: Any
    ) -> dict[str, npt.NDArray[Any]]:
        """Return columns of `rows` as arrays [points].

        Parameters
        ----------
        columns : iterable of str, optional
            Of `rows`, without those of bits; None: the numbers of each point, and the sweep's key.
        limit, **equal
            As `rows` takes them.

        Returns
        -------
        dict of array [points]
            int64, float64 or str; numbers that were not measured are NaN.

        Raises
        ------
        InputError
            As `rows`.
        """
        names = list(_NUMBERS) if columns is None else chosen(columns)
        for name in set(names) & set(BITS):
            raise InputError(f"results: expected columns of numbers or text, got {name}")
        with self._errors():
            return to_arrays(self.blocks(names, limit=limit, **equal), names)

    def to_frame(
        self, *, columns: Iterable[str] | None = None, limit: int | None = None, **equal: Any
    ) -> pd.DataFrame:
        """Return columns of `rows` as a pandas table, one row a point; it needs pandas.

        Parameters
        ----------
        columns : iterable of str, optional
            None: all but those of bits.
        limit, **equal
            As `rows` takes them.

        Returns
        -------
        pandas.DataFrame
            Counts that may be missing are Int64, texts that repeat are categories.

        Raises
        ------
        InputError
            As `rows`, or there is no pandas.
        """
        names = chosen(columns, bits=False)
        with self._errors():
            return to_frame(self.blocks(names, limit=limit, **equal), names)

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
                f"{self._source}: damaged: the clean scores of sweep {key[:12]}: {error}"
            ) from None

    def _packed_clean_bits(self, key: str) -> bytes | None:
        bits = self.clean_bits(key)
        return None if bits is None else pack_bits(bits)

    @property
    def _source(self) -> str:
        return "results" if self.path is None else f"results file {self.path}"

    def check(self, sweep: str) -> None:
        """Read all that is stored of a sweep, by its key.

        Raises
        ------
        InputError
            A part of it is damaged.
        """
        for _ in self.blocks(chosen(None), sweep=sweep):
            pass

    def measured(self, sweep: int) -> set[tuple[str, int]]:
        """Return (rates key, trial) of the points of a sweep."""
        query = "SELECT p01, p10, trial FROM points WHERE sweep = ?"
        with self._errors():
            found = self._db.execute(query, (sweep,)).fetchall()
        keys = {rates: rates_key(*rates) for rates in {(p01, p10) for p01, p10, _ in found}}
        return {(keys[p01, p10], trial) for p01, p10, trial in found}

    def has_point(self, sweep: int, p01: float, p10: float, trial: int) -> bool:
        """Return whether a point of a sweep is stored."""
        query = "SELECT 1 FROM points WHERE sweep = ? AND p01 = ? AND p10 = ? AND trial = ?"
        with self._errors():
            found = self._db.execute(query, (sweep, p01, p10, trial)).fetchone()
        return found is not None

    def __len__(self) -> int:
        with self._errors():
            return int(self._db.execute("SELECT COUNT(*) FROM points").fetchone()[0])

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OverflowError) as error:
            raise InputError(explain(self.path, error)) from None
