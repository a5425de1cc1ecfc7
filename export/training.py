# SPDX-License-Identifier: Apache-2.0
"""Training of small image classifiers, clean or noisy, deterministic and resumable."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from ..ortops.errors import InputError
from .checkpoint import restore_checkpoint, run_key, save_checkpoint
from .instrumented import Instrumented, noise
from .training_data import (
    Images,
    Labels,
    Normalizer,
    accuracy,
    augmented,
    device_of,
    normalizer,
)
from .training_noise import TrainingNoise, is_number, step_seed
from .training_setup import check_fit, check_trainable, on_device, seeded, threads
from .training_steps import GuardedSteps

#: Images of which a noisy epoch takes its running statistics.
STATISTICS_IMAGES = 2000


@dataclass(frozen=True)
class Recipe:
    """Settings of a training run.

    Attributes
    ----------
    epochs, batch : int
    lr : float
        Peak learning rate of the one-cycle schedule.
    optimizer : str
        "adamw" or "sgd" (Nesterov momentum 0.9).
    weight_decay, label_smoothing : float
    flip, crop : bool, int
        Mirror half of the images; shift them by up to ``crop`` pixels.
    threads : int or None
        Of PyTorch; None leaves its setting. A narrow network takes one: two that share a busy
        machine's cores with others wait for each other, and take five to fifteen times as long.
    """

    epochs: int
    batch: int = 128
    lr: float = 2e-3
    optimizer: str = "adamw"
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    flip: bool = False
    crop: int = 0
    threads: int | None = None


#: Settings by data set; `digits` is measured with VGG-A of width 0.125.
RECIPES: Mapping[str, Recipe] = {
    "digits": Recipe(epochs=10, batch=64, lr=4e-3, crop=2, threads=1),
    "cifar10": Recipe(
        epochs=24,
        batch=128,
        lr=0.1,
        optimizer="sgd",
        label_smoothing=0.05,
        flip=True,
        crop=4,
    ),
}


@dataclass(frozen=True)
class Epoch:
    """Record of one epoch.

    Attributes
    ----------
    epoch, epochs : int
        Which, from 1, of how many.
    loss : float
        Mean training loss.
    accuracy : float
        Clean, on the test images.
    seconds : float
    steps, skipped, clipped : int
        Optimizer steps; of these those that were skipped because something was NaN or Inf, and
        those whose gradient was scaled to its greatest length.
    noisy_accuracy : float or None
        On the test images at the noise of training; None: a clean run.
    """

    epoch: int
    epochs: int
    loss: float
    accuracy: float
    seconds: float
    steps: int
    skipped: int
    clipped: int
    noisy_accuracy: float | None


@dataclass(frozen=True)
class Training:
    """Outcome of `train`: a record an epoch, and the test accuracies of the weights left."""

    epochs: list[Epoch]
    accuracy: float
    seconds: float
    noisy_accuracy: float | None


def train(
    model: nn.Module,
    images: Images,
    labels: Labels,
    test_images: Images,
    test_labels: Labels,
    *,
    recipe: Recipe | str = "digits",
    epochs: int | None = None,
    batch: int | None = None,
    lr: float | None = None,
    seed: int = 0,
    normalization: Any = None,
    noise: TrainingNoise | None = None,
    device: str = "cpu",
    origin: str | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = True,
    progress: Callable[[Epoch], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Training:
    """Train a classifier; the same seed and number of threads give the same weights on the CPU.

    Parameters
    ----------
    model : torch.nn.Module
        Takes float32 [N, C, H, W]; trained in place, left in evaluation mode.
    images, test_images : numpy.ndarray of uint8, shape [N, C, H, W]
    labels, test_labels : numpy.ndarray of int64, shape [N]
    recipe : Recipe or str
        Or the name of one of `RECIPES`.
    epochs, batch, lr
        Override the recipe's.
    seed : int
        Of the order of images, their augmentation and the noise. The weights' first values are
        the model's.
    normalization : (mean, std), optional
        Applied to x/255; by default the model's.
    noise : TrainingNoise, optional
        Noise in the forward pass, another in every step; by default none.
    device : str
        "cpu", "cuda" or "cuda:N". The model is there during training only.
    origin : str, optional
        Where the weights come from, such as a digest; kept in the checkpoint, with which a run of
        another origin does not go on.
    checkpoint : path-like, optional
        Written after every epoch, whole or not at all.
    resume : bool
        Go on from the checkpoint, if it is of the same run.
    progress : callable, optional
        Called with each `Epoch`.
    on_step : callable, optional
        Called after each step with the numbers of those taken and of all.

    Returns
    -------
    Training

    Raises
    ------
    InputError
        Arrays of the wrong type or shape, a model that does not fit them or has nothing to train,
        a bad setting, a device that is not there, or a checkpoint of another run.
    Diverged
        No step of an epoch had a finite loss and gradient, or a value of the model is not finite
        after it (an InputError, too).

    Notes
    -----
    A step that meets a NaN or an Inf changes nothing, and is counted: see `GuardedSteps`. One
    flip can leave running statistics that are finite but huge. So a noisy epoch ends by taking
    those of batch normalisation anew, without noise, from the first 2,000 training images.
    """
    settings = _settings(recipe, epochs, batch, lr)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise InputError(f"seed: expected an integer, got {seed!r}")
    scale = normalizer(normalization, model)
    done: list[Epoch] = []
    with threads(settings.threads), on_device(model, device):
        classes = check_fit(model, images, labels, test_images, test_labels, scale)
        # The last batch of an epoch may be of one image, which batch normalisation may not take.
        smallest = len(labels) % settings.batch or settings.batch
        example = scale(torch.from_numpy(images[: min(2, smallest)]).to(device_of(model)))
        check_trainable(model, example, classes)
        run: dict[str, str] = {}
        if checkpoint is not None:
            normalized = [scale.mean.flatten().tolist(), scale.std.flatten().tolist()]
            parts = {"seed": seed, "normalization": normalized, "origin of the weights": origin}
            parts |= {"device": torch.device(device).type}  # its number does not matter
            parts |= asdict(settings) | {"noise": asdict(noise) if noise is not None else None}
            data = {"training data": (images, labels), "test data": (test_images, test_labels)}
            run = run_key(model, parts, data)
        try:
            job = _Run(model, images, labels, scale, settings, noise, seed)
            if checkpoint is not None and resume and Path(checkpoint).exists():
                done = restore_checkpoint(
                    Path(checkpoint),
                    run,
                    model,
                    job.optimizer,
                    job.schedule,
                    partial(_saved_epochs, epochs=settings.epochs, steps=job.steps),
                )
            for epoch in range(len(done), settings.epochs):
                started = time.perf_counter()
                steps = job.epoch(epoch, on_step)
                record = Epoch(
                    epoch=epoch + 1,
                    epochs=settings.epochs,
                    loss=steps.loss,
                    accuracy=accuracy(model, test_images, test_labels, normalization=scale),
                    noisy_accuracy=job.noisy_accuracy(test_images, test_labels),
                    seconds=time.perf_counter() - started,
                    steps=steps.steps,
                    skipped=steps.skipped,
                    clipped=steps.clipped,
                )
                done.append(record)
                if checkpoint is not None:
                    records = [asdict(e) for e in done]
                    save_checkpoint(
                        Path(checkpoint), run, model, job.optimizer, job.schedule, records
                    )
                if progress is not None:
                    progress(record)
        finally:
            model.eval()
    last = done[-1]
    return Training(done, last.accuracy, sum(e.seconds for e in done), last.noisy_accuracy)


def _saved_epochs(records: Any, step: Any, epochs: int, steps: int) -> list[Epoch]:
    """Make the records of a checkpoint, written after `step` steps; ValueError: they do not fit."""
    done = [Epoch(**record) for record in records]
    for number, epoch in enumerate(done, 1):
        values = asdict(epoch)
        if values["noisy_accuracy"] is None:
            del values["noisy_accuracy"]
        if not all(map(is_number, values.values())):
            raise ValueError("not a number")
        if (epoch.epoch, epoch.epochs) != (number, epochs):
            raise ValueError("another epoch")
    if not 1 <= len(done) <= epochs or step != len(done) * steps:
        raise ValueError("another number of epochs")
    return done


class _Run:
    """A model on its way: its optimizer, its schedule, and its noisy double."""

    def __init__(
        self,
        model: nn.Module,
        images: Images,
        labels: Labels,
        scale: Normalizer,
        settings: Recipe,
        noise: TrainingNoise | None,
        seed: int,
    ) -> None:
        self.model, self.scale, self.settings = model, scale, settings
        self.seed, self.noise = seed, noise
        self.inputs, self.targets = torch.from_numpy(images), torch.from_numpy(labels)
        self.device = device_of(model)
        self.steps = -(-len(labels) // settings.batch)
        self.optimizer = _optimizer(model, settings)
        total = max(2, settings.epochs * self.steps)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer,
            max_lr=settings.lr,
            total_steps=5 if total == 4 else total,  # of 4 it divides by 0
            pct_start=0.25,
        )
        self.noisy: Instrumented | None = None
        if noise is not None:
            model.train()
            self.noisy = noise.wrap(model, scale(self.inputs[:2].to(self.device)))

    def epoch(self, epoch: int, on_step: Callable[[int, int], None] | None = None) -> GuardedSteps:
        """Train one epoch; its random numbers depend on (seed, epoch) alone, as resuming needs."""
        limit = None if self.noise is None else self.noise.max_gradient_norm
        steps = GuardedSteps(self.model, self.optimizer, self.schedule, limit)
        first = (self.seed * 1_000_003 + epoch) % (1 << 63)
        generator = torch.Generator().manual_seed(first)
        self.model.train()
        with seeded(first):
            order = torch.randperm(len(self.targets), generator=generator)
            for number, chosen in enumerate(order.split(self.settings.batch)):
                x = augmented(
                    self.inputs[chosen], self.settings.flip, self.settings.crop, generator
                )
                step = epoch * self.steps + number
                x, target = self.scale(x.to(self.device)), self.targets[chosen].to(self.device)
                steps.take(partial(self._loss, x, target, chosen, step), len(chosen))
                if on_step is not None:
                    on_step(step + 1, self.settings.epochs * self.steps)
            steps.check()
            if self.noise is not None:
                batches = self.inputs[:STATISTICS_IMAGES].split(self.settings.batch)
                if len(batches) > 1 and len(batches[-1]) == 1:  # too few for a variance
                    batches = batches[:-1]
                update_bn((self.scale(x.to(self.device)) for x in batches), self.model)
                steps.check()
        return steps

    def _loss(self, x: Tensor, target: Tensor, chosen: Tensor, step: int) -> Tensor:
        if self.noise is None or self.noisy is None:
            logits = self.model(x)
        else:
            rate = self.noise.rate_at(step, self.settings.epochs * self.steps)
            own = step_seed(self.seed, step)
            with noise(self.noisy, rate, self.noise.bit_mask, own, chosen):
                logits = self.noisy(x)
        return F.cross_entropy(logits, target, label_smoothing=self.settings.label_smoothing)

    def noisy_accuracy(self, images: Images, labels: Labels) -> float | None:
        """Test accuracy at the noise of training; None: there is none."""
        if self.noise is None or self.noisy is None:
            return None
        return self.noise.accuracy(self.noisy, images, labels, self.scale, self.seed)


def _settings(
    recipe: Recipe | str, epochs: int | None, batch: int | None, lr: float | None
) -> Recipe:
    if isinstance(recipe, str):
        if recipe not in RECIPES:
            raise InputError(f"recipe: expected {' or '.join(RECIPES)}, got {recipe!r}")
        recipe = RECIPES[recipe]
    given = {"epochs": epochs, "batch": batch, "lr": lr}
    settings = Recipe(**{**asdict(recipe), **{k: v for k, v in given.items() if v is not None}})
    for name in ("epochs", "batch"):
        value = getattr(settings, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{name}: expected a positive integer, got {value!r}")
    if not is_number(settings.lr) or not 0 < settings.lr <= 1e30:
        raise InputError(f"lr: expected a number above 0 and up to 1e30, got {settings.lr!r}")
    return settings


def _optimizer(model: nn.Module, settings: Recipe) -> torch.optim.Optimizer:
    decayed = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() <= 1]
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr)
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=0.9, nesterov=True)
    raise InputError(f"optimizer: expected adamw or sgd, got {settings.optimizer!r}")
