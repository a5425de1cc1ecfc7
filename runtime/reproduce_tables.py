# SPDX-License-Identifier: Apache-2.0
"""The rows paper | here | ratio of each experiment, and which of its statements are seen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from . import reproduce_paper as paper
from .midpoint import Fit
from .midpoint_groups import Group
from .reproduce_settings import Curve, first_bit


@dataclass(frozen=True)
class Measured:
    """One measured curve.

    Attributes
    ----------
    curve : Curve
    group : Group
        Its points and fit.
    rows : list of dict
        Its points, as `runtime.results.Results.rows` gives them.
    exponent_bits : int
        Noisy exponent bits of one image, over all sites; of integers all noisy bits.
    """

    curve: Curve
    group: Group
    rows: list[dict[str, Any]]
    exponent_bits: int

    @property
    def fit(self) -> Fit:
        """The fit."""
        return self.group.fit

    def lowest_accuracy(self, up_to: float = 1.0) -> float:
        """Lowest mean accuracy at rates up to one, over the clean accuracy."""
        points = self.group.points
        rate = np.asarray(points.rate)
        right, images = np.asarray(points.correct), np.asarray(points.images)
        means = [
            right[rate == r].sum() / images[rate == r].sum() for r in np.unique(rate[rate <= up_to])
        ]
        return float(min(means, default=math.nan)) / self.fit.clean_accuracy


@dataclass(frozen=True)
class Row:
    """One figure of the paper beside the one measured.

    Attributes
    ----------
    experiment, network, storage, mask, quantity : str
        What it is.
    paper : float or None
        None where the paper has none.
    here : float or None
        None where the rates measured do not hold it: see `bound`.
    paper_bound, bound : "above", "below" or None
        The figure is only known to lie on that side of `paper`, or of `limit`.
    interval : (low, high) or None
        95% interval of `here`.
    limit : float or None
    """

    experiment: str
    network: str
    storage: str
    mask: str
    quantity: str
    paper: float | None
    here: float | None
    interval: tuple[float, float] | None = None
    paper_bound: str | None = None
    bound: str | None = None
    limit: float | None = None

    @property
    def ratio(self) -> float | None:
        """Here over paper, where both are known."""
        known = self.paper and self.here is not None and self.paper_bound is None
        return self.here / self.paper if known and self.here and self.paper else None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; bounds only where there are any."""
        values = {
            "experiment": self.experiment,
            "network": self.network,
            "format": self.storage,
            "mask": self.mask,
            "quantity": self.quantity,
            "paper": self.paper,
            "here": self.here,
            "ratio": self.ratio,
            "interval": None if self.interval is None else list(self.interval),
        }
        if self.paper_bound:
            values["paper_bound"] = self.paper_bound
        if self.bound:
            values |= {"bound": self.bound, "limit": self.limit}
        return values


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


Results = Mapping[Curve, Measured]
_OUTSIDE = "a midpoint is outside the rates measured"


def rows_of(experiment: str, measured: Results) -> list[Row]:
    """Return the rows of an experiment.

    Parameters
    ----------
    experiment : str
        One of `reproduce_settings.EXPERIMENTS`.
    measured : mapping of Curve to Measured
        Its curves.
    """
    rows = []
    for curve, found in measured.items():
        if experiment == "table4" and curve.storage == "float32":
            continue
        if experiment == "a2":
            rows += _retrained(found)
            continue
        rows.append(_midpoint(experiment, found))
        if experiment in ("fig3", "fig6", "table4") and curve.network == "A":
            rows += _rate_99(experiment, found)
        if experiment == "table4":
            rows += _improvement(measured, found)
        if experiment == "fig4" and first_bit(curve.mask) >= paper.FIRST_MANTISSA_BIT:
            rows.append(_least(experiment, found))
    return rows


def _label(experiment: str, curve: Curve) -> tuple[str, str, str, str]:
    return experiment, curve.network, curve.storage, curve.mask


def _midpoint(experiment: str, found: Measured, expected: float | None = None) -> Row:
    curve, fit = found.curve, found.fit
    value = curve.expected if expected is None else expected
    above = value is None
    return Row(
        *_label(experiment, curve),
        "midpoint",
        paper.HIGHEST_MASKED if above else value,
        fit.midpoint,
        fit.interval,
        paper_bound="above" if above else None,
        bound=fit.bound,
        limit=fit.limit,
    )


