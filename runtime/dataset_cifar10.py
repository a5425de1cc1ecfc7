# SPDX-License-Identifier: Apache-2.0
"""CIFAR-10 in its binary and its Python version."""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..ortops.errors import InputError
from .dataset import Dataset, check_label_range

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PIXELS = 3 * 32 * 32

_TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))
# The official files hold 10,000 images and no more; a file far beyond that is something else.
_MOST_BYTES = 1 << 28
# A batch takes some 50,000 opcodes: its labels and file names.
_MOST_OPCODES = 1 << 20
_SETS_MEMO = ("PUT", "BINPUT", "LONG_BINPUT")


def read(folder: Path, split: str) -> Dataset:
    """Read the images of one split, in the order of the files.

    Parameters
    ----------
    folder : path
        Holds the batch files, or a folder ``cifar-10-batches-bin`` or ``cifar-10-batches-py``.
    split : "test" or "train"

    Returns
    -------
    Dataset
        Images [N, 3, 32, 32] uint8.

    Raises
    ------
    InputError
        A file is missing, truncated or damaged.
    """
    names = ("test_batch",) if split == "test" else _TRAIN
    for place in (folder, folder / "cifar-10-batches-bin", folder / "cifar-10-batches-py"):
        if (place / f"{names[0]}.bin").is_file():
            parts = [_read_binary(place / f"{name}.bin") for name in names]
            break
        if (place / names[0]).is_file():
            parts = [_read_python(place / name) for name in names]
            break
    else:
        raise InputError(
            f"data set cifar10:{folder}: expected {names[0]}.bin or {names[0]} there, or in "
            "cifar-10-batches-bin or cifar-10-batches-py below it, got no such file"
        )
    images = np.concatenate([pixels for pixels, _ in parts]).reshape(-1, 3, 32, 32)
    labels = np.concatenate([labels for _, labels in parts])
    return Dataset(f"cifar10/{split}", images, labels, CLASSES)


def _read_binary(path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    data = np.frombuffer(_bytes(path), dtype=np.uint8)
    if data.size == 0 or data.size % (1 + PIXELS):
        raise InputError(
            f"{path}: expected a multiple of {1 + PIXELS} bytes (label and 3 x 32 x 32 pixels an "
            f"image), got {data.size}: download the file again"
        )
    rows = data.reshape(-1, 1 + PIXELS)
    labels = rows[:, 0].astype(np.int64)
    check_label_range(str(path), labels, len(CLASSES))
    return rows[:, 1:], labels


def _read_python(path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    try:
        data = _bytes(path)
        _check_opcodes(data)
        record = _Reader(io.BytesIO(data), encoding="bytes").load()
        if isinstance(record, dict):
            record = {_text(key): _plain(value) for key, value in record.items()}
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:
        raise InputError(
            f"{path}: expected CIFAR-10's Python version, got a damaged file "
            f"({type(error).__name__}): download it again"
        ) from None
    if not isinstance(record, dict):
        raise InputError(f"{path}: expected a dictionary, got {type(record).__name__}")
    pixels, labels = record.get("data"), record.get("labels")
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or labels is None:
        raise InputError(f"{path}: expected the keys data (bytes) and labels, got others")
    if isinstance(labels, list) and not all(isinstance(label, int) for label in labels):
        raise InputError(f"{path}: expected integer labels")
    if not isinstance(labels, (list, np.ndarray)):
        raise InputError(f"{path}: expected a list of labels, got {type(labels).__name__}")
    labels = np.asarray(labels)
    if pixels.ndim != 2 or pixels.shape[1] != PIXELS or labels.shape != pixels.shape[:1]:
        raise InputError(
            f"{path}: expected data [N, {PIXELS}] and N labels, got data {list(pixels.shape)} and "
            f"labels {list(labels.shape)}"
        )
    if labels.dtype.kind not in "iu":
        raise InputError(f"{path}: expected integer labels, got {labels.dtype}")
    labels = labels.astype(np.int64)
    check_label_range(str(path), labels, len(CLASSES))
    return pixels, labels


def _check_opcodes(data: bytes) -> None:
    """Refuse a pickle that takes much more memory than its size: before any of it is run."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        # An honest pickle numbers its memo in order; the reader makes room up to the number.
        if count >= _MOST_OPCODES or (opcode.name in _SETS_MEMO and int(argument or 0) > count):
            raise InputError("refused to load: CIFAR-10's files hold no such pickle")


def _text(key: Any) -> Any:
    return key.decode("latin1") if isinstance(key, bytes) else key


def _plain(value: Any) -> Any:
    return value.value() if isinstance(value, _Array) else value


def _bytes(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: expected a file")
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise InputError(f"{path}: expected at most {_MOST_BYTES} bytes, got {size}")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


class _Type:
    """Stands for numpy.dtype in a pickle."""

    def __init__(self, code: Any = "", *_: Any) -> None:
        self.code = code.decode("latin1") if isinstance(code, bytes) else code
        if not isinstance(self.code, str):
            raise InputError("expected the name of a type")

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]


class _Array:
    """Stands for numpy.ndarray in a pickle: keeps the bytes and makes an array of them later."""

    def __init__(self) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: Any) -> None:
        self.state = tuple(state)

    def value(self) -> npt.NDArray[Any]:
        if len(self.state) != 5:
            raise InputError("expected an array, got something else")
        _, shape, kind, fortran, data = self.state
        if not isinstance(kind, _Type) or kind.code not in ("u1", "|u1", "i8", "<i8", "i4", "<i4"):
            raise InputError("expected an array of bytes or integers, got another type")
        if isinstance(data, str):
            data = data.encode("latin1")
        array = np.frombuffer(data, dtype=np.dtype(kind.code).newbyteorder("<"))
        shape = tuple(int(d) for d in shape)
        if any(d < 0 for d in shape) or int(np.prod(shape, dtype=object)) != array.size:
            raise InputError(f"expected {list(shape)} values, got {array.size}: truncated")
        return array.reshape(shape, order="F" if fortran else "C")


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _from_buffer(data: Any, kind: Any, shape: Any, order: Any = "C") -> _Array:
    if not isinstance(data, (bytes, bytearray)):
        raise InputError("expected the bytes of an array")
    array = _Array()
    array.state = (1, shape, kind, order == "F", bytes(data))
    return array


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str):
        raise InputError("expected text")
    return text.encode("latin1")


class _Reader(pickle.Unpickler):
    """Admits what these files need, through stand-ins: no code of a pickle's choice can run."""

    _ADMITTED = {  # noqa: RUF012
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy.core.numeric", "_frombuffer"): _from_buffer,
        ("numpy._core.numeric", "_frombuffer"): _from_buffer,
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Type,
        ("_codecs", "encode"): _encode,
    }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._ADMITTED[module, name]
        except KeyError:
            raise InputError(
                f"refused to load {module}.{name}: CIFAR-10's files hold only arrays, lists and "
                "text"
            ) from None
