# SPDX-License-Identifier: Apache-2.0
"""Accuracy against protected bits, as a picture."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..ortops.errors import InputError
from .plot import STYLE, check_format, check_matplotlib, plain_text, save_figure
from .protection_result import Protection

_DESIGN_COLORS = {"none": "#000000", "clip+nan": "#cc79a7", "clip": "#e69f00", "nan": "#56b4e9"}
_WAYS = (
    ("chosen by protect", "#0072b2", "o"),
    ("all sites equally", "#d55e00", "s"),
    ("greedy by layer", "#009e73", "^"),
)


def plot_protection(found: Protection, path: str | os.PathLike[str]) -> Path:
    """Draw the designs, and the comparison at equal bits where there is one.

    Parameters
    ----------
    found : Protection
    path : path
        Ends in .png or .svg.

    Returns
    -------
    Path

    Raises
    ------
    InputError
        Another file ending, matplotlib is not installed, or the file cannot be written.
    """
    path = Path(path)
    check_format(path)
    if not found.designs:
        raise InputError("plot: expected at least one design, got none")
    matplotlib = check_matplotlib()
    with matplotlib.rc_context(STYLE):
        save_figure(_draw(found), path)
    return path


def _draw(found: Protection) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    axes = figure.add_subplot()
    scale = 100 / max(found.stored_bits, 1)
    if found.compared:
        places = [scale * c.bits for c in found.compared]
        values = (
            [c.accuracy for c in found.compared],
            [c.equal for c in found.compared],
            [c.by_layer for c in found.compared],
        )
        for (label, color, marker), accuracies in zip(_WAYS, values, strict=True):
            axes.plot(places, accuracies, color=color, marker=marker, ms=4, lw=1.4, label=label)
        low = [c.accuracy - c.interval[0] for c in found.compared]
        high = [c.interval[1] - c.accuracy for c in found.compared]
        axes.errorbar(
            places, values[0], yerr=[low, high], fmt="none", ecolor=_WAYS[0][1], capsize=2, lw=1
        )
    for design in found.designs:
        label = "design" if design.mitigation == "none" else f"design with {design.mitigation}"
        axes.errorbar(
            [scale * design.bits],
            [design.accuracy],
            yerr=[[design.accuracy - design.interval[0]], [design.interval[1] - design.accuracy]],
            fmt="*",
            ms=11,
            color=_DESIGN_COLORS[design.mitigation],
            capsize=2,
            lw=1,
            zorder=5,
            label=f"{label}: {design.bits:,} bits",
        )
    first = found.designs[0]
    axes.axhline(first.clean_accuracy, color="0.4", lw=0.9, ls=(0, (5, 3)), label="clean")
    axes.axhline(first.target, color="0.4", lw=0.9, ls=":", label=f"target {found.target}")
    axes.set_xlabel("protected bits (% of the noisy bits)")
    axes.set_ylabel("accuracy")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.margins(y=0.1)
    axes.set_xlim(left=-0.02 * max(axes.get_xlim()[1], 1e-9))
    p01, p10 = found.rate
    rate = f"{p01:g}" if p01 == p10 else f"{p01:g}/{p10:g}"
    axes.set_title(plain_text(f"{found.model}, bit error rate {rate}"))
    figure.legend(loc="outside lower center", ncols=2)
    return figure
