# SPDX-License-Identifier: Apache-2.0
"""One folder of a reproduction: its networks, and the curves that are measured in it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..ortops.bit_masks import mask_name
from ..ortops.errors import InputError
from ..ortops.formats import WORD_FORMATS
from . import reproduce_paper as paper
from .dataset import SPLIT, Dataset, load
from .evaluate import Evaluator
from .midpoint_groups import Group, fit_results
from .reproduce_models import Models, find_weights, shape_of
from .reproduce_settings import Curve, Effort, Retraining, curves_of
from .reproduce_tables import Measured, NotFitted
from .results import Results
from .session import NoisySession
from .sites import Site
from .sweep import sweep

#: A curve is complete when its ends lie within this share of the drop from clean and chance.
_END = 0.15
_TIMED_IMAGES = 200
#: Of CIFAR-10.
_TRAINING_IMAGES = 50_000
_BATCH = 100


class Reproduction:
    """One folder of a reproduction: `models/`, `reproduce.sqlite`, and what is drawn from it.

    Parameters
    ----------
    data : str
        Specification of the data set.
    weights : path
        Folder of the networks' weights, see `find_weights`.
    folder : path
        Made where it is missing.
    amount : Effort
    networks : sequence of str, optional
        Of those in `weights`; None: all of them.
    seed : int
    threads : int, optional
    device : str
        For re-training.
    say : callable
        Told what begins, a line each.
    progress : bool, optional
        As `sweep` takes it.

    Raises
    ------
    InputError
        Weights or data that are missing or do not fit.
    """

    def __init__(
        self,
        data: str,
        weights: str | os.PathLike[str],
        folder: str | os.PathLike[str],
        amount: Effort,
        *,
        networks: Sequence[str] | None = None,
        seed: int = 0,
        threads: int | None = None,
        device: str = "cpu",
        say: Callable[[str], None] = lambda text: None,
        progress: bool | None = None,
    ) -> None:
        found = find_weights(weights)
        chosen = list(found) if networks is None else list(networks)
        for network in chosen:
            if network not in found:
                have = ", ".join(f"VGG-{n}" for n in found)
                raise InputError(f"networks: {weights} has no weights of VGG-{network}, but {have}")
        self.networks = [n for n in paper.NETWORKS if n in chosen]
        self.data: Dataset = load(data, "test")
        if self.data.labels is None:
            raise InputError(f"data set {data}: expected labels, got none")
        self.images = amount.images_of(self.data)
        self.amount, self.seed, self.threads = amount, seed, threads
        self.say, self.progress = say, progress
        self.folder = Path(folder)
        self.results = self.folder / "reproduce.sqlite"
        self.weights = {n: found[n] for n in self.networks}
        for file in self.weights.values():
            shape_of(file)
        self.specification, self.device = data, device
        self.models: Models

    def open(self) -> None:
        """Make the folder, or check that it is of these weights and data.

        Raises
        ------
        InputError
            It is not, or cannot be written.
        """
        models = self.folder / "models"
        models.mkdir(parents=True, exist_ok=True)
        self.models = Models(
            models, self.weights, self.specification, self.data.sha256, self.device, self.say
        )

    def curves(self, experiments: Iterable[str], leave_out: bool) -> dict[str, list[Curve]]:
        """Return the curves of each experiment that these networks and data allow.

        Parameters
        ----------
        experiments : iterable of str
        leave_out : bool
            Say which ones cannot be run, and leave them out.

        Raises
        ------
        InputError
            One of them cannot be run.
        """
        wanted = {}
        for name in experiments:
            curves = curves_of(name, self.networks, self.amount.retrainings)
            reason = self._reason_against(name, curves)
            if reason and not leave_out:
                raise InputError(f"{name}: {reason}")
            if reason:
                self.say(f"left out: {name}: {reason}")
            else:
                wanted[name] = curves
        return wanted

    def _reason_against(self, name: str, curves: list[Curve]) -> str:
        if not curves:
            have = ", ".join(f"VGG-{n}" for n in self.networks)
            return f"needs the weights of VGG-A, got those of {have}"
        if name == "a2" and self.device != "cpu" and not _has_cuda():
            return "needs a CUDA device, which PyTorch does not find: choose --device cpu"
        if name == "a2" and self.specification.partition(":")[0] not in SPLIT:
            return f"needs images to train on, cifar10:DIR or digits, got {self.specification}"
        return ""

    def measure(self, curve: Curve) -> Measured | NotFitted:
        """Measure a curve, or take what is measured already, and fit it.

        Around the drop, the rates go on by half decades until both ends of the drop are seen or
        the paper's range ends.

        Raises
        ------
        RetrainingFailed
            There is no network to measure.
        InputError
            Weights or data that do not fit.
        """
        session = NoisySession(self.models.path(curve), threads=self.threads)
        rates = curve.rates(self.amount.whole_range)
        bits = exponent_bits(session.sites)
        while True:
            points = self._sweep(session, curve, rates)
            try:
                (group,) = fit_results(points)
            except InputError as error:
                about = f"{session.path.name} (mask {mask_name(curve.mask)}): "
                return NotFitted(curve, points, str(error).removeprefix(about))
            more = missing_rates(group, rates, curve.rates(whole=True))
            if not more:
                return Measured(curve, group, points, bits)
            rates = sorted([*rates, *more])

    def _sweep(
        self, session: NoisySession, curve: Curve, rates: list[float]
    ) -> list[dict[str, Any]]:
        return sweep(
            session,
            self.data,
            rates,
            trials=self.amount.trials,
            images=self.images,
            bit_mask=curve.mask,
            seed=self.seed,
            batch_size=_BATCH,
            results=self.results,
            progress=self.progress,
        ).points

    def missing(self, curves: Iterable[Curve]) -> dict[Curve, int]:
        """Return how many points each curve still lacks (of those that are known beforehand)."""
        lacking = {}
        with Results(self.results) as results:
            sweeps = results.sweeps()
            for curve in curves:
                known = self.models.sha256(curve)
                rates = {rate.hex() for rate in curve.rates(self.amount.whole_range)}
                done = {
                    (rate, trial)
                    for row in sweeps
                    if row["model_sha256"] == known and self._is_of(row, curve)
                    for rate, trial in results.measured(row["id"])
                    if rate.partition("|")[0] in rates and trial < self.amount.trials
                }
                lacking[curve] = len(rates) * self.amount.trials - len(done)
        return lacking

    def _is_of(self, row: dict[str, Any], curve: Curve) -> bool:
        return (
            row["mask_name"] == mask_name(curve.mask)
            and row["images"] == self.images
            and row["seed"] == self.seed
        )

    def seconds(self, lacking: dict[Curve, int]) -> float:
        """Estimate how long the lacking points take, from a few images of each network.

        Skipped images and rates that are added later are not counted.
        """
        by_model: dict[tuple[str, bool], float] = {}
        total = 0.0
        for curve, points in lacking.items():
            kind = curve.network, curve.storage == "int8"
            if points and kind not in by_model:
                plain = Curve(curve.network, "int8" if kind[1] else "float32")
                by_model[kind] = self._seconds_an_image(plain)
            number = points * self.images
            if curve.retraining is not None and not self.models.has_weights(curve):
                number += self._images_of_retraining(curve.retraining)
            total += number * by_model.get(kind, 0.0)
        return total

    def _images_of_retraining(self, plan: Retraining) -> int:
        """Return what re-training costs, in inferences."""
        # Of an image, a training step costs about 4 and a test in PyTorch 1.5; an epoch ends with
        # two tests, and two come before.
        images = plan.images or _TRAINING_IMAGES
        return 4 * plan.epochs * images + 3 * (plan.epochs + 1) * len(self.data)

    def _seconds_an_image(self, curve: Curve) -> float:
        session = NoisySession(self.models.path(curve), threads=self.threads)
        number = min(_TIMED_IMAGES, len(self.data))
        evaluator = Evaluator(session, self.data.head(number), _BATCH)
        evaluator.run(curve.expected)
        start = time.perf_counter()
        evaluator.run(curve.expected)
        return (time.perf_counter() - start) / number


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def missing_rates(group: Group, rates: list[float], grid: list[float]) -> list[float]:
    """Return the next half decade of rates on each side where the drop's end is not seen."""
    fit, points = group.fit, group.points
    rate = np.asarray(points.rate)

    def share(at: float) -> float:
        here = rate == at
        accuracy = np.asarray(points.correct)[here].sum() / np.asarray(points.images)[here].sum()
        return float((accuracy - fit.chance_accuracy) / (fit.clean_accuracy - fit.chance_accuracy))

    below = [r for r in grid if r < rates[0]][-2:] if share(rates[0]) < 1 - _END else []
    above = [r for r in grid if r > rates[-1]][:2] if share(rates[-1]) > _END else []
    return below + above


def exponent_bits(sites: Sequence[Site]) -> int:
    """Exponent bits that an image's stored values have; of integers all bits (fig. 7)."""
    total = 0
    for site in sites:
        word = WORD_FORMATS[site.word_format or "float32"]
        total += site.elements * (word.exponent_bits or site.noisy_bits)
    return total
