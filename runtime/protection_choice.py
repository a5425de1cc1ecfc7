# SPDX-License-Identifier: Apache-2.0
"""Which bits of which sites to protect: what each does alone, and the cheapest set."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .protection_runs import Bits, PairedRuns

#: Images that see some bits alone.
SCREENED = 250
#: Bits that do less than this with all sites noisy are taken together at each site.
LITTLE = 0.002


@dataclass(frozen=True)
class Unit:
    """Bits of one site that are protected together, or not.

    Attributes
    ----------
    site : int
    mask : int
        One bit of the word, or the bits that hardly matter.
    bits : int
        Bits of one sample that this protects: elements times bits of the mask.
    harm : float
        Divergence from the clean network when these bits alone are noisy (`PairedRuns.harm`).
    """

    site: int
    mask: int
    bits: int
    harm: float


@dataclass(frozen=True)
class Screen:
    """What each bit does alone.

    Attributes
    ----------
    units : list of Unit
        Together all noisy bits of all sites.
    by_bit : dict from int to float
        Harm of each bit position, counted from the top, with all sites noisy.
    by_site : dict from int to float
        Harm of each noisy site: the sum of its units.
    """

    units: list[Unit]
    by_bit: dict[int, float]
    by_site: dict[int, float]

    @property
    def elements(self) -> dict[int, int]:
        """Words of one sample, by site."""
        return {u.site: u.bits // u.mask.bit_count() for u in self.units}

    def protected(self, chosen: Sequence[bool] | npt.NDArray[np.bool_], sites: int) -> Bits:
        """Return the bits of each site that a choice of units protects, [sites]."""
        masks = [0] * sites
        for unit, taken in zip(self.units, chosen, strict=True):
            if taken:
                masks[unit.site] |= unit.mask
        return np.array(masks, dtype=np.uint64)

    def bits(self, protected: Bits) -> int:
        """Bits of one sample that are protected."""
        return sum(
            elements * int(protected[site]).bit_count() for site, elements in self.elements.items()
        )


def screen(
    runs: PairedRuns, images: int = SCREENED, show: Callable[[str], None] | None = None
) -> Screen:
    """Measure what each bit position does alone, and at each site where that is much.

    Parameters
    ----------
    runs : PairedRuns
    images : int
        For each measurement, the same for all.
    show : callable, optional
        Called with what is measured next.

    Returns
    -------
    Screen
    """
    sites = runs.evaluator.session.sites
    noisy = [int(site) for site in np.flatnonzero(runs.bits)]
    samples = runs.choosing(images)
    say = show or (lambda text: None)
    width = max(sites[site].noisy_bits for site in noisy)
    by_bit: dict[int, float] = {}
    units: list[Unit] = []
    rest = runs.bits.copy()
    for place in range(width):
        bits = bits_at(runs, place)
        if not bits.any():
            continue
        say(f"bit {place} of {width}")
        by_bit[place] = runs.harm(bits, samples, "screen")
        if by_bit[place] < LITTLE:
            continue
        rest &= ~bits
        for site in noisy:
            if bits[site]:
                say(f"bit {place} of {width}, site {site}")
                harm = runs.harm(_only(bits, site), samples, "screen")
                units.append(_unit(sites[site].elements, site, int(bits[site]), harm))
    for site in noisy:
        if rest[site]:
            say(f"other bits of site {site}")
            harm = runs.harm(_only(rest, site), samples, "screen")
            units.append(_unit(sites[site].elements, site, int(rest[site]), harm))
    by_site = {site: sum(u.harm for u in units if u.site == site) for site in noisy}
    return Screen(units, by_bit, by_site)


def cheapest(units: Sequence[Unit], harm: float) -> npt.NDArray[np.bool_]:
    """Choose units so that the others do at most this harm together, with the fewest bits.

    A 0/1 knapsack, solved exactly by SciPy's mixed-integer solver (HiGHS).

    Parameters
    ----------
    units : sequence of Unit
    harm : float

    Returns
    -------
    array of bool [units]
    """
    bits, harms = _columns(units)
    return _solve(bits, -harms, harm - harms.sum(), bits.sum(), True)


def least_harm(units: Sequence[Unit], bits: int) -> npt.NDArray[np.bool_]:
    """Choose units of at most so many bits, so that the others do the least harm.

    Parameters
    ----------
    units : sequence of Unit
    bits : int

    Returns
    -------
    array of bool [units]
    """
    sizes, harms = _columns(units)
    return _solve(-harms, sizes, float(bits), harms.sum(), False)


def _solve(
    goal: npt.NDArray[np.float64],
    row: npt.NDArray[np.float64],
    most: float,
    scale: float,
    otherwise: bool,
) -> npt.NDArray[np.bool_]:
    """Minimize goal @ x with row @ x <= most, x of 0 and 1; all `otherwise` if none is found."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    size = float(np.abs(row).max()) or 1.0
    with _quiet():
        solution = milp(
            goal / (float(scale) or 1.0),
            constraints=LinearConstraint(row[None, :] / size, ub=most / size + 1e-12),
            integrality=np.ones(len(goal)),
            bounds=Bounds(0, 1),
            options={"mip_rel_gap": 1e-6, "time_limit": 20.0},
        )
    if solution.x is None:
        return np.full(len(goal), otherwise)
    return np.asarray(solution.x > 0.5)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what HiGHS prints now and then (a line of its debugging) out of standard output."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        ctypes.CDLL(None).fflush(None)  # C's own buffer
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _columns(units: Sequence[Unit]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    return (
        np.array([unit.bits for unit in units], dtype=np.float64),
        np.array([unit.harm for unit in units], dtype=np.float64),
    )


def _unit(elements: int, site: int, mask: int, harm: float) -> Unit:
    return Unit(site, mask, max(elements, 1) * mask.bit_count(), harm)


def bits_at(runs: PairedRuns, place: int) -> Bits:
    """Return the bit at a place, counted from the top, at every site that has it noisy."""
    sites = runs.evaluator.session.sites
    masks = [1 << (s.noisy_bits - 1 - place) if s.noisy_bits > place else 0 for s in sites]
    return np.array(masks, dtype=np.uint64) & runs.bits


def _only(bits: Bits, site: int) -> Bits:
    alone = np.zeros_like(bits)
    alone[site] = bits[site]
    return alone
