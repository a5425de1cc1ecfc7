# SPDX-License-Identifier: Apache-2.0
"""One figure of a page as SVG: accuracy against rate, and below it, on the same axis, midpoints."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files

import numpy as np
import numpy.typing as npt

from .plot import describe as describe_fit
from .report_curves import Curve
from .report_views import Panel

COLORS = 7
#: Marks beside each other at one rate; more only cover each other.
MOST_TRIALS = 20
_WIDTH, _LEFT, _RIGHT = 400, 44, 388
_TOP, _BOTTOM = 24, 224
_ROWS, _ROW, _LINE = 268, 34, 14
_LONGEST_LABEL, _LONGEST_TEXT = 31, 62
_HIGHEST = 1.04
_THINNEST = 0.2
# Around (0, 0), in COLORS shapes, so that colour is not all that tells curves apart.
_MARKS = (
    "m-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0z",
    "m-2.7-2.7h5.4v5.4h-5.4z",
    "m0-3.6l3.4 6h-6.8z",
    "m0-3.8l3.8 3.8l-3.8 3.8l-3.8-3.8z",
    "m0 3.6l3.4-6h-6.8z",
    "m-3.2 0l3.2-2v4z m6.4 0l-3.2-2v4z",
    "m-1.2-3.4h2.4v2.2h2.2v2.4h-2.2v2.2h-2.4v-2.2h-2.2v-2.4h2.2z",
)
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Scale:
    """The axis of rates that all figures of a page share.

    Attributes
    ----------
    low, high : float
        Its ends, log10.
    """

    low: float
    high: float

    @classmethod
    def of(cls, curves: Sequence[Curve]) -> Scale:
        """Return the scale on which all points of the curves lie."""
        rates = [curve.rate for curve in curves if len(curve.rate)]
        if not rates:
            return cls(-8.0, 0.0)
        low = math.log10(min(r[0] for r in rates)) - 0.15
        high = math.log10(max(r[-1] for r in rates)) + 0.15
        return cls(low, high) if high - low > 1 else cls(low - 0.5, high + 0.5)

    def x(self, rate: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return places of rates across a figure."""
        share = (np.log10(np.asarray(rate, dtype=np.float64)) - self.low) / (self.high - self.low)
        return np.asarray(_LEFT + share * (_RIGHT - _LEFT))

    def as_dict(self) -> dict[str, float]:
        """What a script needs to find points in a figure."""
        return {
            **{"low": self.low, "high": self.high, "left": _LEFT, "right": _RIGHT},
            **{"top": _TOP, "bottom": _BOTTOM, "highest": _HIGHEST},
        }


def style(plain: bool = False) -> str:
    """Return the CSS of figures; `plain`: in light colours and without variables."""
    css = (files(__package__) / "report_page" / "figure.css").read_text(encoding="utf-8")
    return re.sub(r"var\(--[a-z0-9]+,([^()]+)\)", r"\1", css) if plain else css


