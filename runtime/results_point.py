# SPDX-License-Identifier: Apache-2.0
"""A measured point as a sweep hands it to `Results`, and what tells sweeps and points apart."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

IDENTITY = (
    "model_sha256",
    "data_sha256",
    "images",
    "seed",
    "batch_size",
    "bit_mask",
    "metric",
    "provider",
    "machine",
    "noise_model",
)


@dataclass(frozen=True)
class Point:
    """One measured point: columns of the tables ``points`` and ``bits`` (see docs/results.md)."""

    p01: float
    p10: float
    trial: int
    noise_seed: int
    images: int
    n_run: int
    correct: int | None
    top5: int | None
    agreement: int | None
    metric: float | None
    seconds: float
    run_seconds: float
    correct_bits: bytes | None
    agree_bits: bytes | None


def pack_bits(values: npt.NDArray[np.bool_]) -> bytes:
    """Pack booleans [samples] into bytes, first sample in the most significant bit."""
    return np.packbits(values).tobytes()


def unpack_bits(blob: bytes, samples: int) -> npt.NDArray[np.bool_]:
    """Return the booleans [samples] that `pack_bits` packed."""
    return np.unpackbits(np.frombuffer(blob, dtype=np.uint8), count=samples).astype(bool)


def rates_key(p01: float, p10: float) -> str:
    """Return the exact text that identifies a pair of rates."""
    # Adding 0 makes 0 of -0: they are one number.
    return f"{(float(p01) + 0).hex()}|{(float(p10) + 0).hex()}"


def sweep_key(identity: Mapping[str, Any]) -> str:
    """Return the SHA-256 that identifies a sweep: of its identity as JSON, in a fixed order.

    A sweep of all sites has the key that it had before there was a choice.
    """
    values = [identity[name] for name in IDENTITY]
    values += [identity["noisy"]] if identity.get("noisy") else []
    text = json.dumps(values, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def signed(seed: int) -> int:
    """Return the int64 of a 64-bit pattern, as SQLite and the noise input hold it."""
    seed &= (1 << 64) - 1
    return seed - (1 << 64) if seed >> 63 else seed
