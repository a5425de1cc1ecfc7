# SPDX-License-Identifier: Apache-2.0
"""One table of several reports of `noisystore bench`, which says what cannot be compared."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..ortops.errors import InputError
from .bench import CLEAN
from .bench_report import read_report
from .bench_tables import ZERO, Section, graph_name

_Report = dict[str, Any]

_BATCH, _ONE = "a batch", "one by one"

#: With --quick, figures are rougher.
_ROUNDS: tuple[str, Callable[[_Report], Any]] = ("rounds (--quick)", lambda report: report["quick"])

#: Settings that change every figure of a model, and the words for them.
_SETTINGS: tuple[tuple[str, Callable[[_Report], Any]], ...] = (
    ("threads", lambda report: report["model"]["threads"]),
    ("onnxruntime version", lambda report: report["versions"]["onnxruntime"]),
    ("noisystore version", lambda report: report["versions"]["noisystore"]),
    ("provider", lambda report: report["model"]["provider"]),
    ("provider options", lambda report: report["model"]["provider_options"]),
    ("image size", lambda report: report["model"]["image"]),
    _ROUNDS,
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
        "measured": report["date"] + (", --quick" if report["quick"] else ""),
        "noisystore": versions["noisystore"],
        "onnxruntime": versions["onnxruntime"],
    }
    if model is not None:
        threads = "ONNX Runtime's choice" if model["threads"] is None else str(model["threads"])
        facts |= {
            "provider": model["provider"],
            "provider options": ", ".join(model["provider_options"]),
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


def _operator_rows(reports: Sequence[_Report]) -> list[dict[str, Any]]:
    operators = [report["operator"] for report in reports]
    differs = _differing(
        reports,
        [
            ("library version", lambda report: report["versions"]["library"]),
            ("tensor size", lambda report: report["operator"]["elements"]),
            _ROUNDS,
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
    by_measure = _throughputs(reports)
    rows = [
        _row(
            f"{graph}, {measure}",
            "images/s",
            _values(tables, graph, "images_per_second"),
            [
                *(_clean_differs(reports) if graph == CLEAN else ()),
                *(by_batch if measure == _BATCH else differs),
            ],
        )
        for measure, tables in by_measure.items()
        for graph in _keys(tables)
    ]
    rows += _ratio_rows(reports, by_measure)
    prepare = [report["model"]["prepare_ms"] for report in reports]
    if any(prepare):
        rows.append(_row("noise of weights and biases", "ms a trial", prepare, differs))
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


def _throughputs(reports: Sequence[_Report]) -> dict[str, list[_Report]]:
    """Rows of each report by graph, at its batch size and, unless that is 1, one by one."""
    sizes = {_BATCH: [report["model"]["batch"] for report in reports]}
    if any(size != 1 for size in sizes[_BATCH]):
        sizes[_ONE] = [1] * len(reports)
    return {
        measure: [
            {graph_name(row): row for row in report["throughput"] if row["batch"] == size}
            for report, size in zip(reports, batch, strict=True)
        ]
        for measure, batch in sizes.items()
    }


def _clean_differs(reports: Sequence[_Report]) -> list[str]:
    """Whether networks without sites differ, in reports that have one."""
    those = [report for report in reports if report["model"]["clean_sha256"] is not None]
    return _differing(
        those, [("model without sites", lambda report: report["model"]["clean_sha256"])]
    )


def _ratio_rows(
    reports: Sequence[_Report], by_measure: dict[str, list[_Report]]
) -> list[dict[str, Any]]:
    """Ratios within a report, each machine with its own threads and batch size."""
    rounds, clean = _differing(reports, [_ROUNDS]), _clean_differs(reports)
    rows = []
    for measure, tables in by_measure.items():
        for graph, base in itertools.product(_keys(tables), (ZERO, CLEAN)):
            if graph in (base, CLEAN):
                continue
            ratios = [_ratio(one, graph, base) for one in tables]
            # One alone is held against nothing.
            if sum(ratio is not None for ratio in ratios) > 1:
                differs = [*(clean if base == CLEAN else ()), *rounds]
                rows.append(_row(f"{graph}, {measure}, x {base}", "ratio", ratios, differs))
    harness = [report["model"]["harness"]["ratio"] for report in reports]
    return [*rows, _row("harness: sweep / its runs", "ratio", harness, rounds)]


def _ratio(table: _Report, graph: str, base: str) -> float | None:
    if graph not in table or base not in table or not table[base]["ms"] > 0:
        return None
    return float(table[graph]["ms"] / table[base]["ms"])


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
            [*meters, *(_clean_differs(measured) if graph == CLEAN else ()), *differs],
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
