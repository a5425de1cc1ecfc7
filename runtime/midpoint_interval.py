# SPDX-License-Identifier: Apache-2.0
"""Standard errors of the midpoint fit: binomial error, spread between trials, choice of images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .midpoint_curve import Array, Solution


@dataclass(frozen=True)
class Cells:
    """Measured cells (one rate, one trial) sorted into the distinct rates.

    Attributes
    ----------
    rate : numpy.ndarray of float64 [R]
        Distinct rates, ascending.
    at : numpy.ndarray of int64 [P]
        Index into `rate` of each cell.
    correct, images : numpy.ndarray of float64 [P]
        Right predictions and images of each cell.
    bits : numpy.ndarray of bool [P, N] or None
        Which images were right.
    clean_bits : numpy.ndarray of bool [N] or None
        Which images are right without noise.
    """

    rate: Array
    at: npt.NDArray[np.int64]
    correct: Array
    images: Array
    bits: npt.NDArray[np.bool_] | None = None
    clean_bits: npt.NDArray[np.bool_] | None = None

    def total(self, values: Array) -> Array:
        """Sum of `values` [P] at each rate, [R]."""
        sums: Array = np.zeros(len(self.rate))
        np.add.at(sums, self.at, values)
        return sums

    @property
    def trials(self) -> Array:
        """Cells at each rate, [R]."""
        return self.total(np.ones(len(self.at)))

    @property
    def accuracy(self) -> Array:
        """Mean accuracy at each rate, [R]."""
        return self.total(self.correct) / self.total(self.images)

    def between_trials(self) -> Array:
        """Variance of one image's worth of accuracy, from the scatter of the trials at each rate.

        Returns
        -------
        numpy.ndarray of float64 [R]
            Equal to F(1 - F) where trials differ by binomial error only; NaN at a single trial.
        """
        deviation = self.correct / self.images - self.accuracy[self.at]
        squares = self.total(self.images * deviation**2)
        degrees = self.trials - 1
        return np.divide(squares, degrees, out=np.full(len(degrees), np.nan), where=degrees > 0)


@dataclass(frozen=True)
class Errors:
    """Standard errors of (mu, sigma), in units of the axis, and what they rest on.

    Attributes
    ----------
    error : numpy.ndarray of float64 [2]
    degrees : float
        Degrees of freedom of the spread that was measured; infinity where binomial error rules.
    dispersion : float
        Variance between trials over binomial variance, as seen by mu; 1 or more.
    """

    error: Array
    degrees: float
    dispersion: float

    def half_width(self, confidence: float) -> Array:
        """Half widths [2] of two-sided intervals (Student's t)."""
        from scipy.special import stdtrit

        degrees = min(self.degrees, 1e6)
        return self.error * float(stdtrit(degrees, 0.5 + confidence / 2))

    def with_clean(self, solution: Solution, variance: float) -> Errors:
        """Return the errors with that of a clean accuracy that was measured apart.

        Parameters
        ----------
        solution : Solution
        variance : float
            Of the clean accuracy.
        """
        squares = self.error**2
        total = squares + solution.clean_influence**2 * variance
        grown = total[0] / squares[0] if squares[0] > 0 else np.inf
        return Errors(np.sqrt(total), self.degrees * grown**2, self.dispersion)


def standard_errors(cells: Cells, solution: Solution, independent: bool = False) -> Errors:
    """Propagate the errors of the measured accuracies through the fit (delta method).

    Every rate contributes its squared influence times its variance. The variance is the binomial
    one times a dispersion common to all rates, at least 1: the scatter between trials, pooled as mu
    sees it (no trials repeated: the scatter about the curve, which lack of fit can only widen).
    With `Cells.bits` the images are clusters instead (an image is easy or hard at every rate and
    in the clean run, so its errors go together), and what trials scatter beyond that is added.

    Parameters
    ----------
    cells : Cells
    solution : Solution
    independent : bool
        All images, those of one trial too, were drawn with noise of their own: the error is the
        binomial one.

    Returns
    -------
    Errors
    """
    images = cells.total(cells.images)
    binomial = np.maximum(solution.fitted * (1 - solution.fitted), 1e-12) / images
    squared = solution.influence**2
    expected = squared @ binomial
    if independent:
        return Errors(np.sqrt(expected), np.inf, 1.0)
    dispersion, degrees = _dispersion(cells, solution, binomial, images)
    measured = max(dispersion, 1.0)
    if cells.bits is None:
        return Errors(np.sqrt(expected * measured), degrees if dispersion > 1 else np.inf, measured)
    drawn = _image_variance(cells, solution)
    within = squared @ _between_trials_of_one_image(cells)
    common = np.maximum(dispersion * expected - within, 0.0)
    total = drawn + common
    if total[0] <= 0:
        return Errors(np.zeros(2), np.inf, measured)
    # Satterthwaite's degrees of freedom of the sum, as far as mu is concerned.
    spare = (drawn[0] / total[0]) ** 2 / (cells.bits.shape[1] - 1)
    if common[0] > 0:
        spare += (dispersion * expected[0] / total[0]) ** 2 / degrees
    return Errors(np.sqrt(total), 1 / spare if spare > 0 else np.inf, measured)


def _dispersion(
    cells: Cells, solution: Solution, binomial: Array, images: Array
) -> tuple[float, float]:
    """Dispersion as mu sees it, and its degrees of freedom (Satterthwaite)."""
    between = cells.between_trials()
    repeated = ~np.isnan(between)
    squared = solution.influence[0] ** 2
    if repeated.any():
        parts = squared[repeated] * between[repeated] / images[repeated]
        reference = float(squared[repeated] @ binomial[repeated])
        spare = cells.trials[repeated] - 1
    else:
        lost = len(images) / max(len(images) - 2, 1)
        parts = squared * (cells.accuracy - solution.fitted) ** 2 * lost
        reference = float(squared @ binomial)
        spare = np.full(len(images), 1 / lost)
    total = float(parts.sum())
    if reference <= 0 or total <= 0:
        return 1.0, np.inf
    return total / reference, 1 / float(np.sum((parts / total) ** 2 / spare))


def _image_variance(cells: Cells, solution: Solution) -> Array:
    """Variance [2] of (mu, sigma) over the drawing of images, their noise included."""
    assert cells.bits is not None
    count = cells.bits.shape[1]
    per_cell = solution.influence[:, cells.at] / cells.trials[cells.at]
    moved = per_cell @ cells.bits
    if cells.clean_bits is not None:
        moved = moved + solution.clean_influence[:, None] * cells.clean_bits
    return moved.var(axis=1, ddof=1) / count


def _between_trials_of_one_image(cells: Cells) -> Array:
    """Variance [R] of the mean accuracy that independent noise in each image alone would give."""
    assert cells.bits is not None
    result = np.zeros(len(cells.rate))
    for i in range(len(cells.rate)):
        rows = cells.bits[cells.at == i]
        if len(rows) > 1:
            result[i] = rows.var(axis=0, ddof=1).mean() / rows.size
    return result
