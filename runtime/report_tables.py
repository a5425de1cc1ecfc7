# SPDX-License-Identifier: Apache-2.0
"""The tables of a page: midpoints, points, and provenance."""

from __future__ import annotations

import json
import math
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from .report_curves import DIMENSIONS, Curve
from .report_views import differing, label_of
from .sensitivity_report import rate_text
from .texts import printable

#: More rows are in the CSV file only.
MOST_ROWS = 1500

Cell = str | tuple[str, float | int | None]


@dataclass(frozen=True)
class Table:
    """A table whose first column names its rows.

    Attributes
    ----------
    key : str
        Unique in the page.
    caption : str
    head : list of str
    rows : list of list of Cell
        A text, or a text and the number that it is sorted by.
    headers : int
        So many first columns name the rows.
    """

    key: str
    caption: str
    head: list[str]
    rows: list[list[Cell]]
    headers: int = 1

    def html(self, *, sort: bool = False, save: bool = False) -> str:
        """Return the table in a box that scrolls; `sort`: by buttons, `save`: as CSV, too."""
        numbers = [
            bool(self.rows) and all(isinstance(row[i], tuple) for row in self.rows)
            for i in range(len(self.head))
        ]
        head = "".join(
            f'<th scope="col"{_class(number)}{" aria-sort=none" if sort else ""}>'
            + (_button(self.key, i, name) if sort else escape(name))
            + "</th>"
            for i, (name, number) in enumerate(zip(self.head, numbers, strict=True))
        )
        body = "".join(
            "<tr>"
            + "".join(_cell(cell, i < self.headers, numbers[i]) for i, cell in enumerate(row))
            + "</tr>"
            for row in self.rows
        )
        button = f'<div class="tools">{save_button(self.key)}</div>' if save else ""
        return (
            f'{button}<div class="box" tabindex="0" role="region" '
            f'aria-label="{escape(self.caption)}"><table id="t-{self.key}"><caption>'
            f"{escape(self.caption)}</caption><thead><tr>{head}</tr></thead>"
            f"<tbody>{body}</tbody></table></div>"
        )


def save_button(key: str) -> str:
    """Return the button that saves the table `key` as CSV."""
    words = key.replace("-", " ")
    return f'<button type="button" class="js" data-csv="{key}">Save {words} as CSV</button>'


def _button(key: str, column: int, name: str) -> str:
    return (
        f'<button type="button" class="sort" id="s-{key}-{column}" data-column="{column}">'
        f"{escape(name)}</button>"
    )


def _class(number: bool) -> str:
    return ' class="n"' if number else ""


def _cell(cell: Cell, first: bool, number: bool) -> str:
    text, value = cell if isinstance(cell, tuple) else (cell, None)
    tag = 'th scope="row"' if first else "td"
    known = "" if value is None or math.isnan(value) else f' data-v="{value!r}"'
    return f"<{tag}{_class(number)}{known}>{escape(text)}</{tag[:2]}>"


def rate_cell(value: float | None) -> Cell:
    """Return a bit error rate as a cell."""
    return ("–" if not value else rate_text(value), value)


def percent(value: float | None) -> Cell:
    """Return a share as a cell."""
    none = value is None or math.isnan(value)
    return ("–" if value is None or none else f"{100 * value:.2f}%", value)


def midpoint_table(curves: Sequence[Curve]) -> Table:
    """Return one row a curve: names in which curves differ, its fit, its measurement."""
    everywhere = differing(curves)
    confidence = next((c.fit.confidence for c in curves if c.fit is not None), 0.95)
    rows: list[list[Cell]] = []
    for curve in curves:
        fit = curve.fit
        low, high = (None, None) if fit is None or fit.interval is None else fit.interval
        bound = "" if fit is None or fit.bound is None else "> " if fit.bound == "above" else "< "
        midpoint = rate_cell(None if fit is None else fit.midpoint)
        if fit is not None and fit.limit is not None:
            midpoint = (f"{bound}{rate_text(fit.limit)}", fit.limit)
        sigma = None if fit is None else fit.sigma
        rows.append(
            [
                *([curve.names[key] for key in everywhere] or [label_of(curve, everywhere)]),
                midpoint,
                rate_cell(low),
                rate_cell(high),
                rate_cell(None if fit is None else fit.half_level),
                ("–" if sigma is None else f"{sigma:#.3g}", sigma),
                rate_cell(None if fit is None else fit.rate_99),
                percent(curve.clean_accuracy),
                (f"{curve.keys['images']:,}", curve.keys["images"]),
                (str(max(map(len, curve.trials), default=0)), max(map(len, curve.trials))),
                (str(len(curve.rate)), len(curve.rate)),
                curve.reason,
            ]
        )
    head = [
        *([DIMENSIONS[key] for key in everywhere] or ["curve"]),
        *(
            "midpoint",
            f"{100 * confidence:g}% from",
            "to",
            "half level",
            "sigma",
            "99% noise",
            "clean",
        ),
        *("images", "trials", "rates", "note"),
    ]
    caption = "Midpoint noise level of each curve (bit error rates)"
    return Table("midpoints", caption, head, rows, max(len(everywhere), 1))


