# SPDX-License-Identifier: Apache-2.0
"""Identity of a model file: SHA-256 of the ONNX file and of the weight files that it names."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from ..ortops.errors import InputError

# Field numbers of onnx.proto, unchanged since IR 1: ModelProto.graph, GraphProto.initializer,
# TensorProto.external_data, StringStringEntryProto.key and .value.
_GRAPH, _INITIALIZER, _EXTERNAL_DATA, _KEY, _VALUE = 7, 5, 13, 1, 2


def check_model_path(path: str | os.PathLike[str]) -> Path:
    """Return the path of a readable regular file.

    Raises
    ------
    InputError
        Nothing is there, or it is no regular file, or it may not be read.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"model {path}: expected an ONNX file: {reason}") from None
    if not stat.S_ISREG(mode):
        raise InputError(f"model {path}: expected an ONNX file, got something that is no file")
    if not os.access(path, os.R_OK):
        raise InputError(f"model {path}: the file may not be read (permission denied)")
    return path


def model_sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a model: its file, then its external weight files by sorted name.

    A model without external weights has the checksum that ``sha256sum`` prints.

    Parameters
    ----------
    path : path of an ONNX file

    Returns
    -------
    str
        64 hexadecimal digits.

    Raises
    ------
    InputError
        The file or one of its weight files cannot be read, or it is no ONNX file.
    """
    path = check_model_path(path)
    digest = hashlib.sha256()
    _update(digest, path)
    for name in external_files(path):
        _update(digest, path.parent / name)
    return digest.hexdigest()


def external_files(path: Path) -> list[str]:
    """Return the names, relative to the model, of the files that hold initializers."""
    names: set[str] = set()
    try:
        with memoryview(path.read_bytes()) as data:
            for graph in _messages(data, _GRAPH):
                for tensor in _messages(graph, _INITIALIZER):
                    for entry in _messages(tensor, _EXTERNAL_DATA):
                        if [bytes(key) for key in _messages(entry, _KEY)] == [b"location"]:
                            names.update(bytes(v).decode() for v in _messages(entry, _VALUE))
    except (ValueError, IndexError):
        raise InputError(f"model {path}: expected an ONNX file, got something else") from None
    return sorted(names)


def _update(digest: hashlib._Hash, path: Path) -> None:
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise InputError(f"model file {path}: {error.strerror}") from None


def _messages(data: memoryview, wanted: int) -> Iterator[memoryview]:
    """Yield the length-delimited fields of number `wanted` of one protobuf message."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        wire = tag & 7
        if wire == 0:
            _, position = _varint(data, position)
            continue
        if wire == 2:
            size, position = _varint(data, position)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError("no protobuf")
        if position + size > len(data):
            raise ValueError("no protobuf")
        if wire == 2 and tag >> 3 == wanted:
            yield data[position : position + size]
        position += size


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError("no protobuf")
