# SPDX-License-Identifier: Apache-2.0
"""Points of a results file read sweep by sweep, as columns whose types are checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..ortops.errors import InputError
from .results_columns import BITS, COLUMNS, POINT, RUN, SWEEP, conditions

if TYPE_CHECKING:
    import sqlite3

    import pandas as pd

# A Python integer fits int64: SQLite has no larger ones.
_DTYPES: dict[type, Any] = {int: np.int64, float: np.float64, str: np.str_}


@dataclass(frozen=True)
class Block:
    """Points of one sweep.

    Attributes
    ----------
    size : int
        Number of points.
    shared : dict
        Columns whose value all points have.
    own : dict
        Columns with one value a point.
    """

    size: int
    shared: dict[str, Any]
    own: dict[str, Sequence[Any]]

    def column(self, name: str) -> Sequence[Any] | Iterator[Any]:
        """Return a column, one value a point."""
        return repeat(self.shared[name], self.size) if _is_shared(name) else self.own[name]


class Reader:
    """Reads the points of an open results file.

    Parameters
    ----------
    database : sqlite3.Connection
    source : str
        The file, for messages.
    clean_bits : callable
        From a sweep's key to its `clean_bits`, packed, or None.
    """

    def __init__(
        self,
        database: sqlite3.Connection,
        source: str,
        clean_bits: Callable[[str], bytes | None],
    ) -> None:
        self._db, self._source, self._clean_bits = database, source, clean_bits

    def blocks(
        self, columns: Sequence[str], equal: Mapping[str, Any], limit: int | None = None
    ) -> Iterator[Block]:
        """Yield the points with these values, ordered by model, mask, noisy sites, key and rates.

        Parameters
        ----------
        columns : sequence of str
            Of `COLUMNS`; bits that are not among them are not read.
        equal : mapping
            From column to wanted value.
        limit : int, optional
            Most points in all.

        Raises
        ------
        InputError
            There is no such column, or the file is damaged.
        sqlite3.Error
        """
        sweeps = self.sweeps(equal)
        of_run = [name for name in RUN if name in columns]
        runs = self.runs(equal) if of_run or any(name in RUN for name in equal) else {}
        own = [name for name in POINT if name in columns]
        where, values = conditions(equal, POINT)
        if any(name in RUN for name in equal):
            where += f" AND p.run IN ({', '.join(str(number) for number in runs)})"
        join = "LEFT JOIN bits b ON b.point = p.id" if {*own, *equal} & set(BITS) else ""
        fields = [*(POINT[name][0] for name in own), "p.run" if of_run else "0"]
        query = (
            f"SELECT {', '.join(fields)} FROM points p {join} "
            f"WHERE p.sweep = ? AND {where} ORDER BY p.p01, p.p10, p.trial LIMIT ?"
        )
        left = -1 if limit is None else limit
        cursor = self._db.cursor()
        cursor.row_factory = None
        for number, shared in sweeps:
            if left == 0:
                return
            found = cursor.execute(query, (number, *values, left)).fetchall()
            if not found:
                continue
            left -= len(found) if limit is not None else 0
            *read, run = zip(*found, strict=True)
            block = Block(len(found), shared, dict(zip(own, read, strict=True)))
            self._check(block)
            if of_run and not runs.keys() >= set(run):
                runs = self.runs(equal)  # A sweep that is still running has begun a new one.
                if not runs.keys() >= set(run):
                    raise InputError(f"{self._source}: damaged: a point without its run")
            for name in of_run:
                block.own[name] = [runs[r][name] for r in run]
            if "clean_bits" in columns:
                shared["clean_bits"] = self._clean_bits(shared["sweep"])
            yield block

    def sweeps(self, equal: Mapping[str, Any]) -> list[tuple[int, dict[str, Any]]]:
        """Return id and columns of the sweeps with these values, in the order of `blocks`."""
        where, values = conditions(equal, SWEEP)
        names = ", ".join(f'{sql} AS "{name}"' for name, (sql, _) in SWEEP.items())
        query = (
            f"SELECT id, {names} FROM sweeps WHERE {where} ORDER BY model, mask_name, noisy, key"
        )
        sweeps = []
        for number, *row in self._db.execute(query, values):
            shared = dict(zip(SWEEP, row, strict=True))
            for name, value in shared.items():
                self._check_kinds(name, {type(value)})
            _mark_nan(shared, "clean_metric", shared["metric_name"])
            sweeps.append((number, shared))
        return sweeps

    def runs(self, equal: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
        """Return from id to columns of the runs with these values."""
        where, values = conditions(equal, RUN)
        query = f"SELECT id, {', '.join(sql for sql, _ in RUN.values())} FROM runs WHERE {where}"
        runs = {}
        for number, *row in self._db.execute(query, values):
            runs[number] = dict(zip(RUN, row, strict=True))
            for name, value in runs[number].items():
                self._check_kinds(name, {type(value)})
        return runs

    def _check(self, block: Block) -> None:
        for name, values in block.own.items():
            self._check_kinds(name, set(map(type, values)))
            if name in BITS:
                size = (block.shared["images"] + 7) // 8
                if any(bits is not None and len(bits) != size for bits in values):
                    raise InputError(
                        f"{self._source}: damaged: column {name}: not one bit an image"
                    )
        if block.shared["metric_name"] and "metric" in block.own:
            # A metric that was measured and is NULL was NaN, which SQLite does not keep.
            metric = block.own["metric"]
            block.own["metric"] = [math.nan if value is None else value for value in metric]

    def _check_kinds(self, name: str, kinds: set[type]) -> None:
        wrong = kinds - set(COLUMNS[name])
        if wrong:
            kind = wrong.pop().__name__
            raise InputError(f"{self._source}: damaged: column {name}: got a value of type {kind}")


def to_rows(blocks: Iterator[Block], columns: Sequence[str]) -> list[dict[str, Any]]:
    """Return one dict a point."""
    rows: list[dict[str, Any]] = []
    for block in blocks:
        values = zip(*(block.column(name) for name in columns), strict=True)
        rows += [dict(zip(columns, row, strict=True)) for row in values]
    return rows


def to_arrays(blocks: Iterator[Block], columns: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
    """Return one array [points] a column; numbers that were not measured are NaN."""
    parts: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in columns}
    for block in blocks:
        for name in columns:
            dtype = _dtype(name)
            if _is_shared(name):
                part = np.repeat(np.array([block.shared[name]], dtype=dtype), block.size)
            else:
                part = np.array(block.own[name], dtype=dtype)
            parts[name].append(part)
    return {
        name: np.concatenate(some) if some else np.empty(0, dtype=_dtype(name))
        for name, some in parts.items()
    }


def to_frame(blocks: Iterator[Block], columns: Sequence[str]) -> pd.DataFrame:
    """Return a pandas table; counts that may be missing are Int64, repeated texts categories.

    Raises
    ------
    InputError
        There is no pandas.
    """
    try:
        import pandas as pd
    except ImportError:
        raise InputError(
            "results: a table needs pandas, which is not installed: "
            "pip install noisystore[tables], or take arrays"
        ) from None

    def made(name: str, values: list[Any]) -> Any:
        if name in BITS:
            return np.array(values, dtype=object)
        if name == "measured":
            return pd.Series(values)
        if _dtype(name) is np.str_:
            return pd.Categorical(values)
        return (
            pd.array(values, dtype="Int64")
            if int in COLUMNS[name] and (type(None) in COLUMNS[name])
            else np.array(values, dtype=_dtype(name))
        )

    values: dict[str, list[Any]] = {name: [] for name in columns}
    sizes: list[int] = []
    for block in blocks:
        sizes.append(block.size)
        for name in columns:
            values[name] += block.own.get(name) or (block.shared[name],)
    frame = {}
    for name in columns:
        column = made(name, values.pop(name))
        frame[name] = column.repeat(sizes) if _is_shared(name) else column
    return pd.DataFrame(frame)


def _is_shared(name: str) -> bool:
    return name in SWEEP or name == "clean_bits"


def _dtype(name: str) -> Any:
    kinds = COLUMNS[name]
    return np.float64 if type(None) in kinds else _DTYPES[kinds[0]]


def _mark_nan(values: dict[str, Any], name: str, metric: str) -> None:
    if metric and values[name] is None:
        values[name] = math.nan
