# SPDX-License-Identifier: Apache-2.0
"""The midpoint noise level of a sweep: paper eq. 2 fitted to accuracy against rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..ortops.errors import InputError
from .midpoint_curve import (
    Array,
    Solution,
    crossing,
    decreasing,
    even_weights,
    solve,
)
from .midpoint_fit import AXES, Fit, to_axis, to_rate
from .midpoint_interval import MOST_DEGREES, Cells, standard_errors

#: Largest confidence: beyond, the tails of the errors are not known.
MOST_CONFIDENCE = 0.9999

#: Smallest rate: its square must not leave the range of a float.
LEAST_RATE = 1e-100

#: Distinct rates that a fit of two parameters needs at least.
LEAST_RATES = 3

#: A difference of more than so many of its standard errors is taken for real.
SURE = 2.6


@dataclass(frozen=True)
class Points:
    """Measured points of one sweep, one entry for each (rate, trial).

    Attributes
    ----------
    rate : array_like of float [P]
        Bit error rate, from 1e-100 to 1.
    trial : array_like of int [P]
        Trial number; the trials of one rate are independent draws of the noise.
    correct : array_like of int [P]
        Right predictions.
    images : array_like of int [P]
        Images run.
    bits : array_like of bool [P, N], optional
        Which of the same N images were right. With it the interval also covers the choice of the
        images; without, it holds for the images that were run.
    clean_bits : array_like of bool [N], optional
        Which images are right without noise.
    """

    rate: npt.ArrayLike
    trial: npt.ArrayLike
    correct: npt.ArrayLike
    images: npt.ArrayLike
    bits: npt.ArrayLike | None = None
    clean_bits: npt.ArrayLike | None = None


def fit_midpoint(
    points: Any,
    *,
    clean_accuracy: float | None = None,
    classes: int | None = None,
    axis: str = "log10",
    confidence: float = 0.95,
) -> Fit:
    """Fit the midpoint noise level (paper eq. 2) to the points of a sweep.

    Clean and chance accuracy are held fixed; mu and sigma follow from binomially weighted points,
    each counted as on an even log10 grid, so that the result does not depend on where the points
    lie. On an even grid this is maximum likelihood. (Clean accuracies near 1: see
    `midpoint_curve.LEAST_VARIANCE`.)

    Parameters
    ----------
    points : Points, or a results file's path, Results, SweepSummary or rows
        At least three distinct rates. Results must hold one curve; `fit_results` fits several.
    clean_accuracy : float
        Accuracy of the same images without noise: a_max. Known to results.
    classes : int
        K; chance accuracy a_min = 1 / K. Known to results.
    axis : {"log10", "linear"}
        Axis on which the curve is logistic.
    confidence : float
        Of the intervals; at most 0.9999.

    Returns
    -------
    Fit

    Raises
    ------
    InputError
        Too few rates, values that are no numbers or out of range, arrays of different lengths, a
        clean accuracy that is not clearly above chance (`check_clean`), or results of several
        curves.

    Examples
    --------
    >>> rate = [1e-6, 1e-5, 1e-4, 1e-3]
    >>> points = Points(rate, [0] * 4, [89, 70, 29, 11], [100] * 4)
    >>> fit = fit_midpoint(points, clean_accuracy=0.9, classes=10)
    >>> print(f"{fit.midpoint:.1e}")
    3.5e-05
    """
    check_options(axis, confidence)
    if not isinstance(points, Points):
        return _fit_of_results(points, axis, confidence)
    if clean_accuracy is None or classes is None:
        raise InputError("fit_midpoint: expected clean_accuracy and classes beside points")
    if classes < 2:
        raise InputError(f"classes: expected 2 or more, got {classes!r}")
    if clean_accuracy > 1:
        raise InputError(f"clean accuracy: expected at most 1, got {clean_accuracy:.4g}")
    chance = 1.0 / classes
    cells = _cells(points)
    check_clean(clean_accuracy, chance, int(cells.images.max()))
    common: dict[str, Any] = {
        "axis": axis,
        "clean_accuracy": float(clean_accuracy),
        "chance_accuracy": chance,
        "confidence": confidence,
        "covers": "noise" if cells.bits is None else "noise and images",
        "rates": len(cells.rate),
        "points": len(cells.at),
        "images": int(cells.images.max()),
    }
    x = to_axis(cells.rate, axis)
    log_rate = np.log10(cells.rate)
    accuracy = cells.accuracy
    monotone = decreasing(accuracy, cells.total(cells.images))
    half = crossing(log_rate, monotone, (clean_accuracy + chance) / 2)
    if half is None:
        side = "above" if monotone[-1] > (clean_accuracy + chance) / 2 else "below"
        return _outside(side, cells, None, common)
    start = float(to_axis(np.asarray(10**half), axis))
    solution = solve(x, accuracy, even_weights(log_rate), clean_accuracy, chance, start)
    if not x[0] <= solution.mu <= x[-1]:
        return _outside("above" if solution.mu > x[-1] else "below", cells, float(10**half), common)
    errors = standard_errors(cells, solution)
    width = errors.half_width(confidence)
    low, high = solution.mu - width[0], solution.mu + width[0]
    if not solution.resolved:
        right = min(max(int(np.searchsorted(x, start)), 1), len(x) - 1)
        low, high = min(low, x[right - 1]), max(high, x[right])
    return Fit(
        midpoint=to_rate(solution.mu, axis),
        bound=None,
        limit=None,
        half_level=float(10**half),
        interval=(to_rate(low, axis), to_rate(high, axis)),
        sigma=solution.sigma,
        sigma_interval=(
            float(max(solution.sigma - width[1], 0.0)),
            float(solution.sigma + width[1]),
        ),
        rate_99=_rate_at(0.99 * clean_accuracy, solution, clean_accuracy, chance, cells.rate, axis),
        dispersion=errors.dispersion,
        covariance=_pairs(errors.covariance) if solution.resolved else None,
        degrees=min(errors.degrees, MOST_DEGREES) if solution.resolved else None,
        **common,
    )


def check_options(axis: str, confidence: float) -> None:
    """Check the options of a fit.

    Parameters
    ----------
    axis, confidence
        As `fit_midpoint` takes them.

    Raises
    ------
    InputError
        An unknown axis, or a confidence outside (0, 0.9999].
    """
    if axis not in AXES:
        raise InputError(f"axis: expected log10 or linear, got {axis!r}")
    if not 0 < confidence <= MOST_CONFIDENCE:
        raise InputError(
            f"confidence: expected a number above 0 and at most {MOST_CONFIDENCE}, "
            f"got {confidence!r}"
        )


def check_clean(clean: float, chance: float, images: int) -> None:
    """Check that a network does more than guess.

    Parameters
    ----------
    clean, chance : float
        Clean and chance accuracy.
    images : int
        Of which the clean accuracy is known.

    Raises
    ------
    InputError
        It is within `SURE` standard errors of guessing, so that there may be no drop at all.
    """
    if not clean - chance > SURE * math.sqrt(chance * (1 - chance) / images):
        raise InputError(
            f"clean accuracy: expected clearly more than chance ({chance:.4g}), got {clean:.4g} "
            f"({images} images): there is no drop to find; train first, or take more images"
        )


def _cells(points: Points) -> Cells:
    """Check the points and sort them into distinct rates."""
    try:
        rate, trial, correct, images = (
            np.asarray(values, dtype=np.float64)
            for values in (points.rate, points.trial, points.correct, points.images)
        )
    except (TypeError, ValueError):
        raise InputError(
            "points: rate, trial, correct and images must be arrays of numbers"
        ) from None
    if rate.ndim != 1 or any(other.shape != rate.shape for other in (trial, correct, images)):
        raise InputError(
            "points: expected rate, trial, correct and images of one length, got shapes "
            f"{[list(a.shape) for a in (rate, trial, correct, images)]}"
        )
    distinct, at = np.unique(rate, return_inverse=True)
    if not np.all(np.isfinite(np.stack([rate, trial, correct, images]))):
        raise InputError("points: a rate, trial, count or number of images is NaN or infinite")
    if len(rate) and not (distinct[0] >= LEAST_RATE and distinct[-1] <= 1):
        raise InputError(
            f"points: expected rates from {LEAST_RATE:g} to 1, got {distinct[0]:g} to "
            f"{distinct[-1]:g}"
        )
    if len(distinct) < LEAST_RATES:
        raise InputError(
            f"points: a fit needs {LEAST_RATES} distinct rates or more, got {len(distinct)}: "
            "sweep more rates, for example 1e-8:1e-1:4/decade"
        )
    if not np.all((images >= 1) & (correct >= 0) & (correct <= images)):
        raise InputError("points: expected 1 or more images and 0 <= correct <= images everywhere")
    bits, clean_bits = _bits(points, correct, images)
    return Cells(distinct, at.astype(np.int64), correct, images, bits, clean_bits)


def _bits(
    points: Points, correct: Array, images: Array
) -> tuple[npt.NDArray[np.bool_] | None, npt.NDArray[np.bool_] | None]:
    if points.bits is None:
        return None, None
    bits = np.asarray(points.bits, dtype=bool)
    if bits.ndim != 2 or len(bits) != len(correct) or not np.all(images == bits.shape[1]):
        raise InputError(
            f"points: expected bits of shape [{len(correct)}, images], got {list(bits.shape)}"
        )
    if not np.array_equal(bits.sum(axis=1), correct):
        raise InputError("points: bits and correct disagree")
    if bits.shape[1] < 2:
        return None, None
    if points.clean_bits is None:
        return bits, None
    clean_bits = np.asarray(points.clean_bits, dtype=bool)
    if clean_bits.shape != bits.shape[1:]:
        raise InputError(
            f"points: expected clean_bits of shape {list(bits.shape[1:])}, "
            f"got {list(clean_bits.shape)}"
        )
    return bits, clean_bits


def _outside(side: str, cells: Cells, half: float | None, common: dict[str, Any]) -> Fit:
    limit = cells.rate[-1] if side == "above" else cells.rate[0]
    return Fit(
        midpoint=None,
        bound=side,
        limit=float(limit),
        half_level=half,
        interval=None,
        sigma=None,
        sigma_interval=None,
        rate_99=None,
        dispersion=None,
        **common,
    )


def _rate_at(
    level: float, solution: Solution, a_max: float, a_min: float, rate: Array, axis: str
) -> float | None:
    """Rate at which the fitted curve has accuracy `level`; None outside the swept range."""
    if level <= a_min:
        return None
    x = solution.mu + solution.sigma * math.log((a_max - a_min) / (level - a_min) - 1)
    found = to_rate(x, axis)
    return found if rate[0] <= found <= rate[-1] else None


def _pairs(matrix: Array) -> tuple[tuple[float, float], tuple[float, float]]:
    (a, b), (c, d) = matrix.tolist()
    return (a, b), (c, d)


def _fit_of_results(source: Any, axis: str, confidence: float) -> Fit:
    from .midpoint_groups import fit_results, labels_of

    groups = fit_results(getattr(source, "points", source), axis=axis, confidence=confidence)
    if len(groups) != 1:
        labels = "; ".join(labels_of(groups))
        raise InputError(
            f"fit_midpoint: expected one curve, got {len(groups)} ({labels}): use fit_results"
        )
    return groups[0].fit
