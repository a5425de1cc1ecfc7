# SPDX-License-Identifier: Apache-2.0
"""Networks that are a curve of accuracy and a random generator, for the midpoint search."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from noisystore.runtime.midpoint_curve import crossing, even_weights, logistic, solve

CLEAN, CHANCE = 0.85, 0.1
Curve = Callable[[np.ndarray], np.ndarray]


def _logistic(mu: float, sigma: float) -> Curve:
    return lambda rate: logistic(np.log10(rate), mu, sigma, CLEAN, CHANCE)


CURVES: dict[str, Curve] = {
    "logistic": _logistic(-5.5, 0.25),
    "gompertz": lambda rate: CHANCE + (CLEAN - CHANCE) * np.exp(-rate / 3e-6),
    "steep": _logistic(-3.3, 0.06),
    "wide": _logistic(-4.1, 0.5),
    "high": lambda rate: CHANCE + (CLEAN - CHANCE) * np.exp(-((rate / 2e-3) ** 1.7)),
    "step": lambda rate: np.where(rate < 2e-5, CLEAN, CHANCE),
}


class SimulatedNetwork:
    """Images are right at random, by a curve.

    Parameters
    ----------
    curve : callable
        Accuracy at rates.
    seed : int
    population : int
        Images; the clean accuracy is a share of them.
    clean, chance : float
    correlation : float
        Of the images of one trial; above 0 they share their flips. 1: a trial is right or wrong.
    trial_images : int
    price : int
    """

    def __init__(
        self,
        curve: Curve,
        seed: int = 0,
        *,
        population: int = 10000,
        clean: float = CLEAN,
        chance: float = CHANCE,
        correlation: float = 0.0,
        trial_images: int | None = None,
        price: int = 1,
    ) -> None:
        self.population, self.chance, self.price = population, chance, price
        self.independent = correlation == 0
        self.inferences = 0
        self.images: dict[float, int] = {}
        self._trial_images = trial_images or (100 if self.independent else 20)
        self._curve, self._correlation = curve, correlation
        self._random = np.random.default_rng(seed)
        self._right = self._random.permutation(population) < round(clean * population)
        self._clean_images = 0

    def clean(self, images: int) -> tuple[int, int]:
        now = max(self._clean_images, min(images, self.population))
        self.inferences += now - self._clean_images
        self._clean_images = now
        return int(self._right[:now].sum()), now

    def noisy(self, rate: float, images: int) -> list[tuple[int, int]]:
        self.images[rate] = self.images.get(rate, 0) + images
        self.inferences += self.price * images
        trials = []
        while images > 0:
            count = min(images, self._trial_images)
            trials.append((self._random.binomial(count, self._accuracy(rate)), count))
            images -= count
        return trials

    def _accuracy(self, rate: float) -> float:
        mean = float(self._curve(np.array([rate]))[0])
        if self.independent:
            return mean
        if self._correlation == 1:
            return float(self._random.random() < mean)
        share = (1 - self._correlation) / self._correlation
        return float(self._random.beta(max(mean * share, 1e-9), max((1 - mean) * share, 1e-9)))


def truth(
    curve: Curve, clean: float = CLEAN, chance: float = CHANCE, per_decade: int = 16
) -> tuple[float, float, float]:
    """mu, sigma and the half level (log10) of eq. 2 fitted to the curve itself."""
    x = np.arange(-12 * per_decade, -0.31 * per_decade) / per_decade
    accuracy = curve(10**x)
    half = crossing(x, accuracy, (clean + chance) / 2)
    assert half is not None
    solution = solve(x, accuracy, even_weights(x), clean, chance, half)
    return solution.mu, solution.sigma, half
