# SPDX-License-Identifier: Apache-2.0
"""What a training run stands on: device, threads, random state, and a model that fits its data."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..ortops.errors import InputError
from .instrumented import evaluating
from .training_data import Images, Labels, Normalizer, check_data, device_of


@contextmanager
def on_device(model: nn.Module, device: str) -> Iterator[None]:
    """Move a model to a device within a block.

    Raises
    ------
    InputError
        No such device.
    """
    # PyTorch keeps an index in 8 bits: its cuda:256 is cuda:0.
    found = re.fullmatch(r"cpu|cuda(?::(\d{1,9}))?", str(device), re.ASCII)
    if found is None:
        raise InputError(f"device: expected cpu, cuda or cuda:N, got {device!r}")
    count = torch.cuda.device_count()
    if found[0] != "cpu" and int(found[1] or 0) >= count:
        raise InputError(f"device {device}: PyTorch finds {count} CUDA devices; choose cpu")
    before = device_of(model)
    model.to(device)
    try:
        yield
    finally:
        model.to(before)


@contextmanager
def threads(number: int | None) -> Iterator[None]:
    """Set PyTorch's number of threads within a block; None leaves it."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed PyTorch within a block; after it, CPU and GPUs have their random states back."""
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(list(gpus)):
        torch.manual_seed(seed)
        yield


def check_fit(
    model: nn.Module,
    images: Images,
    labels: Labels,
    test_images: Images,
    test_labels: Labels,
    scale: Normalizer,
) -> int:
    """Check data, and that a model takes them and gives logits for their labels.

    Parameters
    ----------
    model : torch.nn.Module
    images, labels, test_images, test_labels
        As `train`'s.
    scale : Normalizer

    Returns
    -------
    int
        Number of classes: the largest label plus 1.

    Raises
    ------
    InputError
        They do not fit.
    """
    check_data(images, labels, "train", scale.channels)
    check_data(test_images, test_labels, "test", scale.channels)
    classes = int(max(labels.max(), test_labels.max())) + 1
    with evaluating(model), torch.no_grad():
        for part in (images, test_images):
            _logits(model, scale(torch.from_numpy(part[:2]).to(device_of(model))), classes, "")
    return classes


def check_trainable(model: nn.Module, example: Tensor, classes: int) -> None:
    """Check that a model in training mode gives logits that a parameter can change.

    Parameters
    ----------
    model : torch.nn.Module
        Its modes, its buffers and the random state stay as they are.
    example : Tensor, shape [N, C, H, W]
        No more images than the smallest batch.
    classes : int

    Raises
    ------
    InputError
        It does not.
    """
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    with evaluating(model), seeded(0):
        model.train()
        try:
            logits = _logits(model, example, classes, " in training mode")
        finally:
            for buffer, before in kept:
                buffer.copy_(before)
    if not logits.requires_grad:
        raise InputError(
            f"{type(model).__name__}: expected a parameter to train (requires_grad) on the way to "
            "its logits, got none"
        )


def _logits(model: nn.Module, example: Tensor, classes: int, mode: str) -> Tensor:
    name = type(model).__name__
    try:
        logits = model(example)
    except Exception as error:
        first = next(iter(str(error).splitlines()), "")
        batch = f", {len(example)} a batch" if mode else ""
        raise InputError(
            f"{name}{mode} does not take images of shape {list(example.shape[1:])}{batch}: "
            f"{type(error).__name__}: {first}"
        ) from error
    if isinstance(logits, Tensor):
        shape = list(logits.shape)
        if len(shape) == 2 and shape[1] >= classes:
            return logits
    raise InputError(
        f"{name}{mode}: expected logits [N, {classes}] or wider for these labels, got "
        f"{shape if isinstance(logits, Tensor) else type(logits).__name__}"
    )