def _rate_99(experiment: str, found: Measured) -> list[Row]:
    expected = paper.RATES_99.get(found.curve.storage)
    if expected is None:
        return []
    return [Row(*_label(experiment, found.curve), "99% noise", expected, found.fit.rate_99)]


def _improvement(measured: Results, found: Measured) -> list[Row]:
    value, interval = ratio(found, measured[Curve(found.curve.network)])
    expected = paper.IMPROVEMENTS[found.curve.network]
    label = _label("table4", found.curve)
    return [Row(*label, "improvement over float32", expected, value, interval)]


def _least(experiment: str, found: Measured) -> Row:
    harmless = first_bit(found.curve.mask) >= paper.FIRST_HARMLESS_BIT
    up_to, name = (0.5, "0.5") if harmless else (1e-2, "1e-2")
    least = found.lowest_accuracy(up_to)
    return Row(
        *_label(experiment, found.curve), f"lowest accuracy up to {name} / clean", 1.0, least
    )


def _retrained(found: Measured) -> list[Row]:
    curve, after = found.curve, found.curve.retraining
    label = "a2", curve.network, curve.storage, "all"
    # A.2 gives one re-trained network, the best of its grid.
    best = after is not None and (after.mask, after.rate) == (
        paper.RETRAINED_MASK,
        paper.RETRAINED_RATE,
    )
    name = "before" if after is None else f"after {after.mask} at {after.rate:g}"
    clean = paper.CLEAN_BEFORE if after is None else None
    midpoint = paper.MIDPOINTS["float32"]["A"] if after is None else paper.MIDPOINT_RETRAINED
    fit = found.fit
    return [
        Row(*label, f"clean accuracy {name}", clean, fit.clean_accuracy),
        Row(
            *label,
            f"midpoint {name}",
            midpoint if after is None or best else None,
            fit.midpoint,
            fit.interval,
            bound=fit.bound,
            limit=fit.limit,
        ),
    ]


def ratio(over: Measured, under: Measured) -> tuple[float | None, tuple[float, float] | None]:
    """Quotient of two midpoints and its interval; the two are taken for independent."""
    a, b = over.fit, under.fit
    if a.midpoint is None or b.midpoint is None or a.interval is None or b.interval is None:
        return None, None
    value = a.midpoint / b.midpoint
    low = math.hypot(math.log(a.interval[0] / a.midpoint), math.log(b.interval[1] / b.midpoint))
    high = math.hypot(math.log(a.interval[1] / a.midpoint), math.log(b.interval[0] / b.midpoint))
    return value, (value * math.exp(-low), value * math.exp(high))


def findings_of(experiment: str, measured: Results) -> list[Finding]:
    """Return the statements of an experiment's figure or table, each with what is seen of it.

    Parameters
    ----------
    experiment, measured
        As `rows_of` takes them.
    """
    networks = [n for n in paper.NETWORKS if any(c.network == n for c in measured)]
    formats = list(dict.fromkeys(curve.storage for curve in measured))
    found: list[Finding] = []
    if experiment in ("fig3", "table2", "fig7") and len(networks) > 1:
        title = "midpoint falls as the number of noisy exponent bits grows: "
        for storage in formats:
            curves = [measured[Curve(n, storage)] for n in networks]
            if experiment == "fig7":
                curves.sort(key=lambda m: m.exponent_bits)
            order = " > ".join(m.curve.network for m in curves)
            start = f"{storage}: {title if experiment == 'fig7' else ''}{order}"
            found.append(_falling(start, curves))
    if experiment in ("fig3", "table2") and "A" in networks:
        first = [measured[Curve("A")]]
        found.append(_near("VGG-A, float32: within a factor 1.8 of the paper's", first, 1.8))
    if experiment in ("table2", "fig5"):
        for n in networks:
            curves = [measured[Curve(n, f)] for f in ("float16", "float32", "float64")]
            found.append(_falling(f"VGG-{n}: float16 > float32 > float64", curves))
    if experiment == "fig5":
        found += [
            _within(measured[Curve(n, "bfloat16")], measured[Curve(n)], 1.1) for n in networks
        ]
    if experiment == "table5":
        for n in networks:
            curves = [m for c, m in measured.items() if c.network == n]
            found.append(_falling(f"VGG-{n}: rises from exponent bit 1 to 8", curves[::-1]))
            found.append(_near(f"VGG-{n}: each within a factor 2.5 of the paper's", curves, 2.5))
    if experiment == "fig4":
        found += _harmless(measured)
    if experiment in ("table4", "fig6"):
        found += [_gain(measured, n) for n in networks]
    if experiment == "a2":
        found += _retraining_gain(measured)
    return found


