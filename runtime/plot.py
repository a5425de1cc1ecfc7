# SPDX-License-Identifier: Apache-2.0
"""Accuracy against bit error rate as a figure: points, fitted curves, midpoints, intervals."""

from __future__ import annotations

import io
import os
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..ortops.errors import InputError
from ..ortops.files import write_whole
from .midpoint import Fit, Points

FORMATS = (".png", ".svg")

# Okabe and Ito's palette: told apart with any colour vision, and in print.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "os^Dv<>"
# Of titles and labels: characters of a line, lines, characters that leave room for a midpoint.
_LINE, _LINES, _SHORT = 60, 3, 45
STYLE = {
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "noisystore",
}


@dataclass(frozen=True)
class Curve:
    """One sweep of a figure.

    Attributes
    ----------
    label : str
        Its name in the legend.
    points : Points
    fit : Fit
    """

    label: str
    points: Points
    fit: Fit


@dataclass(frozen=True)
class Mark:
    """One condition, such as a cell's forming voltage, at its place on the axis of rates.

    Attributes
    ----------
    label : str
    rate : float
        May be 0, or outside the range of the curves.
    accuracy : float
        Measured there.
    interval : (float, float)
        Of the accuracy.
    """

    label: str
    rate: float
    accuracy: float
    interval: tuple[float, float]


def plot_accuracy(
    curves: Sequence[Curve],
    path: str | os.PathLike[str],
    *,
    title: str = "",
    ylabel: str = "accuracy",
    marks: Sequence[Mark] = (),
    marks_label: str = "",
) -> Path:
    """Draw accuracy against bit error rate and write it as PNG or SVG.

    Each curve has its mean accuracy at each rate, with error bars of one standard error (the
    binomial error or the spread between trials, whichever is larger), the fit of paper eq. 2 with
    its band (`Fit.band`), the midpoint with its interval, and the clean accuracy. The file appears
    at once, or not at all.

    Parameters
    ----------
    curves : sequence of Curve
    path : path
        Ends in .png or .svg.
    title, ylabel : str
    marks : sequence of Mark
        Conditions, each a point with its interval on a labelled line; those outside the range of
        the curves stand at its edge.
    marks_label : str
        Their name in the legend.

    Returns
    -------
    Path
        The file that was written.

    Raises
    ------
    InputError
        Another file ending, no curves, matplotlib is not installed, or the file cannot be
        written.
    """
    path = Path(path)
    check_format(path)
    if not curves:
        raise InputError("plot: expected at least one curve, got none")
    matplotlib = check_matplotlib()
    with matplotlib.rc_context(STYLE):
        figure = _draw(curves, title, ylabel, marks, marks_label)
        save_figure(figure, path)
    return path


def check_format(path: str | os.PathLike[str]) -> None:
    """Raise InputError unless the file name ends in a format that `plot_accuracy` writes."""
    if Path(path).suffix.lower() not in FORMATS:
        raise InputError(f"plot: expected a file name that ends in .png or .svg, got {str(path)!r}")


def check_matplotlib() -> Any:
    """Return the matplotlib module; raise InputError where it is not installed."""
    try:
        import matplotlib
        import matplotlib.figure
    except ImportError:
        raise InputError(
            "plots need matplotlib, which is not installed: pip install noisystore[report]"
        ) from None
    return matplotlib


def plain_text(text: str) -> str:
    """Return text that matplotlib takes for no formula."""
    return text.replace("$", r"\$")


def _lines(text: str) -> str:
    """Return text in lines that fit into a figure; what is cut off is marked."""
    lines = textwrap.wrap(text, _LINE, max_lines=_LINES, placeholder=" …", break_on_hyphens=False)
    return plain_text("\n".join(lines))


