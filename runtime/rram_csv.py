# SPDX-License-Identifier: Apache-2.0
"""Cells as users give them: a CSV file of resistances, or a line of log-normal parameters."""

from __future__ import annotations

import csv
import io
import math
import os
import re
from pathlib import Path
from typing import Any

from ..ortops.errors import InputError
from .rram import OHM, Condition, LogNormal

#: Longest file and name that are read, in bytes and characters.
MOST_BYTES = 32 << 20
MOST_NAME = 80
MOST_CONDITIONS = 100

_STATES = ("LRS", "HRS")
_FORM = "NAME=LRS_MEDIAN,LRS_SIGMA,HRS_MEDIAN,HRS_SIGMA"


def read_samples(path: str | os.PathLike[str]) -> list[Condition]:
    """Read resistances from a CSV file and fit each condition.

    The first line names the columns. Either one is called ``state`` and holds LRS or HRS, and the
    others are conditions; or there is one for each condition and state, whose name begins or ends
    with LRS or HRS (``LRS 1.5 V``, ``HRS 1.5 V``). Cells may be empty.

    Parameters
    ----------
    path : path
        UTF-8, comma-separated; resistances in ohm.

    Returns
    -------
    list of Condition
        In the order of the columns.

    Raises
    ------
    InputError
        Another form, a value that is no positive number (with its line and column), a state with
        too few samples, or one without a counterpart.
    """
    path = Path(path)
    try:
        # One byte more than allowed: no file is read whole before its size is known.
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(data) > MOST_BYTES:
        raise InputError(f"{path}: expected at most {MOST_BYTES >> 20} MiB, got more")
    try:
        # Python before 3.11 refuses a NUL, later ones keep it.
        text = data.decode("utf-8-sig")
        if "\0" in text:
            raise ValueError
    except ValueError:
        raise InputError(
            f"{path}: expected a text file (CSV, UTF-8), got another kind of file"
        ) from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        return _conditions(_read(reader, path), path)
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num}: not CSV: {error}") from None


def parse_condition(text: str) -> Condition:
    """Read ``NAME=LRS_MEDIAN,LRS_SIGMA,HRS_MEDIAN,HRS_SIGMA``.

    Medians are in ohm, a sigma is the standard deviation of ln R.

    Raises
    ------
    InputError
        Another form, or values that make no cell.
    """
    name, _, values = text.rpartition("=")
    name = name.strip()
    try:
        numbers = [float(value) for value in values.split(",")]
    except ValueError:
        numbers = []
    if not name or len(numbers) != 4:
        raise InputError(
            f"condition: expected {_FORM} (medians in ohm, sigmas of ln R), got {text[:200]!r}"
        )
    check_name(name, "condition")
    states = []
    for state, median, sigma in zip(_STATES, numbers[::2], numbers[1::2], strict=True):
        try:
            states.append(LogNormal(median, sigma))
        except InputError as error:
            raise InputError(f"condition {name!r}: {state} {error}") from None
    return Condition(name, lrs=states[0], hrs=states[1])


def check_name(name: str, where: str) -> None:
    """Raise InputError unless a condition's name can be printed in a table and a figure."""
    if not 0 < len(name) <= MOST_NAME or not name.isprintable():
        raise InputError(
            f"{where}: expected a name of 1 to {MOST_NAME} printable characters, "
            f"got {name[:MOST_NAME]!r}"
        )


Samples = dict[str, dict[str, list[float]]]


def _read(reader: Any, path: Path) -> Samples:
    header = [cell.strip() for cell in next(reader, [])]
    if not any(header):
        raise InputError(f"{path}: expected a first line with the names of the columns, got none")
    most = len(_STATES) * MOST_CONDITIONS + 1
    if len(header) > most:
        raise InputError(f"{path}: line 1: expected at most {most} columns, got {len(header)}")
    seen: set[str] = set()
    for name in header:
        if name in seen:
            raise InputError(
                f"{path}: line 1: expected each column once, got {name[:MOST_NAME]!r} twice"
            )
        seen.add(name)
    lowered = [name.lower() for name in header]
    state_at = lowered.index("state") if "state" in lowered else None
    columns = [
        None if i == state_at else _column(name, state_at is not None, path)
        for i, name in enumerate(header)
    ]
    samples: Samples = {}
    for column in columns:
        if column:
            states = samples.setdefault(column[0], {})
            for state in _STATES if column[1] is None else (column[1],):
                if state in states:
                    raise InputError(
                        f"{path}: line 1: expected one column of the {state} of {column[0]!r}, "
                        "got two"
                    )
                states[state] = []
    if not 0 < len(samples) <= MOST_CONDITIONS:
        raise InputError(
            f"{path}: expected from 1 to {MOST_CONDITIONS} conditions, got {len(samples)}"
        )
    for row in reader:
        where = f"{path}: line {reader.line_num}"
        if len(row) > len(header):
            raise InputError(f"{where}: expected at most {len(header)} cells, got {len(row)}")
        if not any(cell.strip() for cell in row):
            continue
        row_state = None
        if state_at is not None:
            cell = row[state_at].strip() if state_at < len(row) else ""
            row_state = cell.upper()
            if row_state not in _STATES:
                raise InputError(
                    f"{where}, column {header[state_at]!r}: expected LRS or HRS, got {cell[:40]!r}"
                )
        for cell, column, name in zip(row, columns, header, strict=False):
            if column and cell.strip():
                own = column[1] or row_state
                assert own is not None
                at = f"{where}, column {name[:MOST_NAME]!r}"
                samples[column[0]][own].append(_resistance(cell, at))
    return samples


def _column(name: str, beside_state: bool, path: Path) -> tuple[str, str | None]:
    """Condition and state (None: in a column of its own) of a column."""
    where = f"{path}: line 1"
    if beside_state:
        check_name(name, where)
        return name, None
    found = re.fullmatch(
        r"(?P<first>LRS|HRS)(?![^\W_])(?P<after>.*)|(?P<before>.*)(?<![^\W_])(?P<last>LRS|HRS)",
        name,
        re.IGNORECASE,
    )
    if not found:
        raise InputError(
            f"{where}: column {name[:MOST_NAME]!r}: expected a name that begins or ends with LRS "
            "or HRS, such as 'LRS 1.5 V', or a column 'state': rename or remove it"
        )
    state = found["first"] or found["last"]
    # A minus in front may be a sign.
    rest = (found["after"] or "").lstrip(" _:/,") or (found["before"] or "").rstrip(" _:/,.-")
    condition = rest or path.stem[:MOST_NAME]
    check_name(condition, where)
    return condition, state.upper()


def _resistance(cell: str, where: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not OHM[0] <= value <= OHM[1]:
        raise InputError(
            f"{where}: expected a resistance above 0, in ohm (at most {OHM[1]:g}), "
            f"got {cell[:40]!r}"
        )
    return value


def _conditions(samples: Samples, path: Path) -> list[Condition]:
    conditions = []
    for name, states in samples.items():
        for state in _STATES:
            if not states.get(state):
                raise InputError(
                    f"{path}: {name!r}: expected resistances of both LRS and HRS, got no {state}"
                )
        try:
            conditions.append(Condition.from_samples(name, states["LRS"], states["HRS"]))
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
    return conditions
