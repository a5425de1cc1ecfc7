# SPDX-License-Identifier: Apache-2.0
"""The rows paper | here | ratio of each experiment."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
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
class NotFitted:
    """One measured curve that cannot be fitted.

    Attributes
    ----------
    curve : Curve
    rows : list of dict
        Its points, as `runtime.results.Results.rows` gives them.
    reason : str
    """

    curve: Curve
    rows: list[dict[str, Any]]
    reason: str


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
    reason : str
        Why there is no figure here: a curve cannot be fitted. Empty: it can.
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
    reason: str = ""

    @property
    def ratio(self) -> float | None:
        """Here over paper, where both are known."""
        known = self.paper and self.here is not None and self.paper_bound is None
        return self.here / self.paper if known and self.here and self.paper else None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; bounds and a reason only where there are any."""
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
        if self.reason:
            values["not_fitted"] = self.reason
        return values


#: The curves that can be fitted, ...
Results = Mapping[Curve, Measured]
#: ... and all.
All = Mapping[Curve, Measured | NotFitted]


def fitted(measured: All) -> dict[Curve, Measured]:
    """Return the curves that can be fitted."""
    return {curve: found for curve, found in measured.items() if isinstance(found, Measured)}


def rows_of(experiment: str, measured: All) -> list[Row]:
    """Return the rows of an experiment.

    Parameters
    ----------
    experiment : str
        One of `reproduce_settings.EXPERIMENTS`.
    measured : mapping of Curve to Measured or NotFitted
        Its curves.
    """
    rows: list[Row] = []
    for curve, found in measured.items():
        if experiment == "table4" and curve.storage == "float32":
            continue
        if experiment == "a2":
            rows += _retrained(found)
            continue
        if isinstance(found, NotFitted):
            rows.append(_midpoint(experiment, found))
            continue
        if experiment in ("fig3", "table4"):
            rows.append(_clean(experiment, found))
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


def _clean(experiment: str, found: Measured) -> Row:
    curve = found.curve
    expected = paper.CLEAN_BEFORE if (curve.network, curve.storage) == ("A", "float32") else None
    return Row(*_label(experiment, curve), "clean accuracy", expected, found.fit.clean_accuracy)


def _midpoint(experiment: str, found: Measured | NotFitted) -> Row:
    value = found.curve.expected
    above = value is None
    row = Row(
        *_label(experiment, found.curve),
        "midpoint",
        paper.HIGHEST_MASKED if above else value,
        None,
        paper_bound="above" if above else None,
    )
    return _with_midpoint(row, found)


def _with_midpoint(row: Row, found: Measured | NotFitted) -> Row:
    if isinstance(found, NotFitted):
        return replace(row, reason=found.reason)
    fit = found.fit
    return replace(row, here=fit.midpoint, interval=fit.interval, bound=fit.bound, limit=fit.limit)


def _rate_99(experiment: str, found: Measured) -> list[Row]:
    expected = paper.RATES_99.get(found.curve.storage)
    if expected is None:
        return []
    return [Row(*_label(experiment, found.curve), "99% noise", expected, found.fit.rate_99)]


def _improvement(measured: All, found: Measured) -> list[Row]:
    expected = paper.IMPROVEMENTS[found.curve.network]
    label = *_label("table4", found.curve), "improvement over float32"
    under = measured[Curve(found.curve.network)]
    if isinstance(under, NotFitted):
        return [Row(*label, expected, None, reason=f"float32: {under.reason}")]
    return [Row(*label, expected, *ratio(found, under))]


def _least(experiment: str, found: Measured) -> Row:
    harmless = first_bit(found.curve.mask) >= paper.FIRST_HARMLESS_BIT
    up_to, name = (0.5, "0.5") if harmless else (1e-2, "1e-2")
    least = found.lowest_accuracy(up_to)
    return Row(
        *_label(experiment, found.curve), f"lowest accuracy up to {name} / clean", 1.0, least
    )


def _retrained(found: Measured | NotFitted) -> list[Row]:
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
    row = Row(*label, f"midpoint {name}", midpoint if after is None or best else None, None)
    rows = [_with_midpoint(row, found)]
    if isinstance(found, Measured):
        rows.insert(0, Row(*label, f"clean accuracy {name}", clean, found.fit.clean_accuracy))
    return rows


def ratio(over: Measured, under: Measured) -> tuple[float | None, tuple[float, float] | None]:
    """Quotient of two midpoints and its interval; the two are taken for independent."""
    a, b = over.fit, under.fit
    if a.midpoint is None or b.midpoint is None or a.interval is None or b.interval is None:
        return None, None
    value = a.midpoint / b.midpoint
    low = math.hypot(math.log(a.interval[0] / a.midpoint), math.log(b.interval[1] / b.midpoint))
    high = math.hypot(math.log(a.interval[1] / a.midpoint), math.log(b.interval[0] / b.midpoint))
    return value, (value * math.exp(-low), value * math.exp(high))
