# SPDX-License-Identifier: Apache-2.0
"""Data sets without PyTorch: CIFAR-10, NumPy archives, digits, image folders, plain files."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..ortops.errors import InputError

#: Images that `prepare` handles at a time.
_PIECE = 64

#: Kinds that have a train part and a test part.
SPLIT = ("digits", "cifar10")
SPECS = "cifar10:DIR, npz:FILE, digits, images:DIR or raw:DIR"


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels in memory. A sample's position is its index in the data set.

    Attributes
    ----------
    name : str
        Kind and split, as results name it.
    images : array [N, C, H, W] (or [N, ...]) of uint8 or float32
        uint8: values from 0 to 255, to be scaled and normalised. float32: as the network takes it.
    labels : array [N] of int64, or None
    classes : tuple of str, or None
        Names of the classes, where they are known.
    """

    name: str
    images: npt.NDArray[Any]
    labels: npt.NDArray[np.int64] | None = None
    classes: tuple[str, ...] | None = None
    parent_sha256: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise InputError(
                f"data set: expected its name, then images and labels, got a "
                f"{type(self.name).__name__} as name"
            )
        object.__setattr__(self, "images", _checked_images(self.name, np.asarray(self.images)))
        if self.labels is not None:
            labels = _checked_labels(self.name, np.asarray(self.labels), len(self.images))
            if self.classes is not None:
                check_label_range(self.name, labels, len(self.classes))
            object.__setattr__(self, "labels", labels)

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of shape, type and values of the whole data set's images and labels."""
        if self.parent_sha256:
            return self.parent_sha256
        digest = hashlib.sha256()
        for array in (self.images, self.labels):
            if array is not None:
                little = array.astype(array.dtype.newbyteorder("<"), copy=False)
                digest.update(f"{array.dtype.name}{list(array.shape)};".encode())
                digest.update(np.ascontiguousarray(little).data)
        return digest.hexdigest()

    def head(self, images: int | None) -> Dataset:
        """Return the first `images` samples (None: all) under the same checksum.

        Raises
        ------
        InputError
            There are not so many.
        """
        if images is None:
            return self
        if not isinstance(images, (int, np.integer)) or not 1 <= images <= len(self):
            raise InputError(
                f"images: expected a number from 1 to {len(self)} (all of {self.name}), "
                f"got {images!r}"
            )
        labels = None if self.labels is None else self.labels[:images]
        return replace(self, images=self.images[:images], labels=labels, parent_sha256=self.sha256)


def load(
    spec: str,
    split: str = "test",
    images: int | None = None,
    size: tuple[int, int] | None = None,
) -> Dataset:
    """Read a data set.

    Parameters
    ----------
    spec : str
        ``cifar10:DIR`` (the binary or the Python version; DIR or the folder of that name in it),
        ``npz:FILE`` (arrays x or images, and y or labels), ``digits`` (scikit-learn's 1797
        scans, 8 x 8, enlarged to 3 x 32 x 32; the first 1297 are ``train``, the last 500
        ``test``), ``images:DIR`` (a folder a class, of PNG or JPEG files) or ``raw:DIR`` (the
        plain files of a bundle, see `noisystore.runtime.dataset_raw`).
    split : "test" or "train"
        Part of cifar10 or digits; npz, images and raw have one part only.
    images : int, optional
        Keep only that many, the first ones.
    size : (height, width), optional
        What the files of ``images:`` are resized and cropped to; None: they must have one size.

    Returns
    -------
    Dataset

    Raises
    ------
    InputError
        Unknown kind or split, or missing, truncated or damaged data.
    """
    from . import dataset_cifar10, dataset_files, dataset_raw

    readers: dict[str, Callable[[Path, str], Dataset]] = {
        "cifar10": dataset_cifar10.read,
        "npz": dataset_files.read_npz,
        "images": functools.partial(dataset_files.read_images, size=size),
        "raw": dataset_raw.read_raw,
    }
    if split not in ("test", "train"):
        raise InputError(f"split: expected test or train, got {split!r}")
    kind, colon, place = str(spec).partition(":")
    if kind == "digits" and not colon:
        return dataset_files.read_digits(split).head(images)
    if kind not in readers or not place:
        raise InputError(f"data set: expected {SPECS}, got {spec!r}")
    return readers[kind](Path(place).expanduser(), split).head(images)


