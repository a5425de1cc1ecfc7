# SPDX-License-Identifier: Apache-2.0
"""Which curves stand side by side: one view a dimension in which they differ."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from ..ortops.formats import WORD_FORMATS
from .report_curves import DIMENSIONS, Curve

#: More curves are not told apart in one figure.
MOST_IN_PANEL = 10
ALL = "all"

_FORMS = {"mask": "bits {}", "noisy": "noisy: {}", "directions": "p01:p10 {}"}
_USUAL = {"format": "native", "mask": "all", "noisy": "all sites", "directions": "1:1"}
_NAMED = ("network", "format", "mask", "noisy", "directions")


@dataclass(frozen=True)
class Panel:
    """One figure.

    Attributes
    ----------
    title : str
        What its curves share.
    curves : list of int
        Their numbers.
    labels : list of str
        In what each differs from the others.
    styles : list of int
        Which colour and mark each has: the same for one label in all figures of a view.
    """

    title: str
    curves: list[int]
    labels: list[str]
    styles: list[int]


@dataclass(frozen=True)
class View:
    """Figures that compare along one dimension.

    Attributes
    ----------
    key : str
        One of `DIMENSIONS`, or `ALL`.
    name : str
        Of the choice, for people.
    panels : list of Panel
    alone : int
        Curves that are in none, because no other differs in this dimension alone.
    """

    key: str
    name: str
    panels: list[Panel]
    alone: int


def views_of(curves: Sequence[Curve]) -> list[View]:
    """Return all views of curves: all of them, then one a dimension in which some differ alone."""
    everywhere = differing(curves)
    views = [_all(curves, everywhere)] if curves else []
    for key in everywhere:
        groups: dict[tuple[str, ...], list[int]] = {}
        for i, curve in enumerate(curves):
            same = tuple(value for name, value in curve.names.items() if name != key)
            groups.setdefault(same, []).append(i)
        several = [
            ordered(curves, group)
            for group in groups.values()
            if len({curves[i].names[key] for i in group}) > 1
        ]
        panels = [panel for group in several for panel in _panels(curves, group, everywhere, key)]
        if panels:
            panels = _styled(curves, panels, key)
            alone = len(curves) - sum(map(len, several))
            views.append(View(key, DIMENSIONS[key], panels, alone))
    return views


def differing(curves: Sequence[Curve]) -> list[str]:
    """Return the dimensions in which curves differ."""
    return [key for key in DIMENSIONS if len({curve.names[key] for curve in curves}) > 1]


def describe(curve: Curve, dimensions: Collection[str], usual: bool = False) -> str:
    """Return a curve's names in some dimensions; `usual`: also those that go without saying."""
    parts = []
    for key in DIMENSIONS:
        value = curve.names[key]
        if key in dimensions and value and (usual or value != _USUAL.get(key)):
            words = value if value == "all sites" else _FORMS.get(key, "{}").format(value)
            parts.append("all bits" if (key, value) == ("mask", "all") else words)
    return ", ".join(parts)


def label_of(curve: Curve, everywhere: Collection[str]) -> str:
    """Return a curve's name among all curves, which differ in the dimensions `everywhere`."""
    return describe(curve, {*_NAMED, *everywhere}) or curve.names["network"]


def _all(curves: Sequence[Curve], everywhere: Collection[str]) -> View:
    groups: dict[str, list[int]] = {}
    for i in ordered(curves, range(len(curves))):
        one = len(curves) <= MOST_IN_PANEL
        groups.setdefault("" if one else curves[i].names["network"], []).append(i)
    panels = [panel for group in groups.values() for panel in _panels(curves, group, everywhere)]
    return View(ALL, "nothing (all curves)", panels, 0)


def _panels(
    curves: Sequence[Curve],
    group: Sequence[int],
    everywhere: Collection[str],
    key: str | None = None,
) -> list[Panel]:
    inside = [key] if key else differing([curves[i] for i in group])
    shared = {*_NAMED, *everywhere} - set(inside)
    title = describe(curves[group[0]], shared)
    title = title or (f"by {DIMENSIONS[key]}" if key else "all curves")
    count = -(-len(group) // MOST_IN_PANEL)
    panels = []
    for part in range(count):
        chosen = group[part * len(group) // count : (part + 1) * len(group) // count]
        labels = [describe(curves[i], inside, usual=True) or title for i in chosen]
        which = f" ({part + 1} of {count})" if count > 1 else ""
        panels.append(Panel(title + which, list(chosen), labels, list(range(len(chosen)))))
    return panels


def _styled(curves: Sequence[Curve], panels: Sequence[Panel], key: str) -> list[Panel]:
    everyone = ordered(curves, [i for panel in panels for i in panel.curves], key)
    values = list(dict.fromkeys(curves[i].names[key] for i in everyone))
    return [
        replace(panel, styles=[values.index(curves[i].names[key]) for i in panel.curves])
        for panel in panels
    ]


def ordered(
    curves: Sequence[Curve], numbers: Collection[int], first: str | None = None
) -> list[int]:
    """Return the numbers of some curves by their names, those of the dimension `first` first."""
    formats = list(WORD_FORMATS)
    dimensions = sorted(DIMENSIONS, key=lambda key: key != first)

    def place(number: int) -> list[tuple[int, str, list[tuple[int, str]]]]:
        keys = []
        for key in dimensions:
            value = curves[number].names[key]
            rank = formats.index(value) if value in formats else 99
            rank = 0 if value == _USUAL.get(key) else rank
            keys.append((rank, re.split(r"\d", value, maxsplit=1)[0], _natural(value)))
        return keys

    return sorted(numbers, key=place)


def _natural(text: str) -> list[tuple[int, str]]:
    """Return a sorting key that puts 9 before 10."""
    parts = re.findall(r"[0-9]{1,18}|[^0-9]+|[0-9]+", text)
    return [
        (int(part), "") if part.isdecimal() and len(part) < 19 else (-1, part) for part in parts
    ]
