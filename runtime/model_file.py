# SPDX-License-Identifier: Apache-2.0
"""Identity of a model file: SHA-256 of the ONNX file and of the weight files that it names."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path

from ..ortops.errors import InputError
from .onnx_file import external_files


def check_model_path(path: str | os.PathLike[str]) -> Path:
    """Return the path of a readable regular file.

    Parameters
    ----------
    path : path-like

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

    Each weight file counts with its name, its length and its bytes. A model without external
    weights has the checksum that ``sha256sum`` prints.

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
        The file or one of its weight files cannot be read, it is no ONNX file, or it names a
        weight file that is no regular file in the model's folder.
    """
    path = check_model_path(path)
    digest = hashlib.sha256()
    _update(digest, path)
    for name in external_files(path):
        file = weight_file(path, name)
        digest.update(json.dumps([name, file.stat().st_size]).encode())
        _update(digest, file)
    return digest.hexdigest()


def weight_file(model: Path, name: str) -> Path:
    """Return the regular file in the model's folder that `name` means.

    Parameters
    ----------
    model : path of the ONNX file
    name : str
        As its tensors give it.

    Raises
    ------
    InputError
        It is missing, lies elsewhere or is no regular file.
    """
    try:
        file = (model.parent / name).resolve()
        if not file.exists():
            raise InputError(f"model {model}: its weight file {name!r} is missing")
        # A model may be a link into a store of files, where its weights lie beside it.
        folders = (model.parent.resolve(), model.resolve().parent)
        if file.is_file() and any(file.is_relative_to(folder) for folder in folders):
            return file
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, InputError):
            raise
    raise InputError(
        f"model {model}: expected weight files in its folder, got {name!r}: save the model again"
    )


def _update(digest: hashlib._Hash, path: Path) -> None:
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise InputError(f"model file {path}: {error.strerror}") from None
