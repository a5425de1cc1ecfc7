# SPDX-License-Identifier: Apache-2.0
"""Columns of results as readers see them: names, types, and where the file keeps them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..ortops.errors import InputError

_NONE = type(None)
_TEXT, _WHOLE, _REAL = (str,), (int,), (float,)
_WHOLE_OR_NONE, _REAL_OR_NONE, _BITS = (int, _NONE), (float, _NONE), (bytes, _NONE)

#: From column to its SQL and its types, which SQLite itself does not keep to. In a file all points
#: of a sweep have these alike...
SWEEP: dict[str, tuple[str, tuple[type, ...]]] = {
    "model": ("model", _TEXT),
    "model_sha256": ("model_sha256", _TEXT),
    "storage_format": ("storage_format", _TEXT),
    "sites": ("sites", _TEXT),
    "data": ("data", _TEXT),
    "data_sha256": ("data_sha256", _TEXT),
    "images": ("images", _WHOLE),
    "classes": ("classes", _WHOLE_OR_NONE),
    "mask": ("mask_name", _TEXT),
    "bit_mask": ("bit_mask", _TEXT),
    "noisy": ("COALESCE(json_extract(sites, '$.noisy'), '')", _TEXT),
    "seed": ("seed", _WHOLE),
    "batch_size": ("batch_size", _WHOLE),
    "provider": ("provider", _TEXT),
    "machine": ("machine", _TEXT),
    "noise_model": ("noise_model", _TEXT),
    "metric_name": ("metric", _TEXT),
    "chance_accuracy": ("chance_accuracy", _REAL_OR_NONE),
    "clean_accuracy": ("clean_accuracy", _REAL_OR_NONE),
    "clean_top5": ("clean_top5", _REAL_OR_NONE),
    "clean_metric": ("clean_metric", _REAL_OR_NONE),
    "sweep": ("key", _TEXT),
}
#: ... these are each point's own ...
POINT: dict[str, tuple[str, tuple[type, ...]]] = {
    "p01": ("p.p01", _REAL),
    "p10": ("p.p10", _REAL),
    "trial": ("p.trial", _WHOLE),
    "noise_seed": ("p.noise_seed", _WHOLE),
    "n_run": ("p.n_run", _WHOLE),
    "correct": ("p.correct", _WHOLE_OR_NONE),
    "top5": ("p.top5", _WHOLE_OR_NONE),
    "agreement": ("p.agreement", _WHOLE_OR_NONE),
    "metric": ("p.metric", _REAL_OR_NONE),
    "accuracy": ("CAST(p.correct AS REAL) / p.images", _REAL_OR_NONE),
    "seconds": ("p.seconds", _REAL),
    "run_seconds": ("p.run_seconds", _REAL),
    "correct_bits": ("b.correct_bits", _BITS),
    "agree_bits": ("b.agree_bits", _BITS),
    "measured": ("p.measured", _TEXT),
}
#: ... and these those of the run that measured it.
RUN: dict[str, tuple[str, tuple[type, ...]]] = {
    "library_version": ("library_version", _TEXT),
    "onnxruntime_version": ("onnxruntime_version", _TEXT),
    "threads": ("threads", _WHOLE),
    "cpu": ("cpu", _TEXT),
    "host": ("host", _TEXT),
    "run": ("uuid", _TEXT),
    "started": ("started", _TEXT),
}

BITS = ("correct_bits", "agree_bits", "clean_bits")
#: Only where asked for by name.
EXTRA = ("run", "started")
_KINDS = {name: kinds for part in (SWEEP, POINT, RUN) for name, (_, kinds) in part.items()}
_LAST = ("sweep", "clean_bits", *EXTRA)
_ORDER = [name for name in (*SWEEP, *POINT, *RUN) if name not in _LAST]

#: From column to its types, in the order of `Results.rows`.
COLUMNS: dict[str, tuple[type, ...]] = {name: _KINDS.get(name, _BITS) for name in (*_ORDER, *_LAST)}


def chosen(columns: Iterable[str] | None, bits: bool = True) -> list[str]:
    """Return columns in the wanted order, or all but `EXTRA` (`bits`: those of bits, too).

    Raises
    ------
    InputError
        There is no such column.
    """
    if columns is None:
        left_out = EXTRA if bits else (*EXTRA, *BITS)
        return [name for name in COLUMNS if name not in left_out]
    names = [columns] if isinstance(columns, str) else list(columns)
    for name in names:
        _check_name(name, COLUMNS)
    return names


def conditions(
    equal: Mapping[str, Any], part: Mapping[str, tuple[str, tuple[type, ...]]]
) -> tuple[str, list[Any]]:
    """Return an SQL condition of the columns of `part` and its parameters.

    Parameters
    ----------
    equal : mapping
        From column to wanted value; None: not measured.
    part : `SWEEP`, `POINT` or `RUN`

    Raises
    ------
    InputError
        There is no such column in any part.
    """
    for name in equal:
        _check_name(name, _KINDS)
    used = [name for name in equal if name in part]
    sql = " AND ".join(f"{part[name][0]} IS ?" for name in used)
    return sql or "1", [equal[name] for name in used]


def parse_condition(text: str) -> tuple[str, Any]:
    """Return column and value of ``column=value``; no value: an empty text, or not measured.

    Raises
    ------
    InputError
        Another form, no such column, or no value of its type.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"where: expected COLUMN=VALUE, got {text!r}")
    kinds = {name: kinds for name, kinds in _KINDS.items() if name not in BITS}
    _check_name(name, kinds)
    if str in kinds[name]:
        return name, value
    if not value and _NONE in kinds[name]:
        return name, None
    try:
        return name, int(value, 0) if int in kinds[name] else float(value)
    except ValueError:
        raise InputError(f"where: expected a number for {name}, got {value!r}") from None


def _check_name(name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise InputError(f"results: expected a column of {sorted(known)}, got {name!r}")
