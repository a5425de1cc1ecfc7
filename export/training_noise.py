# SPDX-License-Identifier: Apache-2.0
"""Noise while training: what is noisy, how the rate grows, and the seed of every step."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..ortops.bit_masks import mask_name
from ..ortops.errors import InputError
from ..ortops.noise_inputs import NOISE_MODEL, rate_table
from .instrumented import Instrumented, instrument, noise
from .torch_op import noise_tensors
from .training_data import Images, Labels, Normalizer, fraction_right

SCHEDULES = ("constant", "linear", "log")


@dataclass(frozen=True)
class TrainingNoise:
    """Noise in the forward pass of a training run; gradients pass straight through the stores.

    Attributes
    ----------
    bit_error_rate : float or (p01, p10)
        Rate that the schedule reaches, and at which the noisy test accuracy is measured.
    sites : str or sequence
        As `instrument`'s: "activation", "layer", "weight", "weight,activation", ...
    storage_format : str or mapping
        As `instrument`'s.
    bit_mask : int, str, or sequence of them [S], optional
        Bits that may flip, such as "exponent:6-"; by default every bit.
    schedule : str
        Rate of each optimizer step: "constant", "linear" (evenly from `start`) or "log" (by equal
        factors from `start`).
    start : float or (p01, p10), optional
        Rate of the first step; by default 0 for "linear". "log" needs one above 0.
    ramp : float
        Part of the run's steps, above 0 and up to 1, after which the schedule has reached the
        rate.
    max_gradient_norm : float or None
        A longer gradient (the 2-norm of all parameters' together) is scaled to this length before
        the optimizer sees it; None: no limit. Flips make a few gradients very long.

    Raises
    ------
    InputError
        A value out of range, or a start that the schedule does not take.

    Notes
    -----
    The seed of step s, counted from 0 through all epochs, is the first 8 bytes, little-endian, of
    the SHA-256 of the ASCII text ``V|train|SEED|s``: V is the version of the noise model, SEED the
    run's seed in decimal digits. The seed of a noisy test is that of ``V|test|SEED``. The sample
    index of an image is its place in the data set. So noise depends on nothing but seed, step and
    image: a resumed run meets the same.
    """

    bit_error_rate: Any
    sites: Any = "activation"
    storage_format: Any = "native"
    bit_mask: Any = None
    schedule: str = "constant"
    start: Any = None
    ramp: float = 1.0
    max_gradient_norm: float | None = 5.0

    def __post_init__(self) -> None:
        ends = list(zip(self._start, self._pair(self.bit_error_rate), strict=True))
        if isinstance(self.bit_mask, str):
            mask_name(self.bit_mask)
        if self.schedule not in SCHEDULES:
            raise InputError(f"schedule: expected {', '.join(SCHEDULES)}, got {self.schedule!r}")
        if self.schedule == "constant" and self.start is not None:
            raise InputError("start: a constant rate has none; choose the schedule linear or log")
        if self.schedule == "log" and any((a == 0) != (b == 0) for a, b in ends):
            raise InputError(
                f"start: schedule log multiplies, so it needs a start above 0 where the rate is "
                f"above 0, got {self.start!r} for {self.bit_error_rate!r}"
            )
        if self.schedule == "log" and all(b == 0 for _, b in ends):
            raise InputError("schedule log: expected a rate above 0, got 0")
        if not is_number(self.ramp) or not 0 < self.ramp <= 1:
            raise InputError(f"ramp: expected a number above 0 and up to 1, got {self.ramp!r}")
        limit = self.max_gradient_norm
        if limit is not None and not (is_number(limit) and 0 < limit < math.inf):
            raise InputError(
                f"max_gradient_norm: expected a positive number or None, got {limit!r}"
            )

    def _pair(self, rate: Any) -> tuple[float, float]:
        p01, p10 = rate_table(rate, 1)[0]
        return float(p01), float(p10)

    @property
    def _start(self) -> tuple[float, float]:
        return self._pair(0.0 if self.start is None else self.start)

    def rate_at(self, step: int, steps: int) -> tuple[float, float]:
        """Bit error rates of a step.

        Parameters
        ----------
        step : int
            From 0.
        steps : int
            Of the run.

        Returns
        -------
        (p01, p10)
        """
        target = self._pair(self.bit_error_rate)
        # Rounded first: 0.07 of 100 steps is a little above 7 in floating point.
        last = math.ceil(round(self.ramp * steps, 6)) - 1
        if self.schedule == "constant" or step >= last:
            return target
        start, done = self._start, step / last
        if self.schedule == "linear":
            p01, p10 = (a + (b - a) * done for a, b in zip(start, target, strict=True))
        else:
            p01, p10 = (
                a * (b / a) ** done if a else 0.0 for a, b in zip(start, target, strict=True)
            )
        return p01, p10

    def wrap(self, model: nn.Module, example: Tensor) -> Instrumented:
        """Instrument a model for training and testing, and check rate, mask and sites on it.

        Parameters
        ----------
        model : torch.nn.Module
            Shares its parameters and buffers with the result.
        example : Tensor, shape [N, C, H, W]

        Raises
        ------
        InputError
            The model cannot be traced or has no such site, or a site's format has no such bits.
        """
        noisy = instrument(
            model, sites=self.sites, storage_format=self.storage_format, args=(example,)
        )
        formats = noisy.traced((example,)).word_formats
        noise_tensors(len(formats), self.bit_error_rate, self.bit_mask, formats=formats)
        return noisy

    def accuracy(
        self, noisy: Instrumented, images: Images, labels: Labels, scale: Normalizer, seed: int
    ) -> float:
        """Test accuracy at the rate and mask of training.

        Parameters
        ----------
        noisy : Instrumented
            Of `wrap`.
        images : numpy.ndarray of uint8, shape [N, C, H, W]
        labels : numpy.ndarray of int64, shape [N]
        scale : Normalizer
        seed : int
            Of the run; the test's own is made from it.

        Returns
        -------
        float
        """

        def logits_of(x: Tensor, start: int) -> Tensor:
            with noise(noisy, self.bit_error_rate, self.bit_mask, evaluation_seed(seed), start):
                result: Tensor = noisy(x)
            return result

        return fraction_right(noisy.model, logits_of, images, labels, scale)


def step_seed(seed: int, step: int) -> int:
    """Noise seed, from 0 to 2^64 - 1, of a training step (see `TrainingNoise`)."""
    return _seed_of(f"{NOISE_MODEL}|train|{seed}|{step}")


def evaluation_seed(seed: int) -> int:
    """Noise seed, from 0 to 2^64 - 1, of the noisy tests of a run (see `TrainingNoise`)."""
    return _seed_of(f"{NOISE_MODEL}|test|{seed}")


def _seed_of(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("ascii")).digest()[:8], "little")


def is_number(value: Any) -> bool:
    """Say whether a value is an int or a float; a bool is none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
