# SPDX-License-Identifier: Apache-2.0
"""One row of a results file as readers see it: its query, and a check of what it holds."""

from __future__ import annotations

import math
from typing import Any

from ..ortops.errors import InputError

QUERY = """
SELECT s.model, s.model_sha256, s.storage_format, s.sites, s.data, s.data_sha256, s.images,
  s.classes, s.mask_name AS mask, s.bit_mask,
  COALESCE(json_extract(s.sites, '$.noisy'), '') AS noisy, s.seed, s.batch_size, s.provider,
  s.machine, s.noise_model, s.metric AS metric_name, s.chance_accuracy, s.clean_accuracy,
  s.clean_top5, s.clean_metric, p.p01, p.p10, p.trial, p.noise_seed, p.n_run, p.correct, p.top5,
  p.agreement, p.metric, CAST(p.correct AS REAL) / p.images AS accuracy,
  p.seconds, p.run_seconds, p.correct_bits, p.agree_bits, p.measured,
  r.library_version, r.onnxruntime_version, r.threads, r.cpu, r.host, s.key AS sweep
FROM points p JOIN sweeps s ON s.id = p.sweep JOIN runs r ON r.id = p.run
"""
ORDER = "ORDER BY model, mask, noisy, sweep, p01, p10, trial"

_TEXT = (
    *("model", "model_sha256", "storage_format", "sites", "data", "data_sha256", "mask", "noisy"),
    *("bit_mask", "provider", "machine", "noise_model", "metric_name", "measured"),
    *("library_version", "onnxruntime_version", "cpu", "host", "sweep"),
)
_WHOLE = ("images", "seed", "batch_size", "trial", "noise_seed", "n_run", "threads")
_REAL = ("p01", "p10", "seconds", "run_seconds")
_WHOLE_OR_NONE = ("classes", "correct", "top5", "agreement")
_REAL_OR_NONE = (
    *("chance_accuracy", "clean_accuracy", "clean_top5", "clean_metric", "metric", "accuracy"),
)
_BITS = ("correct_bits", "agree_bits")
_NONE = type(None)

#: Types of the columns of `QUERY`. SQLite itself keeps any type in any column.
COLUMNS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(_TEXT, (str,)),
    **dict.fromkeys(_WHOLE, (int,)),
    **dict.fromkeys(_REAL, (float,)),
    **dict.fromkeys(_WHOLE_OR_NONE, (int, _NONE)),
    **dict.fromkeys(_REAL_OR_NONE, (float, _NONE)),
    **dict.fromkeys(_BITS, (bytes, _NONE)),
}


def select(equal: dict[str, Any]) -> tuple[str, tuple[Any, ...]]:
    """Return the query of the rows with these values, and its parameters.

    Parameters
    ----------
    equal : dict
        Column and wanted value; None: not measured.

    Raises
    ------
    InputError
        There is no such column.
    """
    for name in equal:
        if name not in COLUMNS:
            raise InputError(f"results: expected a column of {sorted(COLUMNS)}, got {name!r}")
    where = " AND ".join(f'"{name}" IS ?' for name in equal) or "1"
    return f"SELECT * FROM ({QUERY}) WHERE {where} {ORDER}", tuple(equal.values())


def checked(row: dict[str, Any], source: str) -> dict[str, Any]:
    """Return a row whose values have the types that readers rely on.

    A metric that was measured and is NULL was NaN, which SQLite does not keep: it becomes NaN.

    Parameters
    ----------
    row : dict
        Of `QUERY`.
    source : str
        Where it comes from, for the message.

    Raises
    ------
    InputError
        A value has another type, or bits have another length than there are images.
    """
    for name, kinds in COLUMNS.items():
        if not isinstance(row[name], kinds):
            kind = type(row[name]).__name__
            raise InputError(f"{source}: damaged: column {name}: got a value of type {kind}")
    for name in _BITS:
        if row[name] is not None and len(row[name]) != (row["images"] + 7) // 8:
            raise InputError(f"{source}: damaged: column {name}: not one bit an image")
    if row["metric_name"]:
        for name in ("metric", "clean_metric"):
            row[name] = math.nan if row[name] is None else row[name]
    return row
