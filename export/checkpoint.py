# SPDX-License-Identifier: Apache-2.0
"""Weights and checkpoints of a training run: written whole, read without unpickling code."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ..ortops.errors import InputError
from ..ortops.files import write_whole

Array = npt.NDArray[Any]
# Settings of an optimizer that a schedule moves, and what a schedule itself counts.
_MOVED = frozenset({"lr", "momentum", "betas"})
_COUNTED = frozenset({"last_epoch", "_step_count", "_last_lr"})

Record = TypeVar("Record")


def run_key(
    model: nn.Module,
    settings: Mapping[str, Any],
    data: Mapping[str, tuple[Array, Array]],
) -> dict[str, str]:
    """Describe a run by all that decides its outcome.

    Parameters
    ----------
    model : torch.nn.Module
        Of which the modules and the shapes of the state count, not the weights.
    settings : mapping
        Name to value, such as the seed; what JSON can hold.
    data : mapping
        Name to (images, labels).

    Returns
    -------
    dict of str to str
        Name of a part to its value (the settings) or to a digest of it.
    """
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    # Addresses, as in the repr of a function, differ from process to process.
    layers = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(model))
    key = {"network": _digest(json.dumps([layers, shapes]).encode())}
    for name, (images, labels) in data.items():
        shape = str(images.shape).encode()
        key[name] = _digest(shape, np.ascontiguousarray(images), np.ascontiguousarray(labels))
    return key | {name: json.dumps(value, default=str) for name, value in settings.items()}


def weights_digest(model: nn.Module) -> str:
    """SHA-256 of a model's state, names and values, in hexadecimal digits."""
    parts: list[Any] = []
    for name, tensor in model.state_dict().items():
        values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        parts += [name.encode(), values.numpy()]
    return _digest(*parts)


def _digest(*parts: Any) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def save_checkpoint(
    path: Path,
    run: Mapping[str, str],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    done: Sequence[Mapping[str, Any]],
) -> None:
    """Write all that is needed to go on after an epoch.

    Parameters
    ----------
    path : pathlib.Path
        Written whole or not at all.
    run : mapping
        Of `run_key`.
    model, optimizer, schedule
        Whose states are kept.
    done : sequence of mapping
        A record of every epoch so far.

    Raises
    ------
    InputError
        The file cannot be written.
    """
    buffer = io.BytesIO()
    torch.save(
        {
            "run": dict(run),
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
    run: Mapping[str, str],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    records: Callable[[Any, Any], list[Record]],
) -> list[Record]:
    """Load a checkpoint of this run.

    Parameters
    ----------
    path : pathlib.Path
        Of `save_checkpoint`.
    run : mapping
        Of `run_key`; the checkpoint's must be the same.
    model, optimizer, schedule
        Whose states are set.
    records : callable
        Makes records of those in the file and the schedule's last step; raises where they do not
        fit.

    Returns
    -------
    list
        The epochs' records.

    Raises
    ------
    InputError
        It is of another run, or no checkpoint.
    """
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        differing = _difference(saved["run"], run)
        if differing:
            raise InputError(
                f"checkpoint {path} is of another run, with another {differing}; choose another "
                "path, or start afresh with resume off"
            )
        done = records(saved["epochs"], saved["schedule"]["last_epoch"])
        _check_groups(saved["optimizer"]["param_groups"], optimizer.state_dict()["param_groups"])
        _check_schedule(saved["schedule"], schedule.state_dict())
        model.load_state_dict(saved["state_dict"])
        optimizer.load_state_dict(saved["optimizer"])
        _check_shapes(optimizer)
        schedule.load_state_dict(saved["schedule"])
        return done
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"checkpoint {path}: expected one written by train, got {type(error).__name__}; "
            "delete it, or choose another path"
        ) from error


def _check_groups(saved: Any, fresh: list[dict[str, Any]]) -> None:
    """Check that an optimizer's settings are those of this run, but for what a schedule moves."""
    for old, new in zip(saved, fresh, strict=True):
        if old.keys() != new.keys():
            raise ValueError("another optimizer")
        for name, value in new.items():
            same = type(old[name]) is type(value) and (name in _MOVED or old[name] == value)
            if not same or (name in _MOVED and not _numbers(old[name])):
                raise ValueError(f"{name}: another value")


def _check_schedule(saved: Any, fresh: Mapping[str, Any]) -> None:
    for name, value in saved.items():
        if name in _COUNTED:
            good = _numbers(value)
        else:
            good = name in fresh and type(value) is type(fresh[name]) and value == fresh[name]
        if not good:
            raise ValueError(f"{name}: another value")


def _numbers(value: Any) -> bool:
    values = value if isinstance(value, (list, tuple)) else (value,)
    return all(type(v) in (int, float) and 0 <= v < math.inf for v in values)


def _check_shapes(optimizer: torch.optim.Optimizer) -> None:
    """Check that an optimizer keeps what it needs, in a parameter's shape; PyTorch does not."""
    adam = isinstance(optimizer, torch.optim.AdamW)
    names = {"step", "exp_avg", "exp_avg_sq"} if adam else {"momentum_buffer"}
    for parameter, state in optimizer.state.items():
        if state.keys() != names:
            raise ValueError("another optimizer")
        for name, value in state.items():
            shape = torch.Size() if name == "step" else parameter.shape
            if value is not None and value.shape != shape:
                raise ValueError(f"{name}: another shape")


def _difference(saved: Any, run: Mapping[str, str]) -> str:
    """Name the parts that differ; with both values where they are short."""
    if not isinstance(saved, dict):  # one digest of all, as written before
        return "form of checkpoint"
    found = []
    for name in dict.fromkeys([*run, *saved]):
        old, new = saved.get(name, "none"), run.get(name, "none")
        if old != new:
            short = len(f"{old}{new}") < 64
            found.append(f"{name} ({old} there, {new} here)" if short else name)
    return ", ".join(found)


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