def _falling(statement: str, curves: Sequence[Measured]) -> Finding:
    """Whether each curve's midpoint is above the next one's."""
    seen, steps = [], []
    for over, under in pairwise(curves):
        value, interval = ratio(over, under)
        if value is not None and interval is not None:
            steps.append(_interval(value, interval))
            seen.append(True if value > 1 else None if interval[1] > 1 else False)
        else:
            # A midpoint above the rates measured is more than one inside; of two, who knows.
            seen.append(_BEYOND.get((over.fit.bound, under.fit.bound)))
    holds = False if False in seen else None if None in seen else True
    return Finding(statement, holds, "ratios " + ", ".join(steps))


_BEYOND = {
    ("above", None): True,
    ("above", "below"): True,
    (None, "below"): True,
    (None, "above"): False,
    ("below", None): False,
    ("below", "above"): False,
}


def _interval(value: float, interval: tuple[float, float]) -> str:
    return f"{value:.3g} [{interval[0]:.3g}, {interval[1]:.3g}]"


def _near(statement: str, curves: Sequence[Measured], factor: float) -> Finding:
    """Whether each curve's midpoint is near the paper's."""
    factors = []
    for m in curves:
        if m.fit.midpoint is None or m.curve.expected is None:
            return Finding(statement, None, _OUTSIDE)
        factors.append(math.exp(abs(math.log(m.fit.midpoint / m.curve.expected))))
    detail = "factors " + ", ".join(f"{value:.3g}" for value in factors)
    return Finding(statement, max(factors) <= factor, detail)


def _within(over: Measured, under: Measured, factor: float) -> Finding:
    value, interval = ratio(over, under)
    statement = (
        f"{over.curve.storage} within {100 * (factor - 1):.0f}% of {under.curve.storage} (midpoint)"
    )
    if value is None or interval is None:
        return Finding(statement, None, _OUTSIDE)
    return Finding(statement, 1 / factor <= value <= factor, f"ratio {_interval(value, interval)}")


def _harmless(measured: Results) -> list[Finding]:
    cases = {first_bit(curve.mask): found for curve, found in measured.items()}
    mantissa = cases[paper.FIRST_MANTISSA_BIT].lowest_accuracy(1e-2)
    later = min(m.lowest_accuracy() for b, m in cases.items() if b >= paper.FIRST_HARMLESS_BIT)
    return [
        Finding(
            "mantissa only: no drop below 1e-2 (at least 99% of clean)",
            mantissa >= 0.99,
            f"{mantissa:.2%} of clean",
        ),
        Finding(
            "from bit 12 on: no drop at all (at least 99% of clean at every rate up to 0.5)",
            later >= 0.99,
            f"{later:.2%} of clean",
        ),
    ]


def _gain(measured: Results, network: str) -> Finding:
    value, interval = ratio(measured[Curve(network, "int8")], measured[Curve(network)])
    statement = f"VGG-{network}: 8-bit integers stand about three orders of magnitude more"
    if value is None or interval is None:
        return Finding(statement, None, _OUTSIDE)
    detail = f"{_interval(value, interval)} x (150 to 3000 counts)"
    return Finding(statement, 150 <= value <= 3000, detail)


def _retraining_gain(measured: Results) -> list[Finding]:
    before = next((m for c, m in measured.items() if c.retraining is None), None)
    trained = [
        m
        for c, m in measured.items()
        if c.retraining is not None and m.fit.clean_accuracy > paper.CLEAN_ASKED
    ]
    gains = [(ratio(m, before)[0] or 0.0, m) for m in trained] if before is not None else []
    statement = (
        "noisy re-training that keeps a clean accuracy above 80% gains little "
        f"({paper.MIDPOINT_RETRAINED / paper.MIDPOINTS['float32']['A']:.3g} x in the paper)"
    )
    if not gains or before is None:
        return [Finding(statement, False, "no re-trained network has a clean accuracy above 80%")]
    best = max(gains, key=lambda gain: gain[0])[1]
    value, interval = ratio(best, before)
    if value is None or interval is None:
        return [Finding(statement, None, _OUTSIDE)]
    detail = f"{_interval(value, interval)} x (below 1.5 counts)"
    return [Finding(statement, value < 1.5, detail)]
