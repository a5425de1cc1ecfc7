# SPDX-License-Identifier: Apache-2.0
"""Reports of `noisystore bench`: where they were measured, and how they are read back."""

from __future__ import annotations

import json
import math
import os
import platform
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, NoReturn

from ..ortops.errors import InputError

if TYPE_CHECKING:
    from .board import Board

FORMAT, VERSION = "noisystore-bench", 1
_MOST_BYTES = 1 << 20
_MOST_TEXT = 1000
_LARGEST = 1e18


def new_report(board: Board | None = None) -> dict[str, Any]:
    """Return a report without measurements.

    Parameters
    ----------
    board : Board, optional
        Whose settings are used.

    Returns
    -------
    dict
        ``format``, ``version``, ``date`` (UTC, ISO 8601), ``machine``, ``versions``, ``board``
        (its name or None), ``notes`` (what a reader must know) and ``before_measuring`` (the
        board's commands and hints about clocks and power).
    """
    import numpy
    import onnxruntime

    from .. import ortops
    from .cli import package_version

    return {
        "format": FORMAT,
        "version": VERSION,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": {
            "noisystore": package_version(),
            "library": str(ortops.library_version()),
            "onnxruntime": onnxruntime.__version__,
            "python": platform.python_version(),
            "numpy": numpy.__version__,
        },
        "board": None if board is None else board.name,
        "notes": [] if board is None else _notes(board),
        "before_measuring": [] if board is None else [*board.power_modes, *board.hints],
    }


def machine() -> dict[str, Any]:
    """Return what the timings are taken on; a text that is not known is empty, a number None."""
    from ..ortops import instruction_set
    from .board_system import detect
    from .environment import cpu_name

    system = detect()
    return {
        "cpu": system.cpu or cpu_name(),
        "cores": os.cpu_count(),
        "instruction_set": instruction_set(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "architecture": system.architecture,
        "model": system.model,
        "gpus": list(system.gpus),
        "memory": system.memory_bytes or None,
        "os": system.os or platform.system(),
        "kernel": platform.release(),
    }


def _notes(board: Board) -> list[str]:
    here = platform.machine()
    if board.architecture == here:
        return []
    return [
        f"The figures are those of this machine ({here}) with the settings of the board "
        f"{board.name} ({board.architecture})."
    ]


class _Maybe:
    """A value that may be None, or missing."""

    def __init__(self, schema: Any) -> None:
        self.schema = schema


# A type, a dict of names, a list of one item's schema, or `_Maybe`. Unknown names are let be.
_TABLE = {"rate": _Maybe(float), "batch": int, "ms": float, "images_per_second": float}
_SCHEMA = {
    "date": str,
    "machine": {
        "cpu": str,
        "cores": _Maybe(int),
        "instruction_set": str,
        "load": _Maybe(float),
        "architecture": str,
        "model": str,
        "gpus": [str],
        "memory": _Maybe(int),
        "os": str,
        "kernel": str,
    },
    "versions": dict.fromkeys(("noisystore", "library", "onnxruntime", "python", "numpy"), str),
    "board": _Maybe(str),
    "notes": [str],
    "before_measuring": [str],
    "operator": {
        "elements": int,
        "dtype": str,
        "call_ns": float,
        "memcpy_us": float,
        "rows": [
            {
                "rate": float,
                "us": float,
                "ratio": float,
                "flips": float,
                "ns_per_flip": _Maybe(float),
            }
        ],
    },
    "import_seconds": {"package": _Maybe(float), "all": _Maybe(float)},
    "model": _Maybe(
        {
            "name": str,
            "sha256": str,
            "clean_sha256": _Maybe(str),
            "sites": int,
            "formats": [str],
            "data": str,
            "image": [int],
            "provider": str,
            "batch": int,
            "threads": _Maybe(int),
            "prepare_ms": _Maybe(float),
            "rows": [{"rate": float, "ratio": float, "ratio_clean": _Maybe(float)}],
            "harness": {"seconds": float, "ratio": float},
        }
    ),
    "throughput": _Maybe([{"graph": str, **_TABLE}]),
    "start_up": _Maybe(
        {
            "reason": _Maybe(str),
            "images": _Maybe(int),
            "import_seconds": _Maybe(float),
            "session_seconds": _Maybe(float),
            "first_seconds": _Maybe(float),
        }
    ),
    "memory": _Maybe(
        {
            "reason": _Maybe(str),
            "images": _Maybe(int),
            "peak": _Maybe(float),
            "growth": _Maybe(float),
            "image": _Maybe(float),
        }
    ),
    "energy": _Maybe(
        {
            "reason": str,
            "counted": [str],
            "idle_watts": _Maybe(float),
            "rows": [
                {
                    "graph": str,
                    "rate": _Maybe(float),
                    "images": int,
                    "joules_per_image": float,
                    "watts": float,
                    "net_joules_per_image": float,
                }
            ],
        }
    ),
}
_MEASURED_WITH_MODEL = ("throughput", "start_up", "memory", "energy")


def read_report(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a report, which may come from anywhere.

    Parameters
    ----------
    path : path
        A file that `noisystore bench -o FILE.json` wrote.

    Returns
    -------
    dict
        Whose known keys are all there, and have the types of a report.

    Raises
    ------
    InputError
        It is missing, too large, no JSON, or no report of this version.
    """
    where = f"report {os.fspath(path)}"
    try:
        with open(path, "rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{where}: cannot be read: {reason}") from None
    if len(data) > _MOST_BYTES:
        raise InputError(f"{where}: expected at most {_MOST_BYTES:,} bytes, got more")
    try:
        report = json.loads(data.decode("utf-8"), parse_constant=_refuse)
    except (ValueError, RecursionError):
        report = None
    if not isinstance(report, dict) or report.get("format") != FORMAT:
        raise InputError(f"{where}: expected a report of noisystore bench -o FILE.json, got none")
    if report.get("version") != VERSION or isinstance(report["version"], bool):
        raise InputError(
            f"{where}: expected version {VERSION} of the format, got another: measure again with "
            "this version of NoisyStore"
        )
    _check(report, _SCHEMA, where, "")
    for name in _MEASURED_WITH_MODEL:
        if (report.get("model") is None) != (report.get(name) is None):
            raise InputError(f"{where}: expected model and {name} together, got one of them")
    return report


def _refuse(_: str) -> NoReturn:
    raise ValueError


def _check(value: Any, schema: Any, where: str, name: str) -> None:
    if isinstance(schema, _Maybe):
        if value is not None:
            _check(value, schema.schema, where, name)
    elif isinstance(schema, dict):
        _expect(isinstance(value, dict), where, name, "an object")
        for key, inner in schema.items():
            # What may be missing is None from here on.
            _check(value.setdefault(key, None), inner, where, f"{name}.{key}".lstrip("."))
    elif isinstance(schema, list):
        _expect(isinstance(value, list), where, name, "a list")
        for item in value:
            _check(item, schema[0], where, f"an item of {name}")
    elif schema is str:
        fits = isinstance(value, str) and len(value) <= _MOST_TEXT
        _expect(fits, where, name, f"text of at most {_MOST_TEXT} characters")
    else:
        kinds = int if schema is int else (int, float)
        fits = isinstance(value, kinds) and not isinstance(value, bool)
        # Integers may be too large for a float.
        fits = fits and -_LARGEST <= value <= _LARGEST and math.isfinite(value)
        _expect(fits, where, name, "an integer" if schema is int else "a number")


def _expect(fits: bool, where: str, name: str, expected: str) -> None:
    if not fits:
        raise InputError(f"{where}: {name or 'the file'}: expected {expected}")
