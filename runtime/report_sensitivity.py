# SPDX-License-Identifier: Apache-2.0
"""A sensitivity map as a table whose cells are coloured: sites against bits."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from ..ortops.bit_masks import mask_name
from ..ortops.errors import InputError
from ..ortops.formats import WORD_FORMATS
from .midpoint_finder import FoundMidpoint
from .report_record import read_record
from .report_tables import save_button
from .sensitivity_file import Entries, read_entries
from .sensitivity_report import field_of, is_bit, midpoint_text, rate_text
from .texts import TOO_MUCH, one_line, printable

_SHADES = 10
_ALL = "all"
_NOT_LIKE = "the accuracy does not follow the logistic curve (it may fall and rise again)"


@dataclass(frozen=True)
class SensitivityMap:
    """What a file of `noisystore sensitivity` says.

    Attributes
    ----------
    key : str
        Unique in the page.
    settings : dict
    sites : dict of int to str
        Names of the sites.
    formats : set of str
        Of their words.
    masks : list of str
        Columns, without that of all bits.
    entries : dict
        As `sensitivity_file.read_entries` gives them.
    """

    key: str
    settings: dict[str, Any]
    sites: dict[int, str]
    formats: set[str]
    masks: list[str]
    entries: Entries

    def html(self) -> str:
        """Return the heading, the key of colours and the table."""
        found = [e.midpoint for e in self.entries.values() if e.midpoint is not None]
        low, high = (math.log10(min(found)), math.log10(max(found))) if found else (0.0, 1.0)
        shown = [m for m in self.masks if not self._dropless(m)]
        hidden = len(self.masks) - len(shown)
        about = ", ".join(
            filter(
                None,
                (
                    f"{self._said('data')}, {self._said('images')} images",
                    f"intervals of at most ±{100 * float(self.settings['precision']):g}%",
                    f"columns without any drop left out: {hidden}" if hidden else "",
                ),
            )
        )
        head = "".join(f'<th scope="col">{escape(m)}{self._field(m)}</th>' for m in shown)
        rows = "".join(self._row(site, shown, low, high) for site in (None, *self.sites))
        shades = "".join(
            f'<span class="q{i}">{_rough(10 ** (low + (high - low) * (i + 0.5) / _SHADES))}</span>'
            for i in range(_SHADES)
        )
        title = self._said("model")
        return (
            f'<h3>{escape(title)}</h3><p class="soft">{escape(about)}. Each cell: the midpoint '
            "noise level with only these bits of this site noisy (a bit error rate); dark is "
            "sensitive. –: no drop up to the highest rate; ?: "
            f"{_NOT_LIKE}; empty: not measured.</p>"
            f'<p class="key" aria-hidden="true">{shades}</p>'
            f'<div class="tools">{save_button(self.key)}</div>'
            f'<div class="box tall mapbox" id="m-{self.key}" tabindex="0" role="region" '
            f'aria-label="Sensitivity of {escape(title)}; arrow keys go through the cells">'
            f'<table class="map"><caption class="unseen">Midpoint of each site (rows) and bits '
            f'(columns)</caption><thead><tr><th scope="col">site</th><th scope="col">all bits</th>'
            f"{head}</tr></thead><tbody>{rows}</tbody></table></div>"
        )

    def csv(self) -> list[list[Any]]:
        """Return head and rows with exact values."""
        head = ["site", "name", "mask", "midpoint", "low", "high", "bound", "limit", "reason"]
        rows: list[list[Any]] = [head]
        for (site, mask), found in self.entries.items():
            interval = [None, None] if found.interval is None else list(found.interval)
            name = "all sites" if site is None else self.sites[site]
            rows.append([site, name, mask, found.midpoint, *interval])
            rows[-1] += [found.bound, found.limit, found.reason]
        return rows

    def _said(self, name: str) -> str:
        value = self.settings.get(name, "")
        return f"{value:,}" if type(value) is int else printable(str(value))[:300]

    def _field(self, mask: str) -> str:
        """Name the field of a single bit, where all sites hold one format."""
        word = WORD_FORMATS.get(next(iter(self.formats))) if len(self.formats) == 1 else None
        if word is None or not is_bit(mask):
            return ""
        place = word.noisy_bits - 1 - int(mask.removeprefix("msb:"))
        return f"<br>{field_of(word, place)}" if place >= 0 else ""

    def _dropless(self, mask: str) -> bool:
        column = [found for (_, m), found in self.entries.items() if m == mask]
        return all(found.bound == "above" for found in column)

    def _row(self, site: int | None, masks: list[str], low: float, high: float) -> str:
        name = "all sites" if site is None else f"{site} {self.sites[site]}"
        cells = []
        for mask in (_ALL, *masks):
            found = self.entries.get((site, mask))
            if found is None:
                cells.append("<td></td>")
                continue
            bits = "all bits" if mask == _ALL else mask
            told = escape(f"{name}, {bits}\n{_told(found)}")
            if found.midpoint is None:
                none = "–" if found.bound == "above" else midpoint_text(found)
                cells.append(f'<td class="none" data-tell="{told}">{escape(none)}</td>')
                continue
            share = (math.log10(found.midpoint) - low) / max(high - low, 1e-9)
            shade = min(int(share * _SHADES), _SHADES - 1)
            cells.append(
                f'<td class="q{shade}" data-tell="{told}">{escape(midpoint_text(found))}</td>'
            )
        return f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>'


def _rough(rate: float) -> str:
    return f"{rate:.0e}".replace("e-0", "e-")


def _told(found: FoundMidpoint) -> str:
    if found.midpoint is None or found.interval is None:
        return f"midpoint {midpoint_text(found)}: {found.reason}"
    low, high = map(rate_text, found.interval)
    return (
        f"midpoint {rate_text(found.midpoint)} ({100 * found.confidence:g}%: {low} to {high})\n"
        f"clean accuracy {100 * found.clean_accuracy:.2f}%, {found.inferences:,} inferences"
    )


def read_map(path: str | os.PathLike[str], key: str) -> SensitivityMap:
    """Read a file of `noisystore sensitivity -o`.

    Parameters
    ----------
    path : path
    key : str
        Of the map, unique in its page.

    Raises
    ------
    InputError
        The file is missing, cannot be read, is damaged or another one.
    """
    record, bad = read_record(path, "sensitivity")
    path = Path(path)
    try:
        listed = record["sites"]
        sites = {int(s["site"]): printable(str(s["name"]))[:200] for s in listed}
        formats = {str(s["format"]) for s in listed}
        settings = dict(record["settings"])
        float(settings["precision"])
    except (KeyError, TypeError, ValueError, AttributeError, *TOO_MUCH):
        raise bad("no settings and sites") from None
    try:
        entries = read_entries(path, settings, set(sites))
    except InputError as error:
        raise InputError(one_line(error).replace("results ", "sensitivity ", 1)) from None
    masks = list(dict.fromkeys(mask for _, mask in entries if mask_name(mask) != _ALL))
    return SensitivityMap(key, settings, sites, formats, masks, entries)
