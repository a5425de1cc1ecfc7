# SPDX-License-Identifier: Apache-2.0
"""The result of a midpoint fit: parameters, intervals, the curve and its band."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ..ortops.errors import InputError
from .midpoint_curve import Array, logistic
from .midpoint_interval import places_within, t_quantile

AXES = ("log10", "linear")


@dataclass(frozen=True)
class Fit:
    """Result of `fit_midpoint`. Rates are bit error rates; `sigma` is in units of the axis.

    Attributes
    ----------
    midpoint : float or None
        Rate at which eq. 2 is half way between clean and chance accuracy. None where the swept
        range does not hold it: `bound` and `limit` then say what is known.
    bound : "above", "below" or None
        The midpoint lies above the highest rate, or below the lowest.
    limit : float or None
        That highest or lowest rate.
    half_level : float or None
        Rate at which the measured accuracy, made monotone and linear between its points on log10,
        crosses half way. Needs no model of the curve.
    interval : (float, float) or None
        Confidence interval of the midpoint.
    sigma : float or None
        Slope of eq. 2: decades on the log10 axis, a rate on the linear axis.
    sigma_interval : (float, float) or None
        Its confidence interval.
    rate_99 : float or None
        Rate at which the fitted accuracy is 99% of clean (paper, section 6: "99%-noise"); None
        outside the swept range.
    axis : "log10" or "linear"
    clean_accuracy, chance_accuracy : float
        The paper's a_max and a_min = 1 / K.
    confidence : float
    dispersion : float or None
        Variance between trials over binomial variance around the drop, 1 or more.
    covers : "noise" or "noise and images"
        What the intervals hold for: other draws of the noise on these images, or on other images
        of the same kind too (`Points.bits` given).
    rates, points, images : int
        Distinct rates, points, and images of the largest point.
    covariance : ((float, float), (float, float)) or None
        Of mu and sigma, in squared units of the axis; mu is the midpoint's place on it. None where
        the drop falls between two neighbouring rates, so that sigma is only a bound, and of
        `find_midpoint`, whose search is for mu.
    degrees : float or None
        Degrees of freedom of the intervals' Student's t; 1e6 where binomial error rules.
    """

    midpoint: float | None
    bound: str | None
    limit: float | None
    half_level: float | None
    interval: tuple[float, float] | None
    sigma: float | None
    sigma_interval: tuple[float, float] | None
    rate_99: float | None
    axis: str
    clean_accuracy: float
    chance_accuracy: float
    confidence: float
    dispersion: float | None
    covers: str
    rates: int
    points: int
    images: int
    covariance: tuple[tuple[float, float], tuple[float, float]] | None = field(
        default=None, repr=False
    )
    degrees: float | None = field(default=None, repr=False)

    def __str__(self) -> str:
        """Midpoint, accuracies and amounts in two lines."""
        if self.midpoint is None or self.interval is None:
            end = "highest" if self.bound == "above" else "lowest"
            found = f"midpoint {self.bound} {self.limit:.3g}, the {end} rate"
        else:
            low, high = self.interval
            found = (
                f"midpoint {self.midpoint:.3g}, {100 * self.confidence:g}% interval "
                f"[{low:.3g}, {high:.3g}] (covers {self.covers})"
            )
        return (
            f"{found}\nclean accuracy {self.clean_accuracy:.4f}, chance "
            f"{self.chance_accuracy:.4f}; {self.points:,} points at {self.rates:,} rates, "
            f"{self.images:,} images"
        )

    def accuracy(self, rate: npt.ArrayLike) -> Array:
        """Fitted accuracy at `rate` (paper eq. 2).

        Raises
        ------
        InputError
            There is no fitted curve, because the sweep does not hold the midpoint.
        """
        if self.sigma is None:
            raise InputError("this sweep does not hold its midpoint: there is no curve to evaluate")
        return self._at(self._offset(rate) / self.sigma)

    def band(self, rate: npt.ArrayLike) -> Array:
        """Pointwise confidence band of the fitted accuracy at `rate`, of the fit's confidence.

        Eq. 2 at all ``z = (x - mu) / sigma``, x the rate's place on the axis, with

        ``|x - (mu + sigma * z)| <= t * sqrt(var(mu) + 2 * z * cov(mu, sigma) + z**2 * var(sigma))``

        and Student's t of `degrees` (Fieller's theorem). So it stays between chance and clean
        accuracy, and half way between them it is as wide as `interval`. It covers what the
        intervals cover (`covers`), at each rate by itself, not the whole curve at once. It is of
        the fit's parameters: that the measured curve is not quite logistic is no part of it, and
        clean and chance accuracy are taken as known.

        Parameters
        ----------
        rate : array_like of float, above 0

        Returns
        -------
        numpy.ndarray of float64, shape of `rate` with 2 (low, high) in front

        Raises
        ------
        InputError
            The fit has no `covariance`.
        """
        if self.covariance is None or self.degrees is None or self.sigma is None:
            raise InputError(
                "this fit has no band: its sweep does not hold the midpoint, or has too few rates "
                "around it: sweep more rates there"
            )
        offset, t = self._offset(rate), t_quantile(self.degrees, self.confidence)
        return self._at(places_within(offset, self.sigma, np.array(self.covariance), t)[::-1])

    def _offset(self, rate: npt.ArrayLike) -> Array:
        """Return by how much rates lie above the midpoint on the axis."""
        x, mu = (to_axis(np.asarray(r, dtype=np.float64), self.axis) for r in (rate, self.midpoint))
        return x - mu

    def _at(self, z: Array) -> Array:
        return logistic(z, 0.0, 1.0, self.clean_accuracy, self.chance_accuracy)

    def as_dict(self) -> dict[str, Any]:
        """Fields as plain values for JSON; `bound` and `limit` only where there is no midpoint."""
        values = asdict(self)
        for name in ("interval", "sigma_interval"):
            values[name] = None if values[name] is None else list(values[name])
        if self.covariance is not None:
            values["covariance"] = [list(row) for row in self.covariance]
        if self.bound is None:
            del values["bound"], values["limit"]
        return values


def to_axis(rate: Array, axis: str) -> Array:
    """Return places of rates on an axis."""
    return np.log10(rate) if axis == "log10" else rate


def to_rate(x: float, axis: str) -> float:
    """Return the rate at a place on an axis, at most 1."""
    return 10.0 ** min(float(x), 0.0) if axis == "log10" else min(max(float(x), 0.0), 1.0)
