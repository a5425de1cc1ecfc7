# SPDX-License-Identifier: Apache-2.0
"""The sensitivity of sites and bits as text and as CSV."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Sequence

from ..ortops.bit_masks import mask_value
from ..ortops.errors import InputError
from ..ortops.files import write_whole
from ..ortops.formats import WORD_FORMATS, WordFormat
from .midpoint_finder import FoundMidpoint
from .sensitivity import ALL, Sensitivity, irregular
from .sensitivity_file import Key
from .texts import printable

Table = Callable[[Sequence[str], Sequence[Sequence[str]]], str]

#: What a question mark behind a midpoint means.
NOT_LIKE = "accuracy does not fall like eq. 2 (it may fall and rise again)"

#: So many neighbouring bits without a drop, and more, share a row.
_RUN = 3


def report(found: Sensitivity, table: Table) -> str:
    """Return what was found as tables.

    Parameters
    ----------
    found : Sensitivity
    table : callable (head, rows) -> str
        Lays out columns.
    """
    clean = found.clean
    lines = [
        f"{printable(found.model)}, {found.data} ({found.images:,} images): clean accuracy "
        f"{clean.clean_accuracy:.4f}, midpoints to ±{100 * found.precision:.3g}%",
        "",
        "each site alone, all bits:",
        table(
            ["site", "name", "kind", "elements", *_head(found)],
            _site_rows(found),
        ),
    ]
    if found.masks:
        lines += [
            "",
            "each bit alone, all sites:"
            if all(map(is_bit, found.masks))
            else "each mask alone, all sites:",
            table(["bits", "role", *_head(found)], _mask_rows(found)),
        ]
    lines += ["", *_most_sensitive(found)]
    if any(map(irregular, found.entries.values())):
        lines.append(f"? {NOT_LIKE}: measure these with `noisystore sweep`")
    return "\n".join(lines)


def write_csv(found: Sensitivity, path: str | os.PathLike[str]) -> None:
    """Write one line an entry: site (empty: all), name, mask, role, midpoint and more.

    Raises
    ------
    InputError
        The file cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        [
            *("site", "name", "mask", "role", "midpoint", "low", "high", "irregular"),
            *("half_level", "bound", "limit", "inferences"),
        ]
    )
    for (site, mask), entry in found.entries.items():
        low, high = entry.interval or (None, None)
        writer.writerow(
            [
                site,
                _name(found, site),
                mask,
                "" if mask == ALL else mask_role(mask, found),
                entry.midpoint,
                low,
                high,
                int(irregular(entry)),
                entry.half_level,
                entry.bound,
                entry.limit,
                entry.inferences,
            ]
        )
    write_whole(path, text.getvalue().encode())


def mask_role(mask: str, found: Sensitivity) -> str:
    """Return what a mask's bits are in the words of the sites: ``sign``, ``exponent:1``, ``2^6``.

    Several bits are named by their fields; formats that differ by ``/``.
    """
    formats = dict.fromkeys(site.word_format for site in found.sites)
    roles = dict.fromkeys(_role(mask, WORD_FORMATS.get(name or "")) for name in formats)
    return " / ".join(role for role in roles if role)


def is_bit(mask: str) -> bool:
    """Whether a mask is named by the place of one bit."""
    return mask.startswith("msb:") and mask.removeprefix("msb:").isdecimal()


def field_of(word: WordFormat, bit: int) -> str:
    """Return the field of a bit (0: lowest): sign, exponent, mantissa, or value of integers."""
    if bit == word.noisy_bits - 1 and (word.lowest < 0 or not word.is_integer):
        return "sign"
    if word.is_integer:
        return "value"
    return "exponent" if bit >= word.mantissa_bits else "mantissa"


def rate_text(rate: float) -> str:
    """Return a rate in three digits: 1.06e-5."""
    mantissa, exponent = f"{rate:.2e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def midpoint_text(entry: FoundMidpoint) -> str:
    """Return the midpoint (?: irregular), or the rate that it lies above (>) or below (<)."""
    if entry.midpoint is not None:
        return rate_text(entry.midpoint) + (" ?" if irregular(entry) else "")
    assert entry.limit is not None
    return f"{'>' if entry.bound == 'above' else '<'} {entry.limit:.3g}"