def draw(
    panel: Panel, curves: Sequence[Curve], scale: Scale, name: str, *, alone: bool = False
) -> str:
    """Return a figure as an SVG element.

    Parameters
    ----------
    panel : Panel
    curves : sequence of Curve
        All; the panel has their numbers.
    scale : Scale
    name : str
        Unique in the page: where identifiers begin.
    alone : bool
        A file of its own, with its style.
    """
    chosen = [curves[i] for i in panel.curves]
    # Long labels have a line of their own, above the midpoints.
    tall = any(len(label) > _LONGEST_LABEL for label in panel.labels)
    row = _ROW + _LINE * tall
    height = _ROWS + row * len(chosen) + 2
    what = "agreement" if all(c.measure == "agreement" for c in chosen) else "accuracy"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="ns" viewBox="0 0 {_WIDTH} {height}" '
        f'width="{_WIDTH}" height="{height}" role="img" aria-labelledby="{name}-t {name}-d">',
        f'<title id="{name}-t">{escape(panel.title)}</title>',
        f'<desc id="{name}-d">{escape(_summary(panel, chosen, what))}</desc>',
    ]
    if alone:
        parts.append(f"<style>{style(plain=True)}</style>")
        parts.append(f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>')
    parts.append(_axes(scale, height, what, chosen))
    looks = list(zip(panel.curves, chosen, panel.styles, strict=True))
    # Below all curves, so that no band covers another curve's points.
    parts += [_band(curve, number, look, scale) for number, curve, look in looks]
    for number, curve, look in looks:
        parts.append(_curve(curve, number, look, scale, only=len(chosen) == 1))
    for place, (number, curve, look) in enumerate(looks):
        top = _ROWS + row * place
        parts.append(_row(curve, number, look, panel.labels[place], scale, top, tall))
    return "".join([*parts, "</svg>"])


def _summary(panel: Panel, chosen: Sequence[Curve], what: str) -> str:
    found = "; ".join(
        f"{label}: {midpoint_words(curve)}"
        for label, curve in zip(panel.labels, chosen, strict=True)
    )
    return f"{what.capitalize()} against bit error rate, and the midpoint of each curve. {found}."


def midpoint_words(curve: Curve) -> str:
    """Return midpoint and interval of a curve, or where it lies, in a few words."""
    return "no fit" if curve.fit is None else describe_fit(curve.fit).removeprefix("midpoint ")


def _y(accuracy: npt.ArrayLike) -> npt.NDArray[np.float64]:
    share = np.asarray(accuracy, dtype=np.float64) / _HIGHEST
    return np.asarray(_BOTTOM - share * (_BOTTOM - _TOP))


def _axes(scale: Scale, height: int, what: str, chosen: Sequence[Curve]) -> str:
    first, last = math.ceil(scale.low), math.floor(scale.high)
    step = 1 + (last - first) // 9
    decades = range(first, last + 1, step)
    xs = [float(x) for x in scale.x([10.0**d for d in decades])]
    levels = (0, 20, 40, 60, 80, 100)
    ys = [float(y) for y in _y([level / 100 for level in levels])]
    grid = "".join(f"M{_LEFT} {y:.1f}H{_RIGHT}" for y in ys)
    grid += "".join(f"M{x:.1f} {_TOP}V{_BOTTOM}M{x:.1f} {_ROWS - 6}V{height - 4}" for x in xs)
    parts = [
        f'<path class="grid" d="{grid}"/>',
        f'<path class="frame" d="M{_LEFT} {_TOP}V{_BOTTOM}H{_RIGHT}"/>',
        f'<text class="small soft" x="{_LEFT - 38}" y="13">{what}, %</text>',
        f'<text class="mid" x="{(_LEFT + _RIGHT) / 2}" y="{_BOTTOM + 32}">bit error rate</text>',
    ]
    parts += [
        f'<text class="small soft end" x="{_LEFT - 6}" y="{y + 4:.1f}">{level}</text>'
        for level, y in zip(levels, ys, strict=True)
    ]
    parts += [
        f'<text class="small soft mid" x="{x:.1f}" y="{_BOTTOM + 15}">10'
        f"{str(d).translate(_SUPERSCRIPT)}</text>"
        for d, x in zip(decades, xs, strict=True)
    ]
    for chance in sorted({c.chance_accuracy for c in chosen if c.chance_accuracy is not None}):
        y = float(_y(chance))
        parts.append(
            f'<path class="chance" d="M{_LEFT} {y:.1f}H{_RIGHT}"/>'
            f'<text class="small soft" x="{_LEFT + 4}" y="{y - 4:.1f}">chance '
            f"{100 * chance:.4g}%</text>"
        )
    return "".join(parts)


def _drawn_rates(curve: Curve, scale: Scale) -> npt.NDArray[np.float64]:
    """Rates at which the fit is drawn: not far beyond those measured, where it is a guess."""
    ends = np.log10([curve.rate[0] / 3, curve.rate[-1] * 3])
    return np.asarray(10.0 ** np.linspace(max(ends[0], scale.low), min(ends[1], scale.high), 70))


def _line(xs: npt.NDArray[np.float64], ys: npt.NDArray[np.float64]) -> str:
    return "L".join(f"{x:.1f} {y:.1f}" for x, y in zip(xs, ys, strict=True))


def _band(curve: Curve, number: int, look: int, scale: Scale) -> str:
    """The band of the fit, as far as it is wide enough to be seen; empty without one."""
    if curve.fit is None or curve.fit.covariance is None:
        return ""
    rates = _drawn_rates(curve, scale)
    xs, (low, high) = scale.x(rates), _y(curve.fit.band(rates))
    seen = np.flatnonzero(low - high >= _THINNEST)
    if len(seen) < 2:
        return ""
    part = slice(seen[0], seen[-1] + 1)
    outline = _line(np.r_[xs[part], xs[part][::-1]], np.r_[low[part], high[part][::-1]])
    return f'<path class="band c{look % COLORS}" data-i="{number}" d="M{outline}z"/>'


def _curve(curve: Curve, number: int, look: int, scale: Scale, *, only: bool) -> str:
    """Points, intervals, trials and fit of one curve; only one has its clean accuracy labelled."""
    parts = [f'<g class="curve {_classes(look)}" data-i="{number}">']
    clean = curve.clean_accuracy
    if clean is not None:
        y = float(_y(clean))
        end = _RIGHT if only else _LEFT + 14
        parts.append(f'<path class="clean" d="M{_LEFT} {y:.1f}H{end}"/>')
        if only:
            parts.append(
                f'<text class="small soft end" stroke="none" x="{_RIGHT - 2}" y="{y - 4:.1f}">'
                f"clean {100 * clean:.4g}%</text>"
            )
    fit = curve.fit
    if fit is not None and fit.midpoint is not None and fit.interval is not None:
        if only:
            low, middle, high = scale.x([fit.interval[0], fit.midpoint, fit.interval[1]])
            low, high = max(float(low), _LEFT), min(float(high), _RIGHT)
            parts.append(
                f'<path class="span" d="M{low:.1f} {_TOP}H{high:.1f}V{_BOTTOM}H{low:.1f}z"/>'
                f'<path d="M{middle:.1f} {_TOP}V{_BOTTOM}"/>'
            )
        rates = _drawn_rates(curve, scale)
        parts.append(f'<path class="fit" d="M{_line(scale.x(rates), _y(fit.accuracy(rates)))}"/>')
    known = ~np.isnan(curve.accuracy)
    xs, ys = scale.x(curve.rate[known]), _y(curve.accuracy[known])
    images = curve.keys["images"]
    bars = "".join(
        f"M{x:.1f} {a:.1f}V{b:.1f}" for x, (a, b) in zip(xs, _y(curve.interval[known]), strict=True)
    )
    each = [trials for trials in curve.trials if trials]
    dots = "".join(
        f"M{x:.1f} {y:.1f}h0"
        for x, trials in zip(xs, each, strict=True)
        for y in _y(np.array(trials[:MOST_TRIALS]) / images)
        if len(trials) > 1
    )
    mark = _MARKS[look % COLORS]
    marks = "".join(f"M{x:.1f} {y:.1f}{mark}" for x, y in zip(xs, ys, strict=True))
    for kind, path in (("ci", bars), ("trial", dots), ("mark", marks)):
        if path:
            parts.append(f'<path class="{kind}" d="{path}"/>')
    return "".join([*parts, "</g>"])


def _row(
    curve: Curve, number: int, look: int, label: str, scale: Scale, top: int, tall: bool
) -> str:
    """A curve's lines in the list of midpoints, which is the figure's legend too."""
    below = top + _LINE * tall
    y = below + 22
    most = _LONGEST_TEXT if tall else _LONGEST_LABEL
    found = midpoint_words(curve)
    fit = curve.fit
    parts = [
        f'<g class="row {_classes(look)}" data-i="{number}">',
        f"<title>{escape(label)}: {escape(found)}. {escape(curve.reason)}</title>",
        f'<path class="mark" d="M{_LEFT - 36} {top + 8}{_MARKS[look % COLORS]}"/>',
        f'<text x="{_LEFT - 26}" y="{top + 12}">{escape(_short(label, most))}</text>',
        f'<text class="small end" x="{_RIGHT}" y="{below + 12}">{escape(found)}</text>',
    ]
    if fit is None:
        parts.append(
            f'<text class="small soft" x="{_LEFT - 26}" y="{y + 4}">'
            f"{escape(_short(curve.reason, _LONGEST_TEXT))}</text>"
        )
    elif fit.midpoint is None or fit.interval is None:
        # An arrow at the end of the axis beyond which the midpoint lies.
        at, way = (_RIGHT, 1) if fit.bound == "above" else (_LEFT, -1)
        parts.append(
            f'<path class="bar" d="M{at - 24 * way} {y}H{at}m{-6 * way}-4l{6 * way} 4'
            f'l{-6 * way} 4"/>'
        )
    else:
        low, middle, high = scale.x([fit.interval[0], fit.midpoint, fit.interval[1]])
        low, high = max(float(low), _LEFT), min(float(high), _RIGHT)
        parts.append(
            f'<path class="bar" d="M{low:.1f} {y}H{high:.1f}M{low:.1f} {y - 4}v8'
            f'M{high:.1f} {y - 4}v8"/>'
            f'<path class="dot" d="M{middle:.1f} {y}h0"/>'
        )
    return "".join([*parts, "</g>"])


def _classes(look: int) -> str:
    return f"c{look % COLORS} d{look // COLORS % 3}"


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
