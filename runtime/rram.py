# SPDX-License-Identifier: Apache-2.0
"""From the resistances of a memory cell to its bit error rates: paper, section 3, eq. 1."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ..ortops.errors import InputError

Array = npt.NDArray[np.float64]

#: Fewest samples of a state that are fitted.
LEAST_SAMPLES = 3

#: Range of resistances, in ohm, and of sigmas: far beyond any cell, and safe to square.
OHM = (1e-30, 1e30)
SIGMA = (1e-6, 1e3)


@dataclass(frozen=True)
class LogNormal:
    """Distribution of a state's resistance: ln R is normal.

    Attributes
    ----------
    median : float
        In ohm.
    sigma : float
        Standard deviation of ln R.

    Raises
    ------
    InputError
        A median outside 1e-30 to 1e30 ohm, or a sigma outside 1e-6 to 1e3.
    """

    median: float
    sigma: float

    def __post_init__(self) -> None:
        checks = (("median", self.median, OHM, " ohm"), ("sigma", self.sigma, SIGMA, ""))
        for name, value, (low, high), unit in checks:
            if not low <= value <= high:
                raise InputError(
                    f"{name}: expected a number from {low:g} to {high:g}{unit}, got {value:g}"
                )

    @classmethod
    def fit(cls, resistances: npt.ArrayLike) -> LogNormal:
        """Fit by maximum likelihood: mean and standard deviation (divisor n) of ln R.

        Parameters
        ----------
        resistances : array_like of float [n]
            In ohm; n >= 3, not all equal.

        Raises
        ------
        InputError
            Too few values, values that are all (next to) equal, or one outside 1e-30 to 1e30.
        """
        logs = np.log(checked(resistances))
        return cls(float(np.exp(logs.mean())), float(logs.std()))

    def probit(self, resistance: npt.ArrayLike) -> Array:
        """Return (ln R - ln median) / sigma: what a probit plot shows."""
        ratio = np.log(np.asarray(resistance, np.float64)) - math.log(self.median)
        return np.asarray(ratio / self.sigma)

    def cdf(self, resistance: npt.ArrayLike) -> Array:
        """Return the probability of a resistance up to `resistance` (ohm)."""
        from scipy.special import ndtr

        return np.asarray(ndtr(self.probit(resistance)))

    def above(self, resistance: npt.ArrayLike) -> Array:
        """Return 1 - CDF, exact where the CDF is next to 1."""
        from scipy.special import ndtr

        return np.asarray(ndtr(-self.probit(resistance)))


def checked(resistances: npt.ArrayLike) -> Array:
    """Return resistances as an array.

    Raises
    ------
    InputError
        Too few values, values that are all equal, or one outside 1e-30 to 1e30.
    """
    values = np.asarray(resistances, np.float64).reshape(-1)
    if not ((values >= OHM[0]) & (values <= OHM[1])).all():
        raise InputError(
            f"resistances: expected values from {OHM[0]:g} to {OHM[1]:g} ohm, got others"
        )
    if len(values) < LEAST_SAMPLES or np.ptp(values) == 0:
        raise InputError(
            f"resistances: expected at least {LEAST_SAMPLES} values that are not all equal, "
            f"got {len(values)}"
        )
    return values


@dataclass(frozen=True)
class Condition:
    """A cell under one condition, such as a forming voltage.

    Attributes
    ----------
    name : str
    lrs, hrs : LogNormal
        Of the low and the high resistance state.
    lrs_samples, hrs_samples : numpy.ndarray of float64 [n], or None
        What they are fitted to, in ohm, ascending.

    Raises
    ------
    InputError
        The HRS does not lie above the LRS.
    """

    name: str
    lrs: LogNormal
    hrs: LogNormal
    lrs_samples: Array | None = field(default=None, repr=False, compare=False)
    hrs_samples: Array | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_window(self.lrs, self.hrs, f"{self.name}: ")

    @classmethod
    def from_samples(cls, name: str, lrs: npt.ArrayLike, hrs: npt.ArrayLike) -> Condition:
        """Fit both states.

        Parameters
        ----------
        name : str
        lrs, hrs : array_like of float [n]
            Resistances in ohm.

        Raises
        ------
        InputError
            See `LogNormal.fit`, or the HRS does not lie above the LRS.
        """
        states = {}
        for state, values in (("LRS", lrs), ("HRS", hrs)):
            try:
                states[state] = np.sort(checked(values))
            except InputError as error:
                raise InputError(f"{name}: {state}: {error}") from None
        low, high = states["LRS"], states["HRS"]
        return cls(name, LogNormal.fit(low), LogNormal.fit(high), low, high)


@dataclass(frozen=True)
class Threshold:
    """A resistance that parts the states, and how often a state is read as the other.

    Attributes
    ----------
    resistance : float
        In ohm: cells above it are read as HRS.
    lrs_error, hrs_error : float
        Probability that an LRS is read as HRS, and an HRS as LRS.
    """

    resistance: float
    lrs_error: float
    hrs_error: float

    def rates(self, lrs_is: int = 1) -> tuple[float, float]:
        """Return (p01, p10): p01 is the probability that a stored 0 is read as 1.

        Parameters
        ----------
        lrs_is : 0 or 1
            The bit that the LRS stands for.
        """
        pair = (self.hrs_error, self.lrs_error)
        return pair if lrs_is else pair[::-1]


def check_window(lrs: LogNormal, hrs: LogNormal, where: str = "") -> None:
    """Raise InputError unless the median of the HRS lies above that of the LRS."""
    if hrs.median <= lrs.median:
        raise InputError(
            f"{where}expected a median of the HRS above that of the LRS, got HRS {hrs.median:.4g} "
            f"ohm, LRS {lrs.median:.4g} ohm: no threshold parts them (are they exchanged?)"
        )


def equal_error_threshold(lrs: LogNormal, hrs: LogNormal) -> Threshold:
    """Return the threshold at which both errors are equal (paper eq. 1).

    ``1 - CDF_LRS(R) = CDF_HRS(R)`` holds at ``ln R = (s_H ln m_L + s_L ln m_H) / (s_L + s_H)``
    with medians m and sigmas s; both errors are then ``Phi(-(ln m_H - ln m_L) / (s_L + s_H))``.

    Parameters
    ----------
    lrs, hrs : LogNormal

    Returns
    -------
    Threshold

    Raises
    ------
    InputError
        The HRS does not lie above the LRS.

    Examples
    --------
    >>> from noisystore.runtime import LogNormal, equal_error_threshold
    >>> cell = equal_error_threshold(LogNormal(1e4, 0.5), LogNormal(1e6, 1.0))
    >>> f"{cell.resistance:.4g} ohm, {cell.lrs_error:.4g}, {cell.hrs_error:.4g}"
    '4.642e+04 ohm, 0.00107, 0.00107'
    """
    from scipy.special import ndtr

    check_window(lrs, hrs)
    low, high = math.log(lrs.median), math.log(hrs.median)
    both = lrs.sigma + hrs.sigma
    rate = float(ndtr(-(high - low) / both))
    return Threshold(math.exp((hrs.sigma * low + lrs.sigma * high) / both), rate, rate)


def cheapest_threshold(
    lrs: LogNormal, hrs: LogNormal, lrs_cost: float = 1.0, hrs_cost: float = 1.0
) -> Threshold:
    """Return the threshold between the medians at which the expected cost of errors is least.

    The cost is ``lrs_cost * (1 - CDF_LRS(R)) + hrs_cost * CDF_HRS(R)``. Its derivative is 0 where
    the densities, times their costs, are equal: a quadratic equation in ln R. Costs of 1 give the
    fewest errors, which is eq. 1 only where both sigmas are equal.

    Parameters
    ----------
    lrs, hrs : LogNormal
    lrs_cost, hrs_cost : float
        Of an LRS read as HRS and of an HRS read as LRS, times how often that state is stored;
        above 0, only their ratio counts.

    Returns
    -------
    Threshold

    Raises
    ------
    InputError
        The HRS does not lie above the LRS, a cost is not positive and finite, or costs or
        sigmas are so unequal, or the states so close, that no threshold between the medians is
        best.
    """
    check_window(lrs, hrs)
    for cost in (lrs_cost, hrs_cost):
        if not 0 < cost < math.inf:
            raise InputError(f"cost of an error: expected a positive number, got {cost:g}")
    window = math.log(hrs.median) - math.log(lrs.median)
    # With x = ln R - ln m_L: g(x) = a x^2 + b x + c is the log of the ratio of the derivative's
    # two parts. It rises through 0 at the minimum.
    a = (lrs.sigma**-2 - hrs.sigma**-2) / 2
    b = window / hrs.sigma**2
    c = math.log(hrs_cost) - math.log(lrs_cost) + math.log(lrs.sigma) - math.log(hrs.sigma)
    c -= (window / hrs.sigma) ** 2 / 2
    if c < 0 < a * window**2 + b * window + c:
        # b > 0: this form of the rising root subtracts nothing, and takes a = 0 as well.
        x = -2 * c / (b + math.sqrt(b * b - 4 * a * c))
        place = lrs.median * math.exp(x)
        found = Threshold(place, float(lrs.above(place)), float(hrs.cdf(place)))
        if lrs_cost * found.lrs_error + hrs_cost * found.hrs_error < min(lrs_cost, hrs_cost):
            return found
    raise InputError(
        f"cost of errors: expected a threshold of least cost between the medians, got none for "
        f"costs {lrs_cost:g} (LRS read as HRS) and {hrs_cost:g} (HRS read as LRS): costs or sigmas "
        "differ too much for states this close; give costs that differ less, or none (eq. 1)"
    )
