# SPDX-License-Identifier: Apache-2.0
"""Write, check, correct: what rewriting wrong bits leaves of the errors, and what it costs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..ortops.errors import InputError

MOST_REWRITES = 100

Range = tuple[float, float]


@dataclass(frozen=True)
class AccessCost:
    """Cost of one access to one bit, each from least to most; RRAM of paper table 1.

    Attributes
    ----------
    energy_pj : (float, float)
        Of a write or a read, in pJ.
    read_ns, write_ns : (float, float)
        In ns.
    """

    energy_pj: Range = (0.1, 3.0)
    read_ns: Range = (0.0, 10.0)
    write_ns: Range = (10.0, 10.0)


@dataclass(frozen=True)
class Written:
    """A bit after up to `rewrites` corrections.

    Attributes
    ----------
    rewrites : int
    p01, p10 : float
        Error rates that are left.
    writes, reads : float
        Expected number for one bit; check reads.
    energy_pj, time_ns : (float, float)
        Expected for one bit, from least to most.
    """

    rewrites: int
    p01: float
    p10: float
    writes: float
    reads: float
    energy_pj: Range
    time_ns: Range

    def as_dict(self) -> dict[str, Any]:
        """Fields as plain values for JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def write_check_correct(
    p01: float,
    p10: float,
    rewrites: int,
    *,
    ones_fraction: float = 0.5,
    cost: AccessCost | None = None,
) -> Written:
    """Return what is left of the errors when wrong bits are written again.

    Each write is followed by a read that checks the bit; only a wrong bit is written again, at most
    `rewrites` times. A bit that fails with probability p is wrong in the end with probability
    ``p**(rewrites + 1)`` and takes ``(1 - p**(rewrites + 1)) / (1 - p)`` writes. Assumed: cycles
    are independent, a read makes no errors, and a cell that is stuck does not exist. Without
    rewrites nothing is checked.

    Parameters
    ----------
    p01, p10 : float
        Error rates of one write.
    rewrites : int
        From 0 to 100.
    ones_fraction : float
        Share of ones among the bits written.
    cost : AccessCost, optional
        None: table 1 of the paper.

    Returns
    -------
    Written

    Raises
    ------
    InputError
        A value out of its range.

    Examples
    --------
    >>> from noisystore.runtime import write_check_correct
    >>> once = write_check_correct(0.01, 0.01, 1)
    >>> f"{once.p01:.2g} left, {once.writes:.4g} writes, {once.time_ns[1]:.4g} ns at most"
    '0.0001 left, 1.01 writes, 20.2 ns at most'
    """
    for name, value in (("p01", p01), ("p10", p10), ("ones fraction", ones_fraction)):
        if not 0 <= value <= 1:
            raise InputError(f"{name}: expected a number from 0 to 1, got {value}")
    if not 0 <= rewrites <= MOST_REWRITES:
        raise InputError(f"rewrites: expected from 0 to {MOST_REWRITES}, got {rewrites}")
    cost = cost or AccessCost()

    def expected_writes(p: float) -> float:
        # The geometric sum, term by term: exact for p next to 1 as well.
        return sum(p**i for i in range(rewrites + 1))

    writes = (1 - ones_fraction) * expected_writes(p01) + ones_fraction * expected_writes(p10)
    reads = writes if rewrites else 0.0
    energy = [(writes + reads) * pj for pj in cost.energy_pj]
    time = [writes * w + reads * r for w, r in zip(cost.write_ns, cost.read_ns, strict=True)]
    left = (p01 ** (rewrites + 1), p10 ** (rewrites + 1))
    return Written(rewrites, *left, writes, reads, (energy[0], energy[1]), (time[0], time[1]))
