# SPDX-License-Identifier: Apache-2.0
"""What `noisystore protect` found, as a table of a page: designs, and what their means cost."""

from __future__ import annotations

import os
from dataclasses import dataclass
from html import escape
from typing import Any

from .report_record import read_record
from .report_tables import Cell, Table, percent
from .texts import TOO_MUCH, printable

_HEAD = ["mitigation", "means", "protected bits", "of all", "verified accuracy", "95% from", "to"]
_HEAD += ["with these means", "target", "holds", "area (F²)", "energy (nJ)", "time (µs)"]
_NUMBERS = ("verified_accuracy", "low", "high", "accuracy", "target")
_COSTS = ("area_f2", "energy_pj", "time_ns")


@dataclass(frozen=True)
class ProtectionRows:
    """What a file of `noisystore protect` says.

    Attributes
    ----------
    key : str
        Unique in the page.
    about : str
        Model, data, rate and target.
    rows : list of dict
        One a design and means; costs are (from, to).
    """

    key: str
    about: str
    rows: list[dict[str, Any]]

    def html(self) -> str:
        """Return the table."""
        table = Table(self.key, self.about, _HEAD, [_cells(row) for row in self.rows], 2)
        return table.html(sort=True, save=True)

    def csv(self) -> list[list[Any]]:
        """Return head and rows with exact values."""
        ranges = [f"{name}_{end}" for name in _COSTS for end in ("from", "to")]
        head = ["mitigation", "means", "bits", "of_all", *_NUMBERS, "holds", *ranges]
        rows: list[list[Any]] = [head]
        for row in self.rows:
            rows.append([row[name] for name in head[:9]] + ["yes" if row["holds"] else "no"])
            rows[-1] += [value for name in _COSTS for value in row[name]]
        return rows


def _cells(row: dict[str, Any]) -> list[Cell]:
    def span(name: str, unit: float) -> Cell:
        low, high = (value / unit for value in row[name])
        return (f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}", high)

    return [
        row["mitigation"],
        row["means"],
        (f"{row['bits']:,}", row["bits"]),
        percent(row["of_all"]),
        *(percent(row[name]) for name in _NUMBERS),
        "yes" if row["holds"] else "no",
        *(span(name, unit) for name, unit in (("area_f2", 1), ("energy_pj", 1e3))),
        span("time_ns", 1e3),
    ]


def read_protection(path: str | os.PathLike[str], key: str) -> ProtectionRows:
    """Read a file of `noisystore protect -o`.

    Parameters
    ----------
    path : path
    key : str
        Of the table, unique in its page.

    Raises
    ------
    InputError
        The file is missing, cannot be read, is damaged or another one.
    """
    record, bad = read_record(path, "protect")
    try:
        rate = " / ".join(f"{p:g}" for p in dict.fromkeys(map(float, record["rate"])))
        about = (
            f"{record['model']}, {record['data']}: bit error rate {rate}, target {record['target']}"
        )
        stored = int(record["stored_bits"])
        rows = [
            _row(design, means, stored) for design in record["designs"] for means in design["means"]
        ]
    except (KeyError, TypeError, ValueError, AttributeError, *TOO_MUCH):
        raise bad("no designs with their means and costs") from None
    return ProtectionRows(key, printable(about)[:300], rows)


def _row(design: dict[str, Any], means: dict[str, Any], stored: int) -> dict[str, Any]:
    low, high = map(float, design["interval"])
    bits = int(design["bits"])
    row: dict[str, Any] = {
        "mitigation": printable(str(design["mitigation"]))[:100],
        "means": printable(str(means["means"]))[:100],
        **{"bits": bits, "of_all": bits / max(stored, 1)},
        **{"verified_accuracy": float(design["accuracy"]), "low": low, "high": high},
        **{"accuracy": float(means["accuracy"]), "target": float(design["target"])},
        "holds": bool(means["meets"]),
    }
    for name in _COSTS:
        first, last = map(float, means[name])
        row[name] = (first, last)
    return row


def about_html(found: list[ProtectionRows]) -> str:
    """Return the words above the tables, and the tables."""
    words = (
        "Which bits to protect so that an accuracy holds. The verified accuracy, with its 95% "
        "interval, is that without errors in protected bits; these means may leave some."
    )
    return f'<p class="soft">{escape(words)}</p>' + "".join(rows.html() for rows in found)
