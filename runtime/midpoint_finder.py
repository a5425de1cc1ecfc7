# SPDX-License-Identifier: Apache-2.0
"""The midpoint noise level of a network, found without a sweep."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from ..ortops.errors import InputError
from .dataset import Dataset, load
from .evaluate import Evaluator, expected_flips
from .interrupt import Interrupted, terminable
from .midpoint import Fit, Points, check_options
from .midpoint_network import CleanImages, NoisyNetwork, derived_seed, random_order
from .midpoint_outcome import Outcome
from .midpoint_search import MidpointSearch
from .noisy_sites import NoisySites
from .notes import session_notes, too_wide
from .ort_session import Provider
from .progress import StatusLine
from .session import NoisySession
from .sweep_masks import swept_masks

#: Highest rate that is looked at: there a stored bit says nothing any more.
HIGHEST = 0.5
#: Fewer find no drop.
LEAST_INFERENCES = 1000
#: With so few flips expected in a sample the accuracy cannot be near half way (see `lowest_rate`).
_FEW_FLIPS = 0.1
_LEAST_LOW = 1e-15


@dataclass(frozen=True)
class FoundMidpoint:
    """Result of `find_midpoint`.

    Attributes
    ----------
    midpoint : float or None
        Bit error rate at which eq. 2 is half way between clean and chance accuracy; None where
        there is no drop within the rates: `bound` and `limit` then say what is known.
    bound : "above", "below" or None
        Where the midpoint lies if it was not found.
    limit : float or None
        The rate that it lies above or below.
    half_level : float or None
        Rate at which the measured accuracy, made monotone and linear between its points on log10,
        crosses half way. Needs no model of the curve.
    interval : (float, float) or None
        Confidence interval of the midpoint of all images of the data: for other noise, and for
        which of the images were run.
    sigma : float or None
        Slope of eq. 2, in decades.
    sigma_interval : (float, float) or None
    clean_accuracy, chance_accuracy : float
    clean_images : int
        Images that the clean accuracy was measured on.
    confidence : float
    precision : float or None
        Half width of the interval as a share of the midpoint, upwards.
    inferences : int
        Images run for this result.
    seconds : float
    reason : str
        Why the search stopped, in one line.
    points : Points
        What was measured, one entry a trial.
    """

    midpoint: float | None
    bound: str | None
    limit: float | None
    half_level: float | None
    interval: tuple[float, float] | None
    sigma: float | None
    sigma_interval: tuple[float, float] | None
    clean_accuracy: float
    chance_accuracy: float
    clean_images: int
    confidence: float
    precision: float | None
    inferences: int
    seconds: float
    reason: str
    points: Points = field(repr=False, compare=False)

    def __str__(self) -> str:
        """Return the lines that the command prints."""
        clean = (
            f"clean accuracy {self.clean_accuracy:.4f} ({self.clean_images:,} images), "
            f"chance {self.chance_accuracy:.4g}"
        )
        spent = f"{self.inferences:,} inferences in {self.seconds:.1f} s: {self.reason}"
        if self.midpoint is None or self.interval is None or self.sigma is None:
            return f"midpoint {self.bound} {self.limit:.3g}\n{clean}\n{spent}"
        low, high = self.interval
        return (
            f"midpoint   {self.midpoint:.3g}  {100 * self.confidence:g}% interval "
            f"[{low:.3g}, {high:.3g}]  (+-{self.precision:.1%})\n"
            f"half level {self.half_level:.3g}  sigma {self.sigma:.3f} decades\n{clean}\n{spent}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Fields as plain values for JSON, without the points."""
        values = asdict(self)
        del values["points"]
        for name in ("interval", "sigma_interval"):
            values[name] = None if values[name] is None else list(values[name])
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FoundMidpoint:
        """Return the result that `as_dict` gave; it has no points.

        Raises
        ------
        InputError
            A field is missing, unknown, or of another type.
        """
        names = {f.name for f in fields(cls)} - {"points"}
        if set(values) != names:
            raise InputError(f"midpoint: expected the fields {sorted(names)}, got {sorted(values)}")
        found = dict(values)
        for name, value in found.items():
            if not _plausible(name, value):
                raise InputError(f"midpoint: field {name} is damaged")
            if isinstance(value, list):
                found[name] = tuple(value)
        return cls(**found, points=Points([], [], [], []))

    def fit(self) -> Fit:
        """Return the curve as `fit_midpoint` describes one, for plots."""
        rates = np.unique(np.asarray(self.points.rate, dtype=np.float64))
        return Fit(
            midpoint=self.midpoint,
            bound=self.bound,
            limit=self.limit,
            half_level=self.half_level,
            interval=self.interval,
            sigma=self.sigma,
            sigma_interval=self.sigma_interval,
            rate_99=None,
            axis="log10",
            clean_accuracy=self.clean_accuracy,
            chance_accuracy=self.chance_accuracy,
            confidence=self.confidence,
            dispersion=None,
            covers="noise",
            rates=len(rates),
            points=len(np.asarray(self.points.rate)),
            images=int(np.sum(self.points.images)),
        )


