# SPDX-License-Identifier: Apache-2.0
"""Results of sweeps as one page that needs no network, and as figures."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..ortops.errors import InputError
from ..ortops.files import write_whole
from .report_curves import Curve, Known, read_curves
from .report_figure import Scale, draw
from .report_html import content, page
from .report_protection import read_protection
from .report_sensitivity import read_map
from .report_views import Panel, ordered, views_of
from .texts import printable

#: Curves and rates of a curve in one page; it says what is left out.
MOST_CURVES, MOST_RATES = 400, 250

Paths = Sequence[str | os.PathLike[str]]


def read_all(
    results: Paths, *, axis: str = "log10", confidence: float = 0.95, known: Known | None = None
) -> tuple[list[Curve], list[str]]:
    """Read the curves of results files as one page shows them.

    Parameters
    ----------
    results : sequence of path
    axis, confidence, known
        As `report_curves.read_curves` takes them.

    Returns
    -------
    curves : list of Curve
        Named apart; at most `MOST_CURVES`, of at most `MOST_RATES` rates each.
    notes : list of str
        What was left out.

    Raises
    ------
    InputError
        A file cannot be read or is given twice, or a bad option.
    """
    distinct: set[Path] = set()
    for path in results:
        if Path(path).resolve() in distinct:
            raise InputError(
                f"results file {os.fspath(path)}: expected each file once, got it twice"
            )
        distinct.add(Path(path).resolve())
    curves = [
        curve
        for path in results
        for curve in read_curves(path, axis=axis, confidence=confidence, known=known)
    ]
    notes = []
    if len(curves) > MOST_CURVES:
        notes.append(f"the first {MOST_CURVES} of {len(curves)} curves are shown")
        curves = curves[:MOST_CURVES]
    thinned = [_thinned(curve) for curve in curves]
    less = sum(len(a.rate) > len(b.rate) for a, b in zip(curves, thinned, strict=True))
    if less:
        notes.append(
            f"{less} curves have more than {MOST_RATES} rates: that many of them are shown, evenly "
            "chosen; the fits are those of all"
        )
    named = _named_apart(thinned)
    return [named[i] for i in ordered(named, range(len(named)))], notes


def write_report(
    results: Paths | str | os.PathLike[str],
    output: str | os.PathLike[str] | None,
    *,
    sensitivity: Paths = (),
    protection: Paths = (),
    figures: str | os.PathLike[str] | None = None,
    title: str | None = None,
    axis: str = "log10",
    confidence: float = 0.95,
) -> dict[str, Any]:
    """Write results as one HTML page that asks for nothing else, and as figures.

    Parameters
    ----------
    results : path or sequence of path
        Results files; opened read-only.
    output : path, optional
        The page.
    sensitivity : sequence of path
        Files of `noisystore sensitivity -o`.
    protection : sequence of path
        Files of `noisystore protect -o`.
    figures : path, optional
        A folder, made if it is missing, for each figure as SVG and, with matplotlib, as PNG.
    title : str, optional
    axis, confidence
        Of the fits, as `fit_midpoint` takes them.

    Returns
    -------
    dict
        ``curves`` (their number), ``midpoints`` (those that were found), ``points``, ``notes``,
        and ``files`` that were written.

    Raises
    ------
    InputError
        A file cannot be read, holds no points, or cannot be written, or `output` is one of those
        that are read. Then the page is not written.
    """
    paths = [results] if isinstance(results, (str, os.PathLike)) else list(results)
    for path in (*paths, *sensitivity, *protection):
        if output is not None and Path(path).resolve() == Path(output).resolve():
            raise InputError(
                f"output {os.fspath(output)}: expected another file than {os.fspath(path)}, "
                "which is read"
            )
    curves, notes = read_all(paths, axis=axis, confidence=confidence)
    if not curves:
        raise InputError(
            f"results file {os.fspath(paths[0])}: expected measured points, got none at a rate "
            "above 0: run a sweep first"
        )
    maps = [read_map(path, f"sensitivity-{i + 1}") for i, path in enumerate(sensitivity)]
    designs = [read_protection(path, f"protection-{i + 1}") for i, path in enumerate(protection)]
    written = []
    if figures is not None:
        written += write_figures(curves, Path(figures))
    if output is not None:
        name = printable(title or title_of(paths))
        html = page(name, summary(curves), content(curves, maps, designs, notes))
        write_whole(output, html.encode())
        written.append(os.fspath(output))
    found = sum(curve.fit is not None and curve.fit.midpoint is not None for curve in curves)
    points = sum(curve.points for curve in curves)
    return {
        **{"curves": len(curves), "midpoints": found, "points": points},
        **{"notes": notes, "files": written},
    }


def title_of(results: Paths) -> str:
    """Return the title of a page of results files."""
    names = ", ".join(printable(Path(path).name) for path in results)
    return f"Bit errors and accuracy: {names}"


def summary(curves: Sequence[Curve]) -> str:
    """Return in a sentence what was measured."""
    if not curves:
        return "Nothing is measured yet."
    points = sum(curve.points for curve in curves)
    networks = len({curve.names["network"] for curve in curves})
    last = max(curve.measured[1] for curve in curves)

    return (
        f"{counted(len(curves), 'curve')} of {counted(networks, 'network')}, "
        f"{counted(points, 'measured point')}, the last on {printable(last)[:10]}."
    )


def counted(number: int, word: str) -> str:
    """Return a number and what it counts.

    Examples
    --------
    >>> counted(1, "curve"), counted(2000, "curve")
    ('1 curve', '2,000 curves')
    """
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def write_figures(curves: Sequence[Curve], folder: Path) -> list[str]:
    """Write each figure as SVG, and as PNG where matplotlib is installed and there are fits.

    Parameters
    ----------
    curves : sequence of Curve
    folder : Path
        Made if it is missing.

    Returns
    -------
    list of str
        The files.

    Raises
    ------
    InputError
        The folder or a file cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"figures {folder}: cannot be made ({error.strerror})") from None
    scale = Scale.of(curves)
    write_png = _png_writer(curves)
    written = []
    for view in views_of(curves):
        for number, panel in enumerate(view.panels, 1):
            words = re.sub(r"[^0-9A-Za-z.]+", "-", panel.title)[:60].strip("-.")
            name = f"{view.key}-{number:02d}-{words}"
            drawn = draw(panel, curves, scale, f"{view.key}-{number}", alone=True)
            path = folder / f"{name}.svg"
            write_whole(path, drawn.encode())
            written.append(str(path))
            if write_png(panel, folder / f"{name}.png"):
                written.append(str(folder / f"{name}.png"))
    return written


