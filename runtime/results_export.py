# SPDX-License-Identifier: Apache-2.0
"""Points of a results file as CSV or Parquet, for other programs."""

from __future__ import annotations

import contextlib
import io
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from ..ortops.errors import InputError
from ..ortops.files import target_of
from .results_columns import BITS, COLUMNS, chosen
from .results_queries import Queries
from .results_reader import Block

# What spreadsheets take for a formula, and the apostrophe, so that the one before is no riddle.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "'")
_PARQUET_ROWS = 100_000


def export_points(
    results: Queries,
    path: str | os.PathLike[str],
    *,
    columns: Iterable[str] | None = None,
    bits: bool = False,
    **equal: Any,
) -> int:
    """Write points to a file that is there whole or not at all.

    Parameters
    ----------
    results : Results
    path : path
        ``.csv`` or ``.parquet`` (which needs pyarrow). A file that is there is replaced.
    columns : iterable of str, optional
        Of `Results.rows`; None: all, those of bits only with `bits`.
    bits : bool
        With the bits of each image.
    **equal
        Wanted values of columns.

    Returns
    -------
    int
        Number of points.

    Raises
    ------
    InputError
        Another ending, no pyarrow, no such column, no point with the wanted values, or a file
        cannot be read or written.

    Notes
    -----
    Numbers in CSV are exact (the shortest decimal that is the same float64), bits hexadecimal, what
    was not measured is empty. Texts are in quotation marks, and one that begins with ``= + - @``, a
    tab, the end of a line or an apostrophe has an apostrophe before it, so that no spreadsheet runs
    it, whatever it takes for the end of a cell.
    """
    names = chosen(columns, bits)
    write = {".csv": _write_csv, ".parquet": _write_parquet}[check_export(path)]
    with _whole_file(path) as file:
        count = write(file, names, results.blocks(names, **equal))
        if equal and not count:
            wanted = ", ".join(f"{name}={value}" for name, value in equal.items())
            raise InputError(f"export {path}: expected points with {wanted}, got none: not written")
    return count


def check_export(path: str | os.PathLike[str]) -> str:
    """Return the ending of a file to export to.

    Raises
    ------
    InputError
        It is neither ``.csv`` nor ``.parquet``, or that needs pyarrow.
    """
    ending = Path(path).suffix.lower()
    if ending not in (".csv", ".parquet"):
        raise InputError(f"export {path}: expected a name that ends in .csv or .parquet")
    if ending == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            raise InputError(
                f"export {path}: Parquet needs pyarrow, which is not installed: "
                "pip install noisystore[tables], or export to .csv"
            ) from None
    return ending


def _write_csv(file: BinaryIO, names: Sequence[str], blocks: Iterator[Block]) -> int:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    text.write(",".join(names) + "\n")
    count = 0
    for block in blocks:
        columns = [map(_cell(name), block.column(name)) for name in names]
        text.writelines(",".join(cells) + "\n" for cells in zip(*columns, strict=True))
        count += block.size
    text.flush()
    text.detach()
    return count


def _cell(name: str) -> Callable[[Any], str]:
    """Return what writes a value of a column."""
    if name in BITS:
        return lambda bits: "" if bits is None else bits.hex()
    if str in COLUMNS[name]:
        return lru_cache(_quoted)
    return lambda number: "" if number is None else repr(number)


def _quoted(text: str) -> str:
    mark = "'" if text.startswith(_FORMULA) else ""
    doubled = text.replace('"', '""')
    return f'"{mark}{doubled}"'


def _write_parquet(file: BinaryIO, names: Sequence[str], blocks: Iterator[Block]) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {str: pa.string(), int: pa.int64(), float: pa.float64(), bytes: pa.binary()}
    types = {name: kinds[COLUMNS[name][0]] for name in names}
    schema = pa.schema(list(types.items()))
    count = waiting = 0
    parts: dict[str, list[Any]] = {name: [] for name in names}

    def flush(writer: pq.ParquetWriter) -> None:
        table = [pa.chunked_array(parts[name], type=types[name]) for name in names]
        writer.write_table(pa.Table.from_arrays(table, schema=schema))
        for some in parts.values():
            some.clear()

    with pq.ParquetWriter(file, schema) as writer:
        for block in blocks:
            for name in names:
                if name in block.own:
                    part = pa.array(block.own[name], type=types[name], from_pandas=False)
                else:
                    scalar = pa.scalar(block.shared[name], type=types[name])
                    part = pa.repeat(scalar, block.size)
                parts[name].append(part)
            count, waiting = count + block.size, waiting + block.size
            if waiting >= _PARQUET_ROWS:
                flush(writer)
                waiting = 0
        flush(writer)
    return count


@contextlib.contextmanager
def _whole_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Give a file under a temporary name, which gets its own at the end; see `write_whole`."""
    target = target_of(path)
    temporary = os.path.join(os.path.dirname(target), f".{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if not isinstance(error, OSError):
            raise
        raise InputError(
            f"{os.fspath(path)}: cannot be written ({error.strerror or error}); choose another path"
        ) from error
