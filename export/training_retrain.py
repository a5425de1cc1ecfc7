# SPDX-License-Identifier: Apache-2.0
"""Noisy re-training of a given model, and what it changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from ..ortops.errors import InputError
from .checkpoint import weights_digest
from .instrumented import evaluating
from .training import RECIPES, Recipe, Training, train
from .training_data import Images, Labels, accuracy, device_of, normalizer
from .training_noise import TrainingNoise
from .training_setup import check_fit, on_device

#: Settings of re-training by data set: those of `RECIPES` with few epochs and small steps.
RETRAINING: Mapping[str, Recipe] = {
    **{
        name: replace(recipe, epochs=2, lr=1e-2, optimizer="sgd", label_smoothing=0.0)
        for name, recipe in RECIPES.items()
    },
    "other": Recipe(epochs=2, lr=1e-2, optimizer="sgd"),
}


@dataclass(frozen=True)
class Retrained:
    """Outcome of `retrain`.

    Attributes
    ----------
    clean_before, noisy_before : float
        Test accuracy of the given weights, without noise and at the noise of training.
    training : Training
        With both accuracies of the new weights.
    """

    clean_before: float
    noisy_before: float
    training: Training


def retrain(
    model: nn.Module,
    images: Images,
    labels: Labels,
    test_images: Images,
    test_labels: Labels,
    *,
    noise: TrainingNoise,
    recipe: Recipe | str = "other",
    seed: int = 0,
    normalization: Any = None,
    device: str = "cpu",
    **options: Any,
) -> Retrained:
    """Train a trained classifier further, with noise in the forward pass (paper, appendix A.2).

    Parameters
    ----------
    model : torch.nn.Module
        Trained in place, left in evaluation mode.
    images, labels, test_images, test_labels
        As `train`'s.
    noise : TrainingNoise
    recipe : Recipe or str
        Or the name of one of `RETRAINING`.
    seed, normalization, device, **options
        As `train`'s. A checkpoint is of the given weights, too: others do not go on with it.

    Returns
    -------
    Retrained

    Raises
    ------
    InputError
        As `train`.
    """
    if isinstance(recipe, str):
        if recipe not in RETRAINING:
            raise InputError(f"recipe: expected {', '.join(RETRAINING)}, got {recipe!r}")
        recipe = RETRAINING[recipe]
    scale = normalizer(normalization, model)
    with on_device(model, device):
        check_fit(model, images, labels, test_images, test_labels, scale)
        example = scale(torch.from_numpy(test_images[:2]).to(device_of(model)))
        with evaluating(model):
            noisy = noise.wrap(model, example)
        clean_before = accuracy(model, test_images, test_labels, normalization=scale)
        noisy_before = noise.accuracy(noisy, test_images, test_labels, scale, seed)
    training = train(
        model,
        images,
        labels,
        test_images,
        test_labels,
        recipe=recipe,
        seed=seed,
        normalization=scale,
        noise=noise,
        device=device,
        origin=weights_digest(model),
        **options,
    )
    return Retrained(clean_before, noisy_before, training)