def _draw(
    curves: Sequence[Curve], title: str, ylabel: str, marks: Sequence[Mark], marks_label: str
) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    rates = np.concatenate([np.asarray(c.points.rate, dtype=np.float64) for c in curves])
    low, high = rates.min() / 1.3, rates.max() * 1.3
    for i, curve in enumerate(curves):
        _draw_curve(
            axes,
            curve,
            COLORS[i % len(COLORS)],
            MARKERS[i % len(MARKERS)],
            low,
            high,
            alone=len(curves) == 1,
        )
    _draw_clean(axes, curves, high)
    for chance in sorted({curve.fit.chance_accuracy for curve in curves}):
        axes.axhline(chance, color="0.45", lw=0.9, ls=(0, (1, 1.5)), zorder=1)
        axes.annotate(
            f"chance {100 * chance:.4g}%",
            (low, chance),
            xytext=(4, -3),
            va="top",
            textcoords="offset points",
            color="0.35",
            fontsize=8,
        )
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_ylim(0, 1.07)
    _draw_marks(axes, marks, marks_label, low, high)
    axes.xaxis.set_major_locator(LogLocator(numticks=20))
    axes.xaxis.set_minor_locator(LogLocator(subs=tuple(range(2, 10)), numticks=200))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(axis="y", color="0.92", lw=0.7)
    axes.set_axisbelow(True)
    axes.set_xlabel("bit error rate")
    axes.set_ylabel(ylabel)
    if title:
        axes.set_title(_lines(title), fontsize=10.5, loc="left")
    handles, labels = axes.get_legend_handles_labels()
    # Below the axes, where it covers no point; the measured points first.
    order = sorted(range(len(labels)), key=lambda i: not labels[i].startswith("measured"))
    columns = (2 if marks else 3) if len(curves) == 1 else 1 + len(curves) // 5
    while True:
        legend = figure.legend(
            [handles[i] for i in order],
            [labels[i] for i in order],
            loc="outside lower center",
            ncols=columns,
            handlelength=1.6,
            columnspacing=1.4,
        )
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            break
        # Long labels: one column less.
        legend.remove()
        columns -= 1
    # A long legend makes the figure higher, not the axes lower.
    lines = sum(1 + label.count("\n") for label in labels) / columns
    figure.set_figheight(4.0 + 0.18 * max(lines - 4, 0))
    return figure


def _draw_clean(axes: Any, curves: Sequence[Curve], high: float) -> None:
    """Draw each clean accuracy once: in its curve's colour, or grey where curves share it."""
    colors: dict[float, list[str]] = {}
    for i, curve in enumerate(curves):
        colors.setdefault(curve.fit.clean_accuracy, []).append(COLORS[i % len(COLORS)])
    for clean, own in colors.items():
        color = own[0] if len(own) == 1 else "0.45"
        axes.axhline(clean, color=color, lw=0.9, ls=(0, (5, 3)), alpha=0.7, zorder=1)
    top = max(colors)
    axes.annotate(
        f"clean {100 * top:.4g}%" if len(colors) == 1 else "clean",
        (high, top),
        xytext=(-4, 3),
        textcoords="offset points",
        ha="right",
        color="0.35",
        fontsize=8,
    )


def _draw_curve(
    axes: Any, curve: Curve, color: str, marker: str, low: float, high: float, *, alone: bool
) -> None:
    fit = curve.fit
    rate, accuracy, error = mean_and_error(curve.points)
    gap = " " if len(curve.label) <= _SHORT else "\n"
    label = "measured ± 1 s.e." if alone else f"{_lines(curve.label)}:{gap}{describe(fit)}"
    axes.errorbar(
        rate,
        accuracy,
        yerr=error,
        fmt=marker,
        ms=4,
        mew=0.8,
        mfc="white",
        mec=color,
        ecolor=color,
        elinewidth=1.0,
        capsize=2,
        zorder=4,
        label=label,
    )
    if fit.midpoint is None or fit.interval is None:
        return
    grid = np.geomspace(low, high, 400)
    label = f"logistic fit ({fit.axis})"
    if fit.covariance is not None:
        # Under all points and curves, and faint where those of several curves overlap.
        alpha = 0.2 if alone else 0.12
        axes.fill_between(grid, *fit.band(grid), color=color, alpha=alpha, lw=0, zorder=1.5)
        label += f", {100 * fit.confidence:g}% band"
    axes.plot(
        grid, fit.accuracy(grid), color=color, lw=1.6, zorder=3, label=label if alone else None
    )
    axes.axvspan(*fit.interval, color=color, alpha=0.18, lw=0, zorder=0)
    axes.axvline(
        fit.midpoint, color=color, lw=1.0, zorder=2, label=describe(fit) if alone else None
    )


