# SPDX-License-Identifier: Apache-2.0
"""The logistic curve of paper eq. 2, its weighted fit, and the measured curve made monotone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

#: Least per-image variance in a point's weight: that of 99% accuracy. Without it a model with a
#: clean accuracy of 1 would be fitted to its first few wrong images instead of to its drop.
LEAST_VARIANCE = 0.99 * 0.01


def logistic(x: Array, mu: float, sigma: float, a_max: float, a_min: float) -> Array:
    """Accuracy at `x` by paper eq. 2.

    ``F(x) = 2*da / (1 + exp((x - mu) / sigma)) + a_min`` with ``da = (a_max - a_min) / 2``.

    Parameters
    ----------
    x : numpy.ndarray of float64
        Rate, or log10 of it: the unit of `mu` and `sigma`.
    mu, sigma : float
        Midpoint and slope.
    a_max, a_min : float
        Clean accuracy and chance accuracy.

    Returns
    -------
    numpy.ndarray of float64, shape of `x`
    """
    return a_min + (a_max - a_min) * _falling(x, mu, sigma)


def _falling(x: Array, mu: float, sigma: float) -> Array:
    z = np.clip((x - mu) / sigma, -700.0, 700.0)
    return 1.0 / (1.0 + np.exp(z))


def even_weights(log_rate: Array) -> Array:
    """Weight of each rate as on an even log10 grid: half the distance to either neighbour.

    A sum with these weights is an integral over log10 of the rate, so that it hardly depends on
    where the points lie.

    Parameters
    ----------
    log_rate : numpy.ndarray of float64 [R]
        Ascending, distinct; R >= 2.

    Returns
    -------
    numpy.ndarray of float64 [R], mean 1
    """
    gaps = np.diff(log_rate)
    # The two ends keep a full step: an even grid then has equal weights, plain maximum likelihood.
    weights = np.concatenate(([gaps[0]], (gaps[:-1] + gaps[1:]) / 2, [gaps[-1]]))
    return weights / weights.mean()


def decreasing(accuracy: Array, weight: Array) -> Array:
    """Closest never-rising sequence (isotonic regression by pooling adjacent violators).

    Parameters
    ----------
    accuracy, weight : numpy.ndarray of float64 [R]

    Returns
    -------
    numpy.ndarray of float64 [R]
    """
    blocks: list[tuple[float, float, int]] = []
    for value, mass in zip(accuracy, weight, strict=True):
        block = (float(value), float(mass), 1)
        while blocks and blocks[-1][0] < block[0]:
            left, left_mass, left_size = blocks.pop()
            total = left_mass + block[1]
            mean = (left * left_mass + block[0] * block[1]) / total
            block = (mean, total, left_size + block[2])
        blocks.append(block)
    return np.concatenate([np.full(size, value) for value, _, size in blocks])


def crossing(x: Array, accuracy: Array, level: float) -> float | None:
    """First `x` at which a never-rising measured curve, linear between its points, meets `level`.

    Parameters
    ----------
    x, accuracy : numpy.ndarray of float64 [R]
    level : float

    Returns
    -------
    float or None
        None where the whole curve lies on one side of the level.
    """
    if accuracy[0] < level or accuracy[-1] > level:
        return None
    i = int(np.argmax(accuracy <= level))
    if i == 0 or accuracy[i] == level:
        return float(x[i])
    share = (accuracy[i - 1] - level) / (accuracy[i - 1] - accuracy[i])
    return float(x[i - 1] + share * (x[i] - x[i - 1]))


@dataclass(frozen=True)
class Solution:
    """A fitted curve and how it moves with each measured accuracy.

    Attributes
    ----------
    mu, sigma : float
        In units of the axis.
    fitted : numpy.ndarray of float64 [R]
        F at the measured rates.
    influence : numpy.ndarray of float64 [2, R]
        Derivative of (mu, sigma) with respect to the mean accuracy at each rate.
    clean_influence : numpy.ndarray of float64 [2]
        Derivative of (mu, sigma) with respect to the clean accuracy.
    resolved : bool
        False where the drop falls between two neighbouring rates: sigma is then only a bound.
    """

    mu: float
    sigma: float
    fitted: Array
    influence: Array
    clean_influence: Array
    resolved: bool


def solve(
    x: Array, accuracy: Array, weight: Array, a_max: float, a_min: float, start: float
) -> Solution:
    """Fit eq. 2 by iteratively reweighted least squares with binomial weights.

    Solves ``sum_i weight_i * dF_i * (accuracy_i - F_i) / (F_i * (1 - F_i)) = 0``, the maximum
    likelihood equations of binomial counts where all weights are equal.

    Parameters
    ----------
    x, accuracy, weight : numpy.ndarray of float64 [R]
        Ascending positions on the axis, mean accuracy there, weight of each.
    a_max, a_min : float
        Clean accuracy and chance accuracy, held fixed.
    start : float
        A first guess of mu inside the range of `x`.

    Returns
    -------
    Solution
    """
    right = min(max(int(np.searchsorted(x, start)), 1), len(x) - 1)
    # Eq. 2 goes from 98% to 2% within 8 sigma; less than a gap of the grid cannot be told apart.
    least = float(x[right] - x[right - 1]) / 8
    span = float(x[-1] - x[0])
    level = (accuracy - a_min) / (a_max - a_min)
    inside = x[(level > 0.1) & (level < 0.9)]
    sigma = max(least, float(np.ptp(inside)) / 4.4 if len(inside) > 1 else least)
    mu, damping = start, 1e-3
    for _ in range(200):
        value, slope = _curve(x, mu, sigma, a_max, a_min)
        root = np.sqrt(weight / _variance(value))
        matrix, rest = slope * root, (accuracy - value) * root
        normal, gradient = matrix @ matrix.T, matrix @ rest
        while True:
            step = np.linalg.solve(normal + damping * np.diag(np.diag(normal) + 1e-12), gradient)
            mu_next = float(np.clip(mu + step[0], x[0] - span, x[-1] + span))
            sigma_next = float(
                np.clip(sigma + step[1], max(least, sigma / 3), min(3 * sigma, 4 * span))
            )
            trial = logistic(x, mu_next, sigma_next, a_max, a_min)
            if np.sum(((accuracy - trial) * root) ** 2) <= np.sum(rest**2) or damping > 1e8:
                break
            damping *= 10
        damping = max(damping / 10, 1e-12)
        moved = abs(mu_next - mu) + abs(sigma_next - sigma)
        mu, sigma = mu_next, sigma_next
        if moved <= 1e-10 * sigma:
            break
    value, influence, clean_influence = _influence(x, accuracy, weight, (mu, sigma), a_max, a_min)
    return Solution(mu, sigma, value, influence, clean_influence, sigma > least * 1.0001)


def _influence(
    x: Array,
    accuracy: Array,
    weight: Array,
    solution: tuple[float, float],
    a_max: float,
    a_min: float,
) -> tuple[Array, Array, Array]:
    """F, and the derivatives of the solution by accuracies [2, R] and by the clean accuracy [2].

    Those of the equations that `solve` solves, exactly: where the measured curve is no logistic
    one, second derivatives of F do not cancel.
    """
    mu, sigma = solution
    value, slope = _curve(x, mu, sigma, a_max, a_min)
    falling, z = _falling(x, mu, sigma), np.clip((x - mu) / sigma, -700.0, 700.0)
    height, bend = falling * (1 - falling), 1 - 2 * falling
    by_mu_sigma = height * (bend * z - 1)
    second = np.stack(
        [
            np.stack([height * bend, by_mu_sigma]),
            np.stack([by_mu_sigma, height * (bend * z * z - 2 * z)]),
        ]
    ) * ((a_max - a_min) / sigma**2)
    variance = _variance(value)
    by_value = np.where(value * (1 - value) > LEAST_VARIANCE, 1 - 2 * value, 0.0)
    scaled, rest = slope * (weight / variance), accuracy - value
    moved = 1 + rest * by_value / variance
    normal = (scaled * moved) @ slope.T - second @ (weight * rest / variance)
    if np.linalg.eigvalsh(normal)[0] <= 0:
        moved, normal = np.ones_like(x), scaled @ slope.T
    influence = np.linalg.pinv(normal) @ scaled
    # `slope` grows with the clean accuracy, too, but that only scales sums that are 0.
    return value, influence, -influence @ (falling * moved)


def _variance(value: Array) -> Array:
    return np.maximum(value * (1 - value), LEAST_VARIANCE)


def _curve(x: Array, mu: float, sigma: float, a_max: float, a_min: float) -> tuple[Array, Array]:
    """F and its derivatives [2, R] with respect to mu and sigma."""
    falling = _falling(x, mu, sigma)
    by_mu = (a_max - a_min) * falling * (1 - falling) / sigma
    slope = np.stack([by_mu, by_mu * np.clip((x - mu) / sigma, -700.0, 700.0)])
    return a_min + (a_max - a_min) * falling, slope
