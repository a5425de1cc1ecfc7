# SPDX-License-Identifier: Apache-2.0
"""What resistance samples say without a fitted curve, and how well the log-normal fits them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..ortops.errors import InputError
from .rram import Array, Condition, LogNormal, Threshold

#: Fewest samples of which the fit is judged.
_LEAST_JUDGED = 8


@dataclass(frozen=True)
class SampleErrors:
    """Errors counted in the samples at one threshold.

    Attributes
    ----------
    threshold : Threshold
        Its errors are shares of the samples.
    overlap : bool
        False: some threshold parts all samples of the two states, so that none is an error.
    """

    threshold: Threshold
    overlap: bool


class _Cuts:
    """Every way in which a threshold can divide the samples.

    Attributes
    ----------
    places : numpy.ndarray of float64 [C]
        One threshold of each: half way in ln R between neighbouring values of either state.
    lrs, hrs : numpy.ndarray of int64 [C]
        LRS samples above it (falling), HRS samples below it (rising).
    """

    def __init__(self, lrs: Array, hrs: Array) -> None:
        values = np.unique(np.concatenate([lrs, hrs]))
        inner = np.exp((np.log(values[:-1]) + np.log(values[1:])) / 2)
        # Rounding must not put the threshold onto the upper value.
        inner = np.clip(inner, values[:-1], np.nextafter(values[1:], 0))
        self.places = np.concatenate([[np.nextafter(values[0], 0)], inner, [values[-1]]])
        self.widths = np.concatenate([[0.0], np.diff(np.log(values)), [0.0]])
        self.lrs = len(lrs) - np.searchsorted(np.sort(lrs), self.places, side="right")
        self.hrs = np.searchsorted(np.sort(hrs), self.places, side="right")
        self.sizes = (len(lrs), len(hrs))

    def best(self, *keys: Array) -> SampleErrors:
        """Return the cut with the least `keys`, the first key ruling; the widest gap of equals."""
        at = int(np.lexsort([-self.widths, *reversed(keys)])[0])
        errors = (float(self.lrs[at] / self.sizes[0]), float(self.hrs[at] / self.sizes[1]))
        overlap = bool((self.lrs + self.hrs).min() > 0)
        return SampleErrors(Threshold(float(self.places[at]), *errors), overlap)


def equal_error_of_samples(lrs: Array, hrs: Array) -> SampleErrors:
    """Return eq. 1 on the samples' own distributions: where the shares of errors are closest.

    Parameters
    ----------
    lrs, hrs : numpy.ndarray of float64 [n]
        Resistances in ohm.
    """
    cuts = _Cuts(lrs, hrs)
    shares = cuts.lrs / len(lrs), cuts.hrs / len(hrs)
    return cuts.best(np.abs(shares[0] - shares[1]), shares[0] + shares[1])


def cheapest_of_samples(
    lrs: Array, hrs: Array, lrs_cost: float = 1.0, hrs_cost: float = 1.0
) -> SampleErrors:
    """Return the threshold, of all, at which the samples' errors cost least.

    Parameters
    ----------
    lrs, hrs : numpy.ndarray of float64 [n]
        Resistances in ohm.
    lrs_cost, hrs_cost : float
        As for `noisystore.runtime.cheapest_threshold`.
    """
    cuts = _Cuts(lrs, hrs)
    return cuts.best(lrs_cost * cuts.lrs / len(lrs) + hrs_cost * cuts.hrs / len(hrs))


def equal_error_interval(lrs: Array, hrs: Array, confidence: float = 0.95) -> tuple[float, float]:
    """Return an interval of the bit error rate of eq. 1 that assumes no distribution.

    At the true threshold the numbers of errors are binomial, with the rate of eq. 1 in both
    states. Which threshold that is, is not known: the interval holds every rate that lies, at some
    threshold, in the Clopper-Pearson intervals of both numbers, each of confidence
    ``sqrt(confidence)``. So it holds the true rate at least as often as `confidence` says, whatever
    the distributions. Samples that do not overlap give a bound: the interval begins at 0 and its
    end is one-sided, about 3.7 / n at 95% (a threshold fixed beforehand would give 3 / n).

    Parameters
    ----------
    lrs, hrs : numpy.ndarray of float64 [n]
        Resistances in ohm.
    confidence : float

    Returns
    -------
    (float, float)
    """
    cuts = _Cuts(lrs, hrs)
    apart = not (cuts.lrs + cuts.hrs).all()
    tail = (1 - math.sqrt(confidence)) / (1 if apart else 2)
    return (0.0 if apart else _meet(cuts, _lower, tail, min), _meet(cuts, _upper, tail, max))


def _meet(
    cuts: _Cuts,
    limit: Callable[[int, int, float], float],
    tail: float,
    outermost: Callable[[float, float], float],
) -> float:
    """Limit where the falling one of the LRS meets the rising one of the HRS."""
    inner = min if outermost is max else max
    low, high = 0, len(cuts.places) - 1

    def pair(i: int) -> tuple[float, float]:
        return (
            limit(int(cuts.lrs[i]), cuts.sizes[0], tail),
            limit(int(cuts.hrs[i]), cuts.sizes[1], tail),
        )

    while low < high:
        middle = (low + high) // 2
        falling, rising = pair(middle)
        if rising >= falling:
            high = middle
        else:
            low = middle + 1
    return outermost(inner(*pair(low)), inner(*pair(max(low - 1, 0))))


def _upper(errors: int, size: int, tail: float) -> float:
    from scipy.special import betaincinv

    return 1.0 if errors == size else float(betaincinv(errors + 1, size - errors, 1 - tail))


def _lower(errors: int, size: int, tail: float) -> float:
    from scipy.special import betaincinv

    return 0.0 if errors == 0 else float(betaincinv(errors, size - errors + 1, tail))


def lognormal_interval(
    condition: Condition, rate: Callable[[LogNormal, LogNormal], float], confidence: float = 0.95
) -> tuple[float, float] | None:
    """Return an interval of a rate that follows from fitted log-normals (delta method).

    Worked out for the probit of the rate, with Student's t. It holds only as far as the
    distributions are log-normal.

    Parameters
    ----------
    condition : Condition
    rate : callable (lrs, hrs) -> float
    confidence : float

    Returns
    -------
    (float, float) or None
        None without samples, or where the rate is next to 0 or 1, or next to parameters that have
        no rate.
    """
    from scipy.special import ndtr, ndtri, stdtrit

    if condition.lrs_samples is None or condition.hrs_samples is None:
        return None

    def probit(shift: npt.NDArray[np.float64]) -> float:
        low, high = condition.lrs, condition.hrs
        lrs = LogNormal(low.median * math.exp(shift[0]), low.sigma * math.exp(shift[1]))
        hrs = LogNormal(high.median * math.exp(shift[2]), high.sigma * math.exp(shift[3]))
        return float(ndtri(rate(lrs, hrs)))

    # The step must keep the order of the medians.
    window = math.log(condition.hrs.median / condition.lrs.median)
    steps = np.diag([min(1e-4, window / 4)] * 4)
    try:
        centre = probit(np.zeros(4))
        slopes = [(probit(step) - probit(-step)) / (2 * step[i]) for i, step in enumerate(steps)]
    except InputError:
        return None
    variance = 0.0
    for i, slope in enumerate(slopes):
        state, size = (
            (condition.lrs, len(condition.lrs_samples))
            if i < 2
            else (condition.hrs, len(condition.hrs_samples))
        )
        variance += slope**2 * (0.5 if i % 2 else state.sigma**2) / size
    if not math.isfinite(centre + variance):
        return None
    degrees = min(len(condition.lrs_samples), len(condition.hrs_samples)) - 1
    half = float(stdtrit(degrees, 0.5 + confidence / 2)) * math.sqrt(variance)
    return float(ndtr(centre - half)), float(ndtr(centre + half))


def lognormal_p_value(samples: Array) -> float | None:
    """Return how likely log-normal samples fit no better: a small value speaks against it.

    Anderson-Darling test of ln R with mean and deviation fitted: it weighs the tails, on which the
    error rates rest, more than the largest distance of Kolmogorov and Smirnov does. The formulas
    are those of D'Agostino and Stephens, *Goodness-of-fit techniques* (1986), table 4.9.

    Parameters
    ----------
    samples : numpy.ndarray of float64 [n]
        Resistances in ohm.

    Returns
    -------
    float or None
        None for fewer than 8 samples.
    """
    from scipy.special import log_ndtr

    n = len(samples)
    if n < _LEAST_JUDGED:
        return None
    logs = np.log(np.sort(samples))
    z = (logs - logs.mean()) / logs.std(ddof=1)
    ranks = 2 * np.arange(1, n + 1) - 1
    statistic = -n - float(ranks @ (log_ndtr(z) + log_ndtr(-z[::-1]))) / n
    a = statistic * (1 + 0.75 / n + 2.25 / n**2)
    if a < 0.2:
        return 1 - math.exp(-13.436 + 101.14 * a - 223.73 * a**2)
    if a < 0.34:
        return 1 - math.exp(-8.318 + 42.796 * a - 59.938 * a**2)
    if a < 0.6:
        return math.exp(0.9177 - 4.279 * a - 1.38 * a**2)
    # The formula holds up to 13; its parabola would turn up at 153.
    return math.exp(1.2937 - 5.709 * min(a, 13.0) + 0.0186 * min(a, 13.0) ** 2)


def plotting_positions(size: int) -> Array:
    """Return the probabilities at which sorted samples stand in a probit plot: (i - 0.5) / n."""
    return (np.arange(size) + 0.5) / size
