# SPDX-License-Identifier: Apache-2.0
"""Bit error rates of a sweep, as users write them, and the noise seed of a point."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..ortops.errors import InputError
from ..ortops.noise_inputs import NOISE_MODEL

_FORM = "LOW:HIGH:N/decade, or rates separated by commas (each a number, or P01/P10)"
_MOST_RATES = 100_000
# Below, ratios and powers of rates leave the range of a float.
_LEAST_LOW = 1e-300


def parse_rates(rates: Any) -> list[tuple[float, float]]:
    """Return the pairs (p01, p10) that a sweep is to measure, in the given order, each once.

    Parameters
    ----------
    rates : str, float, or sequence
        ``LOW:HIGH:N/decade``: from LOW to HIGH, both included, N a decade, rounded to 6
        significant decimal digits; ``1e-6,1e-5``: a list, each a rate or ``P01/P10``; or a
        sequence of rates or of pairs (p01, p10).

    Raises
    ------
    InputError
        Another form, a rate outside [0, 1], or no rate at all.

    Examples
    --------
    >>> from noisystore.runtime.rates import parse_rates
    >>> [p01 for p01, _ in parse_rates("1e-6:1e-5:2/decade")]
    [1e-06, 3.16228e-06, 1e-05]
    """
    if isinstance(rates, str):
        pairs = _parse_text(rates)
    elif isinstance(rates, (int, float, np.number)):
        pairs = [_pair(rates)]
    elif isinstance(rates, (Sequence, np.ndarray)):
        pairs = [_pair(rate) for rate in rates]
    else:
        raise InputError(f"rates: expected {_FORM}, got {rates!r}")
    if not pairs:
        raise InputError(f"rates: expected {_FORM}, got none")
    for pair in pairs:
        for rate in pair:
            if not 0 <= rate <= 1:
                raise InputError(f"rates: expected values in [0, 1], got {rate}")
    return list(dict.fromkeys(pairs))


def noise_seed(seed: int, trial: int, p01: float, p10: float) -> int:
    """Return the seed of one point's noise (operator page, "Seeds of a sweep").

    Parameters
    ----------
    seed : int
        The user's seed of the sweep.
    trial : int
        From 0.
    p01, p10 : float
        Bit error rates.

    Returns
    -------
    int
        From 0 to 2^64 - 1.
    """
    text = f"{NOISE_MODEL}|{seed}|{trial}|{float(p01).hex()}|{float(p10).hex()}"
    return int.from_bytes(hashlib.sha256(text.encode("ascii")).digest()[:8], "little")


def _parse_text(text: str) -> list[tuple[float, float]]:
    try:
        if ":" not in text:
            return [_pair(item.split("/")) for item in text.split(",") if item.strip()]
        low_text, high_text, step = text.split(":")
        count, decade = step.split("/")
        low, high, per_decade = float(low_text), float(high_text), int(count)
        if decade.strip() not in ("decade", "dec") or per_decade < 1:
            raise ValueError
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"rates: expected {_FORM}, got {text!r}") from None
    if not _LEAST_LOW <= low <= high <= 1:
        raise InputError(
            f"rates: expected {_LEAST_LOW:g} <= LOW <= HIGH <= 1, got {low:g}:{high:g}"
        )
    if per_decade > _MOST_RATES:
        raise InputError(f"rates: expected at most {_MOST_RATES} a decade, got more")
    steps = math.ceil(math.log10(high / low) * per_decade - 1e-6)
    if steps > _MOST_RATES:
        raise InputError(f"rates: expected at most {_MOST_RATES}, got {steps}")
    grid = [low * 10 ** (i / per_decade) for i in range(steps)]
    rounded = [float(f"{rate:.5e}") for rate in [*grid, high]]
    return [(rate, rate) for rate in rounded]


def _pair(rate: Any) -> tuple[float, float]:
    try:
        values = np.asarray(rate, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"rates: expected numbers or pairs (p01, p10), got {rate!r}") from None
    if values.shape in ((), (1,)):
        return (float(values.reshape(())), float(values.reshape(())))
    if values.shape == (2,):
        return (float(values[0]), float(values[1]))
    raise InputError(f"rates: expected numbers or pairs (p01, p10), got {rate!r}")
