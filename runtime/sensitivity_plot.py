# SPDX-License-Identifier: Apache-2.0
"""The sensitivity of sites and bits as a heat map, or as two strips of midpoints."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from ..ortops.formats import WORD_FORMATS
from .midpoint_finder import HIGHEST, FoundMidpoint
from .plot import COLORS, STYLE, check_format, check_matplotlib, plain_text, save_figure
from .sensitivity import ALL, Sensitivity, irregular
from .sensitivity_file import Key
from .sensitivity_report import field_of, is_bit, midpoint_text

#: Dark is sensitive; evenly perceived, and told apart with any colour vision.
_COLOR_MAP = "viridis"
_NO_DROP: dict[str, Any] = {
    "facecolor": "0.94",
    "edgecolor": "0.82",
    "hatch": "/////",
    "linewidth": 0.0,
}
_FIELD_COLORS = {
    "sign": COLORS[1],
    "exponent": COLORS[0],
    "mantissa": COLORS[2],
    "value": COLORS[0],
    "": "0.2",
}
_NOT_LIKE = "does not fall like eq. 2"
_LONGEST_NAME = 28
#: With more columns there is no room for midpoints in the cells.
_MOST_WRITTEN = 16


def plot_sensitivity(found: Sensitivity, path: str | os.PathLike[str]) -> Path:
    """Draw midpoints and write them as PNG or SVG.

    With `Sensitivity.cross` a heat map: rows are sites, columns bits (or masks), and the row of all
    sites and the column of all bits stand apart. Without, midpoints with their intervals: each
    site alone, then each bit alone.

    Parameters
    ----------
    found : Sensitivity
    path : path
        Ends in .png or .svg.

    Returns
    -------
    Path
        The file that was written.

    Raises
    ------
    InputError
        Another file ending, matplotlib is not installed, or the file cannot be written.
    """
    path = Path(path)
    check_format(path)
    matplotlib = check_matplotlib()
    with matplotlib.rc_context({**STYLE, "hatch.linewidth": 0.6}):
        whole = found.cross and len(found.masks) > 0
        save_figure(_heat_map(found) if whole else _strips(found), path)
    return path


# -- heat map ------------------------------------------------------------------------------------


def _heat_map(found: Sensitivity) -> Any:
    from matplotlib.colors import LogNorm
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    sites = [site.site for site in found.sites]
    rows, columns = len(sites), len(found.masks)
    bits = all(map(is_bit, found.masks))
    write = columns <= _MOST_WRITTEN
    longest = max(map(len, found.masks))
    cell = (0.2 if not write else 0.56 if bits else max(0.56, 0.075 * longest), 0.24)
    inside = (max(columns * cell[0], 3.0), rows * cell[1])
    figure = _figure(inside[0] + 3.4, inside[1] + 2.5)
    grid = figure.subplots(
        2,
        2,
        gridspec_kw={
            "width_ratios": [inside[0], 0.62],
            "height_ratios": [cell[1], max(inside[1], 0.24)],
            "wspace": 0.0,
            "hspace": 0.0,
        },
    )
    norm = LogNorm(*_color_range(found))
    numbers: list[int | None] = list(sites)
    blocks: list[tuple[Any, list[int | None], list[str]]] = [
        (grid[0, 0], [None], found.masks),
        (grid[0, 1], [None], [ALL]),
        (grid[1, 0], numbers, found.masks),
        (grid[1, 1], numbers, [ALL]),
    ]
    mesh = None
    for axes, block_sites, masks in blocks:
        mesh = _draw_block(axes, found, block_sites, masks, norm, write=write or ALL in masks)
    _label_sites(grid, found)
    _label_masks(grid[1, 0], found)
    grid[1, 1].set_xticks([0.5], ["all bits"])
    if bits:
        _mark_fields(grid, found)
    bar = figure.colorbar(
        mesh, ax=grid[1, :], orientation="horizontal", shrink=0.6, aspect=40, pad=0.03
    )
    bar.set_label("midpoint noise level (bit error rate); dark: sensitive")
    bar.outline.set_linewidth(0.6)
    handles: list[Any] = [Patch(**_NO_DROP, label=f"no drop up to {HIGHEST:g}")]
    if any((site, mask) not in found.entries for site in sites for mask in found.masks):
        handles.append(Patch(fc="white", ec="0.7", lw=0.6, label="no such bit"))
    if any(map(irregular, found.entries.values())):
        handles.append(Line2D([], [], ls="none", marker="$?$", color="0.1", label=_NOT_LIKE))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, handlelength=1.8)
    return figure


def _draw_block(
    axes: Any,
    found: Sensitivity,
    sites: Sequence[int | None],
    masks: Sequence[str],
    norm: Any,
    *,
    write: bool,
) -> Any:
    """Draw the cells of one part of the map, and write the midpoints into them."""
    from matplotlib.patches import Rectangle

    values = np.full((len(sites), len(masks)), np.nan)
    for i, site in enumerate(sites):
        for j, mask in enumerate(masks):
            entry = found.entries.get((site, mask))
            if entry is None:
                continue
            if entry.bound == "above":
                axes.add_patch(Rectangle((j, i), 1, 1, **_NO_DROP))
                continue
            values[i, j] = entry.midpoint or entry.limit
            if write or irregular(entry):
                dark = norm(values[i, j]) < 0.55
                axes.text(
                    j + 0.5,
                    i + 0.52,
                    _short(entry) if write else "?",
                    ha="center",
                    va="center",
                    fontsize=7,
                    color="white" if dark else "0.1",
                )
    mesh = axes.pcolormesh(
        np.ma.masked_invalid(values), cmap=_COLOR_MAP, norm=norm, edgecolors="white", linewidth=0.4
    )
    axes.set_xlim(0, len(masks))
    axes.set_ylim(len(sites), 0)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_linewidth(0.6)
        spine.set_color("0.5")
    return mesh


def _color_range(found: Sensitivity) -> tuple[float, float]:
    """Lowest and highest midpoint, at least a decade apart."""
    rates = [entry.midpoint or entry.limit for entry in found.entries.values()]
    known = [rate for rate in rates if rate and rate < HIGHEST] or [HIGHEST]
    return min(*known, max(known) / 10), max(known)


def _label_sites(grid: Any, found: Sensitivity) -> None:
    grid[0, 0].set_yticks([0.5], ["all sites"])
    labels = [_site_label(site.site, site.name) for site in found.sites]
    grid[1, 0].set_yticks(np.arange(len(labels)) + 0.5, labels)
    for axes in grid.flat:
        axes.tick_params(length=0, labelsize=8)


def _label_masks(axes: Any, found: Sensitivity) -> None:
    """Write bits as numbers, masks by their names."""
    places = np.arange(len(found.masks)) + 0.5
    if all(map(is_bit, found.masks)):
        axes.set_xticks(places, [mask.removeprefix("msb:") for mask in found.masks])
        axes.tick_params(axis="x", labelsize=7 if len(found.masks) > 20 else 8)
        axes.set_xlabel("bit of the word (0: top bit)")
    else:
        axes.set_xticks(places, found.masks)
        if len(found.masks) > _MOST_WRITTEN:
            axes.tick_params(axis="x", rotation=90)


def _mark_fields(grid: Any, found: Sensitivity) -> None:
    """Name the fields of the words above the map, and part them by lines."""
    for field, first, last in _fields(found):
        grid[0, 0].annotate(
            field,
            ((first + last + 1) / 2, 0),
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=8.5,
            color="0.2",
            annotation_clip=False,
        )
        for axes in grid[:, 0]:
            if first:
                axes.axvline(first, color="0.15", lw=1.2)


# -- strips --------------------------------------------------------------------------------------


def _strips(found: Sensitivity) -> Any:
    from matplotlib.lines import Line2D
    from matplotlib.ticker import LogLocator, NullFormatter

    sites: list[Key] = [(site.site, ALL) for site in found.sites]
    bits: list[Key] = [(None, mask) for mask in found.masks]
    parts = [("each site alone, all bits", sites)]
    if bits:
        only = all(map(is_bit, found.masks))
        parts.append((f"each {'bit' if only else 'mask'} alone, all sites", bits))
    widths = [max(0.19 * len(keys), 1.9) for _, keys in parts]
    figure = _figure(sum(widths) + 1.2, 4.0)
    grid = figure.subplots(
        1, len(parts), sharey=True, squeeze=False, gridspec_kw={"width_ratios": widths}
    )[0]
    grid[0].set_yscale("log")
    grid[0].set_ylabel("midpoint noise level (bit error rate)")
    together = found.entries[None, ALL]
    fields = _field_of_masks(found)
    for axes, (title, keys) in zip(grid, parts, strict=True):
        axes.set_title(title, fontsize=9.5, loc="left")
        if together.midpoint is not None and together.interval is not None:
            axes.axhline(together.midpoint, color="0.25", lw=1.0, zorder=1)
            axes.axhspan(*together.interval, color="0.5", alpha=0.25, lw=0, zorder=0)
        for i, key in enumerate(keys):
            _draw_midpoint(axes, i, found.entries[key], _FIELD_COLORS[fields.get(key[1], "")])
        axes.set_xlim(-0.7, len(keys) - 0.3)
        axes.grid(axis="y", color="0.92", lw=0.7)
        axes.set_axisbelow(True)
    labels = [_site_label(site.site, site.name) for site in found.sites]
    grid[0].set_xticks(range(len(sites)), labels, rotation=90, fontsize=8)
    if bits:
        _label_strip(grid[1], found)
    low, high = _strip_range(found)
    grid[0].set_ylim(low, high)
    grid[0].yaxis.set_major_locator(LogLocator(numticks=20))
    grid[0].yaxis.set_minor_locator(LogLocator(subs=tuple(range(2, 10)), numticks=200))
    grid[0].yaxis.set_minor_formatter(NullFormatter())
    handles = [Line2D([], [], color="0.25", lw=1.0)] if together.midpoint else []
    names = ["all sites, all bits"] if together.midpoint else []
    known = [mask for mask in found.masks if found.entries[None, mask].midpoint]
    for field in dict.fromkeys(fields[mask] for mask in known if mask in fields):
        handles.append(Line2D([], [], ls="none", marker="o", ms=5, color=_FIELD_COLORS[field]))
        names.append(f"{field} bit")
    if any(irregular(found.entries[key]) for key in [*sites, *bits]):
        handles.append(Line2D([], [], ls="none", marker="o", ms=5, mfc="white", mec="0.2"))
        names.append(_NOT_LIKE)
    if any(found.entries[key].bound == "above" for key in [*sites, *bits]):
        handles.append(Line2D([], [], ls="none", **_ARROW))
        names.append(f"no drop up to {HIGHEST:g}")
    if names:
        figure.legend(handles, names, loc="outside lower center", ncols=5, columnspacing=1.4)
    return figure


_ARROW: dict[str, Any] = {"marker": "^", "ms": 5, "mfc": "white", "mec": "0.55", "mew": 0.8}


def _draw_midpoint(axes: Any, place: int, entry: FoundMidpoint, color: str) -> None:
    if entry.midpoint is None or entry.interval is None:
        axes.plot(place, entry.limit, ls="none", **_ARROW, clip_on=False, zorder=3)
        return
    low, high = entry.interval
    error = [[entry.midpoint - low], [high - entry.midpoint]]
    inside = "white" if irregular(entry) else color
    axes.errorbar(
        place,
        entry.midpoint,
        error,
        fmt="o",
        ms=3.6,
        color=color,
        mfc=inside,
        elinewidth=1.2,
        capsize=2,
        zorder=3,
    )


def _label_strip(axes: Any, found: Sensitivity) -> None:
    places = range(len(found.masks))
    if all(map(is_bit, found.masks)):
        numbers = [mask.removeprefix("msb:") for mask in found.masks]
        axes.set_xticks(places, numbers, fontsize=7 if len(numbers) > 20 else 8)
        axes.set_xlabel("bit of the word (0: top bit)")
    else:
        axes.set_xticks(places, found.masks, rotation=90, fontsize=8)


def _strip_range(found: Sensitivity) -> tuple[float, float]:
    keys = [key for key in found.entries if None in key or ALL in key]
    ends = [
        end
        for key in keys
        for end in (found.entries[key].interval or (found.entries[key].limit,))
        if end is not None
    ]
    return min(ends) / 1.6, max(ends) * 1.6


# -- both ----------------------------------------------------------------------------------------


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _fields(found: Sensitivity) -> list[tuple[str, int, int]]:
    """Fields of the words (name, first column, last) where all sites have one format."""
    names = _field_of_masks(found)
    if len(names) < len(found.masks):
        return []
    spans, start = [], 0
    for field, run in groupby(names.values()):
        count = len(list(run))
        spans.append((field, start, start + count - 1))
        start += count
    return spans


def _field_of_masks(found: Sensitivity) -> dict[str, str]:
    """Field of each mask that is one bit, where all sites have one format."""
    formats = {site.word_format for site in found.sites}
    word = WORD_FORMATS.get(next(iter(formats)) or "") if len(formats) == 1 else None
    if word is None:
        return {}
    return {
        mask: field_of(word, word.noisy_bits - 1 - int(mask.removeprefix("msb:")))
        for mask in found.masks
        if is_bit(mask)
    }


def _site_label(number: int, name: str) -> str:
    if len(name) > _LONGEST_NAME:
        name = f"{name[: _LONGEST_NAME // 2]}…{name[-_LONGEST_NAME // 2 + 1 :]}"
    return plain_text(f"{number}  {name}")


def _short(entry: FoundMidpoint) -> str:
    """Midpoint in two digits."""
    if entry.midpoint is None:
        return midpoint_text(entry)
    mantissa, exponent = f"{entry.midpoint:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}{'?' if irregular(entry) else ''}"
