# SPDX-License-Identifier: Apache-2.0
"""What protecting stored bits costs in area, energy and time, and what it leaves of the errors.

The model, with the numbers of paper table 1:

- Noisy bits stand in RRAM. In an inference every bit of a `written` site is written once and read
  once; the bits of a parameter are only read.
- Words are accessed one after another; each access takes as long as the word's slowest bit.
- Bits are ones with probability `ones_fraction`, and fail independently of each other and of
  earlier writes. Decoders, checkers, wires, DRAM's refresh are not in table 1 and not counted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..ortops.errors import InputError
from .rram_writes import MOST_REWRITES, AccessCost, Range, Written, write_check_correct

Rates = tuple[float, float]  # p01 and p10.
Part = tuple[float, Range]  # How often, and what it costs each time.
MEANS = ("reliable", "rewrite", "secded")
_DATA_BITS, _CHECK_BITS = 64, 8


@dataclass(frozen=True)
class Memory:
    """A memory of paper table 1, each number from least to most.

    Attributes
    ----------
    cell_area_f2, energy_pj, read_ns, write_ns : (float, float)
        Of a bit, in squared feature sizes; of a write or a read of it, in pJ and ns.
    """

    name: str
    cell_area_f2: Range
    energy_pj: Range
    read_ns: Range
    write_ns: Range


# "< 4" F2 is taken as 4, an upper bound; the read time "< 10" ns is 0 to 10.
_ACCESS = AccessCost()
RRAM = Memory("RRAM", (4.0, 4.0), _ACCESS.energy_pj, _ACCESS.read_ns, _ACCESS.write_ns)
SRAM = Memory("SRAM", (140.0, 140.0), (5e-4, 5e-4), (0.1, 0.3), (0.1, 0.3))
DRAM = Memory("DRAM", (6.0, 12.0), (5e-3, 5e-3), (10.0, 10.0), (10.0, 10.0))


@dataclass(frozen=True)
class StoredSite:
    """A site's words, and which of their bits are protected.

    Attributes
    ----------
    elements, bits : int
        Words of one sample, or of the parameter; bits of a word, from 1 to 64.
    protected : int
        Mask of the protected bits of each word; 0: none.
    written : bool
        False: a parameter, written once and not in each inference.
    """

    elements: int
    bits: int
    protected: int
    written: bool


@dataclass(frozen=True)
class Cost:
    """What all sites cost, protected bits or not, and the errors that protected bits still have.

    Attributes
    ----------
    means : str
        One of MEANS, or "none".
    protected_bits, reliable_bits, check_bits, rewrites : int
        Bits protected, in the reliable memory, added; the most rewrites that a bit gets.
    left : (float, float)
        p01 and p10 that are left in a protected bit; for "secded" upper bounds, as `left_flips`.
    left_flips : float
        Expected in all protected bits in one inference, parameters among them.
    area_f2, energy_pj, time_ns : (float, float)
        From least to most; energy and time as expected for one inference.
    """

    means: str
    protected_bits: int
    reliable_bits: int
    check_bits: int
    rewrites: int
    left: Rates
    left_flips: float
    area_f2: Range
    energy_pj: Range
    time_ns: Range

    def as_dict(self) -> dict[str, Any]:
        """Fields as plain values for JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def cost(
    sites: Sequence[StoredSite],
    rate: Rates,
    means: str | None,
    *,
    ones_fraction: float = 0.5,
    reliable: Memory = SRAM,
    most_left: float = 1e-3,
) -> Cost:
    """Return what it costs to store `sites` with their protected bits protected by `means`.

    - "reliable": protected bits stand in `reliable`, which makes no errors.
    - "rewrite": protected bits are written by `write_check_correct` (parameters before inference),
      with the fewest rewrites that bring `left_flips` to `most_left` or below. A word with m of
      them takes attempt i + 1, a write and a check read, with probability ``1 - (1 - q)**m``, where
      ``q = (1 - ones_fraction) * p01**i + ones_fraction * p10**i``.
    - "secded": each 64 protected bits of a site, and what is left at its end, get the 8 check bits
      of a Hamming (72, 64) code, in the same RRAM and accessed together with the data. Of n bits,
      wrong with probability p each (p01 and p10 weighted by `ones_fraction`, which check bits are
      taken to share), one wrong bit is corrected, an even number stays, an odd number from 3 on
      gets at most one more. So of d = n - 8 data bits a zero ends wrong with at most
      ``p01 * (1 - (1 - p)**(n - 1)) + P(3, 5, ... wrong) / d``, a one likewise with p10.

    Parameters
    ----------
    sites : sequence of StoredSite
    rate : (float, float)
        p01 and p10 of RRAM.
    means : str or None
        One of MEANS. None: nothing is protected, whatever the sites say.
    ones_fraction : float
        Share of ones among the stored bits.
    reliable : Memory
    most_left : float
        Flips that "rewrite" may leave, in an inference.

    Returns
    -------
    Cost

    Raises
    ------
    InputError
        A value out of its range, or too many flips left after 100 rewrites.

    Examples
    --------
    >>> from noisystore.runtime.protection_costs import StoredSite, cost
    >>> site = StoredSite(elements=1000, bits=32, protected=0x7F80_0000, written=True)
    >>> c = cost([site], (1e-4, 1e-4), "secded")
    >>> f"{c.left_flips:.1g} flips, {c.area_f2[1]:.0f} F2, {c.energy_pj[1]:.0f} pJ at most"
    '0.006 flips, 132000 F2, 198000 pJ at most'
    """
    _check(sites, means, most_left)
    inside = [site.elements * site.protected.bit_count() if means else 0 for site in sites]
    protected = sum(inside)
    bit, left = write_check_correct(*rate, 0, ones_fraction=ones_fraction), rate
    if means == "rewrite":
        bit = _rewritten(protected, rate, ones_fraction, most_left)
        left = (bit.p01, bit.p10)
    elif means:
        left = (0.0, 0.0) if means == "reliable" else _left_by_secded(inside, rate, ones_fraction)

    added = [_CHECK_BITS * -(-n // _DATA_BITS) if means == "secded" else 0 for n in inside]
    area: list[Part] = []
    energy: list[Part] = []
    time: list[Part] = []
    for site, chosen, checks in zip(sites, inside, added, strict=True):
        moved = chosen if means == "reliable" else 0
        noisy = site.elements * site.bits - moved + checks
        used = [memory for memory, bits in ((RRAM, noisy), (reliable, moved)) if bits]
        area += [(noisy, RRAM.cell_area_f2), (moved, reliable.cell_area_f2)]
        energy += [(noisy, RRAM.energy_pj), (moved, reliable.energy_pj)]
        time.append((site.elements, _slowest(memory.read_ns for memory in used)))
        if site.written:
            again = chosen if bit.rewrites else 0
            energy += [(noisy - again, RRAM.energy_pj), (moved, reliable.energy_pj)]
            energy.append((again, bit.energy_pj))
            wrong = [_mean(rate, ones_fraction, i) for i in range(1, bit.rewrites + 1)]
            in_word = site.protected.bit_count()
            attempts = site.elements * (1 + sum(_any_wrong(in_word, q) for q in wrong))
            time.append((attempts, _slowest(memory.write_ns for memory in used)))
            time.append((attempts if again else 0, RRAM.read_ns))
    counts = (protected, protected if means == "reliable" else 0, sum(added), bit.rewrites)
    totals = [_sum(parts) for parts in (area, energy, time)]
    return Cost(means or "none", *counts, left, protected * _mean(left, ones_fraction), *totals)


def _check(sites: Sequence[StoredSite], means: str | None, most_left: float) -> None:
    if means is not None and means not in MEANS:
        raise InputError(f"means: expected {', '.join(MEANS)} or None, got {means!r}")
    if not most_left >= 0:
        raise InputError(f"most left: expected a number from 0, got {most_left}")
    for i, site in enumerate(sites):
        if site.elements < 0 or not 1 <= site.bits <= 64:
            raise InputError(f"site {i}: expected 0 or more words of 1 to 64 bits, got {site}")
        if site.protected >> site.bits:
            raise InputError(f"site {i}: expected {site.bits} mask bits, got {site.protected:#x}")


def _mean(rate: Rates, ones: float, power: int = 1) -> float:
    return (1 - ones) * rate[0] ** power + ones * rate[1] ** power


def _any_wrong(count: int, p: float) -> float:
    # 1 - (1 - p)**count, but exact for a p far below the precision of 1 - p.
    return -math.expm1(count * math.log1p(-p)) if p < 1 else float(count > 0)


def _rewritten(bits: int, rate: Rates, ones: float, most_left: float) -> Written:
    for rewrites in range(MOST_REWRITES + 1):
        flips = bits * _mean(rate, ones, rewrites + 1)
        if flips <= most_left:
            return write_check_correct(*rate, rewrites, ones_fraction=ones)
    raise InputError(
        f"rewrite: expected at most {most_left:g} flips left in {bits:,} protected bits, got"
        f" {flips:.3g} after {MOST_REWRITES} rewrites; protect fewer bits or by other means"
    )


def _left_by_secded(inside: Sequence[int], rate: Rates, ones: float) -> Rates:
    """Return the mean over all protected bits; where there are none, over a whole codeword."""
    inside = inside if any(inside) else [_DATA_BITS]
    codewords = Counter({_DATA_BITS: sum(bits // _DATA_BITS for bits in inside)})
    codewords.update(bits % _DATA_BITS for bits in inside if bits % _DATA_BITS)
    p, left = _mean(rate, ones), [0.0, 0.0]
    for data, number in codewords.items():
        n, share = data + _CHECK_BITS, data * number / sum(inside)
        odd = sum(math.comb(n, j) * p**j * (1 - p) ** (n - j) for j in range(3, n + 1, 2))
        for i in (0, 1):
            left[i] += share * min(1.0, rate[i] * _any_wrong(n - 1, p) + odd / data)
    return left[0], left[1]


def _slowest(times: Iterable[Range]) -> Range:
    lows, highs = zip((0.0, 0.0), *times, strict=True)
    return max(lows), max(highs)


def _sum(parts: Sequence[Part]) -> Range:
    low, high = (math.fsum(n * each[end] for n, each in parts) for end in (0, 1))
    return low, high
