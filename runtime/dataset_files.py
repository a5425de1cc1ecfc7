# SPDX-License-Identifier: Apache-2.0
"""Data sets in NumPy archives, in image folders and in scikit-learn."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..ortops.errors import InputError
from .dataset import Dataset
from .npz import read_arrays

if TYPE_CHECKING:
    from PIL import Image

_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
_DIGITS_TRAIN = 1297


def read_npz(path: Path, split: str) -> Dataset:
    """Read a NumPy archive with the arrays x (or images) and, if there are labels, y (or labels).

    Raises
    ------
    InputError
        It is missing or damaged, needs pickle, or would not fit in memory.
    """
    del split
    if path.exists() and not path.is_file():
        raise InputError(f"data set npz:{path}: expected a file")
    try:
        arrays = read_arrays(path, ("x", "images", "y", "labels"))
    except OSError as error:
        raise InputError(f"data set npz:{path}: {error.strerror or error}") from None
    except InputError as error:
        raise InputError(f"data set npz:{path}: {error}") from None
    images = arrays.get("x", arrays.get("images"))
    if images is None:
        raise InputError(f"data set npz:{path}: expected an array x or images, got neither")
    return Dataset(f"npz/{path.name}", images, arrays.get("y", arrays.get("labels")))


def read_digits(split: str) -> Dataset:
    """Return scikit-learn's handwritten digits, 8 x 8, enlarged to 3 x 32 x 32.

    Values 0 to 16 become 0 to 255, every pixel a square of 4 x 4, the channels equal.

    Raises
    ------
    InputError
        scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InputError(
            "data set digits: scikit-learn is missing: pip install noisystore[demo]"
        ) from None
    bunch = load_digits()
    scans = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    images = np.broadcast_to(
        scans.repeat(4, axis=1).repeat(4, axis=2)[:, None], (len(scans), 3, 32, 32)
    )
    part = slice(0, _DIGITS_TRAIN) if split == "train" else slice(_DIGITS_TRAIN, None)
    names = tuple(str(digit) for digit in range(10))
    return Dataset(f"digits/{split}", np.ascontiguousarray(images[part]), bunch.target[part], names)


def read_images(folder: Path, split: str, size: tuple[int, int] | None = None) -> Dataset:
    """Read a folder of folders, one a class: PNG and JPEG files, by sorted name.

    Classes are numbered by sorted name. Grey files give one channel if all are grey, else RGB.

    Parameters
    ----------
    folder : path
    split : str
        Without meaning here.
    size : (height, width), optional
        What every image is brought to: resized (bilinear, antialiased, aspect kept, no side
        smaller) and cropped at the centre. None: all images must have one size.

    Raises
    ------
    InputError
        Pillow is not installed, there is no image, one is damaged or of another size.
    """
    del split
    try:
        from PIL import Image
    except ImportError:
        raise InputError(
            "data set images: Pillow is missing: pip install noisystore[images]"
        ) from None
    if not folder.is_dir():
        raise InputError(f"data set images:{folder}: expected a folder with a folder per class")
    classes = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")
    files = [(file, i) for i, name in enumerate(classes) for file in _image_files(folder / name)]
    if not files:
        raise InputError(
            f"data set images:{folder}: expected a folder per class with PNG or JPEG files, "
            "got no image"
        )
    loaded = []
    for file, _ in files:
        try:
            with Image.open(file, formats=("PNG", "JPEG")) as image:
                mode = "L" if image.mode in ("L", "1") else "RGB"
                pixels = image.convert(mode)
                loaded.append(np.asarray(pixels if size is None else _fitted(pixels, size)))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            reason = " ".join(str(error).split())[:120]
            raise InputError(f"{file}: expected a PNG or JPEG file, got {reason}") from None
        if loaded[-1].shape[:2] != loaded[0].shape[:2]:
            raise InputError(
                f"{file}: expected {list(loaded[0].shape[:2])} pixels as in {files[0][0]}, "
                f"got {list(loaded[-1].shape[:2])}: all images must have one size"
            )
    if any(image.ndim == 3 for image in loaded):
        loaded = [image if image.ndim == 3 else image[..., None].repeat(3, 2) for image in loaded]
    else:
        loaded = [image[..., None] for image in loaded]
    images = np.stack(loaded).transpose(0, 3, 1, 2)
    labels = np.array([label for _, label in files], dtype=np.int64)
    return Dataset(f"images/{folder.name}", np.ascontiguousarray(images), labels, tuple(classes))


def _fitted(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize and crop an image as a file with built-in preprocessing does."""
    height, width = size
    ratio = max(height / image.height, width / image.width)
    if ratio != 1:
        grown = (round(image.width * ratio), round(image.height * ratio))
        image = image.resize(grown, 2)  # bilinear
    top, left = (image.height - height) // 2, (image.width - width) // 2
    return image.crop((left, top, left + width, top + height))


def _image_files(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in _IMAGE_SUFFIXES
        and not file.name.startswith(".")
        and file.exists()
        and stat.S_ISREG(file.stat().st_mode)
    )
