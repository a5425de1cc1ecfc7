# SPDX-License-Identifier: Apache-2.0
"""A network on random images of a data set, without noise and with it."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ..ortops import noise_inputs
from ..ortops.errors import InputError
from .evaluate import Evaluator
from .noisy_sites import NoisySites
from .rates import noise_seed

#: Images of a trial where all of them meet the same flips (stored weights): more trials say more.
SHARED_TRIAL = 20


class CleanImages:
    """The clean network on random images: how many are right, and what it predicts.

    Parameters
    ----------
    evaluator : Evaluator
    order : array of int64
        All samples, in the order in which they are run.

    Attributes
    ----------
    inferences : int
        Images run.
    """

    def __init__(self, evaluator: Evaluator, order: npt.NDArray[np.int64]) -> None:
        self._evaluator, self._order = evaluator, order
        self._predictions = np.full(len(order), -1, dtype=np.int64)
        self._right = np.zeros(len(order), dtype=bool)
        self._images = 0
        self.inferences = 0

    @property
    def known(self) -> bool:
        """Whether no prediction is needed any more to say what is right."""
        return self._evaluator.data.labels is not None or bool(np.all(self._predictions >= 0))

    @property
    def counts(self) -> tuple[int, int]:
        """Right predictions, and images."""
        return int(self._right[self._order[: self._images]].sum()), self._images

    @property
    def chance(self) -> float:
        """Accuracy of guessing."""
        assert self._evaluator.classes is not None
        return 1 / self._evaluator.classes

    def extend(self, images: int) -> None:
        """Run more of the images, in their order."""
        first, last = self._images, max(self._images, min(images, len(self._order)))
        if last > first:
            self._run(np.sort(self._order[first:last]))
            self._images = last

    def predictions(self, samples: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the predictions for these samples, which are run where they were not yet."""
        unknown = samples[self._predictions[samples] < 0]
        if len(unknown):
            self._run(unknown)
        return self._predictions[samples]

    def _run(self, samples: npt.NDArray[np.int64]) -> None:
        scores = self._evaluator.run(0.0, samples=samples)
        self.inferences += len(samples)
        if scores.predictions is None:
            raise InputError("midpoint: expected a model with class predictions")
        self._predictions[samples] = scores.predictions
        self._right[samples] = True if scores.correct is None else scores.correct


class NoisyNetwork:
    """A network on random images, as `MidpointSearch` measures one.

    Parameters
    ----------
    evaluator : Evaluator
    clean : CleanImages
        Of the same evaluator.
    noisy : NoisySites
    bit_mask
        As `NoisySession.run` takes it.
    seed : int
        Of its images and flips.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        clean: CleanImages,
        noisy: NoisySites,
        bit_mask: Any,
        seed: int,
    ) -> None:
        self._evaluator, self._clean = evaluator, clean
        self._noisy, self._bit_mask, self._seed = noisy, bit_mask, seed
        session = evaluator.session
        shared = any(s.rows_per_sample < 1 for s in session.sites if noisy.noisy[s.site])
        self.independent = not shared
        self.population = len(evaluator)
        batch = session.batch or evaluator.batch_size
        self.trial_images = batch if self.independent or session.batch else SHARED_TRIAL
        self.trial_images = min(self.trial_images, self.population)
        self._whole = session.batch or 1
        self._left: dict[float, npt.NDArray[np.int64]] = {}
        self._rounds: dict[float, int] = {}
        self._trials: dict[float, int] = {}
        self._noisy_images = 0

    @property
    def chance(self) -> float:
        """Accuracy of guessing."""
        return self._clean.chance

    @property
    def price(self) -> int:
        """See `Experiment.price`."""
        return 1 if self._clean.known else 2

    @property
    def inferences(self) -> int:
        """See `Experiment.inferences`."""
        return self._clean.inferences + self._noisy_images

    def clean(self, images: int) -> tuple[int, int]:
        """See `Experiment.clean`."""
        self._clean.extend(images)
        return self._clean.counts

    def noisy(self, rate: float, images: int) -> list[tuple[int, int]]:
        """See `Experiment.noisy`."""
        trials = []
        images = math.ceil(images / self._whole) * self._whole
        while images > 0:
            samples = self._next(rate, min(images, self.trial_images))
            trials.append((self._trial(rate, samples), len(samples)))
            images -= len(samples)
        return trials

    def _trial(self, rate: float, samples: npt.NDArray[np.int64]) -> int:
        # Images with noise of their own need a new seed only when they come again: so it does not
        # matter how many are run at a time.
        trial = self._rounds[rate] if self.independent else self._trials.get(rate, 0)
        self._trials[rate] = trial + 1
        seed = noise_seed(self._seed, trial, rate, rate)
        self._noisy_images += len(samples)
        scores = self._evaluator.run(self._noisy.table(rate), self._bit_mask, seed, samples=samples)
        if scores.correct is not None:
            return int(np.count_nonzero(scores.correct))
        return int(np.count_nonzero(scores.predictions == self._clean.predictions(samples)))

    def _next(self, rate: float, count: int) -> npt.NDArray[np.int64]:
        """Draw images: none comes again at a rate before all of them came."""
        left = self._left.get(rate, np.empty(0, dtype=np.int64))
        if not len(left):
            number = self._rounds[rate] = self._rounds.get(rate, 0) + 1
            left = random_order(
                derived_seed(self._seed, f"images|{number}|{rate!r}"), self.population
            )
        self._left[rate] = left[count:]
        return np.sort(left[:count])


def derived_seed(seed: int, purpose: str) -> int:
    """Return a seed for one purpose of many, from the user's."""
    text = f"{noise_inputs.NOISE_MODEL}|midpoint|{seed}|{purpose}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def random_order(seed: int, count: int) -> npt.NDArray[np.int64]:
    """Return a random order of `count` images: raw words, whose values NumPy promises to keep."""
    return np.argsort(np.random.PCG64(seed).random_raw(count), kind="stable")
