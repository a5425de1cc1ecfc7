# SPDX-License-Identifier: Apache-2.0
"""Standard errors of the midpoint fit: binomial error, spread between trials, choice of images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .midpoint_curve import Array, Solution

#: With more degrees of freedom Student's t is the normal distribution.
MOST_DEGREES = 1e6


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
    """Errors of (mu, sigma), in units of the axis, and what they rest on.

    Attributes
    ----------
    covariance : numpy.ndarray of float64 [2, 2]
    degrees : float
        Degrees of freedom of the spread that was measured; infinity where binomial error rules.
    dispersion : float
        Variance between trials over binomial variance, as seen by mu; 1 or more.
    """

    covariance: Array
    degrees: float
    dispersion: float

    @property
    def error(self) -> Array:
        """Standard errors [2]."""
        return np.sqrt(np.diag(self.covariance))

    def half_width(self, confidence: float) -> Array:
        """Half widths [2] of two-sided intervals (Student's t)."""
        return self.error * t_quantile(self.degrees, confidence)

    def with_clean(self, solution: Solution, variance: float) -> Errors:
        """Return the errors with that of a clean accuracy that was measured apart.

        Parameters
        ----------
        solution : Solution
        variance : float
            Of the clean accuracy.
        """
        influence = solution.clean_influence
        total = self.covariance + np.outer(influence, influence) * variance
        grown = total[0, 0] / self.covariance[0, 0] if self.covariance[0, 0] > 0 else np.inf
        return Errors(total, self.degrees * grown**2, self.dispersion)


def t_quantile(degrees: float, confidence: float) -> float:
    """Return by how many standard errors a two-sided interval of Student's t reaches.

    Parameters
    ----------
    degrees : float
        Above `MOST_DEGREES`, infinity too: the normal distribution.
    confidence : float
    """
    from scipy.special import stdtrit

    return float(stdtrit(min(degrees, MOST_DEGREES), 0.5 + confidence / 2))


def places_within(offset: Array, sigma: float, covariance: Array, t: float) -> Array:
    """Interval of ``z = (x - mu) / sigma`` at places x of the axis (Fieller's theorem).

    All z that ``|x - (mu + sigma * z)| <= t * sqrt(var(mu + sigma * z))`` does not rule out, with
    ``var(mu + sigma * z) = var(mu) + 2 * z * cov(mu, sigma) + z**2 * var(sigma)``. As mu + sigma *
    z is linear in both, this holds for large errors, too, where the error of a ratio does not.

    Parameters
    ----------
    offset : numpy.ndarray of float64
        ``x - mu``.
    sigma : float
    covariance : numpy.ndarray of float64 [2, 2]
        Of mu and sigma.
    t : float
        Standard errors to either side.

    Returns
    -------
    numpy.ndarray of float64, shape of `offset` with 2 (low, high) in front
        Infinite to one side or both where sigma cannot be told from 0.
    """
    (var_mu, both), (_, var_sigma) = t**2 * covariance
    # a * z**2 - 2 * b * z + c <= 0; at z = offset / sigma that is so.
    a = (sigma**2 - var_sigma) or -np.finfo(np.float64).tiny
    b, c = offset * sigma + both, offset**2 - var_mu
    discriminant = b**2 - a * c
    large = b + np.copysign(np.sqrt(np.maximum(discriminant, 0.0)), b)
    # The second root from the first: their difference would cancel where a is small.
    other = np.divide(c, large, out=np.zeros_like(large), where=large != 0)
    with np.errstate(over="ignore"):
        roots = np.sort(np.stack([large / a, other]), axis=0)
    if a > 0:
        return roots
    # All beyond the roots, of which the side of the fitted curve is meant.
    above = offset / sigma >= roots.mean(axis=0)
    low = np.where((discriminant > 0) & above, roots[1], -np.inf)
    high = np.where((discriminant > 0) & ~above, roots[0], np.inf)
    return np.stack([low, high])


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
    expected = _propagated(solution, binomial)
    if independent:
        return Errors(expected, np.inf, 1.0)
    dispersion, degrees = _dispersion(cells, solution, binomial, images)
    measured = max(dispersion, 1.0)
    if cells.bits is None:
        return Errors(expected * measured, degrees if dispersion > 1 else np.inf, measured)
    drawn = _image_covariance(cells, solution)
    within = _propagated(solution, _between_trials_of_one_image(cells))
    common = _semidefinite(dispersion * expected - within)
    total = drawn + common
    if total[0, 0] <= 0:
        return Errors(np.zeros((2, 2)), np.inf, measured)
    # Satterthwaite's degrees of freedom of the sum, as far as mu is concerned.
    spare = (drawn[0, 0] / total[0, 0]) ** 2 / (cells.bits.shape[1] - 1)
    if common[0, 0] > 0:
        spare += (dispersion * expected[0, 0] / total[0, 0]) ** 2 / degrees
    return Errors(total, 1 / spare if spare > 0 else np.inf, measured)


def _propagated(solution: Solution, variance: Array) -> Array:
    """Covariance [2, 2] of (mu, sigma) from independent variances [R] of the accuracies."""
    return (solution.influence * variance) @ solution.influence.T


def _semidefinite(matrix: Array) -> Array:
    """Make a difference of two covariances [2, 2] one: no variance below 0, correlation to 1."""
    variance = np.maximum(np.diag(matrix), 0.0)
    most = float(np.sqrt(variance[0] * variance[1]))
    result = np.diag(variance)
    result[0, 1] = result[1, 0] = np.clip(matrix[0, 1], -most, most)
    return result


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


def _image_covariance(cells: Cells, solution: Solution) -> Array:
    """Covariance [2, 2] of (mu, sigma) over the drawing of images, their noise included."""
    assert cells.bits is not None
    count = cells.bits.shape[1]
    per_cell = solution.influence[:, cells.at] / cells.trials[cells.at]
    moved = per_cell @ cells.bits
    if cells.clean_bits is not None:
        moved = moved + solution.clean_influence[:, None] * cells.clean_bits
    return np.cov(moved) / count


def _between_trials_of_one_image(cells: Cells) -> Array:
    """Variance [R] of the mean accuracy that independent noise in each image alone would give."""
    assert cells.bits is not None
    result = np.zeros(len(cells.rate))
    for i in range(len(cells.rate)):
        rows = cells.bits[cells.at == i]
        if len(rows) > 1:
            result[i] = rows.var(axis=0, ddof=1).mean() / rows.size
    return result
