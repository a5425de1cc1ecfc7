# SPDX-License-Identifier: Apache-2.0
"""Optimizer steps that a NaN or an Inf cannot harm, and their counts."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..ortops.errors import InputError


class Diverged(InputError):
    """No step of an epoch was finite, or the model is not after it."""


class GuardedSteps:
    """The optimizer steps of one epoch.

    A step is skipped if its loss, the 2-norm of its gradient, or a buffer after its forward pass
    (such as a running variance of batch normalisation) is not finite. Buffers that hold an Inf or
    a NaN from the start, such as a mask of attention, do not count. A skipped step changes
    nothing: no parameter, no state of the optimizer, no buffer. The schedule of learning rates
    goes on.

    Parameters
    ----------
    model : torch.nn.Module
        Its parameters and buffers are guarded.
    optimizer, schedule
        Of its parameters.
    max_gradient_norm : float or None
        A longer gradient is scaled to this length.

    Attributes
    ----------
    steps, skipped, clipped : int
        Steps tried; of these those that were skipped, and those whose gradient was scaled.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
        max_gradient_norm: float | None,
    ) -> None:
        self.parameters = list(model.parameters())
        self.buffers = list(model.buffers())
        self.finite = [b for b in self.buffers if b.is_floating_point() and _finite([b])]
        self.optimizer, self.schedule = optimizer, schedule
        self.limit = math.inf if max_gradient_norm is None else max_gradient_norm
        self.steps = self.skipped = self.clipped = 0
        self._loss, self._images = 0.0, 0

    def take(self, loss_of: Callable[[], Tensor], images: int) -> bool:
        """Take one step, or skip it.

        Parameters
        ----------
        loss_of : callable
            Runs the forward pass and gives the loss, a scalar: the mean over the batch.
        images : int
            Of the batch.

        Returns
        -------
        bool
            Whether it was taken.
        """
        kept = [buffer.clone() for buffer in self.buffers]
        self.steps += 1
        self.optimizer.zero_grad(set_to_none=True)
        loss = loss_of()
        value = float(loss.detach())
        taken = math.isfinite(value) and self._backward(loss)
        if taken:
            self.optimizer.step()
            self.schedule.step()
            self._loss += value * images
            self._images += images
        else:
            self.skipped += 1
            for buffer, before in zip(self.buffers, kept, strict=True):
                buffer.copy_(before)
            with warnings.catch_warnings():  # PyTorch misses the optimizer's step
                warnings.simplefilter("ignore")
                self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)
        return taken

    def _backward(self, loss: Tensor) -> bool:
        loss.backward()
        # Its square may be too large for a float32 where no gradient is: such a step goes, too.
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.limit))
        if not math.isfinite(norm) or not _finite(self.finite):
            return False
        self.clipped += norm > self.limit
        return True

    @property
    def loss(self) -> float:
        """Mean loss of the images of the steps that were taken.

        Raises
        ------
        Diverged
            There are none.
        """
        if not self._images:
            raise Diverged(
                f"training: none of {self.steps} steps of an epoch had a finite loss and gradient; "
                "lower the learning rate or the noise, or leave the upper exponent bits clean by "
                "a mask such as exponent:3- or mantissa"
            )
        return self._loss / self._images

    def check(self) -> None:
        """Check that a step was taken, and that the model is finite after it.

        Raises
        ------
        Diverged
            It is not.
        """
        _ = self.loss
        if not _finite([*(p for p in self.parameters if p.requires_grad), *self.finite]):
            raise Diverged(
                "training: after an epoch a weight or a running statistic is NaN or Inf; lower the "
                "learning rate or the noise"
            )


def _finite(tensors: list[Tensor]) -> bool:
    """Say whether all values are finite, with one wait for a device."""
    return not tensors or bool(torch.stack([torch.isfinite(t).all() for t in tensors]).all())
