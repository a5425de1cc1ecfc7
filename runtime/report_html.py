# SPDX-License-Identifier: Apache-2.0
"""A page of results as HTML: one file that asks for nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Any

from .json_values import finite
from .report_curves import Curve
from .report_figure import MOST_TRIALS, Scale, draw, midpoint_words, style
from .report_protection import ProtectionRows, about_html
from .report_sensitivity import SensitivityMap
from .report_tables import (
    MOST_ROWS,
    commands,
    midpoint_csv,
    midpoint_table,
    point_table,
    provenance_tables,
    save_button,
)
from .report_views import ALL, MOST_IN_PANEL, View, differing, label_of, views_of
from .texts import printable

#: Single trials in the page's data, of all curves together.
_MOST_NUMBERS = 200_000
_SECTIONS = ("curves", "midpoints", "points", "sensitivity", "protection", "provenance")

_WORDS = (
    "Each mark is the mean accuracy at one bit error rate, its bar the 95% interval of the mean "
    "for other noise on the same images, small dots single trials. Lines are the fit of "
    "F(x) = (a<sub>max</sub> − a<sub>min</sub>) / (1 + exp((x − μ) / σ)) + a<sub>min</sub> over "
    "{axis}, with a<sub>max</sub> the clean accuracy and a<sub>min</sub> = 1 / classes; the shade "
    "along a line is its {confidence:g}% band, where wide enough to be seen: for the errors of μ "
    "and σ, at each rate by itself. "
    "The centre μ is the midpoint noise level, listed below each figure on the same axis with its "
    "{confidence:g}% interval. Dashes at the height of a<sub>max</sub> are the clean accuracy."
)

_COLUMNS = (
    "Half level: the rate at which the measured means, without any fit, cross half way between "
    "clean and chance accuracy. Sigma: σ of the fit. 99% noise: the rate at which the fit is 99% "
    "of the clean accuracy."
)


@dataclass(frozen=True)
class Content:
    """The part of a page that changes as points come.

    Attributes
    ----------
    main : str
        HTML.
    data : dict
        For the script, as `json.dumps` takes it.
    """

    main: str
    data: dict[str, Any]


def content(
    curves: Sequence[Curve],
    maps: Sequence[SensitivityMap] = (),
    protections: Sequence[ProtectionRows] = (),
    notes: Sequence[str] = (),
) -> Content:
    """Return the part of a page that shows curves.

    Parameters
    ----------
    curves : sequence of Curve
    maps : sequence of SensitivityMap
    protections : sequence of ProtectionRows
    notes : sequence of str
        What readers must know, such as what was left out.
    """
    scale, points = Scale.of(curves), _curve_data(curves)
    sections = [_curves_section(curves, scale, notes)]
    csv: dict[str, list[list[Any]]] = {}
    if curves:
        table = midpoint_table(curves)
        html = f'<p class="soft">{_COLUMNS}</p>{table.html(sort=True, save=True)}'
        sections.append(_section("midpoints", "Midpoints", html))
        sections.append(_section("points", "Points", _points(curves, points)))
        csv["midpoints"] = midpoint_csv(curves)
    if maps:
        html = "".join(found.html() for found in maps)
        sections.append(_section("sensitivity", "Sensitivity of sites and bits", html))
    if protections:
        sections.append(_section("protection", "Protection", about_html(list(protections))))
    csv |= {found.key: found.csv() for found in maps}
    csv |= {found.key: found.csv() for found in protections}
    if curves:
        sections.append(_section("provenance", "Provenance", _provenance(curves)))
    data = {
        "axis": scale.as_dict(),
        "curves": points,
        "csv": finite(csv),
        "style": style(plain=True),
    }
    return Content("".join(sections), data)


def page(title: str, about: str, shown: Content, *, live: bool = False) -> str:
    """Return a whole page.

    Parameters
    ----------
    title, about : str
    shown : Content
    live : bool
        Whether the page asks its server for newer content.
    """
    css, script = _asset("page.css") + style(), _asset("page.js")
    text = json.dumps(shown.data, allow_nan=False, separators=(",", ":"))
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    progress = (
        '<div id="progress"><progress id="progress-bar" max="1" aria-label="points measured" '
        'hidden></progress><span id="progress-text" role="status">…</span></div>'
    )
    return (
        f'<!doctype html>\n<html lang="en"{" data-live" if live else ""}><head>'
        '<meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy(live)}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="referrer" content="no-referrer"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{css}</style></head><body>"
        '<a class="skip" href="#main">Skip to the results</a><header>'
        '<button type="button" class="js" id="theme">Light or dark</button>'
        f'<h1><bdi>{escape(title)}</bdi></h1><p class="soft" id="about">{escape(about)}</p>'
        f'<nav aria-label="Sections"><ul id="links">{links(shown)}</ul></nav></header>'
        f'{progress if live else ""}<main id="main" tabindex="-1">{shown.main}</main>'
        "<footer><p>Made by NoisyStore. This page holds all of its data and asks for nothing "
        'else.</p></footer><div id="tip" aria-hidden="true" hidden></div>'
        '<div id="said" class="unseen" aria-live="polite"></div>'
        f'<script type="application/json" id="data">{text}</script>'
        f"<script>{script}</script></body></html>\n"
    )


def links(shown: Content) -> str:
    """Return list items that lead to the sections of a page."""
    return "".join(
        f'<li><a href="#{name}">{name.capitalize()}</a></li>'
        for name in _SECTIONS
        if f'<section id="{name}"' in shown.main
    )


def policy(live: bool = False) -> str:
    """Return the content security policy: this style and script alone, and no other address."""
    css, script = _asset("page.css") + style(), _asset("page.js")
    return (
        f"default-src 'none'; style-src {_hash(css)}; script-src {_hash(script)}; "
        f"img-src data: blob:; {'connect-src ' + chr(39) + 'self' + chr(39) + '; ' if live else ''}"
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _asset(name: str) -> str:
    return (files(__package__) / "report_page" / name).read_text(encoding="utf-8")


def _section(key: str, title: str, html: str) -> str:
    return (
        f'<section id="{key}" aria-labelledby="h-{key}"><h2 id="h-{key}">{title}</h2>'
        f"{html}</section>"
    )


def _curves_section(curves: Sequence[Curve], scale: Scale, notes: Sequence[str]) -> str:
    title = "Accuracy against bit error rate"
    told = "".join(f"<p><strong>Note:</strong> {escape(printable(note))}</p>" for note in notes)
    if not curves:
        return _section("curves", title, f"{told}<p>No points yet at a rate above 0.</p>")
    fit = next((curve.fit for curve in curves if curve.fit is not None), None)
    words = _WORDS.format(
        axis="the rate" if fit is not None and fit.axis == "linear" else "log<sub>10</sub> rate",
        confidence=100 * (0.95 if fit is None else fit.confidence),
    )
    views = views_of(curves)
    first = _first(views, len(curves))
    choice = ""
    if len(views) > 1:
        radios = "".join(
            f'<label><input type="radio" name="by" id="by-{view.key}"'
            f"{' checked' if view.key == first else ''}>{escape(view.name)}</label>"
            for view in views
        )
        choice = f"<fieldset><legend>Compare by</legend>{radios}</fieldset>"
    shown = "".join(_view(view, curves, scale) for view in views)
    return _section("curves", title, f'<p class="soft">{words}</p>{told}{choice}{shown}')


def _first(views: Sequence[View], curves: int) -> str:
    """The view that is shown first: all in one figure, else the one with most to compare."""
    if curves <= MOST_IN_PANEL or len(views) == 1:
        return ALL
    order = {key: -place for place, key in enumerate(("format", "mask", "board", "network"))}
    return max(views[1:], key=lambda view: order.get(view.key, -9)).key


def _view(view: View, curves: Sequence[Curve], scale: Scale) -> str:
    figures = []
    for number, panel in enumerate(view.panels):
        name = f"{view.key}-{number}"
        drawn = draw(panel, curves, scale, name)
        buttons = "".join(
            f'<button type="button" class="js" data-picture="{kind}" id="{kind}-{name}" '
            f'aria-label="Save {escape(panel.title)} as {kind.upper()}">{kind.upper()}</button>'
            for kind in ("svg", "png")
        )
        figures.append(
            f"<figure><figcaption><bdi>{escape(panel.title)}</bdi></figcaption>"
            f'<div class="plot" id="plot-{name}">{drawn}</div>'
            f'<div class="pictures">{buttons}</div></figure>'
        )
    if view.alone:
        figures.append(
            f'<p class="soft">{view.alone} curves are not here: no other differs from them in '
            f"{escape(view.name)} alone.</p>"
        )
    return f'<div class="view" data-view="{view.key}">{"".join(figures)}</div>'


def _points(curves: Sequence[Curve], data: Sequence[dict[str, Any]]) -> str:
    table = point_table(curves)
    total = sum(len(curve.rate) for curve in curves)
    less = f" The table has the first {MOST_ROWS:,}." if total > len(table.rows) else ""
    kept = sum(map(len, (t for curve in data for t in curve["correct"])))
    trials = sum(curve.points for curve in curves)
    left = f" The CSV file has {kept:,} of {trials:,} trials." if kept < trials else ""
    return (
        f"<p>{trials:,} measured points, and their means at {total:,} rates.{less}{left}</p>"
        f"{save_button('points')}"
        f'<details id="d-points"><summary>Show the table</summary>{table.html(sort=True)}</details>'
    )


def _provenance(curves: Sequence[Curve]) -> str:
    tables = "".join(table.html() for table in provenance_tables(curves))
    lines = commands(curves)
    again = "".join(f"{escape(line)}\n" for line in lines)
    told = (
        '<details id="d-commands"><summary>Commands that measure this again</summary><p>DATA is '
        f"the data set of the table above.</p><pre>{again}</pre></details>"
    )
    return tables + (told if lines else "")


def _curve_data(curves: Sequence[Curve]) -> list[dict[str, Any]]:
    everywhere = differing(curves)
    rates = max(sum(len(curve.rate) for curve in curves), 1)
    most = min(MOST_TRIALS, max(1, _MOST_NUMBERS // rates))
    return [
        {
            **curve.names,
            "label": label_of(curve, everywhere),
            "model": printable(curve.keys["model"]),
            "images": curve.keys["images"],
            "measure": curve.measure,
            "midpoint": midpoint_words(curve),
            "rate": curve.rate.tolist(),
            "accuracy": finite(curve.accuracy.tolist()),
            "interval": finite(curve.interval.tolist()),
            "count": [len(trials) for trials in curve.trials],
            "correct": [trials[:most] for trials in curve.trials],
        }
        for curve in curves
    ]
