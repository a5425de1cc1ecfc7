# SPDX-License-Identifier: Apache-2.0
"""A network at one rate with some of its bits protected, on the same images and flips each time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..ortops.errors import InputError
from .clean_once import CleanOnce
from .metrics import as_logits
from .midpoint_network import SHARED_TRIAL, derived_seed, random_order
from .noisy_sites import NoisySites
from .rates import noise_seed
from .sites import Site

#: Divergence of an image whose prediction is lost, at most.
_RUINED = 3.0

Bits = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Run:
    """What noisy bits did to some images.

    Attributes
    ----------
    correct : array of bool [n]
        Right predictions; without labels, those of the clean network.
    agree : array of bool [n]
        Predictions of the clean network.
    clean : array of bool [n]
        Right predictions of the clean network, without mitigations.
    trial : array of int64 [n]
        Images of one trial share flips of stored weights; else each is a trial.
    """

    correct: npt.NDArray[np.bool_]
    agree: npt.NDArray[np.bool_]
    clean: npt.NDArray[np.bool_]
    trial: npt.NDArray[np.int64]

    @property
    def accuracy(self) -> float:
        """Share of right predictions."""
        return float(self.correct.mean())

    @property
    def clean_accuracy(self) -> float:
        """That of the clean network on the same images."""
        return float(self.clean.mean())

    @property
    def loss(self) -> float:
        """Clean accuracy less accuracy."""
        return self.clean_accuracy - self.accuracy

    def loss_interval(self) -> tuple[float, float]:
        """95% interval of the loss, for other noise and other images."""
        return self._interval(self.clean.astype(np.float64) - self.correct)

    def accuracy_interval(self) -> tuple[float, float]:
        """95% interval of the accuracy, from that of the loss."""
        low, high = (self.clean_accuracy - loss for loss in reversed(self.loss_interval()))
        return min(max(low, 0.0), 1.0), min(max(high, 0.0), 1.0)

    def gain_over(self, other: Run) -> tuple[float, tuple[float, float]]:
        """Accuracy less that of another run of the same images, and its 95% interval."""
        gain = self.correct.astype(np.float64) - other.correct
        return float(gain.mean()), self._interval(gain)

    def _interval(self, values: npt.NDArray[np.float64]) -> tuple[float, float]:
        from scipy.special import stdtrit

        sizes = np.bincount(self.trial)
        sums = np.bincount(self.trial, values - values.mean())
        number = len(sizes)
        if number < 2:
            return -1.0, 1.0
        # Nothing changed in n trials: a change of 3 in n would show up with 95%.
        least = 1.0 / number
        error = math.sqrt(float(sums @ sums) * number / (number - 1)) / len(values)
        width = max(float(stdtrit(number - 1, 0.975)) * error, least if values.any() else 3 * least)
        mean = float(values.mean())
        return mean - width, mean + width


class PairedRuns:
    """Runs of one network at one bit error rate, with different bits protected.

    Runs for one purpose have the same images and the same noise seeds, so that their differences
    come from the protection. Images that verify bits are never among those that choose them.

    Parameters
    ----------
    evaluator : CleanOnce
    noisy : NoisySites
        Sites with the rate; the others keep theirs.
    rate : (float, float)
        p01 and p10.
    masks : array of uint64 [sites]
        Bits of each site that may flip.
    seed : int
    tick : callable, optional
        Called with the number of images after each batch.
    reference : CleanOnce, optional
        The network without mitigations, from whose clean accuracy losses count: a mitigation may
        cost some without noise. None: `evaluator`.

    Attributes
    ----------
    bits : array of uint64 [sites]
        Bits that flip at the rate without protection; 0 at sites with rates of their own.
    """

    def __init__(
        self,
        evaluator: CleanOnce,
        noisy: NoisySites,
        rate: tuple[float, float],
        masks: Bits,
        seed: int,
        tick: Callable[[int], None] | None = None,
        reference: CleanOnce | None = None,
    ) -> None:
        self.evaluator, self.noisy, self.rate, self._masks = evaluator, noisy, rate, masks
        self.bits = noisy_bits(evaluator.session.sites, noisy, masks)
        self._seed, self._tick = seed, tick
        self._reference = reference or evaluator
        self._known: tuple[bytes, npt.NDArray[Any]] = b"", np.empty((0, 0))
        sites = evaluator.session.sites
        self.independent = not any(s.rows_per_sample < 1 for s in sites if noisy.noisy[s.site])

    @property
    def chance(self) -> float:
        """Accuracy of guessing."""
        assert self.evaluator.classes is not None
        return 1 / self.evaluator.classes

    def clean_accuracy(self) -> float:
        """Return that of all images; 1 where the data have no labels."""
        scores = self._reference.run(0.0, samples=np.arange(len(self.evaluator)), tick=self._tick)
        return 1.0 if scores.correct is None else float(scores.correct.mean())

    def choosing(self, count: int) -> npt.NDArray[np.int64]:
        """Return up to `count` random images to choose bits with, ascending: of one third."""
        return np.sort(self._order()[: self._third()][:count])

    def verifying(self, count: int) -> npt.NDArray[np.int64]:
        """Return up to `count` random images that no choice has seen, ascending."""
        return np.sort(self._order()[self._third() :][:count])

    def _third(self) -> int:
        return len(self.evaluator) // 3

    def _order(self) -> npt.NDArray[np.int64]:
        return random_order(derived_seed(self._seed, "protect"), len(self.evaluator))

    def run(
        self,
        protected: Bits | None,
        samples: npt.NDArray[np.int64],
        purpose: str,
        rate: tuple[float, float] | None = None,
    ) -> Run:
        """Run some images with some bits protected.

        Parameters
        ----------
        protected : array of uint64 [sites], or None
            Bits without errors.
        samples : array of int64
        purpose : str
            Names the noise.
        rate : (float, float), optional
            Another one.
        """
        rates, masks = self._noise(protected, self.rate if rate is None else rate)
        clean = self._reference.run(0.0, samples=samples, tick=self._tick)
        if clean.predictions is None:
            raise InputError("protect: expected a model with class predictions")
        parts = [
            self.evaluator.run(rates, masks, seed, chosen, self._tick)
            for seed, chosen in self._trials(samples, purpose)
        ]
        predictions = np.concatenate([_predictions(part) for part in parts])
        agree = predictions == clean.predictions
        labels = self.evaluator.data.labels
        right = np.ones(len(samples), bool) if clean.correct is None else clean.correct
        correct = agree if labels is None else predictions == labels[samples]
        size = 1 if self.independent else SHARED_TRIAL
        return Run(correct, agree, right, np.arange(len(samples)) // size)

    def harm(self, noisy: Bits, samples: npt.NDArray[np.int64], purpose: str) -> float:
        """Return how far some noisy bits alone move what the network says of some images.

        The mean Kullback-Leibler divergence of its class probabilities from those of the clean
        network, at most `_RUINED` an image. For small errors it is their square, and for rare ones
        that ruin an image their number: in both cases that of independent errors is the sum.

        Parameters
        ----------
        noisy : array of uint64 [sites]
        samples : array of int64
        purpose : str
            Names the noise.
        """
        clean = self._clean_logits(samples)
        total, done = 0.0, 0
        for logits in self._logits(self.bits & ~noisy, samples, purpose):
            apart = _divergence(clean[done : done + len(logits)], logits)
            total, done = total + float(apart.sum()), done + len(logits)
        return total / len(samples)

    def _clean_logits(self, samples: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        key = samples.tobytes()
        if self._known[0] != key:
            parts = [as_logits(outputs) for _, outputs in self.evaluator.outputs(samples=samples)]
            if any(part is None for part in parts):
                raise InputError("protect: expected a model with class predictions")
            self._known = key, np.concatenate([part for part in parts if part is not None])
        return self._known[1]

    def _logits(
        self, protected: Bits, samples: npt.NDArray[np.int64], purpose: str
    ) -> Iterator[npt.NDArray[Any]]:
        rates, masks = self._noise(protected, self.rate)
        for seed, chosen in self._trials(samples, purpose):
            for _, outputs in self.evaluator.outputs(rates, masks, seed, chosen):
                logits = as_logits(outputs)
                assert logits is not None
                yield logits
                if self._tick is not None:
                    self._tick(len(logits))

    def _noise(
        self, protected: Bits | None, rate: tuple[float, float]
    ) -> tuple[npt.NDArray[np.float64], Bits]:
        noisy = self.bits if protected is None else self.bits & ~protected
        rates = self.noisy.table(rate)
        # A mask without bits is none: such a site has no rate instead. Others keep theirs.
        rates[(self.bits > 0) & (noisy == 0)] = 0.0
        return rates, np.where(noisy > 0, noisy, self._masks)

    def _trials(
        self, samples: npt.NDArray[np.int64], purpose: str
    ) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
        """Yield a seed and the images that share it."""
        size = len(samples) if self.independent else SHARED_TRIAL
        for trial, start in enumerate(range(0, len(samples), size)):
            seed = noise_seed(derived_seed(self._seed, f"noise|{purpose}"), trial, *self.rate)
            yield seed, samples[start : start + size]


def _divergence(clean: npt.NDArray[Any], noisy: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Kullback-Leibler divergence of class probabilities, [n], at most `_RUINED`."""
    with np.errstate(all="ignore"):
        p, q = (_log_softmax(logits.astype(np.float64)) for logits in (clean, noisy))
        apart = np.sum(np.exp(p) * (p - q), axis=1)
    found: npt.NDArray[np.float64] = np.clip(np.nan_to_num(apart, nan=_RUINED), 0, _RUINED)
    return found


def _log_softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    found: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return found


def noisy_bits(sites: list[Site], noisy: NoisySites, masks: npt.NDArray[np.uint64]) -> Bits:
    """Return the bits of each site that can flip, [sites]: none where a site has no rate."""
    words = np.array([(1 << site.noisy_bits) - 1 for site in sites], dtype=np.uint64)
    swept = (noisy.table(1.0) != noisy.table(0.0)).any(axis=1)
    return np.where(swept, words & masks, 0).astype(np.uint64)


def _predictions(scores: Any) -> npt.NDArray[np.int32]:
    assert scores.predictions is not None
    found: npt.NDArray[np.int32] = scores.predictions
    return found
