# SPDX-License-Identifier: Apache-2.0
"""Figures of a reproduction in the paper's form, the paper's midpoints marked in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from . import reproduce_paper as paper
from .plot import COLORS, MARKERS, STYLE, check_matplotlib, mean_and_error, save_figure
from .reproduce_settings import Curve, first_bit
from .reproduce_tables import Measured, Results

_FORMAT_COLORS = dict(zip(("float16", "float32", "float64", "int8"), COLORS, strict=False))
_SIZE = (6.4, 4.2)
#: The paper's midpoints: no curve here has this marker.
_PAPER: dict[str, Any] = {"marker": "P", "ms": 7, "mfc": "white", "ls": "none"}


def draw_experiment(name: str, title: str, measured: Results, stem: Path) -> Path:
    """Draw an experiment and write it as PNG and SVG.

    Parameters
    ----------
    name : str
        One of `reproduce_settings.EXPERIMENTS`.
    title : str
    measured : mapping of Curve to Measured
    stem : Path
        Of the two files, without their endings.

    Returns
    -------
    Path
        The PNG file.

    Raises
    ------
    InputError
        matplotlib is not installed, or a file cannot be written.
    """
    matplotlib = check_matplotlib()
    with matplotlib.rc_context(STYLE):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=_SIZE, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        _DRAWN.get(name, _accuracy)(axes, measured)
        axes.set_title(title, fontsize=10.5, loc="left")
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=min(5, -(-len(labels) // 3) if len(labels) > 5 else len(labels)),
            handlelength=1.6,
            columnspacing=1.4,
            title="first noisy bit (0: sign, 1 to 8: exponent, 9 on: mantissa)"
            if name == "fig4"
            else None,
            title_fontsize=8.5,
        )
        for ending in (".png", ".svg"):
            save_figure(figure, stem.with_name(stem.name + ending))
    return stem.with_name(f"{stem.name}.png")


def _accuracy(axes: Any, measured: Results) -> None:
    """Accuracy against bit error rate, a curve each (figures 3 to 6)."""
    from matplotlib import colormaps
    from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter

    many = len(measured) > len(COLORS)
    rates = np.concatenate([np.asarray(m.group.points.rate) for m in measured.values()])
    low, high = rates.min() / 1.3, rates.max() * 1.3
    grid = np.geomspace(low, high, 400)
    label = _labels(measured)
    for i, (curve, found) in enumerate(measured.items()):
        color = colormaps["viridis"](0.95 * i / len(measured)) if many else COLORS[i]
        rate, accuracy, error = mean_and_error(found.group.points)
        axes.errorbar(
            rate,
            accuracy,
            yerr=error,
            fmt=MARKERS[i % len(MARKERS)],
            ms=4,
            mew=0.8,
            mfc="white",
            color=color,
            elinewidth=1.0,
            capsize=2,
            zorder=4,
            label=label[curve],
        )
        fit = found.fit
        if fit.midpoint is None:
            axes.plot(rate, accuracy, color=color, lw=1.0, alpha=0.6, zorder=2)
        else:
            axes.plot(grid, fit.accuracy(grid), color=color, lw=1.5, zorder=3)
        if curve.expected is not None and curve.retraining is None:
            half = (fit.clean_accuracy + fit.chance_accuracy) / 2
            axes.plot([curve.expected], [half], **_PAPER, color=color, zorder=5)
    axes.plot([], [], **_PAPER, color="0.3", label="paper's midpoint")
    chance = next(iter(measured.values())).fit.chance_accuracy
    axes.axhline(chance, color="0.45", lw=0.9, ls=(0, (1, 1.5)), zorder=1)
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_ylim(0, 1)
    axes.xaxis.set_major_locator(LogLocator(numticks=20))
    axes.xaxis.set_minor_locator(LogLocator(subs=tuple(range(2, 10)), numticks=200))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(axis="y", color="0.92", lw=0.7)
    axes.set_axisbelow(True)
    axes.set_xlabel("bit error rate")
    axes.set_ylabel("accuracy")


def _labels(measured: Results) -> dict[Curve, str]:
    """Name each curve by what tells it from the others."""
    if any(curve.retraining for curve in measured):
        return {
            c: "trained without noise"
            if c.retraining is None
            else f"re-trained: {c.retraining.mask} at {c.retraining.rate:g}"
            for c in measured
        }
    for name in ("network", "storage"):
        if len({getattr(curve, name) for curve in measured}) > 1:
            prefix = "VGG-" if name == "network" else ""
            return {curve: prefix + getattr(curve, name) for curve in measured}
    if len(measured) == 1:
        return {curve: f"VGG-{curve.network}" for curve in measured}
    return {curve: f"{first_bit(curve.mask)}" for curve in measured}


def _midpoints(
    axes: Any, found: list[Measured], x: list[float], color: str, marker: str, label: str
) -> None:
    """Midpoints with intervals, and the paper's as hollow diamonds."""
    inside = [(a, m) for a, m in zip(x, found, strict=True) if m.fit.interval is not None]
    if inside:
        at = [a for a, _ in inside]
        middle = np.array([m.fit.midpoint for _, m in inside], dtype=float)
        ends = np.array([m.fit.interval for _, m in inside], dtype=float).T
        axes.errorbar(
            at,
            middle,
            yerr=[middle - ends[0], ends[1] - middle],
            fmt=marker + "-",
            ms=5,
            lw=1.2,
            elinewidth=1.0,
            capsize=3,
            color=color,
            label=label,
            zorder=4,
        )
    expected = [(a, m.curve.expected) for a, m in zip(x, found, strict=True) if m.curve.expected]
    style = _PAPER | {"ls": ":", "lw": 0.8}
    axes.plot(*zip(*expected, strict=True), **style, color=color, zorder=3)


