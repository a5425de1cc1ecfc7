# SPDX-License-Identifier: Apache-2.0
"""Rates that are even on log10, whose points stay when their gaps are halved."""

from __future__ import annotations

import math

#: Rates a decade at first.
COARSE = 4
#: A grid is fine enough where its gap is at most this many sigma: sums over it are integrals then.
_GAP = 1.5
#: The grid reaches this many sigma to either side of mu, where eq. 2 is within 1.1% of its ends.
_REACH = 4.5


class RateGrid:
    """Rates between which a midpoint is looked for.

    Parameters
    ----------
    low, high : float
        The highest rate ends the grid; below the lowest it goes on for three gaps, so that a
        midpoint there is found, too.

    Attributes
    ----------
    low, high : float
    per_decade : int
        Rates a decade.
    """

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high
        self.per_decade = COARSE

    @property
    def gap(self) -> float:
        """Decades between two rates."""
        return 1 / self.per_decade

    def all(self) -> list[float]:
        """Return the rates from the lowest to the highest."""
        return self._between(math.log10(self.low), math.log10(self.high))

    def span(self, mu: float, sigma: float, further: tuple[float, float] = (0, 0)) -> list[float]:
        """Return the rates over a drop; at least three to either side of mu where there are any.

        Parameters
        ----------
        mu, sigma : float
            Of the drop, in decades.
        further : (float, float)
            Decades to go on below and above.
        """
        reach = min(max(_REACH * sigma, 3 * self.gap), max(12 * self.gap, 2.0))
        low = max(mu - reach - further[0], math.log10(self.low) - 3 * self.gap)
        return self._between(low, mu + reach + further[1])

    def too_coarse(self, sigma: float) -> bool:
        """Say whether a drop of this slope, in decades, is too steep for the gaps."""
        return self.gap > _GAP * sigma

    def refine(self) -> None:
        """Halve the gaps."""
        self.per_decade *= 2

    def _between(self, low: float, high: float) -> list[float]:
        """Rates from 10**low to 10**high on the grid, and the highest rate if it is one."""
        high_end = math.log10(self.high)
        first = math.ceil(low * self.per_decade - 1e-6)
        last = math.floor(min(high, high_end) * self.per_decade + 1e-6)
        # Rounded, so that a rate is the same number on every grid that holds it.
        rates = [float(f"{10 ** (k / self.per_decade):.5e}") for k in range(first, last + 1)]
        if high < high_end:
            return rates
        # The highest rate takes the place of a point that is very near to it.
        return [*(rate for rate in rates if rate <= self.high * (1 - 1e-3)), self.high]
