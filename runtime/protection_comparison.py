# SPDX-License-Identifier: Apache-2.0
"""Ways to choose protected bits, compared at equal numbers of bits on the same images and flips."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .protection_choice import LITTLE, Screen, bits_at, least_harm
from .protection_runs import Bits, PairedRuns

Interval = tuple[float, float]


@dataclass(frozen=True)
class Compared:
    """Accuracies at one number of protected bits.

    Attributes
    ----------
    bits : int
        Of one sample, that all ways may protect.
    accuracy : float
        Of the bits that `protect` chooses for it.
    interval : (float, float)
        95%.
    equal, by_layer : float
        The same bit positions at all sites, the most harmful ones; and site after site, from the
        most harmful one, its bits in the order of what each does for its size.
    gain_over_equal, gain_over_by_layer : (float, (float, float))
        How much higher the accuracy is, and its 95% interval, from pairs of runs.
    """

    bits: int
    accuracy: float
    interval: Interval
    equal: float
    by_layer: float
    gain_over_equal: tuple[float, Interval]
    gain_over_by_layer: tuple[float, Interval]

    def as_dict(self) -> dict[str, Any]:
        """Fields as plain values for JSON."""
        return dict(vars(self))


def compare(
    runs: PairedRuns, screened: Screen, images: int, show: Callable[[str], None]
) -> list[Compared]:
    """Compare three ways to spend one, two and more bits a word.

    Parameters
    ----------
    runs : PairedRuns
    screened : Screen
    images : int
        For each run, others than the search had.
    show : callable
        Called with what is measured.

    Returns
    -------
    list of Compared
        By number of bits; up to as many a word as do harm.
    """
    samples = runs.verifying(images)
    ranked = sorted(screened.by_bit, key=lambda place: -screened.by_bit[place])
    harmful = sum(harm >= LITTLE for harm in screened.by_bit.values())
    found = []
    for number in range(1, harmful + 1):
        equal = np.bitwise_or.reduce([bits_at(runs, place) for place in ranked[:number]])
        bits = screened.bits(equal)
        ours = screened.protected(least_harm(screened.units, bits), len(runs.bits))
        ways = (ours, equal, by_layer(screened, bits, len(runs.bits)))
        results = []
        for name, way in zip(("chosen", "equal", "by layer"), ways, strict=True):
            show(f"comparing {bits:,} bits: {name}")
            results.append(runs.run(way, samples, "compare"))
        mine = results[0]
        found.append(
            Compared(
                bits,
                mine.accuracy,
                mine.accuracy_interval(),
                results[1].accuracy,
                results[2].accuracy,
                mine.gain_over(results[1]),
                mine.gain_over(results[2]),
            )
        )
    return found


def by_layer(screened: Screen, bits: int, sites: int) -> Bits:
    """Return bits protected site after site, from the one that does most harm, [sites]."""
    masks, left = [0] * sites, bits
    for site in sorted(screened.by_site, key=lambda site: -screened.by_site[site]):
        units = [unit for unit in screened.units if unit.site == site]
        for unit in sorted(units, key=lambda unit: -unit.harm / unit.bits):
            if unit.bits <= left:
                masks[site] |= unit.mask
                left -= unit.bits
    return np.array(masks, dtype=np.uint64)
