# SPDX-License-Identifier: Apache-2.0
"""The bit error rates of cells under several conditions: worked out, told, written as JSON.

The JSON object has the version ``noisystore_rram`` (1), the choices ``lrs_is``,
``ones_fraction``, ``cost_ratio`` (null: eq. 1), ``rewrites``, ``rates_by`` (``lognormal`` or
``samples``), ``confidence``, ``cost_of_access`` (``energy_pj``, ``read_ns``, ``write_ns``, each
[least, most]) and the list ``conditions``. Each of these has

- ``name``; ``p01``, ``p10``, ``bit_error_rate`` (their mean, weighted by how often each bit is
  stored): what is left after ``rewrites`` corrections, and what `noisystore sweep` takes;
- ``lrs``, ``hrs``: ``median`` (ohm), ``sigma`` (of ln R), ``samples`` (their number, or null),
  ``p_value`` (of the log-normal, Anderson-Darling; null: not judged);
- ``lognormal``: ``threshold`` (ohm), ``p01``, ``p10``, ``bit_error_rate`` of one write, and
  ``interval`` of the latter ([low, high], or null);
- ``samples``: the same as counted in the samples, and ``overlap``; false: no threshold is crossed,
  and the upper end of the interval is a bound. Null without samples; with a cost ratio there is no
  interval;
- ``write_check_correct``: for 0 to ``rewrites`` corrections, ``rewrites``, ``p01``, ``p10`` left,
  and expected ``writes``, ``reads``, ``energy_pj``, ``time_ns`` of one bit.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..ortops.errors import InputError
from ..ortops.files import write_whole
from .rram import Condition, LogNormal, Threshold, cheapest_threshold, equal_error_threshold
from .rram_samples import (
    cheapest_of_samples,
    equal_error_interval,
    equal_error_of_samples,
    lognormal_interval,
    lognormal_p_value,
)
from .rram_writes import AccessCost, Written, write_check_correct

VERSION = 1

#: A p value below this is worth a note.
BAD_FIT = 0.01


@dataclass(frozen=True)
class Choices:
    """How cells are used.

    Attributes
    ----------
    lrs_is : 0 or 1
        The bit that the LRS stands for.
    ones_fraction : float
        Share of ones among the stored bits.
    cost_ratio : float or None
        Cost of an error 0 to 1 over that of an error 1 to 0: the threshold makes the expected
        cost least. None: the threshold of eq. 1.
    rewrites : int
        Most corrections of a bit.
    rates_by : "lognormal" or "samples"
        What the rates are taken from.
    confidence : float
    cost : AccessCost

    Raises
    ------
    InputError
        A value out of its range.
    """

    lrs_is: int = 1
    ones_fraction: float = 0.5
    cost_ratio: float | None = None
    rewrites: int = 0
    rates_by: str = "lognormal"
    confidence: float = 0.95
    cost: AccessCost = field(default_factory=AccessCost)

    def __post_init__(self) -> None:
        if not 0 < self.ones_fraction < 1:
            raise InputError(
                f"ones fraction: expected a number between 0 and 1, got {self.ones_fraction}"
            )
        if not 0 < self.confidence < 1:
            raise InputError(f"confidence: expected between 0 and 1, got {self.confidence}")
        for name, value, known in (
            ("lrs_is", self.lrs_is, (0, 1)),
            ("rates_by", self.rates_by, ("lognormal", "samples")),
        ):
            if value not in known:
                raise InputError(f"{name}: expected one of {known}, got {value!r}")
        write_check_correct(0.0, 0.0, self.rewrites)

    def state_costs(self) -> tuple[float, float]:
        """Costs of an LRS and of an HRS read wrongly, times how often each is stored."""
        zero = (1.0 if self.cost_ratio is None else self.cost_ratio) * (1 - self.ones_fraction)
        one = self.ones_fraction
        return (one, zero) if self.lrs_is else (zero, one)

    def mean_rate(self, p01: float, p10: float) -> float:
        """Bit error rate of bits of which `ones_fraction` are ones."""
        return (1 - self.ones_fraction) * p01 + self.ones_fraction * p10


@dataclass(frozen=True)
class Rates:
    """Threshold and error rates of one write.

    Attributes
    ----------
    threshold : float
        In ohm.
    p01, p10, bit_error_rate : float
    interval : (float, float) or None
        Of the bit error rate.
    overlap : bool or None
        Of the samples; None: log-normal rates.
    """

    threshold: float
    p01: float
    p10: float
    bit_error_rate: float
    interval: tuple[float, float] | None
    overlap: bool | None = None

    def as_dict(self) -> dict[str, Any]:
        """Fields as plain values for JSON."""
        values = asdict(self)
        values["interval"] = None if self.interval is None else list(self.interval)
        if self.overlap is None:
            del values["overlap"]
        return values


@dataclass(frozen=True)
class CellReport:
    """What one condition comes to.

    Attributes
    ----------
    condition : Condition
    lognormal : Rates
    samples : Rates or None
    used : Rates
        The one of these by `Choices.rates_by`.
    p_values : (float or None, float or None)
        Of the log-normal of LRS and HRS.
    written : list of Written
        For 0 to `Choices.rewrites` corrections.
    bit_error_rate : float
        After all corrections.
    """

    condition: Condition
    lognormal: Rates
    samples: Rates | None
    used: Rates
    p_values: tuple[float | None, float | None]
    written: list[Written]
    bit_error_rate: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; see the module."""
        c = self.condition
        states = zip((c.lrs, c.hrs), (c.lrs_samples, c.hrs_samples), self.p_values, strict=True)
        lrs, hrs = (
            {**asdict(fit), "samples": None if x is None else len(x), "p_value": p}
            for fit, x, p in states
        )
        return {
            "name": c.name,
            "p01": self.written[-1].p01,
            "p10": self.written[-1].p10,
            "bit_error_rate": self.bit_error_rate,
            "lrs": lrs,
            "hrs": hrs,
            "lognormal": self.lognormal.as_dict(),
            "samples": None if self.samples is None else self.samples.as_dict(),
            "write_check_correct": [written.as_dict() for written in self.written],
        }


