# SPDX-License-Identifier: Apache-2.0
"""Images for training and testing of classifiers: checks, normalisation, augmentation, accuracy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ortops.errors import InputError
from .instrumented import evaluating

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


class Normalizer:
    """Turns uint8 images into float32: (x/255 - mean) / std, channel by channel."""

    def __init__(self, mean: Any, std: Any) -> None:
        self.mean = torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1)
        self.std = torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1)

    @property
    def channels(self) -> int | None:
        """Channels that images must have; None: any."""
        number = max(self.mean.numel(), self.std.numel())
        return None if number == 1 else number

    def __call__(self, images: Tensor) -> Tensor:
        """Normalise images [N, C, H, W], on the device where they are."""
        mean, std = self.mean.to(images.device), self.std.to(images.device)
        return (images.to(torch.float32) / 255 - mean) / std


def normalizer(normalization: Any, model: nn.Module | None = None) -> Normalizer:
    """Make a `Normalizer` from (mean, std); None: the model's, or x/255 where it has none."""
    if isinstance(normalization, Normalizer):
        return normalization
    if normalization is None:
        normalization = getattr(model, "normalization", None)
    mean, std = normalization if normalization is not None else ((0.0,), (1.0,))
    return Normalizer(mean, std)


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
        On any device.
    images : numpy.ndarray of uint8, shape [N, C, H, W]
    labels : numpy.ndarray of int64, shape [N]
    normalization : (mean, std), optional
        By default the model's.
    batch : int

    Returns
    -------
    float
    """
    scale = normalizer(normalization, model)
    return fraction_right(model, lambda x, _: model(x), images, labels, scale, batch)


@torch.no_grad()
def fraction_right(
    model: nn.Module,
    logits_of: Callable[[Tensor, int], Tensor],
    images: Images,
    labels: Labels,
    scale: Normalizer,
    batch: int = 256,
) -> float:
    """Test a model, in evaluation mode, by a function of a batch and the index of its first image.

    Parameters
    ----------
    model : torch.nn.Module
    logits_of : callable
        Gives logits [N, K] of float32 images [N, C, H, W], which lie where the model's first
        parameter does.
    images, labels, scale, batch
        As `accuracy`'s.

    Returns
    -------
    float
    """
    device = device_of(model)
    right = 0
    with evaluating(model):
        for start in range(0, len(labels), batch):
            x = scale(torch.from_numpy(images[start : start + batch]).to(device))
            found = logits_of(x, start).argmax(1).cpu().numpy()
            right += int((found == labels[start : start + batch]).sum())
    return right / len(labels)


def device_of(model: nn.Module) -> torch.device:
    """Device of a model's first parameter; the CPU where it has none."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def check_data(images: Any, labels: Any, what: str, channels: int | None) -> None:
    """Check the arrays of a data set, which `what` names; channels: of its normalisation.

    Raises
    ------
    InputError
        Another type or shape than uint8 [N, C, H, W] and int64 [N], no image, another number of
        channels, or a label below 0.
    """
    if getattr(images, "dtype", None) != np.uint8 or images.ndim != 4:
        raise InputError(f"{what} images: expected a uint8 array [N, C, H, W]")
    if getattr(labels, "dtype", None) != np.int64 or labels.shape != images.shape[:1]:
        raise InputError(f"{what} labels: expected an int64 array [{len(images)}]")
    if not len(labels):
        raise InputError(f"{what} images: expected at least one, got none")
    if channels is not None and images.shape[1] != channels:
        raise InputError(
            f"{what} images: expected {channels} channels, as the normalization has, got "
            f"{images.shape[1]}"
        )
    if labels.min() < 0:
        raise InputError(f"{what} labels: expected numbers from 0, got {labels.min()}")


def augmented(x: Tensor, flip: bool, crop: int, generator: torch.Generator) -> Tensor:
    """Mirror half of the images [N, C, H, W], and shift them by up to `crop` pixels."""
    if flip:
        mirrored = torch.rand(len(x), generator=generator) < 0.5
        x = torch.where(mirrored.view(-1, 1, 1, 1), x.flip(3), x)
    if crop:
        n, _, height, width = x.shape
        padded = F.pad(x, [crop] * 4)
        rows = torch.randint(2 * crop + 1, (n, 1), generator=generator) + torch.arange(height)
        columns = torch.randint(2 * crop + 1, (n, 1), generator=generator) + torch.arange(width)
        x = padded[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
        x = x.permute(0, 3, 1, 2)
    return x