def prepare(
    batch: npt.NDArray[Any],
    normalization: Mapping[str, Sequence[float]] | None = None,
    dtype: npt.DTypeLike = np.float32,
) -> npt.NDArray[Any]:
    """Turn images into what the network takes.

    Parameters
    ----------
    batch : array [N, C, H, W] of uint8 or float32
        uint8 is divided by 255, then ``mean`` is subtracted and divided by ``std``, in float32,
        as torchvision's ToTensor and Normalize do; float32 stays as it is.
    normalization : mapping with ``mean`` and ``std``, optional
        One value a channel, or one for all.
    dtype : data type of the network's input
        A network that takes uint8 gets uint8 images unchanged.

    Returns
    -------
    array of `dtype`, C-contiguous

    Raises
    ------
    InputError
        The normalisation has another number of channels.
    """
    dtype = np.dtype(dtype)
    if batch.dtype != np.uint8 or dtype == np.uint8:
        return np.ascontiguousarray(batch, dtype=dtype)
    out = np.empty(batch.shape, dtype=np.float32)
    mean, std = _per_channel(batch, normalization)
    # In pieces that stay in the cache: three times as fast.
    for start in range(0, len(batch), _PIECE):
        piece = out[start : start + _PIECE]
        np.divide(batch[start : start + _PIECE], np.float32(255), out=piece, dtype=np.float32)
        if normalization is not None:
            piece -= mean
            piece /= std
    return out.astype(dtype, copy=False)


def check_label_range(
    name: str, labels: npt.NDArray[np.int64], classes: int, what: str = "classes"
) -> None:
    """Check that every label is from 0 to classes - 1.

    Parameters
    ----------
    name : str
        Of the data set, for the message.
    labels : array of int64 [N]
    classes : int
    what : str
        What `classes` counts, for the message.

    Raises
    ------
    InputError
        One is not.
    """
    bad = np.flatnonzero((labels < 0) | (labels >= classes))
    if bad.size:
        raise InputError(
            f"data set {name}: expected labels from 0 to {classes - 1} ({classes} {what}), "
            f"got {labels[bad[0]]} at sample {bad[0]}"
        )


def _per_channel(
    batch: npt.NDArray[Any], normalization: Mapping[str, Sequence[float]] | None
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return mean and std, shaped to broadcast over [N, C, ...]."""
    values = normalization or {"mean": [0.0], "std": [1.0]}
    mean, std = (np.asarray(values[key], dtype=np.float32) for key in ("mean", "std"))
    if mean.size > 1 and batch.shape[1] != mean.size:
        raise InputError(
            f"normalisation of {mean.size} channels: expected images [N, {mean.size}, H, W], "
            f"got {list(batch.shape)}"
        )
    shape = (-1, *[1] * (batch.ndim - 2))
    return mean.reshape(shape), std.reshape(shape)


def _checked_images(name: str, images: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if images.ndim < 2 or images.size == 0:
        raise InputError(
            f"data set {name}: expected images [N, C, H, W], got shape {list(images.shape)}"
        )
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind != "f":
        raise InputError(f"data set {name}: expected uint8 or float images, got {images.dtype}")
    images = images.astype(np.float32, copy=False)
    if not np.isfinite(images).all():
        where = np.argwhere(~np.isfinite(images))[0]
        raise InputError(
            f"data set {name}: expected finite values, got {images[tuple(where)]} in sample "
            f"{where[0]}"
        )
    return images


def _checked_labels(name: str, labels: npt.NDArray[Any], images: int) -> npt.NDArray[np.int64]:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dtype.kind not in "iu" or labels.shape != (images,):
        raise InputError(
            f"data set {name}: expected {images} integer labels, one an image, got "
            f"{labels.dtype} of shape {list(labels.shape)}"
        )
    labels = labels.astype(np.int64)
    if labels.min() < 0:
        raise InputError(f"data set {name}: expected labels of 0 or more, got {labels.min()}")
    return labels
