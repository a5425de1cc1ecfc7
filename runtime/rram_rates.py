# SPDX-License-Identifier: Apache-2.0
"""The conditions of a cell in a sweep: their rates, and what a network does at them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..ortops.errors import InputError
from .midpoint import Points
from .plot import mean_and_error
from .rram_csv import MOST_CONDITIONS, check_name
from .rram_report import VERSION

_MOST_BYTES = 8 << 20

#: Rates below are measured as 0. The largest sweep of VGGs and CIFAR-10 (10,000 images of 5e7 bits)
#: would meet no flip with 99.95%, and fits need no points many decades away from their curve.
LEAST_MEASURED = 1e-15


@dataclass(frozen=True)
class NamedRates:
    """Error rates of one condition.

    Attributes
    ----------
    name : str
    p01, p10 : float
    """

    name: str
    p01: float
    p10: float

    @property
    def measured(self) -> tuple[float, float]:
        """The pair that a sweep runs: rates that flip nothing are 0."""
        p01, p10 = (rate if rate >= LEAST_MEASURED else 0.0 for rate in (self.p01, self.p10))
        return p01, p10


@dataclass(frozen=True)
class ConditionAccuracy:
    """A network at the rates of one condition.

    Attributes
    ----------
    name : str
    p01, p10 : float
    accuracy : float
        Mean over trials; agreement with the clean network where the data have no labels.
    interval : (float, float)
        95%, for other draws of the noise.
    of_clean : float or None
        Accuracy over clean accuracy; None where that is 0.
    """

    name: str
    p01: float
    p10: float
    accuracy: float
    interval: tuple[float, float]
    of_clean: float | None

    @property
    def mean_rate(self) -> float:
        """Mean of both rates: where the condition stands on an axis of rates."""
        return (self.p01 + self.p10) / 2

    def as_dict(self) -> dict[str, Any]:
        """Fields as plain values for JSON."""
        return {**asdict(self), "interval": list(self.interval)}


def read_rates(path: str | os.PathLike[str]) -> list[NamedRates]:
    """Read the conditions of a file of `noisystore rram -o`.

    Parameters
    ----------
    path : path

    Returns
    -------
    list of NamedRates

    Raises
    ------
    InputError
        The file cannot be read, or is no such file.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None

    def bad(what: str) -> InputError:
        return InputError(f"{path}: {what}: expected a file of `noisystore rram -o`")

    if len(data) > _MOST_BYTES:
        raise bad(f"larger than {_MOST_BYTES >> 20} MiB")
    try:
        record = json.loads(data)
    except (ValueError, RecursionError):
        raise bad("not JSON") from None
    version = record.get("noisystore_rram") if isinstance(record, dict) else None
    if type(version) is not int or version != VERSION:
        raise bad(f'no "noisystore_rram": {VERSION}')
    conditions = record.get("conditions")
    if not isinstance(conditions, list) or not 0 < len(conditions) <= MOST_CONDITIONS:
        raise bad(f"no list of 1 to {MOST_CONDITIONS} conditions")
    found: dict[str, NamedRates] = {}
    for i, entry in enumerate(conditions):
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise bad(f"condition {i + 1} has no name")
        name = entry["name"]
        check_name(name, f"{path}: condition {i + 1}")
        if name in found:
            raise bad(f"condition {name!r} stands there twice")
        rates = []
        for key in ("p01", "p10"):
            value: Any = entry.get(key)
            if type(value) not in (int, float) or not 0 <= value <= 1:
                raise bad(f"condition {name!r}: {key} is no rate from 0 to 1")
            rates.append(float(value))
        found[name] = NamedRates(name, *rates)
    return list(found.values())


def accuracies(
    rows: Iterable[dict[str, Any]], conditions: Sequence[NamedRates]
) -> list[ConditionAccuracy]:
    """Return what a network does at each condition.

    Parameters
    ----------
    rows : iterable of dict
        Points of a sweep that has all `NamedRates.measured`, as `Results.rows` gives them.
    conditions : sequence of NamedRates

    Returns
    -------
    list of ConditionAccuracy

    Raises
    ------
    InputError
        The rows hold a metric only: no right or agreeing predictions.
    """
    rows = list(rows)
    found = []
    for condition in conditions:
        own = [row for row in rows if (row["p01"], row["p10"]) == condition.measured]
        count = "agreement" if own[0]["correct"] is None else "correct"
        if any(row[count] is None for row in own):
            raise InputError(
                "--rates-from: expected a model and data with class predictions, got a metric only"
            )
        clean = 1.0 if count == "agreement" else own[0]["clean_accuracy"]
        correct, images = ([row[key] for row in own] for key in (count, "images"))
        accuracy = sum(correct) / sum(images)
        found.append(
            ConditionAccuracy(
                condition.name,
                condition.p01,
                condition.p10,
                accuracy,
                accuracy_interval(correct, images),
                accuracy / clean if clean else None,
            )
        )
    return found


def accuracy_interval(correct: Sequence[int], images: Sequence[int]) -> tuple[float, float]:
    """Return a 95% interval of the mean accuracy of several trials at one rate.

    Wilson's interval for binomial errors. Where the trials differ by more than those explain
    (chi-square test at 5%: flips that all images share, such as those of weights), it is that of as
    many images as give their spread, with Student's t.

    Parameters
    ----------
    correct, images : sequence of int [trials]

    Returns
    -------
    (float, float)
    """
    from scipy.special import chdtrc, stdtrit

    trials, total = len(correct), sum(images)
    points = Points(np.ones(trials), np.arange(trials), correct, images)
    _, (accuracy,), (error,) = mean_and_error(points)
    variance = accuracy * (1 - accuracy)
    size, z = float(total), 1.959964
    dispersion = error**2 * total / variance if variance > 0 else 1.0
    if trials > 1 and chdtrc(trials - 1, (trials - 1) * dispersion) < 0.05:
        size, z = variance / error**2, float(stdtrit(trials - 1, 0.975))
    centre = (accuracy + z * z / (2 * size)) / (1 + z * z / size)
    half = z / (1 + z * z / size) * math.sqrt(variance / size + (z / (2 * size)) ** 2)
    # Rounding must not put the mean outside at 0 and 1.
    return (
        float(min(max(centre - half, 0.0), accuracy)),
        float(max(min(centre + half, 1.0), accuracy)),
    )
