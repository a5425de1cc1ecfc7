# SPDX-License-Identifier: Apache-2.0
"""Where to measure next, so that the midpoint of eq. 2 is known with few inferences."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np

from .midpoint import SURE, check_clean
from .midpoint_curve import Array, crossing, decreasing, even_weights, solve
from .midpoint_grid import RateGrid
from .midpoint_interval import Cells, standard_errors
from .midpoint_outcome import Estimate, Experiment, Outcome

#: Another number where the same seed finds another midpoint than before, so that results files keep
#: what they have apart.
SEARCH_VERSION = 1

#: Images at each rate of the grid at least, of a probe, and without noise at first.
_LEAST, _PROBE, _CLEAN = 25, 50, 200
#: A probe at the highest rate goes on up to so many images, or until it is `SURE` errors away from
#: half way; images that share their flips tell little before so many trials.
_MOST_PROBE, _TRIALS = 400, 8
#: The drop goes on where its ends are further from clean and from chance than this share of it;
#: decades to go on there, at a time and at most (with noise at other sites the accuracy never gets
#: back to clean).
_AT_END, _FURTHER, _FURTHEST = 0.1, 0.75, 1.5
#: Weight of sigma's variance beside that of mu when images are shared out.
_SIGMA_SHARE = 0.1
#: A round adds at most twice what is there, or this many: early fits are rough.
_FIRST_ROUND = 600
#: The spread between trials is itself measured, and a search that stops once the interval is narrow
#: stops where it happens to look small: it is taken so many of its standard errors larger. In
#: simulation the intervals then cover 94 to 96%, else 90 to 95%.
_CAUTION = 2.5
_SPENT = "the inferences allowed are spent"
#: Aim a little below the width asked for, so that the last round is the last.
_AIM = 0.97


class MidpointSearch:
    """A sequential design: bracket the drop, then share images out where mu depends on them.

    All estimates use one grid of rates that is even on log10 and spans the drop, each rate with
    the same weight, however many images it got: so the estimate is that of a sweep over this grid,
    wherever the design placed its images.

    Parameters
    ----------
    experiment : Experiment
    low, high : float
        Rates between which the midpoint is looked for.
    precision : float
        Largest half width of the interval of the midpoint, as a share of it.
    confidence : float
    most : int, optional
        Most inferences to spend.
    show : callable, optional
        Called with a line that says what is being done.
    """

    def __init__(
        self,
        experiment: Experiment,
        low: float,
        high: float,
        precision: float,
        confidence: float = 0.95,
        most: int | None = None,
        show: Callable[[str], None] | None = None,
    ) -> None:
        self._experiment = experiment
        self._grid = RateGrid(low, high)
        self._goal = math.log10(1 + precision)
        self._confidence = confidence
        self._most = math.inf if most is None else most
        self._show = show or (lambda text: None)
        self._counts: dict[float, list[tuple[int, int]]] = {}
        self._clean = (0, 0)
        self._before = experiment.inferences
        self._further = (0.0, 0.0)

    @property
    def spent(self) -> int:
        """Inferences of this search so far; clean ones that were there before do not count."""
        return self._experiment.inferences - self._before

    @property
    def _left(self) -> float:
        """Images that may still be run."""
        return (self._most - self.spent) / self._experiment.price

    def run(self) -> Outcome:
        """Measure until the interval is as narrow as asked, or the inferences are spent.

        Returns
        -------
        Outcome

        Raises
        ------
        InputError
            The clean accuracy is not clearly above chance.
        """
        self._measure_clean()
        if (nothing := self._no_drop()) is not None:
            return nothing
        mu, sigma, least = self._bracket(), 0.25, max(_LEAST, self._draws())
        estimate = None
        while True:
            span = self._grid.span(mu, sigma, self._further)
            missing = {r: least - self._images(r) for r in span if self._images(r) < least}
            if sum(missing.values()) > self._left:
                return self._end(estimate, _SPENT)
            for rate, images in missing.items():
                self._run(rate, images)
            found = self._estimate(span)
            if isinstance(found, int):
                estimate, end = None, span[-1 if found > 0 else 0]
                if self._beyond(end, found):
                    return self._end(None, "the midpoint lies outside the rates allowed")
                mu = math.log10(end)
                least *= 2  # so that noise cannot send the search to and fro for ever
                continue
            estimate = found
            mu, sigma = estimate.solution.mu, estimate.solution.sigma
            if self._grid.too_coarse(sigma):
                if least < self._telling():
                    least = self._telling()
                    continue
                if self._grid.gap > self._goal:
                    self._grid.refine()
                    continue
            self._go_further(span)
            if not all(self._images(r) for r in self._grid.span(mu, sigma, self._further)):
                continue
            width = float(self._half_widths(estimate)[0])
            said = f"midpoint {10**mu:.3g} +-{10**width - 1:.1%} after {self.spent:,} inferences"
            self._show(said)
            if width <= self._goal:
                return self._end(estimate, "the interval is as narrow as asked")
            if self._left < 1:
                return self._end(estimate, _SPENT)
            self._share_out(span, estimate)

    def _measure_clean(self) -> None:
        """Run so many images, or all, that half way is known as well as a probe needs it."""
        images = _CLEAN
        while True:
            self._run_clean(int(min(images, max(self._left, _CLEAN))))
            if self._clean[1] >= self._draws():
                return
            if self._clean[1] < images:
                break
            images *= 4
        check_clean(self._clean_accuracy(), self._experiment.chance, self._clean[1])

    def _probe(self, rate: float) -> float:
        """Return the accuracy at a rate, of so many images that these tell it from half way."""
        while True:
            self._run(rate, _PROBE)
            images, accuracy = self._images(rate), self._accuracy(rate)
            half = self._half()
            error = math.sqrt(max(half * (1 - half), 0.01) / images)
            enough = self._experiment.independent or len(self._counts[rate]) >= _TRIALS
            if enough and abs(accuracy - half) > SURE * error:
                return accuracy
            if images >= self._most_probe() or self._left < _PROBE:
                return accuracy

    def _no_drop(self) -> Outcome | None:
        """Look whether the accuracy at the highest rate is below half way at all."""
        rate, half = self._grid.high, self._half()
        accuracy = self._probe(rate)
        if accuracy <= half:
            return None
        known = f"(clean {self._clean_accuracy():.3f}, half way {half:.3f})"
        return self._end(None, f"no drop to find: accuracy is {accuracy:.3f} at {rate:g} {known}")

    def _beyond(self, end: float, side: int) -> bool:
        """Say whether the drop lies beyond an end of the grid, and that is the end of the rates."""
        if end < self._grid.high if side > 0 else end > self._grid.low:
            return False
        same = (self._probe(end) > self._half()) == (side > 0)
        return same or self._images(end) >= 4 * self._most_probe()

    def _most_probe(self) -> int:
        return max(_MOST_PROBE, self._telling())

    def _draws(self) -> int:
        """Images with noise of their own that tell a steep drop from noise, at each rate."""
        half = self._half()
        height = max(self._clean_accuracy() - self._experiment.chance, 1e-9)
        return math.ceil(max(half * (1 - half), 0.01) * (2 * SURE / height) ** 2)

    def _telling(self) -> int:
        """Images at each rate that do so, were all images of a trial right or wrong together."""
        if self._experiment.independent:
            return self._draws()
        return self._draws() * max(images for _, images in self._counts[self._grid.high])

    def _bracket(self) -> float:
        """Return a first guess of mu by halving the range."""
        grid = self._grid.all()
        first, last = 0, len(grid) - 1
        while last - first > 1 and self._left >= _PROBE:
            middle = (first + last) // 2
            self._show(f"looking for the drop: {grid[first]:.2g} to {grid[last]:.2g}")
            self._run(grid[middle], int(min(max(_PROBE, self._draws()), self._left)))
            if self._accuracy(grid[middle]) > self._half():
                first = middle
            else:
                last = middle
        return (math.log10(grid[first]) + math.log10(grid[last])) / 2

    def _share_out(self, span: list[float], estimate: Estimate) -> None:
        """Run the images that bring the interval to its width, or as many as a round may have."""
        solution, clean = estimate.solution, self._clean_accuracy()
        have = np.array([*(self._images(r) for r in span), self._clean[1]], dtype=np.float64)
        influence = np.column_stack([solution.influence, solution.clean_influence])
        accuracy = np.clip([*solution.fitted, clean], 1e-3, 1 - 1e-3)
        variance = accuracy * (1 - accuracy)
        variance[:-1] *= estimate.errors.dispersion
        variance[-1] *= (self._experiment.population > self._clean[1]) and clean < 1
        by_mu = influence[0] ** 2 * variance
        share = np.sqrt(by_mu + _SIGMA_SHARE * influence[1] ** 2 * variance)
        most = np.full(len(have), np.inf)
        most[-1] = self._experiment.population
        quantile = float(self._half_widths(estimate)[0]) / estimate.errors.error[0]
        aim = (_AIM * self._goal / quantile) ** 2

        def wanted(scale: float) -> Array:
            grown: Array = np.minimum(np.maximum(have, scale * share), most)
            return grown

        def variance_of_mu(counts: Array) -> float:
            left = 1 - counts[-1] / most[-1]
            return float(by_mu[:-1] @ (1 / counts[:-1]) + by_mu[-1] * left / counts[-1])

        def enough(scale: float) -> bool:
            counts = wanted(scale)
            return variance_of_mu(counts) <= aim or bool(np.sum(counts - have) >= allowed)

        allowed = min(max(2 * have.sum(), _FIRST_ROUND), self._left)
        low, high = 0.0, 1.0
        while not enough(high) and high < 1e18:
            high *= 2
        for _ in range(60):
            scale = (low + high) / 2
            low, high = (low, scale) if enough(scale) else (scale, high)
        counts = [math.ceil(n) for n in wanted(high) - have]
        if counts[-1]:
            self._run_clean(self._clean[1] + int(min(counts[-1], self._left)))
        for rate, images in sorted(zip(span, counts[:-1], strict=True), key=lambda pair: -pair[1]):
            self._run(rate, int(min(images, self._left)))

    def _go_further(self, span: list[float]) -> None:
        """Widen the span where its ends are not those of the drop.

        A curve may fall in two steps, or fall and rise again: all of it counts, as in a sweep.
        """
        clean, chance = self._clean_accuracy(), self._experiment.chance
        away = clean - self._accuracy(span[0]), self._accuracy(span[-1]) - chance
        further = list(self._further)
        room = (
            span[0] > self._grid.low and further[0] < _FURTHEST,
            span[-1] < self._grid.high and further[1] < _FURTHEST,
        )
        for i, rate in enumerate((span[0], span[-1])):
            error = 0.5 / math.sqrt(self._images(rate))
            if room[i] and away[i] > max(_AT_END * (clean - chance), SURE * error):
                further[i] += _FURTHER
        self._further = further[0], further[1]

    def _run(self, rate: float, images: int) -> None:
        if images > 0:
            self._counts.setdefault(rate, []).extend(self._experiment.noisy(rate, images))

    def _run_clean(self, images: int) -> None:
        self._clean = self._experiment.clean(images)

    def _images(self, rate: float) -> int:
        return sum(images for _, images in self._counts.get(rate, ()))

    def _accuracy(self, rate: float) -> float:
        return sum(correct for correct, _ in self._counts[rate]) / self._images(rate)

    def _clean_accuracy(self) -> float:
        return self._clean[0] / self._clean[1]

    def _half(self) -> float:
        return (self._clean_accuracy() + self._experiment.chance) / 2

    def _cells(self, rates: Iterable[float]) -> Cells:
        chosen = sorted(rate for rate in rates if rate in self._counts)
        at = [i for i, rate in enumerate(chosen) for _ in self._counts[rate]]
        trials = [trial for rate in chosen for trial in self._counts[rate]]
        correct, images = np.array(trials, dtype=np.float64).reshape(-1, 2).T
        return Cells(np.array(chosen), np.array(at, dtype=np.int64), correct, images)

    def _estimate(self, span: list[float]) -> Estimate | int:
        """Fit these rates; if they do not hold the drop, which way it lies: 1 above, -1 below."""
        cells = self._cells(span)
        x, accuracy = np.log10(cells.rate), cells.accuracy
        clean, chance = self._clean_accuracy(), self._experiment.chance
        monotone = decreasing(accuracy, cells.total(cells.images))
        half = crossing(x, monotone, (clean + chance) / 2)
        if half is None:
            return 1 if monotone[-1] > (clean + chance) / 2 else -1
        solution = solve(x, accuracy, even_weights(x), clean, chance, half)
        if not x[0] <= solution.mu <= x[-1]:
            return 1 if solution.mu > x[-1] else -1
        images, population = self._clean[1], self._experiment.population
        drawn = clean * (1 - clean) / images * (1 - images / population)
        errors = standard_errors(cells, solution, self._experiment.independent)
        return Estimate(solution, errors.with_clean(solution, drawn), half)

    def _half_widths(self, estimate: Estimate) -> Array:
        errors = estimate.errors
        caution = math.sqrt(1 + _CAUTION * math.sqrt(2 / max(errors.degrees, 1)))
        widths = errors.half_width(self._confidence) * caution
        if self._grid.too_coarse(estimate.solution.sigma):
            widths[0] = max(widths[0], self._grid.gap)
        return widths

    def _end(self, estimate: Estimate | None, reason: str) -> Outcome:
        cells = self._cells(self._counts)
        if estimate is not None:
            widths = self._half_widths(estimate)
            return Outcome(estimate, widths, None, None, cells, reason)
        low = decreasing(cells.accuracy, cells.total(cells.images)) <= self._half()
        # A search that was cut short is sure of the highest rate only.
        lowest = -1 if reason == _SPENT else int(np.argmax(low))
        bound, i = ("below", lowest) if low[-1] else ("above", -1)
        unknown = np.array([np.inf, np.inf])
        return Outcome(None, unknown, bound, float(cells.rate[i]), cells, reason)
