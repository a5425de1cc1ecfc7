# SPDX-License-Identifier: Apache-2.0
"""Resistances of both states as cumulative distributions and probit plots, as in paper fig. 1."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..ortops.errors import InputError
from .plot import COLORS, MARKERS, STYLE, check_format, check_matplotlib, plain_text, save_figure
from .rram import Array, LogNormal
from .rram_report import CellReport
from .rram_samples import plotting_positions

#: Probits that the figure shows without samples further out.
_PROBITS = 3.2
_MOST_POINTS = 2000
#: Probabilities that are written beside the probits.
_MARKED = (0.0001, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999)


def plot_cells(reports: Sequence[CellReport], path: str | os.PathLike[str]) -> Path:
    """Draw LRS (upper) and HRS (lower) as CDF (left) and probit (right), as PNG or SVG.

    Samples are steps and points, fitted log-normals lines; a broken vertical line is the threshold
    from which the rates are taken.

    Parameters
    ----------
    reports : sequence of CellReport
    path : path
        Ends in .png or .svg.

    Returns
    -------
    Path
        The file that was written.

    Raises
    ------
    InputError
        Another file ending, nothing to draw, matplotlib is not installed, or the file cannot be
        written.
    """
    path = Path(path)
    check_format(path)
    if not reports:
        raise InputError("plot: expected at least one condition, got none")
    matplotlib = check_matplotlib()
    with matplotlib.rc_context(STYLE):
        save_figure(_draw(reports), path)
    return path


def _draw(reports: Sequence[CellReport]) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter

    figure = Figure(figsize=(7.2, 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, 2, sharex=True, sharey="col")
    grid[0, 0].set_xscale("log")
    low, high, top = _limits(reports)
    for row, state in enumerate(("LRS", "HRS")):
        for i, report in enumerate(reports):
            cell = report.condition
            fit, samples = (
                (cell.lrs, cell.lrs_samples) if state == "LRS" else (cell.hrs, cell.hrs_samples)
            )
            color, marker = COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)]
            _draw_state(grid[row], fit, samples, color, marker, (low, high))
            for axes in grid[row]:
                axes.axvline(report.used.threshold, color=color, lw=0.9, ls=(0, (4, 3)), zorder=1)
        for axes, name in zip(grid[row], ("CDF", "probit"), strict=True):
            axes.grid(axis="y", color="0.93", lw=0.7)
            axes.set_axisbelow(True)
            axes.set_title(f"{state}, {name}", fontsize=9.5, loc="left")
        grid[row, 0].set_ylabel("share of cycles below R")
        grid[row, 1].set_ylabel("standard deviations")
    grid[0, 0].set_xlim(low, high)
    grid[0, 0].set_ylim(-0.03, 1.03)
    grid[0, 0].yaxis.set_major_formatter(PercentFormatter(1.0))
    grid[0, 1].set_ylim(-top, top)
    # At most some eight labels, however wide the window.
    grid[0, 0].xaxis.set_major_locator(LogLocator(numticks=9))
    grid[0, 0].xaxis.set_minor_locator(LogLocator(subs=tuple(range(2, 10)), numticks=200))
    grid[0, 0].xaxis.set_minor_formatter(NullFormatter())
    for axes in grid[1]:
        axes.set_xlabel("resistance R (ohm)")
    for axes in grid[:, 1]:
        _percent_axis(axes, top)
    handles = [
        Line2D(
            [], [], color=COLORS[i % len(COLORS)], marker=MARKERS[i % len(MARKERS)], ms=4, lw=1.5
        )
        for i in range(len(reports))
    ]
    labels = [f"{plain_text(r.condition.name)}: p = {_rate(r)}" for r in reports]
    handles.append(Line2D([], [], color="0.35", lw=0.9, ls=(0, (4, 3))))
    labels.append(f"threshold ({'log-normal' if reports[0].used.overlap is None else 'samples'})")
    columns = min(len(labels), 4)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, columnspacing=1.6)
    return figure


def _draw_state(
    pair: Any,
    fit: LogNormal,
    samples: Array | None,
    color: str,
    marker: str,
    limits: tuple[float, float],
) -> None:
    from scipy.special import ndtri

    cdf, probit = pair
    grid = np.geomspace(limits[0], limits[1], 400)
    if samples is not None:
        share = plotting_positions(len(samples))
        steps = np.concatenate([[limits[0]], samples, [limits[1]]])
        counts = np.concatenate([np.arange(len(samples) + 1) / len(samples), [1.0]])
        cdf.step(steps, counts, where="post", color=color, lw=0.9, alpha=0.75, zorder=3)
        # The ends are all drawn: they are what the error rate rests on.
        keep = np.unique(
            np.concatenate(
                [
                    np.arange(min(100, len(samples))),
                    np.linspace(0, len(samples) - 1, _MOST_POINTS).astype(int),
                    np.arange(max(len(samples) - 100, 0), len(samples)),
                ]
            )
        )
        probit.plot(
            samples[keep],
            ndtri(share[keep]),
            linestyle="none",
            marker=marker,
            ms=2.6,
            mfc="white",
            mec=color,
            mew=0.6,
            zorder=3,
        )
    cdf.plot(grid, fit.cdf(grid), color=color, lw=1.3, zorder=4)
    probit.plot(grid, fit.probit(grid), color=color, lw=1.1, zorder=2)


def _limits(reports: Sequence[CellReport]) -> tuple[float, float, float]:
    """Least and largest resistance, and largest probit, of the figure."""
    from scipy.special import ndtri

    low, high, most = np.inf, 0.0, 0
    for report in reports:
        c = report.condition
        for fit, samples in ((c.lrs, c.lrs_samples), (c.hrs, c.hrs_samples)):
            # Not beyond what a log axis can show, whatever the parameters.
            spread = min(_PROBITS * fit.sigma, 60.0) * np.array([-1, 1])
            ends = np.exp(np.clip(np.log(fit.median) + spread, -600, 600))
            low, high = min(low, ends[0]), max(high, ends[1])
            if samples is not None:
                low, high = min(low, samples[0]), max(high, samples[-1])
                most = max(most, len(samples))
    top = max(_PROBITS, float(-ndtri(0.5 / most)) + 0.3) if most else _PROBITS
    return float(low / 1.1), float(high * 1.1), top


def _percent_axis(axes: Any, top: float) -> None:
    from scipy.special import ndtr, ndtri

    right = axes.secondary_yaxis("right")
    shown = [p for p in _MARKED if ndtr(-top) < p < ndtr(top)]
    right.set_yticks(ndtri(shown), [f"{100 * p:g}%" for p in shown])
    right.tick_params(labelsize=8, length=2.5)


def _rate(report: CellReport) -> str:
    used = report.used
    if used.p01 == used.p10:
        return f"{used.p01:.2g}"
    return f"{used.p01:.2g} (0→1), {used.p10:.2g} (1→0)"
