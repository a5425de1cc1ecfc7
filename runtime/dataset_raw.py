# SPDX-License-Identifier: Apache-2.0
"""Data sets as three plain files, which a program without NumPy reads: text, images, labels."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..ortops.errors import InputError
from .dataset import Dataset, check_label_range

#: Names of the three files.
TEXT_FILE, IMAGES_FILE, LABELS_FILE = "data.txt", "images.bin", "labels.bin"

_VERSION = "1"
_TYPES = {"uint8": "u1", "float32": "<f4"}
_NEEDED = ("version", "name", "type", "shape", "labels", "batch")
_KEYS = (*_NEEDED, "classes", "mean", "std")
_MOST_TEXT = 1 << 20
_MOST_BATCH = (1 << 31) - 1
_MOST_AXES = 8
# Of mean and std: far inside the range of float32.
_MOST_REAL = 1e30


def write_raw(
    data: Dataset,
    normalization: Mapping[str, Sequence[float]] | None = None,
    batch_size: int = 100,
) -> dict[str, bytes]:
    """Return the bytes of the files of a data set, by name.

    Parameters
    ----------
    data : Dataset
    normalization : mapping with ``mean`` and ``std``, optional
        Of uint8 images, as `noisystore.runtime.dataset.prepare` takes it.
    batch_size : int
        Images a run, for programs that take it from the file.

    Returns
    -------
    dict of bytes
        ``data.txt`` (lines of a key and its value), ``images.bin`` (the values in C order) and
        ``labels.bin`` (int64; empty where there are none), little-endian.

    Examples
    --------
    >>> import numpy as np
    >>> from noisystore.runtime.dataset import Dataset
    >>> from noisystore.runtime.dataset_raw import write_raw
    >>> files = write_raw(Dataset("two", np.zeros((2, 1, 3, 3), np.uint8), np.array([0, 1])))
    >>> print(files["data.txt"].decode(), end="")
    version 1
    name two
    type uint8
    shape 2 1 3 3
    labels 2
    batch 100
    """
    kind = data.images.dtype.name
    labels = np.empty(0, np.int64) if data.labels is None else data.labels
    name = " ".join(data.name.encode("ascii", "backslashreplace").decode().split())
    lines = [
        f"version {_VERSION}",
        f"name {name or 'data'}",
        f"type {kind}",
        f"shape {' '.join(map(str, data.images.shape))}",
        f"labels {len(labels)}",
        f"batch {batch_size}",
    ]
    if data.classes is not None:
        lines.append(f"classes {len(data.classes)}")
    if normalization is not None:
        for key in ("mean", "std"):
            # Nine digits tell every float32 apart.
            values = np.asarray(normalization[key], dtype=np.float32)
            lines.append(f"{key} {' '.join(f'{value:.9g}' for value in values)}")
    return {
        TEXT_FILE: ("\n".join(lines) + "\n").encode("ascii"),
        IMAGES_FILE: data.images.astype(_TYPES[kind], copy=False).tobytes(),
        LABELS_FILE: labels.astype("<i8", copy=False).tobytes(),
    }


def read_raw(folder: Path, split: str = "test") -> Dataset:
    """Read the files that `write_raw` makes.

    Normalisation and batch size are checked, but not used: here they belong to model and sweep.

    Parameters
    ----------
    folder : path
    split : str
        Without meaning here.

    Returns
    -------
    Dataset
        With the checksum of the written one; names of classes are not kept.

    Raises
    ------
    InputError
        A file is missing or damaged, or its size is not that which the text says.
    """
    del split
    path = folder / TEXT_FILE
    try:
        entries = _entries(_text(path))
        shape = [_integer(entries, "shape", word) for word in entries["shape"].split(" ")]
        if not 2 <= len(shape) <= _MOST_AXES:
            raise InputError(f"shape: expected N C H W, or 2 to {_MOST_AXES} axes, got {shape}")
        kind = entries["type"]
        if kind not in _TYPES:
            raise InputError(f"type: expected uint8 or float32, got {kind!r}")
        labels = _integer(entries, "labels", low=0)
        if labels not in (0, shape[0]):
            raise InputError(f"labels: expected {shape[0]}, one an image, or 0, got {labels}")
        _integer(entries, "batch", high=_MOST_BATCH)
        classes = _integer(entries, "classes") if "classes" in entries else None
        _check_normalization(entries, shape[1])
    except InputError as error:
        raise InputError(f"data file {path}: {error}") from None
    images = _values(folder / IMAGES_FILE, _TYPES[kind], shape)
    targets = _values(folder / LABELS_FILE, "<i8", [labels])
    if labels and classes is not None:
        check_label_range(str(folder / LABELS_FILE), targets, classes)
    return Dataset(entries["name"], images, targets if labels else None)


def _text(path: Path) -> str:
    try:
        size = _size(path)
        if size > _MOST_TEXT:
            raise InputError(f"expected at most {_MOST_TEXT} bytes, got {size}")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(error.strerror or str(error)) from None
    if re.search(rb"[^\n -~]", data) or not data.endswith(b"\n"):
        raise InputError("expected lines of ASCII text, got something else: damaged or truncated")
    return data.decode("ascii")


def _size(path: Path) -> int:
    size = path.stat().st_size
    if not path.is_file():
        raise InputError("expected a file, got something else")
    return size


def _entries(text: str) -> dict[str, str]:
    entries: dict[str, str] = {}
    for line in text[:-1].split("\n"):
        key, _, value = line.partition(" ")
        if key not in _KEYS:
            raise InputError(f"expected the keys {', '.join(_KEYS)}, got {key[:40]!r}")
        if key in entries or not value:
            raise InputError(f"{key}: expected one value, got {'another' if value else 'none'}")
        entries[key] = value
    missing = [key for key in _NEEDED if key not in entries]
    if missing:
        raise InputError(f"expected a line with {missing[0]}, got none")
    if entries["version"] != _VERSION:
        raise InputError(
            f"version: expected {_VERSION}, got {entries['version'][:40]!r}: made by another "
            "version of noisystore"
        )
    return entries


def _integer(
    entries: Mapping[str, str],
    key: str,
    word: str | None = None,
    low: int = 1,
    high: int = (1 << 63) - 1,
) -> int:
    text = entries[key] if word is None else word
    value = int(text) if re.fullmatch("[0-9]{1,19}", text) else -1
    if not low <= value <= high:
        raise InputError(f"{key}: expected an integer from {low} to {high}, got {text[:40]!r}")
    return value


def _check_normalization(entries: Mapping[str, str], channels: int) -> None:
    lengths = []
    for key, low in (("mean", -_MOST_REAL), ("std", 1 / _MOST_REAL)):
        words = entries[key].split(" ") if key in entries else []
        for word in words:
            if not low <= _real(word) <= _MOST_REAL:
                raise InputError(
                    f"{key}: expected numbers from {low:g} to {_MOST_REAL:g}, got {word[:40]!r}"
                )
        lengths.append(len(words))
    if lengths[0] != lengths[1] or lengths[0] not in (0, 1, channels):
        raise InputError(
            f"mean and std: expected 1 value or {channels} each, or none, got {lengths[0]} and "
            f"{lengths[1]}"
        )


def _real(word: str) -> float:
    """Return a number; NaN for anything else, words and digits of other scripts included."""
    try:
        return float(word) if re.fullmatch("[0-9.eE+-]+", word) else math.nan
    except ValueError:
        return math.nan


def _values(path: Path, kind: str, shape: Sequence[int]) -> npt.NDArray[Any]:
    """Return the values of a file, whose size is held against their number before it is read."""
    wanted = math.prod(shape) * np.dtype(kind).itemsize
    try:
        size = _size(path)
        if size != wanted:
            raise InputError(
                f"expected {wanted} bytes for {np.dtype(kind).name} {list(shape)}, got {size}: "
                "damaged or truncated"
            )
        values = np.fromfile(path, dtype=kind).reshape(shape)
    except InputError as error:
        raise InputError(f"data file {path}: {error}") from None
    except OSError as error:
        raise InputError(f"data file {path}: {error.strerror or error}") from None
    except (MemoryError, ValueError):  # or cut short in the meantime
        raise InputError(f"data file {path}: its {wanted} bytes cannot be read") from None
    return values.astype(np.dtype(kind).name, copy=False)  # in the machine's byte order