def midpoint_csv(curves: Sequence[Curve]) -> list[list[Any]]:
    """Return head and rows with exact values."""
    fields = ("midpoint", "bound", "limit", "half_level", "sigma", "rate_99", "axis", "confidence")
    head = ["model", *list(DIMENSIONS)[1:], "low", "high", *fields, "measure"]
    head += ["clean_accuracy", "chance_accuracy", "images", "points", "rates", "note"]
    rows: list[list[Any]] = [head]
    for curve in curves:
        fit = curve.fit
        names = [curve.names[key] for key in list(DIMENSIONS)[1:]]
        interval = [None, None] if fit is None or fit.interval is None else list(fit.interval)
        values = [getattr(fit, name, None) for name in fields]
        rows.append(
            [
                *(printable(curve.keys["model"]), *names, *interval, *values, curve.measure),
                *(curve.clean_accuracy, curve.chance_accuracy, curve.keys["images"]),
                *(curve.points, len(curve.rate), curve.reason),
            ]
        )
    return rows


def point_table(curves: Sequence[Curve]) -> Table:
    """Return one row a curve and rate, at most `MOST_ROWS`."""
    everywhere = differing(curves)
    rows: list[list[Cell]] = []
    for curve in curves:
        label = label_of(curve, everywhere)
        for i, rate in enumerate(curve.rate[: MOST_ROWS - len(rows)]):
            low, high = curve.interval[i]
            rows.append(
                [
                    label,
                    rate_cell(float(rate)),
                    percent(float(curve.accuracy[i])),
                    percent(float(low)),
                    percent(float(high)),
                    (str(len(curve.trials[i])), len(curve.trials[i])),
                ]
            )
    head = ["curve", "bit error rate", "accuracy", "95% from", "to", "trials"]
    return Table("points", "Mean accuracy at each rate, and its 95% interval", head, rows)


def provenance_tables(curves: Sequence[Curve]) -> list[Table]:
    """Return models, data sets, and runs with their machines."""
    models: dict[tuple[str, ...], list[Cell]] = {}
    data: dict[tuple[Any, ...], list[Cell]] = {}
    runs: dict[tuple[Any, ...], list[Curve]] = {}
    points: Counter[tuple[Any, ...]] = Counter()
    for curve in curves:
        keys = curve.keys
        name = printable(keys["model"])
        models[keys["model"], keys["model_sha256"]] = [
            *(name, printable(keys["storage_format"]), _sites(keys["sites"])),
            printable(keys["model_sha256"]),
        ]
        data[keys["data"], keys["data_sha256"], keys["images"]] = [
            printable(keys["data"]),
            (f"{keys['images']:,}", keys["images"]),
            "–" if keys["classes"] is None else str(keys["classes"]),
            printable(keys["data_sha256"]),
        ]
        for run, count in curve.runs.items():
            place = (*run, keys["machine"], keys["provider"], keys["noise_model"])
            runs.setdefault(place, []).append(curve)
            points[place] += count
    rows: list[list[Cell]] = []
    for place, its in runs.items():
        cpu, host, library, runtime, threads, machine, provider, noise_model = place
        where = f"{cpu} on {host}" if cpu and host else cpu or host or "not recorded"
        rows.append(
            [
                printable(where),
                printable(f"{machine}, {provider}"),
                f"ONNX Runtime {printable(runtime)}, operator library {printable(library)}, "
                f"noise model {printable(noise_model)}",
                str(threads or "default"),
                ", ".join(sorted({str(seed) for curve in its for seed in curve.seeds})),
                ", ".join(sorted({str(curve.keys["batch_size"]) for curve in its})),
                (f"{points[place]:,}", points[place]),
                _when(min(c.measured[0] for c in its), max(c.measured[1] for c in its)),
            ]
        )
    run_head = ["machine", "kind", "versions", "threads", "seeds", "batch size", "points", "when"]
    return [
        Table("models", "Models", ["file", "format", "sites", "SHA-256"], list(models.values())),
        Table("data", "Data", ["name", "images", "classes", "SHA-256"], list(data.values())),
        Table("runs", "Runs", run_head, rows),
    ]


def _when(first: str, last: str) -> str:
    times = (printable(time).removesuffix("+00:00").replace("T", " ") for time in (first, last))
    return " to ".join(dict.fromkeys(times)) + " UTC"


def _sites(text: str) -> str:
    try:
        sites = json.loads(text)
        number, kinds = sites.get("number"), sites.get("kinds", [])
        words = f"{int(number)} sites" if number else ""
        return printable(", ".join([words, *map(str, kinds)]).strip(", "))[:300]
    except (ValueError, TypeError, AttributeError):
        return ""


def commands(curves: Sequence[Curve]) -> list[str]:
    """Return the command lines that measure curves again, of those that a line can say whole."""
    lines = []
    for curve in curves:
        keys = curve.keys
        if keys["noisy"] or curve.names["directions"] != "1:1" or keys["metric_name"]:
            continue
        if " " in keys["provider"]:  # its options are those of a board
            continue
        rates = ",".join(repr(float(rate)) for rate in curve.rate)
        for seed in curve.seeds:
            words = ["noisystore", "sweep", printable(keys["model"]), "--data", "DATA"]
            words += ["--rates", rates, "--images", str(keys["images"])]
            words += ["--trials", str(-(-max(map(len, curve.trials)) // len(curve.seeds)))]
            words += [] if keys["mask"] == "all" else ["--mask", printable(keys["mask"])]
            words += ["--seed", str(seed), "--batch-size", str(keys["batch_size"])]
            if keys["provider"] != "CPUExecutionProvider":
                words += ["--provider", printable(keys["provider"])]
            lines.append(shlex.join([*words, "-o", "results.sqlite"]))
    return list(dict.fromkeys(lines))
