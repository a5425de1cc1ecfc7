# SPDX-License-Identifier: Apache-2.0
"""What a hardened file says of itself: which sites are clipped, and at which a NaN reads as 0."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..ortops.errors import InputError
from . import onnx_file
from .protobuf import fields, messages, text
from .texts import printable

#: Key of the file's ``metadata_props``.
HARDENING_KEY = "noisystore.hardening"
_MODEL_METADATA = 14  # field number in onnx.proto


@dataclass(frozen=True)
class Hardening:
    """What `noisystore.export.harden` added to a file.

    Attributes
    ----------
    ranges : dict from site to (low, high)
        To which what is read there is clipped.
    nan_to_zero : tuple of int
        Sites at which a NaN reads as 0.
    source : str
        Where the ranges come from, for people.
    """

    ranges: dict[int, tuple[float, float]] = field(default_factory=dict)
    nan_to_zero: tuple[int, ...] = ()
    source: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        return {
            "ranges": {str(site): list(bounds) for site, bounds in sorted(self.ranges.items())},
            "nan_to_zero": list(self.nan_to_zero),
            "source": self.source,
        }

    def __str__(self) -> str:
        where = f" to the range of {printable(self.source)}" if self.source else ""
        parts = [
            f"{len(self.ranges)} sites clipped{where}" if self.ranges else "",
            f"NaN reads as 0 at {len(self.nan_to_zero)} sites" if self.nan_to_zero else "",
        ]
        return ", ".join(part for part in parts if part)


def parse_hardening(value: str, path: Path | str) -> Hardening:
    """Read the metadata's text.

    Parameters
    ----------
    value : str
    path : path
        Of the model, for messages.

    Raises
    ------
    InputError
        It is damaged.
    """
    try:
        record = json.loads(value)
        ranges = {int(site): (float(a), float(b)) for site, (a, b) in record["ranges"].items()}
        sites = tuple(int(site) for site in record["nan_to_zero"])
        if all(math.isfinite(v) for bounds in ranges.values() for v in bounds):
            return Hardening(ranges, sites, str(record.get("source", "")))
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        pass
    raise InputError(f"model {path}: damaged {HARDENING_KEY}: harden the original file again")


def read_hardening(path: Path) -> Hardening | None:
    """Return what was added to a file; None: it is not hardened.

    Parameters
    ----------
    path : path of an ONNX file

    Raises
    ------
    InputError
        The file cannot be read, is no ONNX file, or what it says is damaged.
    """

    def work(model: memoryview) -> str | None:
        for entry in messages(model, _MODEL_METADATA):
            pair = list(fields(entry))
            if text(pair, onnx_file.KEY) == HARDENING_KEY.encode():
                return text(pair, onnx_file.VALUE).decode()
        return None

    found = onnx_file.read_file(path, work)
    return None if found is None else parse_hardening(found, path)
