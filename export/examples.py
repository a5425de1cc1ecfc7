# SPDX-License-Identifier: Apache-2.0
"""Example arguments of a model: their leaves, and the batch axis in front of some of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from ..ortops.errors import InputError


def flatten_args(args: Any) -> tuple[list[Any], pytree.TreeSpec]:
    """Flatten positional arguments (one tensor or a tuple) into leaves."""
    return pytree.tree_flatten(args if isinstance(args, tuple) else (args,))


def batch_size(leaves: Sequence[Any]) -> int:
    """Length of axis 0 of the first tensor.

    Parameters
    ----------
    leaves : sequence
        Of `flatten_args`.

    Returns
    -------
    int

    Raises
    ------
    InputError
        There is no tensor, or the first has no axis or no element on it.
    """
    for leaf in leaves:
        if isinstance(leaf, torch.Tensor):
            if leaf.dim() == 0 or leaf.shape[0] == 0:
                break
            return int(leaf.shape[0])
    raise InputError(
        "example arguments: expected at least one tensor with a batch axis in front, got "
        + (", ".join(type(leaf).__name__ for leaf in leaves) or "none")
    )


def batched(leaves: Sequence[Any]) -> list[int]:
    """Positions of the tensors whose axis 0 is as long as the batch."""
    size = batch_size(leaves)
    return [
        i
        for i, leaf in enumerate(leaves)
        if isinstance(leaf, torch.Tensor) and leaf.dim() and leaf.shape[0] == size
    ]


def batched_example(
    leaves: Sequence[Any], batch: int, positions: Collection[int]
) -> tuple[Any, ...]:
    """Repeat an example along axis 0 until its batch size is ``batch``.

    Parameters
    ----------
    leaves : sequence
    batch : int
    positions : collection of int
        Of the leaves with a batch axis; the others stay as they are.

    Returns
    -------
    tuple
    """
    repeats = -(-batch // batch_size(leaves))
    return tuple(
        leaf.detach().repeat(repeats, *[1] * (leaf.dim() - 1))[:batch].clone()
        if i in positions
        else leaf
        for i, leaf in enumerate(leaves)
    )