def _finish(axes: Any, xlabel: str) -> None:
    axes.plot([], [], **(_PAPER | {"ls": ":", "lw": 0.8}), color="0.3", label="paper")
    axes.set_yscale("log")
    axes.set_ylabel("midpoint noise level")
    axes.set_xlabel(xlabel)
    axes.grid(axis="y", color="0.92", lw=0.7)
    axes.set_axisbelow(True)


def _networks(measured: Results) -> list[str]:
    return [n for n in paper.NETWORKS if any(curve.network == n for curve in measured)]


def _categories(axes: Any, names: list[str]) -> None:
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.5, len(names) - 0.5)


def _table_2(axes: Any, measured: Results) -> None:
    formats = [f for f in _FORMAT_COLORS if any(curve.storage == f for curve in measured)]
    for i, network in enumerate(_networks(measured)):
        found = [m for curve, m in measured.items() if curve.network == network]
        x = [formats.index(m.curve.storage) + 0.06 * (i - 1.5) for m in found]
        _midpoints(axes, found, x, COLORS[i], MARKERS[i], f"VGG-{network}")
    _categories(axes, formats)
    _finish(axes, "storage format")


def _table_4(axes: Any, measured: Results) -> None:
    networks = _networks(measured)
    for storage in ("int8", "float32"):
        found = [m for curve, m in measured.items() if curve.storage == storage]
        marker = "s" if storage == "int8" else "o"
        x = [float(networks.index(m.curve.network)) for m in found]
        _midpoints(axes, found, x, _FORMAT_COLORS[storage], marker, storage)
    _categories(axes, [f"VGG-{n}" for n in networks])
    _finish(axes, "network")


def _table_5(axes: Any, measured: Results) -> None:
    for i, network in enumerate(_networks(measured)):
        found = [m for curve, m in measured.items() if curve.network == network]
        x = [first_bit(m.curve.mask) + 0.06 * (i - 1.5) for m in found]
        _midpoints(axes, found, x, COLORS[i], MARKERS[i], f"VGG-{network}")
    _finish(axes, "first noisy bit of the exponent (1 is the most significant)")


def _figure_7(axes: Any, measured: Results) -> None:
    formats = list(dict.fromkeys(curve.storage for curve in measured))
    for i, storage in enumerate(formats):
        found = [m for curve, m in measured.items() if curve.storage == storage]
        found.sort(key=lambda m: m.exponent_bits)
        x = [m.exponent_bits / 1e6 for m in found]
        _midpoints(axes, found, x, _FORMAT_COLORS[storage], MARKERS[i], storage)
        for m, at in zip(found, x, strict=True):
            if m.fit.midpoint is not None:
                axes.annotate(
                    m.curve.network,
                    (at, m.fit.midpoint),
                    xytext=(0, 7),
                    textcoords="offset points",
                    ha="center",
                    fontsize=8,
                )
    _finish(axes, "noisy exponent bits of one image, millions (of integers: all bits)")


_DRAWN: dict[str, Callable[[Any, Results], None]] = {
    "table2": _table_2,
    "table4": _table_4,
    "table5": _table_5,
    "fig7": _figure_7,
}
