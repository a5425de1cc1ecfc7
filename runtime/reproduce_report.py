# SPDX-License-Identifier: Apache-2.0
"""The files of an experiment: its points as CSV, its table as Markdown, its figure."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..ortops.files import write_whole
from .reproduce_figures import draw_experiment
from .reproduce_findings import Finding, findings_of
from .reproduce_tables import All, Row, fitted, rows_of

TITLES = {
    "fig3": "Figure 3: VGGs of different depths, float32",
    "table2": "Table 2: midpoint noise level by depth and data type",
    "fig4": "Figure 4: noisy bits from a first one on, VGG-A, float32",
    "table5": "Table 5: midpoint noise level by the first noisy exponent bit, float32",
    "fig5": "Figure 5: floating-point data types, VGG-A",
    "fig6": "Figure 6: float32, float16 and 8-bit integers, VGG-A",
    "table4": "Table 4: midpoint noise level of quantized networks",
    "fig7": "Figure 7: midpoint noise level against the number of noisy exponent bits",
    "a2": "Appendix A.2: noisy re-training of VGG-A",
}
HEAD = ("network", "format", "noisy bits", "quantity", "paper", "here (95% interval)", "ratio")
_SEEN = {True: "yes", False: "no", None: "undecided"}
_COLUMNS = (
    *("network", "format", "mask", "model", "p01", "p10", "trial", "noise_seed", "images"),
    *("correct", "accuracy", "clean_accuracy"),
)


def write_experiment(folder: Path, name: str, measured: All, whole: bool) -> None:
    """Write NAME.csv, NAME.md and, where a curve can be fitted, NAME.png and NAME.svg.

    Parameters
    ----------
    folder : Path
    name : str
        The experiment.
    measured : mapping of Curve to Measured or NotFitted
    whole : bool
        Whether all test images were taken.
    """
    curves = fitted(measured)
    picture = draw_experiment(name, TITLES[name], curves, folder / name).name if curves else ""
    rows, findings = rows_of(name, measured), findings_of(name, curves)
    text = markdown(name, rows, findings, how_measured(measured, whole), picture)
    write_whole(folder / f"{name}.csv", _points(measured).encode())
    write_whole(folder / f"{name}.md", text.encode())


def how_measured(measured: All, whole: bool) -> str:
    """Return in a sentence how the points were measured."""
    points = [point for found in measured.values() for point in found.rows]

    def names(column: str) -> str:
        return ", ".join(sorted({str(point[column]) for point in points}))

    each = [Counter(point["p01"] for point in found.rows) for found in measured.values()]
    trials = sorted({max(of_rate.values()) for of_rate in each})
    counted = "1 trial" if trials == [1] else f"{'-'.join(map(str, trials))} trials"
    return (
        f"Measured on {'all' if whole else 'the first'} {points[0]['images']:,} images of "
        f"{names('data')}, {counted} a rate, noise at the output of every layer, seed "
        f"{names('seed')}; operator library {names('library_version')}, ONNX Runtime "
        f"{names('onnxruntime_version')}, {names('cpu')}."
    )


def markdown(
    name: str, rows: Sequence[Row], findings: Sequence[Finding], how: str, picture: str
) -> str:
    """Return an experiment as Markdown: figure, table, statements, settings.

    Parameters
    ----------
    name : str
    rows : sequence of Row
    findings : sequence of Finding
    how : str
        A sentence on how it was measured.
    picture : str
        File name of the figure; empty: none.
    """
    lines = [f"# {TITLES[name]}", ""]
    lines += [f"![{TITLES[name]}]({picture})", ""] if picture else []
    lines += _table(HEAD, [cells(row) for row in rows])
    for reason in reasons(rows):
        lines += ["", reason]
    if findings:
        lines += [
            "",
            *_table(
                ("statement", "seen here", "figures"),
                [(f.statement, _SEEN[f.holds], f.detail) for f in findings],
            ),
        ]
    return "\n".join([*lines, "", how, ""])


def cells(row: Row) -> tuple[str, ...]:
    """Return a row as text, a cell a column of `HEAD`."""
    return (
        f"VGG-{row.network}",
        row.storage,
        row.mask,
        row.quantity,
        _number(row.paper, row.paper_bound),
        _here(row),
        "" if row.ratio is None else f"{row.ratio:.3g}",
    )


def reasons(rows: Sequence[Row]) -> list[str]:
    """Return why curves among the rows are not fitted, a line each."""
    return [
        f"Not fitted: VGG-{row.network} {row.storage}, {row.quantity}, noisy bits {row.mask}: "
        f"{row.reason}."
        for row in rows
        if row.reason
    ]


def _here(row: Row) -> str:
    if row.reason:
        return "not fitted"
    if row.bound:
        return _number(row.limit, row.bound)
    interval = ""
    if row.interval is not None:
        interval = f" ({_number(row.interval[0])} to {_number(row.interval[1])})"
    return _number(row.here) + interval


def _number(value: float | None, bound: str | None = None) -> str:
    if value is None:
        return "-"
    sign = {"above": "> ", "below": "< "}.get(bound or "", "")
    text = f"{value:.2e}".replace("e-0", "e-") if 0 < value < 1e-2 else f"{value:.4g}"
    return sign + text


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    marks = ["--:" if name in ("paper", "ratio") else "---" for name in head]
    return [f"| {' | '.join(row)} |" for row in (head, marks, *rows)]


def _points(measured: All) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for curve, found in measured.items():
        own = {"network": f"VGG-{curve.network}", "format": curve.storage}
        writer.writerows([(row | own)[column] for column in _COLUMNS] for row in found.rows)
    return text.getvalue()
