# SPDX-License-Identifier: Apache-2.0
"""The statements of the paper: which of them are seen in what was measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from . import reproduce_paper as paper
from .reproduce_settings import Curve, first_bit
from .reproduce_tables import Measured, Results, ratio

_OUTSIDE = "a midpoint is outside the rates measured"
_Interval = tuple[float, float]


@dataclass(frozen=True)
class Finding:
    """A statement of the paper, whether it is seen here, and the figures.

    Attributes
    ----------
    statement : str
    holds : bool or None
        None: the intervals leave it open.
    detail : str
    """

    statement: str
    holds: bool | None
    detail: str


def findings_of(experiment: str, measured: Results) -> list[Finding]:
    """Return the statements of an experiment's figure or table, each with what is seen of it.

    A statement holds if whole 95% intervals say so, and fails if one of them says the opposite.
    Statements about curves that are not there are left out, or are about the others.

    Parameters
    ----------
    experiment : str
        One of `reproduce_settings.EXPERIMENTS`.
    measured : mapping of Curve to Measured
        Its curves.
    """
    networks = [n for n in paper.NETWORKS if any(c.network == n for c in measured)]
    formats = list(dict.fromkeys(curve.storage for curve in measured))
    found: list[Finding] = []

    def known(*curves: Curve) -> list[Measured]:
        return [measured[curve] for curve in curves if curve in measured]

    if experiment in ("fig3", "table2", "fig7"):
        title = "midpoint falls as the number of noisy exponent bits grows: "
        for storage in formats:
            curves = known(*(Curve(n, storage) for n in networks))
            if len(curves) < 2:
                continue
            if experiment == "fig7":
                curves.sort(key=lambda m: m.exponent_bits)
            order = " > ".join(m.curve.network for m in curves)
            start = f"{storage}: {title if experiment == 'fig7' else ''}{order}"
            found.append(_ordered(start, pairwise(curves)))
    if experiment in ("fig3", "table2") and (first := known(Curve("A"))):
        found.append(_near("VGG-A, float32: within a factor 1.8 of the paper's", first, 1.8))
    if experiment in ("table2", "fig5"):
        for n in networks:
            curves = known(*(Curve(n, f) for f in ("float16", "float32", "float64")))
            if len(curves) > 1:
                order = " > ".join(m.curve.storage for m in curves)
                found.append(_ordered(f"VGG-{n}: {order}", pairwise(curves)))
    if experiment == "fig5" and len(pair := known(Curve("A", "bfloat16"), Curve("A"))) == 2:
        found.append(
            _quotient("bfloat16 within 10% of float32 (midpoint)", pair[0], pair[1], (1 / 1.1, 1.1))
        )
    if experiment == "table5":
        for n in networks:
            curves = [m for c, m in measured.items() if c.network == n]
            rising = [(later, earlier) for earlier, later in pairwise(curves)]
            if rising:
                found.append(_ordered(f"VGG-{n}: rises from exponent bit 1 to 8", rising))
            found.append(_near(f"VGG-{n}: each within a factor 2.5 of the paper's", curves, 2.5))
    if experiment == "fig4":
        found += _harmless(measured)
    if experiment in ("table4", "fig6"):
        for n in networks:
            more = "about three orders of magnitude more (150 to 3000 times)"
            statement = f"VGG-{n}: 8-bit integers stand {more}"
            if len(pair := known(Curve(n, "int8"), Curve(n))) == 2:
                found.append(_quotient(statement, pair[0], pair[1], (150, 3000)))
    if experiment == "a2" and (before := known(Curve("A"))):
        found.append(_retraining_gain(measured, before[0]))
    return found


def _inside(interval: _Interval, low: float, high: float) -> bool | None:
    """Whether a whole interval lies in a range; None where it lies in it in part."""
    if low <= interval[0] and interval[1] <= high:
        return True
    return False if interval[1] < low or interval[0] > high else None


def _all(seen: Iterable[bool | None]) -> bool | None:
    values = list(seen)
    return False if False in values else None if None in values else True


def _ordered(statement: str, pairs: Iterable[tuple[Measured, Measured]]) -> Finding:
    """Whether the first midpoint of each pair is above the second."""
    seen, steps = [], []
    for over, under in pairs:
        value, interval = ratio(over, under)
        if value is not None and interval is not None:
            steps.append(_text(value, interval))
            seen.append(_inside(interval, 1, math.inf))
        else:
            # A midpoint above the rates measured is more than one inside; of two, who knows.
            seen.append(_BEYOND.get((over.fit.bound, under.fit.bound)))
    return Finding(statement, _all(seen), "ratios " + ", ".join(steps))


_BEYOND = {
    ("above", None): True,
    ("above", "below"): True,
    (None, "below"): True,
    (None, "above"): False,
    ("below", None): False,
    ("below", "above"): False,
}


def _text(value: float, interval: _Interval) -> str:
    return f"{value:.3g} [{interval[0]:.3g}, {interval[1]:.3g}]"


def _near(statement: str, curves: Sequence[Measured], factor: float) -> Finding:
    """Whether each curve's midpoint is near the paper's."""
    seen, factors = [], []
    for m in curves:
        if m.fit.midpoint is None or m.fit.interval is None or m.curve.expected is None:
            return Finding(statement, None, _OUTSIDE)
        seen.append(_inside(m.fit.interval, m.curve.expected / factor, m.curve.expected * factor))
        factors.append(math.exp(abs(math.log(m.fit.midpoint / m.curve.expected))))
    return Finding(statement, _all(seen), "factors " + ", ".join(f"{f:.3g}" for f in factors))


def _quotient(statement: str, over: Measured, under: Measured, span: _Interval) -> Finding:
    """Whether the quotient of two midpoints lies in a range."""
    value, interval = ratio(over, under)
    if value is None or interval is None:
        return Finding(statement, None, _OUTSIDE)
    return Finding(statement, _inside(interval, *span), f"ratio {_text(value, interval)}")


def _harmless(measured: Results) -> list[Finding]:
    cases = {first_bit(curve.mask): found for curve, found in measured.items()}
    statements = {}
    if paper.FIRST_MANTISSA_BIT in cases:
        low = cases[paper.FIRST_MANTISSA_BIT].lowest_accuracy(1e-2)
        statements["mantissa only: no drop below 1e-2 (at least 99% of clean)"] = low
    later = [m.lowest_accuracy() for b, m in cases.items() if b >= paper.FIRST_HARMLESS_BIT]
    if later:
        statement = "from bit 12 on: no drop at all (at least 99% of clean at every rate up to 0.5)"
        statements[statement] = min(later)
    return [Finding(s, low >= 0.99, f"{low:.2%} of clean") for s, low in statements.items()]


def _retraining_gain(measured: Results, before: Measured) -> Finding:
    """Whether no re-trained network that keeps its accuracy stands 1.5 times more noise."""
    gain = paper.MIDPOINT_RETRAINED / paper.MIDPOINTS["float32"]["A"]
    statement = (
        f"noisy re-training that keeps a clean accuracy above {paper.CLEAN_ASKED:.0%} gains little "
        f"({gain:.3g} x in the paper; below 1.5 x here)"
    )
    kept = [
        m
        for c, m in measured.items()
        if c.retraining is not None and m.fit.clean_accuracy > paper.CLEAN_ASKED
    ]
    if not kept:
        return Finding(statement, None, "no re-trained network has such a clean accuracy")
    each = [_quotient("", m, before, (0, 1.5)) for m in kept]
    beyond = [False for m in kept if m.fit.bound == "above"]
    return Finding(statement, _all([*(f.holds for f in each), *beyond]), each[0].detail)
