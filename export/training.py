# SPDX-License-Identifier: Apache-2.0
"""Training of small image classifiers, deterministic and resumable."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ortops.errors import InputError
from ..ortops.files import write_whole
from .checkpoint import restore_checkpoint, run_key, save_checkpoint
from .instrumented import evaluating

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


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
    """Record of one epoch: mean training loss, test accuracy, seconds."""

    epoch: int
    epochs: int
    loss: float
    accuracy: float
    seconds: float


@dataclass(frozen=True)
class Training:
    """Outcome of `train`: a record an epoch, and the test accuracy of the weights left."""

    epochs: list[Epoch]
    accuracy: float
    seconds: float


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
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = True,
    progress: Callable[[Epoch], None] | None = None,
) -> Training:
    """Train a classifier; the same seed and number of threads give the same weights.

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
        Of the order of images and their augmentation. The weights' first values are the model's.
    normalization : (mean, std), optional
        Applied to x/255; by default the model's.
    checkpoint : path-like, optional
        Written after every epoch, whole or not at all.
    resume : bool
        Go on from the checkpoint, if it is of the same run.
    progress : callable, optional
        Called with each `Epoch`.

    Returns
    -------
    Training

    Raises
    ------
    InputError
        Arrays of the wrong type or shape, a bad setting, or a checkpoint of another run.
    """
    settings = _settings(recipe, epochs, batch, lr)
    _check(images, labels, "train")
    _check(test_images, test_labels, "test")
    scale = normalizer(normalization if normalization is not None else _own(model))
    inputs, targets = torch.from_numpy(images), torch.from_numpy(labels)
    steps = -(-len(targets) // settings.batch)
    optimizer = _optimizer(model, settings)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=settings.lr, total_steps=max(2, settings.epochs * steps), pct_start=0.25
    )
    done: list[Epoch] = []
    run: dict[str, str] = {}
    if checkpoint is not None:
        normalized = [scale.mean.flatten().tolist(), scale.std.flatten().tolist()]
        parts = {"seed": seed, "normalization": normalized, **asdict(settings)}
        data = {"training data": (images, labels), "test data": (test_images, test_labels)}
        run = run_key(model, parts, data)
    if checkpoint is not None and resume and Path(checkpoint).exists():
        saved = restore_checkpoint(Path(checkpoint), run, model, optimizer, schedule)
        done = [Epoch(**record) for record in saved]
    with _threads(settings.threads):
        for epoch in range(len(done), settings.epochs):
            started = time.perf_counter()
            loss = _epoch(model, inputs, targets, scale, settings, seed, epoch, optimizer, schedule)
            record = Epoch(
                epoch + 1,
                settings.epochs,
                loss,
                accuracy(model, test_images, test_labels, normalization=scale),
                time.perf_counter() - started,
            )
            done.append(record)
            if checkpoint is not None:
                records = [asdict(e) for e in done]
                save_checkpoint(Path(checkpoint), run, model, optimizer, schedule, records)
            if progress is not None:
                progress(record)
        model.eval()
        final = accuracy(model, test_images, test_labels, normalization=scale)
    return Training(done, final, sum(e.seconds for e in done))


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Normalizer:
    """Turns uint8 images into float32: (x/255 - mean) / std, channel by channel."""

    def __init__(self, mean: Any, std: Any) -> None:
        self.mean = torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1)
        self.std = torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1)

    def __call__(self, images: Tensor) -> Tensor:
        """Normalise images [N, C, H, W]."""
        return (images.to(torch.float32) / 255 - self.mean) / self.std


def normalizer(normalization: Any) -> Normalizer:
    """Make a `Normalizer` from (mean, std); None leaves x/255 as it is."""
    if isinstance(normalization, Normalizer):
        return normalization
    mean, std = normalization if normalization is not None else ((0.0,), (1.0,))
    return Normalizer(mean, std)


@torch.no_grad()
def accuracy(
    model: nn.Module,
    images: Images,
    labels: Labels,
    *,
    normalization: Any = None,
    batch: int = 256,
) -> float:
    """Fraction of images whose largest logit is their label's; NaN counts as the largest.

    Parameters
    ----------
    model : torch.nn.Module
    images : numpy.ndarray of uint8, shape [N, C, H, W]
    labels : numpy.ndarray of int64, shape [N]
    normalization : (mean, std), optional
        By default the model's.
    batch : int

    Returns
    -------
    float
    """
    scale = normalizer(normalization if normalization is not None else _own(model))
    right = 0
    with evaluating(model):
        for start in range(0, len(labels), batch):
            logits = model(scale(torch.from_numpy(images[start : start + batch])))
            right += int((logits.argmax(1).numpy() == labels[start : start + batch]).sum())
    return right / len(labels)


def save_weights(model: nn.Module, path: str | os.PathLike[str], **metadata: Any) -> None:
    """Write a model's state dict as safetensors, whole or not at all.

    Parameters
    ----------
    model : torch.nn.Module
    path : path-like
    **metadata
        Kept in the file as strings.

    Raises
    ------
    InputError
        The file cannot be written.
    """
    from safetensors.torch import save

    state = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    write_whole(path, save(state, {k: str(v) for k, v in metadata.items()}))


def _own(model: nn.Module) -> Any:
    return getattr(model, "normalization", None)


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
        if not isinstance(getattr(settings, name), int) or getattr(settings, name) < 1:
            raise InputError(
                f"{name}: expected a positive integer, got {getattr(settings, name)!r}"
            )
    if not 0 < settings.lr < float("inf"):
        raise InputError(f"lr: expected a positive number, got {settings.lr!r}")
    return settings


def _check(images: Any, labels: Any, what: str) -> None:
    if getattr(images, "dtype", None) != np.uint8 or images.ndim != 4:
        raise InputError(f"{what} images: expected a uint8 array [N, C, H, W]")
    if getattr(labels, "dtype", None) != np.int64 or labels.shape != images.shape[:1]:
        raise InputError(f"{what} labels: expected an int64 array [{len(images)}]")
    if not len(labels):
        raise InputError(f"{what} images: expected at least one, got none")


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


def _epoch(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    scale: Normalizer,
    settings: Recipe,
    seed: int,
    epoch: int,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> float:
    """Train one epoch; its random numbers depend on (seed, epoch) alone, so resuming is exact."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % (1 << 63))
    state = torch.random.get_rng_state()
    torch.manual_seed((seed * 1_000_003 + epoch) % (1 << 63))
    model.train()
    total = 0.0
    try:
        for chosen in torch.randperm(len(targets), generator=generator).split(settings.batch):
            x = scale(_augmented(inputs[chosen], settings, generator))
            loss = F.cross_entropy(
                model(x), targets[chosen], label_smoothing=settings.label_smoothing
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach()) * len(chosen)
    finally:
        torch.random.set_rng_state(state)
    return total / len(targets)


def _augmented(x: Tensor, settings: Recipe, generator: torch.Generator) -> Tensor:
    if settings.flip:
        mirrored = torch.rand(len(x), generator=generator) < 0.5
        x = torch.where(mirrored.view(-1, 1, 1, 1), x.flip(3), x)
    if settings.crop:
        n, _, height, width = x.shape
        pad = settings.crop
        padded = F.pad(x, [pad] * 4)
        rows = torch.randint(2 * pad + 1, (n, 1), generator=generator) + torch.arange(height)
        columns = torch.randint(2 * pad + 1, (n, 1), generator=generator) + torch.arange(width)
        x = padded[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
        x = x.permute(0, 3, 1, 2)
    return x
