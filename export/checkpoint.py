# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a training run: written whole, read without unpickling code."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ..ortops.errors import InputError
from .files import write_whole

Array = npt.NDArray[Any]


def run_key(
    model: nn.Module,
    settings: Mapping[str, Any],
    seed: int,
    images: Array,
    labels: Array,
) -> str:
    """Name a run by its network, data, settings and seed."""
    digest = hashlib.sha256(np.ascontiguousarray(images).tobytes())
    digest.update(labels.tobytes())
    shapes = [[name, list(p.shape)] for name, p in model.named_parameters()]
    described = json.dumps([dict(settings), seed, shapes, digest.hexdigest()])
    return hashlib.sha256(described.encode()).hexdigest()


def save_checkpoint(
    path: Path,
    run: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    done: Sequence[Mapping[str, Any]],
) -> None:
    """Write all that is needed to go on after an epoch."""
    buffer = io.BytesIO()
    torch.save(
        {
            "run": run,
            "state_dict": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "schedule": {
                k: v for k, v in schedule.state_dict().items() if isinstance(v, (int, float, list))
            },
            "epochs": [dict(e) for e in done],
        },
        buffer,
    )
    write_whole(path, buffer.getvalue())


def restore_checkpoint(
    path: Path,
    run: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> list[dict[str, Any]]:
    """Load a checkpoint of this run, and give its epochs' records.

    Raises
    ------
    InputError
        It is of another run, or no checkpoint.
    """
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        if saved["run"] != run:
            raise InputError(
                f"checkpoint {path} is of another run (network, data, settings or seed); "
                "choose another path, or start afresh with resume off"
            )
        model.load_state_dict(saved["state_dict"])
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        return [dict(record) for record in saved["epochs"]]
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"checkpoint {path}: expected one written by train, got {type(error).__name__}; "
            "delete it, or choose another path"
        ) from error