def _role(mask: str, word: WordFormat | None) -> str:
    if word is None:
        return ""
    try:
        bits = mask_value(mask, word.name, 0)
    except InputError:
        return ""
    places = [bit for bit in reversed(range(word.noisy_bits)) if bits >> bit & 1]
    names = list(dict.fromkeys(field_of(word, bit) for bit in places))
    if len(places) > 1 or names[0] == "sign":
        return ", ".join(names)
    if names[0] == "value":
        return f"2^{places[0]}"
    below = word.mantissa_bits if names[0] == "exponent" else 0
    width = word.exponent_bits if names[0] == "exponent" else word.mantissa_bits
    return f"{names[0]}:{below + width - places[0]}"


def _head(found: Sensitivity) -> list[str]:
    return ["midpoint", f"{100 * found.confidence:.3g}% interval", "times the least"]


def _cells(entry: FoundMidpoint, least: float | None) -> list[str]:
    if entry.midpoint is None or entry.interval is None:
        return [midpoint_text(entry), "no drop" if entry.bound == "above" else "", ""]
    interval = " to ".join(map(rate_text, entry.interval))
    ratio = "" if least is None or irregular(entry) else f"{entry.midpoint / least:,.1f}"
    return [midpoint_text(entry), interval, ratio]


def _least(found: Sensitivity, keys: Sequence[Key]) -> Key | None:
    """Return the key of the lowest midpoint, or None where none was found."""
    known = {key: found.entries[key].midpoint for key in keys}
    return min(
        (key for key, midpoint in known.items() if midpoint is not None),
        key=lambda key: known[key] or 0.0,
        default=None,
    )


def _least_midpoint(found: Sensitivity, keys: Sequence[Key]) -> float | None:
    key = _least(found, keys)
    return None if key is None else found.entries[key].midpoint


def _site_rows(found: Sensitivity) -> list[list[str]]:
    least = _least_midpoint(found, [(site.site, ALL) for site in found.sites])
    rows = [
        [
            str(site.site),
            printable(site.name),
            site.kind,
            f"{site.elements:,}",
            *_cells(found.entries[site.site, ALL], least),
        ]
        for site in found.sites
    ]
    elements = sum(site.elements for site in found.sites)
    together = _cells(found.entries[None, ALL], None)
    return [*rows, ["all", f"{len(found.sites)} sites", "", f"{elements:,}", *together]]


def _mask_rows(found: Sensitivity) -> list[list[str]]:
    least = _least_midpoint(found, [(None, mask) for mask in found.masks])
    runs: list[list[str]] = []
    for mask in found.masks:
        above = found.entries[None, mask].bound == "above"
        if above and runs and found.entries[None, runs[-1][0]].bound == "above":
            runs[-1].append(mask)
        else:
            runs.append([mask])
    rows = []
    for run in runs:
        for part in [run] if len(run) >= _RUN else [[mask] for mask in run]:
            ends = dict.fromkeys((part[0], part[-1]))
            roles = dict.fromkeys(mask_role(mask, found) for mask in ends)
            names = [" to ".join(ends), " to ".join(roles)]
            rows.append([*names, *_cells(found.entries[None, part[0]], least)])
    return [*rows, [ALL, "", *_cells(found.entries[None, ALL], None)]]


def _most_sensitive(found: Sensitivity) -> list[str]:
    """Say which site, which bits and which pair have the lowest midpoints."""
    lines = []
    for what, keys in (
        ("site", [(site.site, ALL) for site in found.sites]),
        ("bits", [(None, mask) for mask in found.masks]),
        ("pair", [key for key in found.entries if key[0] is not None and key[1] != ALL]),
    ):
        key = _least(found, keys)
        if key is None or len(keys) < 2:
            continue
        site, mask = key
        names = [] if site is None else [f"site {site} ({printable(_name(found, site))})"]
        names += [] if mask == ALL else [f"{mask} ({mask_role(mask, found)})"]
        midpoint = midpoint_text(found.entries[key])
        lines.append(f"most sensitive {what}: {', '.join(names)}, midpoint {midpoint}")
    return lines


def _name(found: Sensitivity, number: int | None) -> str:
    return next((site.name for site in found.sites if site.site == number), "")
