# SPDX-License-Identifier: Apache-2.0
"""What several commands share: argument types, output, and checks made before long work."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...ortops.errors import InputError


def positive(text: str) -> int:
    """Argument type: an integer of 1 or more."""
    return _integer(text, 1)


def natural(text: str) -> int:
    """Argument type: an integer of 0 or more."""
    return _integer(text, 0)


def _integer(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"expected an integer of {least} or more, got {text!r}")
    return value


def seed(text: str) -> int:
    """Argument type: a seed of 64 bits, as SQLite stores it."""
    try:
        value = int(text, 0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected an integer, got {text!r}") from None
    if not -(1 << 63) <= value < 1 << 63:
        raise argparse.ArgumentTypeError(f"expected an integer of 64 bits, got {text!r}")
    return value


def rate(text: str) -> float:
    """Argument type: a bit error rate in [0, 1]."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a rate from 0 to 1, got {text!r}")
    return value


def bounded(low: float, high: float, name: str) -> Callable[[str], float]:
    """Argument type: a number between two others, both excluded."""

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = low
        if not low < value < high:
            raise argparse.ArgumentTypeError(
                f"{name}: expected a number between {low:g} and {high:g}, got {text!r}"
            )
        return value

    return convert


def check_output(path: str | os.PathLike[str]) -> Path:
    """Check, before long work, that a file can be written at `path`.

    Raises
    ------
    InputError
        The folder is missing or not writable, or `path` is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"output {path}: expected a file name, got a folder")
    if not path.parent.is_dir():
        raise InputError(f"output {path}: the folder {path.parent} does not exist: create it first")
    if not os.access(path.parent, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise InputError(f"output {path}: no permission to write there: choose another -o")
    return path


def check_plot(path: str | None) -> None:
    """Check, before long work, that a plot can be drawn and written at `path` (None: no plot)."""
    if path is None:
        return
    from ..plot import check_format, check_matplotlib

    check_output(path)
    check_format(path)
    check_matplotlib()


def require(modules: Sequence[str], extra: str) -> None:
    """Raise InputError that names the extra to install unless all modules are there."""
    for name in modules:
        if importlib.util.find_spec(name) is None:
            raise InputError(
                f"this command needs {name}, which is not installed: "
                f"pip install noisystore[{extra}]"
            )


def print_json(value: Any) -> None:
    """Print a result as JSON on standard output."""
    print(json.dumps(value, indent=2, allow_nan=False))


def progress(text: str) -> None:
    """Print a line of progress on standard error."""
    print(text, file=sys.stderr, flush=True)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out text in columns; columns of numbers are set to the right."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    right = [all(_is_number(row[i]) for row in rows) for i in range(len(head))]
    lines = []
    for row in (head, *rows):
        cells = [
            cell.rjust(width) if flush else cell.ljust(width)
            for cell, width, flush in zip(row, widths, right, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "").replace(" x", ""))
    except ValueError:
        return text in ("", "-")
    return True