class MidpointFinder:
    """Finds midpoints of one network: with all sites noisy, or one, with all bits, or some.

    The clean accuracy is measured once and serves all of them.

    Parameters
    ----------
    evaluator : Evaluator
        Without a metric of the user's own; data without labels are judged by the agreement with
        the clean predictions.
    seed : int
        64 bits. The same seed gives the same images and flips on every machine.
    confidence : float
        Of the intervals.

    Raises
    ------
    InputError
        A confidence outside (0, 0.9999].
    """

    def __init__(self, evaluator: Evaluator, *, seed: int = 0, confidence: float = 0.95) -> None:
        check_options("log10", confidence)
        self.evaluator, self.confidence = evaluator, confidence
        self._seed = seed
        self._clean = CleanImages(
            evaluator, random_order(derived_seed(seed, "clean"), len(evaluator))
        )

    def find(
        self,
        noisy: NoisySites,
        bit_mask: Any = None,
        *,
        label: str = "",
        precision: float = 0.05,
        most: int | None = None,
        low: float | None = None,
        high: float = HIGHEST,
        show: Callable[[str], None] | None = None,
    ) -> FoundMidpoint:
        """Find one midpoint.

        Parameters
        ----------
        noisy : NoisySites
            Sites whose rate is looked for, and the rates of others.
        bit_mask
            As `NoisySession.run` takes it.
        label : str
            Gives this search flips and images of its own.
        precision : float
            Half width of the interval, as a share of the midpoint.
        most : int, optional
            Most inferences.
        low, high : float
            Rates between which to look. None: the lowest at which an accuracy half way is possible.
        show : callable, optional
            Called with a line that says how far it is, whenever that changes.

        Returns
        -------
        FoundMidpoint

        Raises
        ------
        InputError
            The clean accuracy is not above chance, or an option is out of range.
        """
        start = time.perf_counter()
        if not 0 < precision <= 10:
            raise InputError(f"precision: expected a share above 0, such as 0.05, got {precision}")
        if most is not None and most < LEAST_INFERENCES:
            raise InputError(f"inferences: expected {LEAST_INFERENCES} or more, got {most}")
        sites = self.evaluator.session.sites
        low = min(lowest_rate(sites, noisy, bit_mask), high / 10) if low is None else low
        if not 0 < low < high <= 1:
            raise InputError(f"rates: expected 0 < LOW < HIGH <= 1, got {low:g}:{high:g}")
        experiment = NoisyNetwork(
            self.evaluator, self._clean, noisy, bit_mask, derived_seed(self._seed, f"find|{label}")
        )
        search = MidpointSearch(experiment, low, high, precision, self.confidence, most, show)
        outcome = search.run()
        return self._found(outcome, search.spent, time.perf_counter() - start)

    def _found(self, outcome: Outcome, spent: int, seconds: float) -> FoundMidpoint:
        cells = outcome.cells
        correct, images = self._clean.counts
        values: dict[str, Any] = dict.fromkeys(
            ("midpoint", "half_level", "interval", "sigma", "sigma_interval", "precision")
        )
        if outcome.estimate is not None:
            solution = outcome.estimate.solution
            half, width = map(float, outcome.half_width)
            values = {
                "midpoint": 10**solution.mu,
                "half_level": 10**outcome.estimate.half_level,
                "interval": tuple(min(10 ** (solution.mu + side * half), 1.0) for side in (-1, 1)),
                "sigma": solution.sigma,
                "sigma_interval": (max(solution.sigma - width, 0.0), solution.sigma + width),
                "precision": 10**half - 1,
            }
        number = np.arange(len(cells.at)) - np.searchsorted(cells.at, cells.at)
        return FoundMidpoint(
            **values,
            bound=outcome.bound,
            limit=outcome.limit,
            clean_accuracy=correct / images,
            chance_accuracy=self._clean.chance,
            clean_images=images,
            confidence=self.confidence,
            inferences=spent,
            seconds=seconds,
            reason=outcome.reason,
            points=Points(cells.rate[cells.at], number, cells.correct, cells.images),
        )