def _png_writer(curves: Sequence[Curve]) -> Callable[[Panel, Path], bool]:
    from .plot import Curve as PlotCurve
    from .plot import check_matplotlib, plot_accuracy

    try:
        check_matplotlib()
    except InputError:
        return lambda panel, path: False

    def write(panel: Panel, path: Path) -> bool:
        drawn = []
        for number, label in zip(panel.curves, panel.labels, strict=True):
            curve = curves[number]
            if curve.fit is not None:
                drawn.append(PlotCurve(label, points_of(curve), curve.fit))
        if drawn:
            measure = curves[panel.curves[0]].measure
            plot_accuracy(drawn, path, title=panel.title, ylabel=measure)
        return bool(drawn)

    return write


def points_of(curve: Curve) -> Any:
    """Return the points of a curve as `fit_midpoint` takes them, without single predictions."""
    from .midpoint import Points

    counts = [len(trials) for trials in curve.trials]
    correct = [right for trials in curve.trials for right in trials]
    trial = [number for count in counts for number in range(count)]
    images = np.full(len(correct), curve.keys["images"])
    return Points(np.repeat(curve.rate, counts), trial, correct, images)


def _thinned(curve: Curve) -> Curve:
    if len(curve.rate) <= MOST_RATES:
        return curve
    chosen = np.unique(np.linspace(0, len(curve.rate) - 1, MOST_RATES).round().astype(int))
    return replace(
        curve,
        rate=curve.rate[chosen],
        accuracy=curve.accuracy[chosen],
        interval=curve.interval[chosen],
        trials=[curve.trials[i] for i in chosen],
    )


def _named_apart(curves: Sequence[Curve]) -> list[Curve]:
    """Make the names of curves differ, and by no more than that needs.

    Models, or data sets, of one name get a few digits of their SHA-256. Settings and file are named
    only where curves would have the same names without: else boards, of which each has a batch
    size and a file of its own, could not be compared.
    """
    contents: dict[tuple[str, str], set[str]] = defaultdict(set)
    for curve in curves:
        for name in ("model", "data"):
            contents[name, curve.keys[name]].add(curve.keys[f"{name}_sha256"])
    every = []
    for curve in curves:
        names = {**curve.names, "settings": "", "file": ""}
        for name, shown in (("model", "network"), ("data", "data")):
            if len(contents[name, curve.keys[name]]) > 1:
                names[shown] += f" (SHA-256 {printable(curve.keys[f'{name}_sha256'])[:8]})"
        every.append(names)
    for name in ("settings", "file"):
        if len({tuple(names.values()) for names in every}) < len(every):
            for names, curve in zip(every, curves, strict=True):
                names[name] = curve.names[name]
    return [replace(curve, names=names) for curve, names in zip(curves, every, strict=True)]
