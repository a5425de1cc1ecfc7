# SPDX-License-Identifier: Apache-2.0
"""One table of several reports of `noisystore bench`, which says what cannot be compared."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..ortops.errors import InputError
from .bench import CLEAN
from .bench_report import read_report
from .bench_tables import Section, graph_name

_Report = dict[str, Any]

#: Settings that change every figure of a model, and the words for them.
_SETTINGS: tuple[tuple[str, Callable[[_Report], Any]], ...] = (
    ("threads", lambda report: report["model"]["threads"]),
    ("onnxruntime version", lambda report: report["versions"]["onnxruntime"]),
    ("noisystore version", lambda report: report["versions"]["noisystore"]),
    ("provider", lambda report: report["model"]["provider"]),
    ("image size", lambda report: report["model"]["image"]),
)


def compare(paths: Sequence[str | os.PathLike[str]]) -> dict[str, Any]:
    """Hold reports of one model, or of the operator alone, against each other.

    Parameters
    ----------
    paths : sequence of path
        Two or more.

    Returns
    -------
    dict
        ``model`` (name and sha256, or None); ``reports``: file, notes and facts of each; ``rows``:
        a list of measure, unit, values (one a report, None: not available) and differs: names of
        settings that are not the same, which makes the values not comparable.

    Raises
    ------
    InputError
        There is one report only, a file is none, or the models differ.
    """
    if len(paths) < 2:
        raise InputError(f"--compare: expected two or more reports, got {len(paths)}")
    reports = [read_report(path) for path in paths]
    _check_models(paths, reports)
    model = reports[0].get("model")
    rows = [*_operator_rows(reports), *([] if model is None else _model_rows(reports))]
    return {
        "model": None if model is None else {"name": model["name"], "sha256": model["sha256"]},
        "reports": [
            {"file": os.fspath(path), "notes": report["notes"], "facts": _facts(report)}
            for path, report in zip(paths, reports, strict=True)
        ],
        "rows": rows,
    }


def compare_sections(result: dict[str, Any]) -> list[Section]:
    """Return what `compare` found as one table."""
    reports, model = result["reports"], result["model"]
    names = [name for name in reports[0]["facts"] if any(r["facts"][name] for r in reports)]
    facts = [
        (name, "", *(report["facts"][name] or "-" for report in reports), "") for name in names
    ]
    figures = [
        (
            row["measure"],
            row["unit"],
            *("not available" if value is None else _number(value) for value in row["values"]),
            f"no: other {', '.join(row['differs'])}" if row["differs"] else "yes",
        )
        for row in result["rows"]
    ]
    line = "operator alone" if model is None else f"{model['name']}, sha256 {model['sha256'][:12]}"
    notes = [f"{report['file']}: {note}" for report in reports for note in report["notes"]]
    head = ("", "unit", *(report["file"] for report in reports), "comparable")
    return [Section("comparison", (line, *notes), head, (*facts, *figures))]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _check_models(paths: Sequence[str | os.PathLike[str]], reports: Sequence[_Report]) -> None:
    found = [(report.get("model") or {}).get("sha256") for report in reports]
    for path, sha256 in zip(paths, found, strict=True):
        if sha256 != found[0]:
            first, other = (s[:12] if s else "no model" for s in (found[0], sha256))
            raise InputError(
                f"report {os.fspath(path)}: expected the model of {os.fspath(paths[0])} (sha256 "
                f"{first}), got {other}: compare reports of one model"
            )


def _facts(report: _Report) -> dict[str, str]:
    here, model, versions = report["machine"], report.get("model"), report["versions"]
    facts = {
        "board": report["board"] or "",
        "processor": here["cpu"],
        "machine": here["model"] or here["architecture"],
        "GPU": ", ".join(here["gpus"]),
        "instruction set": here["instruction_set"],
        "system": f"{here['os']}, kernel {here['kernel']}",
        "load": "" if here["load"] is None else f"{here['load']:.1f}",
        "measured": report["date"],
        "noisystore": versions["noisystore"],
        "onnxruntime": versions["onnxruntime"],
    }
    if model is not None:
        threads = "ONNX Runtime's choice" if model["threads"] is None else str(model["threads"])
        facts |= {
            "provider": model["provider"],
            "threads": threads,
            "batch": str(model["batch"]),
            "data": model["data"],
            "energy meters": ", ".join(report["energy"]["counted"]) or report["energy"]["reason"],
        }
    return facts


def _row(measure: str, unit: str, values: Sequence[Any], differs: Iterable[str]) -> dict[str, Any]:
    return {"measure": measure, "unit": unit, "values": list(values), "differs": list(differs)}


def _differing(
    reports: Sequence[_Report], settings: Iterable[tuple[str, Callable[[_Report], Any]]]
) -> list[str]:
    return [name for name, of in settings if any(of(r) != of(reports[0]) for r in reports)]


def _differing_clean(reports: Sequence[_Report], concerned: bool) -> list[str]:
    """Name the model without sites where a figure is of it and it is known to be another one."""
    known = {report["model"]["clean_sha256"] for report in reports} - {None}
    return ["model without sites"] if concerned and len(known) > 1 else []


def _operator_rows(reports: Sequence[_Report]) -> list[dict[str, Any]]:
    operators = [report["operator"] for report in reports]
    differs = _differing(
        reports,
        [
            ("library version", lambda report: report["versions"]["library"]),
            ("tensor size", lambda report: report["operator"]["elements"]),
        ],
    )
    rows = [_row("memcpy", "us", [operator["memcpy_us"] for operator in operators], differs)]
    tables = [{f"{row['rate']:g}": row for row in operator["rows"]} for operator in operators]
    for quantity, unit in (("us", "us"), ("ratio", "x memcpy")):
        rows += [
            _row(f"operator, rate {rate}", unit, _values(tables, rate, quantity), differs)
            for rate in _keys(tables)
        ]
    return rows


def _model_rows(reports: Sequence[_Report]) -> list[dict[str, Any]]:
    differs = _differing(reports, _SETTINGS)
    batch = _differing(reports, [("batch size", lambda report: report["model"]["batch"])])
    by_batch = [*batch, *differs]
    rows = []
    for measure, batch_of, more in (
        ("a batch", lambda report: report["model"]["batch"], by_batch),
        ("one by one", lambda report: 1, differs),
    ):
        tables = [
            {graph_name(r): r for r in report["throughput"] if r["batch"] == batch_of(report)}
            for report in reports
        ]
        if measure == "one by one" and all(r["model"]["batch"] == 1 for r in reports):
            continue
        rows += [
            _row(
                f"{graph}, {measure}",
                "images/s",
                _values(tables, graph, "images_per_second"),
                [*_differing_clean(reports, graph == CLEAN), *more],
            )
            for graph in _keys(tables)
        ]
    rows += _ratio_rows(reports)
    rows += [
        _row(f"start-up: {name}", "s", [report["start_up"].get(key) for report in reports], differs)
        for name, key in (
            ("imports", "import_seconds"),
            ("session", "session_seconds"),
            ("first inference", "first_seconds"),
        )
    ]
    for name, key in (("peak memory", "peak"), ("memory an image", "image")):
        sizes = [report["memory"].get(key) for report in reports]
        mebibytes = [None if size is None else size / 2**20 for size in sizes]
        rows.append(_row(name, "MiB", mebibytes, by_batch))
    return [*rows, *_energy_rows(reports, by_batch)]


def _ratio_rows(reports: Sequence[_Report]) -> list[dict[str, Any]]:
    """Ratios within a report, each machine with its own threads and batch size."""
    tables = [{f"rate {r['rate']:g}": r for r in report["model"]["rows"]} for report in reports]
    rows = [
        _row(
            f"{rate}, {name}",
            "ratio",
            _values(tables, rate, key),
            _differing_clean(reports, of_clean),
        )
        for rate in _keys(tables)
        for key, name, of_clean in (
            ("ratio", "x all rates 0", False),
            ("ratio_clean", "x without sites", True),
        )
    ]
    harness = [report["model"]["harness"]["ratio"] for report in reports]
    prepare = [report["model"]["prepare_ms"] for report in reports]
    return [
        *rows,
        _row("harness: sweep / its runs", "ratio", harness, []),
        _row("noise of weights and biases", "ms a trial", prepare, []),
    ]


def _energy_rows(reports: Sequence[_Report], differs: Sequence[str]) -> list[dict[str, Any]]:
    measured = [report for report in reports if report["energy"]["rows"]]
    meters = _differing(
        measured, [("energy meters", lambda report: sorted(report["energy"]["counted"]))]
    )
    tables = [{graph_name(row): row for row in report["energy"]["rows"]} for report in reports]
    return [
        _row(
            f"energy, {graph}{more}",
            unit,
            _values(tables, graph, key),
            [*_differing_clean(reports, graph == CLEAN), *meters, *differs],
        )
        for graph in _keys(tables)
        for key, more, unit in (
            ("joules_per_image", "", "J an image"),
            ("net_joules_per_image", ", above idle", "J an image"),
            ("watts", "", "W"),
        )
    ]


def _keys(tables: Sequence[dict[str, Any]]) -> list[str]:
    """Keys of all tables, in their order."""
    return list(dict.fromkeys(key for one in tables for key in one))


def _values(tables: Sequence[dict[str, Any]], key: str, quantity: str) -> list[Any]:
    return [one[key][quantity] if key in one else None for one in tables]
