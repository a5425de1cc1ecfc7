# SPDX-License-Identifier: Apache-2.0
"""Arrays of NumPy archives that may be damaged or hostile."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from ..ortops.errors import InputError

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_arrays(
    source: str | os.PathLike[str] | IO[bytes], names: Iterable[str], most: int | None = None
) -> dict[str, npt.NDArray[Any]]:
    """Read the named arrays of a NumPy archive, as far as it holds them.

    Each header is held against the size of its data before memory is taken, and nothing is
    unpickled.

    Parameters
    ----------
    source : path or binary file
    names : iterable of str
    most : int, optional
        Bytes that an array may have.

    Returns
    -------
    dict of arrays

    Raises
    ------
    InputError
        It is damaged or no archive, an array needs pickle or would not fit in memory.
    OSError
        The file cannot be read.
    """
    try:
        with zipfile.ZipFile(source) as archive:
            infos = {info.filename: info for info in archive.infolist()}
            return {
                name: _array(archive, infos[f"{name}.npy"], name, most)
                for name in names
                if f"{name}.npy" in infos
            }
    except (OSError, InputError):
        raise
    except Exception as error:  # zipfile and NumPy's header parser raise nearly anything
        raise InputError(
            "expected a NumPy archive, got a damaged or foreign file "
            f"({' '.join(str(error).split())[:120] or type(error).__name__})"
        ) from None


def _array(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, most: int | None
) -> npt.NDArray[Any]:
    with archive.open(info) as file:
        read = _HEADERS.get(np.lib.format.read_magic(file))
        if read is None:
            raise InputError(f"array {name}: unknown .npy version")
        shape, _, dtype = read(file)
        header = file.tell()
    if dtype.hasobject:
        raise InputError(
            f"array {name}: expected numbers, got Python objects, which are not loaded"
        )
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if header + size != info.file_size:
        raise InputError(
            f"array {name}: expected {size} bytes for shape {list(shape)}, "
            f"got {info.file_size - header}"
        )
    if most is not None and size > most:
        raise InputError(f"array {name}: expected at most {most} bytes, got {size} unpacked")
    if size > _memory() // 2:
        raise InputError(
            f"array {name}: expected at most half of the memory, got {size} bytes unpacked"
        )
    with archive.open(info) as file:
        return np.asarray(np.lib.format.read_array(file, allow_pickle=False))


def _memory() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 1 << 34
