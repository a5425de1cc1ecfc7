# SPDX-License-Identifier: Apache-2.0
"""What a search for a midpoint measures, and what it ends with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from .midpoint_curve import Array, Solution
from .midpoint_interval import Cells, Errors


class Experiment(Protocol):
    """What is measured: a network on random images of a data set.

    Attributes
    ----------
    population : int
        Images of the data set.
    independent : bool
        Whether images of one trial have noise of their own; not so where stored weights flip.
    """

    population: int
    independent: bool

    @property
    def price(self) -> int:
        """Most inferences that a noisy image costs: 2 where its clean prediction is needed too."""

    @property
    def inferences(self) -> int:
        """All images run by now, with noise or without."""

    @property
    def chance(self) -> float:
        """Accuracy of guessing."""

    def clean(self, images: int) -> tuple[int, int]:
        """Have at least so many images run without noise; return (correct, images) of all."""

    def noisy(self, rate: float, images: int) -> list[tuple[int, int]]:
        """Run so many random images with fresh noise; return (correct, images) of each trial."""


@dataclass(frozen=True)
class Estimate:
    """What the measured cells say.

    Attributes
    ----------
    solution : Solution
        mu and sigma in decades.
    errors : Errors
        Of both, the clean accuracy's included.
    half_level : float
        log10 of the rate at which the measured curve is half way.
    """

    solution: Solution
    errors: Errors
    half_level: float


@dataclass(frozen=True)
class Outcome:
    """End of a search.

    Attributes
    ----------
    estimate : Estimate or None
        None: no drop within the rates.
    half_width : numpy.ndarray of float64 [2]
        Of the intervals of mu and sigma, in decades; infinite without an estimate.
    bound : "above", "below" or None
        Where the midpoint lies if there is no estimate.
    limit : float or None
        The rate that it lies above or below.
    cells : Cells
        All that was measured.
    reason : str
        Why the search stopped.
    """

    estimate: Estimate | None
    half_width: Array
    bound: str | None
    limit: float | None
    cells: Cells
    reason: str