def find_midpoint(
    model: str | os.PathLike[str] | NoisySession,
    data: str | Dataset,
    *,
    precision: float = 0.05,
    confidence: float = 0.95,
    images: int | None = None,
    noisy: str | int | Sequence[str | int] | None = None,
    fixed_rates: Mapping[str, Any] | None = None,
    bit_mask: int | str | Sequence[int | str] | None = None,
    low: float | None = None,
    high: float = HIGHEST,
    most: int | None = None,
    seed: int = 0,
    batch_size: int = 100,
    providers: Sequence[str | Provider] | str | None = None,
    threads: int | None = None,
    custom_op_libraries: Sequence[str | os.PathLike[str]] = (),
    progress: bool | None = None,
    split: str = "test",
) -> FoundMidpoint:
    """Find the midpoint noise level (paper, eq. 2) without a sweep.

    A sequential design on random images with fresh noise: it brackets the drop with few images,
    then runs images where the midpoint depends on them most, until its interval is as narrow as
    asked. The estimate is that of a sweep over an even log10 grid across the drop, wherever the
    images were spent.

    Parameters
    ----------
    model : path of an annotated ONNX file, or NoisySession
    data : str or Dataset
        See `noisystore.runtime.dataset.load`.
    precision : float
        Largest half width of the interval, as a share of the midpoint: 0.05 is +-5%.
    confidence : float
        Of the intervals.
    images : int, optional
        The first of the data set; None: all. Random ones of these are run.
    noisy, fixed_rates, bit_mask
        As `noisystore.runtime.sweep` takes them.
    low, high : float
        Rates between which to look.
    most : int, optional
        Most inferences to spend, 1000 or more; whole batches where the model fixes their size.
    seed : int
        64 bits, signed. The same seed gives the same images and flips on every machine, at any
        batch size that the model leaves open and any number of threads.
    batch_size, providers, threads, custom_op_libraries
        As `noisystore.runtime.sweep` takes them.
    progress : bool, optional
        True: say on standard error how far it is; None: on a terminal.
    split : "test" or "train"

    Returns
    -------
    FoundMidpoint

    Raises
    ------
    InputError
        Bad input of any kind, or a clean accuracy that is not above chance.
    Interrupted
        Ctrl-C or SIGTERM; the message says what was known by then.
    """
    if not isinstance(seed, (int, np.integer)) or not -(1 << 63) <= seed < 1 << 63:
        raise InputError(f"seed: expected an integer of 64 bits with a sign, got {seed!r}")
    session = model
    if not isinstance(session, NoisySession):
        session = NoisySession(session, providers, threads, custom_op_libraries)
    chosen = NoisySites(session.sites, noisy, fixed_rates)
    label, masks = swept_masks(bit_mask, session.sites, chosen)
    dataset = load(data, split, size=session.image_size) if isinstance(data, str) else data
    evaluator = Evaluator(session, dataset.head(images), batch_size)
    finder = MidpointFinder(evaluator, seed=int(seed), confidence=confidence)
    line = StatusLine(progress)
    line.say(*too_wide(label, masks, session.sites, chosen), *session_notes(session, dataset))
    try:
        with terminable():
            return finder.find(
                chosen, masks, precision=precision, most=most, low=low, high=high, show=line.show
            )
    except KeyboardInterrupt as error:
        number = error.signal if isinstance(error, Interrupted) else signal.SIGINT
        raise Interrupted(f"interrupted: {line.text or 'nothing is known yet'}", number) from None
    finally:
        line.close()


def lowest_rate(sites: Sequence[Any], noisy: NoisySites, bit_mask: Any) -> float:
    """Return a rate below which the accuracy cannot be near half way.

    Only samples that meet a flip can turn wrong, so that the accuracy cannot have fallen by more
    than the flips expected in a sample.
    """
    flips = expected_flips(list(sites), noisy.table(1.0), bit_mask)
    fixed = expected_flips(list(sites), noisy.table(0.0), bit_mask)
    if fixed > 0 or not 0 < flips < math.inf:
        return _LEAST_LOW
    return min(max(_FEW_FLIPS / flips, _LEAST_LOW), 0.05)


def _plausible(name: str, value: Any) -> bool:
    """Say whether a value read from a file can be that of a field."""

    def number(x: Any) -> bool:
        return type(x) in (int, float) and 0 <= x < 1e15

    if name == "reason":
        return isinstance(value, str)
    if name == "bound":
        return value in (None, "above", "below")
    if name in ("interval", "sigma_interval"):
        pair = isinstance(value, list) and len(value) == 2 and all(map(number, value))
        return value is None or pair
    if name in ("midpoint", "limit", "half_level", "sigma", "precision") and value is None:
        return True
    return number(value)