def _draw_marks(axes: Any, marks: Sequence[Mark], label: str, low: float, high: float) -> None:
    edge = (high / low) ** 0.012
    marks = sorted(marks, key=lambda mark: mark.rate)
    places = [min(max(mark.rate, low * edge), high / edge) for mark in marks]
    labels_at = _label_places(marks, places, low, high)
    for i, (mark, at, text_at) in enumerate(zip(marks, places, labels_at, strict=True)):
        error = [[mark.accuracy - mark.interval[0]], [mark.interval[1] - mark.accuracy]]
        axes.errorbar(
            at,
            mark.accuracy,
            yerr=error,
            fmt="D",
            ms=5.5,
            color="0.1",
            elinewidth=1.2,
            capsize=3,
            zorder=6,
            label=None if i else label,
        )
        axes.plot([at, at], [0, mark.accuracy], color="0.1", lw=0.8, ls=(0, (4, 2)), zorder=2)
        high_up = mark.accuracy > 0.5
        arrow = "← " if mark.rate < at else "→ " if mark.rate > at else ""
        axes.annotate(
            f"{arrow}{plain_text(mark.label)}: {mark.rate:.2g}",
            (text_at, mark.interval[0] if high_up else mark.interval[1]),
            xytext=(1, -8 if high_up else 8),
            textcoords="offset points",
            rotation=90,
            ha="left",
            va="top" if high_up else "bottom",
            fontsize=8,
            bbox={"fc": "white", "ec": "none", "alpha": 0.95, "pad": 0.6},
            zorder=7,
        )


def _label_places(
    marks: Sequence[Mark], places: Sequence[float], low: float, high: float
) -> list[float]:
    """Rates at which the labels of sorted marks begin: side by side, all inside the axes."""
    # Room for one line of small print, as a ratio of rates; less where too many labels need it.
    line = (high / low) ** min(0.029, 1 / (len(marks) + 1))
    found: list[float] = []
    for mark, at in zip(marks, places, strict=True):
        # The empty side of a falling curve: below and left of where it is high, else above.
        beside = at / line if mark.accuracy > 0.5 and at / line > low else at
        found.append(max(beside, found[-1] * line) if found else beside)
    limit = high / line
    for i in reversed(range(len(found))):
        found[i] = min(found[i], limit)
        limit = found[i] / line
    return found


def describe(fit: Fit) -> str:
    """Midpoint and interval in a few words, or where it lies instead."""
    if fit.midpoint is None or fit.interval is None:
        return f"midpoint {fit.bound} {fit.limit:.3g}"
    exponent = int(f"{fit.midpoint:.2e}".partition("e")[2])  # of the rounded: never 10.00
    middle, low, high = (value / 10.0**exponent for value in (fit.midpoint, *fit.interval))
    digits = str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"midpoint {middle:.2f} [{low:.2f}, {high:.2f}] × 10{digits}"


def mean_and_error(points: Points) -> tuple[npt.NDArray[np.float64], ...]:
    """Mean accuracy at each distinct rate, and its standard error.

    Returns
    -------
    rate, accuracy, error : numpy.ndarray of float64 [R]
        The error is the larger of the binomial one and that of the spread between trials.
    """
    rate, at = np.unique(np.asarray(points.rate, dtype=np.float64), return_inverse=True)
    correct = np.asarray(points.correct, dtype=np.float64)
    images = np.asarray(points.images, dtype=np.float64)
    total, cells = np.bincount(at, images), np.bincount(at)
    accuracy = np.bincount(at, correct) / total
    squares = np.bincount(at, images * (correct / images - accuracy[at]) ** 2)
    between = squares / np.maximum(cells - 1, 1) / total
    return rate, accuracy, np.sqrt(np.maximum(accuracy * (1 - accuracy) / total, between))


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure as the format that its name ends in, whole or not at all."""
    # A clock-free file: the same sweep gives the same bytes.
    kind = path.suffix.lower()[1:]
    metadata = {"Date": None} if kind == "svg" else None
    drawn = io.BytesIO()
    with warnings.catch_warnings():
        # Names in letters that the font lacks: a PNG has boxes there, an SVG the viewer's font.
        warnings.filterwarnings("ignore", r"Glyph .* missing|Matplotlib currently does not support")
        figure.savefig(drawn, format=kind, dpi=200, metadata=metadata)
    write_whole(path, drawn.getvalue())