def cell_report(condition: Condition, choices: Choices | None = None) -> CellReport:
    """Work out thresholds, error rates and what rewriting leaves of them.

    Parameters
    ----------
    condition : Condition
    choices : Choices, optional
        None: the defaults.

    Raises
    ------
    InputError
        Costs so unequal that no threshold is best, or rates wanted of samples that are not there.
    """
    choices = choices or Choices()
    costs = choices.state_costs()

    def rates(found: Threshold) -> tuple[float, float, float]:
        p01, p10 = found.rates(choices.lrs_is)
        return p01, p10, choices.mean_rate(p01, p10)

    def threshold(lrs: LogNormal, hrs: LogNormal) -> Threshold:
        if choices.cost_ratio is None:
            return equal_error_threshold(lrs, hrs)
        return cheapest_threshold(lrs, hrs, *costs)

    try:
        found = threshold(condition.lrs, condition.hrs)
        interval = lognormal_interval(
            condition, lambda *states: rates(threshold(*states))[2], choices.confidence
        )
    except InputError as error:
        raise InputError(f"{condition.name}: {error}") from None
    lognormal = Rates(found.resistance, *rates(found), interval)
    samples: Rates | None = None
    p_values: tuple[float | None, float | None] = (None, None)
    low, high = condition.lrs_samples, condition.hrs_samples
    if low is not None and high is not None:
        p_values = (lognormal_p_value(low), lognormal_p_value(high))
        if choices.cost_ratio is None:
            counted = equal_error_of_samples(low, high)
            interval = equal_error_interval(low, high, choices.confidence)
        else:
            counted = cheapest_of_samples(low, high, *costs)
            interval = None
        cut = counted.threshold
        samples = Rates(cut.resistance, *rates(cut), interval, counted.overlap)
    used = lognormal if choices.rates_by == "lognormal" else samples
    if used is None:
        raise InputError(
            f"{condition.name}: expected samples (a CSV file) for rates by samples, got parameters"
        )
    written = [
        write_check_correct(
            used.p01, used.p10, r, ones_fraction=choices.ones_fraction, cost=choices.cost
        )
        for r in range(choices.rewrites + 1)
    ]
    left = choices.mean_rate(written[-1].p01, written[-1].p10)
    return CellReport(condition, lognormal, samples, used, p_values, written, left)


def as_dict(reports: Sequence[CellReport], choices: Choices) -> dict[str, Any]:
    """Return all of it as plain values for JSON; see the module."""
    return {
        "noisystore_rram": VERSION,
        "lrs_is": choices.lrs_is,
        "ones_fraction": choices.ones_fraction,
        "cost_ratio": choices.cost_ratio,
        "rewrites": choices.rewrites,
        "rates_by": choices.rates_by,
        "confidence": choices.confidence,
        "cost_of_access": {k: list(v) for k, v in asdict(choices.cost).items()},
        "conditions": [report.as_dict() for report in reports],
    }


def write_report(
    reports: Sequence[CellReport], choices: Choices, path: str | os.PathLike[str]
) -> None:
    """Write the JSON file that `noisystore sweep --rates-from` reads.

    Raises
    ------
    InputError
        The file cannot be written.
    """
    text = json.dumps(as_dict(reports, choices), indent=2, allow_nan=False, ensure_ascii=False)
    write_whole(path, (text + "\n").encode())
