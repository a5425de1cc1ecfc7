# SPDX-License-Identifier: Apache-2.0
"""What a worker of a cluster keeps on its disk from one sweep to the next, by SHA-256."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..ortops.errors import InputError

#: Models and data sets that are kept: those that were used last.
KEPT = 6

#: Arrays, or the bytes of files, by name.
Content = Mapping[str, npt.NDArray[Any]]


class Stock:
    """Folders of files, each under the SHA-256 of what is in it; who reads them checks that."""

    def __init__(self) -> None:
        self._folders: OrderedDict[str, Path] = OrderedDict()
        self._replaced: list[Path] = []
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """Return the SHA-256 of everything that is there."""
        with self._lock:
            return [name for name, folder in self._folders.items() if folder.is_dir()]

    def find(self, sha256: str) -> Path | None:
        """Return the folder of something; None: it is not there."""
        with self._lock:
            folder = self._folders.get(sha256)
            if folder is None or not folder.is_dir():
                return None
            self._folders.move_to_end(sha256)
            return folder

    def put(
        self, sha256: str, content: Content, write: Callable[[Content, Path], None], parent: str
    ) -> Path:
        """Write something, and return its folder.

        Parameters
        ----------
        sha256 : str
        content : mapping from name to array
        write : callable
            `write_files` or `write_arrays`.
        parent : str
            Folder for the new one.

        Raises
        ------
        InputError
            A name leads out of the folder.
        """
        folder = Path(tempfile.mkdtemp(prefix="noisystore-", dir=parent))
        try:
            write(content, folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        with self._lock:
            if sha256 in self._folders:
                self._replaced.append(self._folders[sha256])
            self._folders[sha256] = folder
            self._folders.move_to_end(sha256)
        return folder

    def tidy(self, used: set[Path]) -> None:
        """Remove what was used longest ago, beyond `KEPT`, but nothing that is in use."""
        with self._lock:
            for folder in [folder for folder in self._replaced if folder not in used]:
                self._replaced.remove(folder)
                shutil.rmtree(folder, ignore_errors=True)
            for name, folder in list(self._folders.items()):
                if len(self._folders) <= KEPT:
                    return
                if folder not in used:
                    del self._folders[name]
                    shutil.rmtree(folder, ignore_errors=True)


def write_files(content: Content, folder: Path) -> None:
    """Write bytes as files.

    Raises
    ------
    InputError
        A name leads out of the folder.
    """
    for name, data in content.items():
        path = Path(os.path.normpath(folder / name))
        if not path.is_relative_to(folder):
            raise InputError(f"model: expected weight files in its folder, got {name!r}")
        path.parent.mkdir(parents=True, exist_ok=True)
        data.tofile(path)


def write_arrays(content: Content, folder: Path) -> None:
    """Write arrays as NumPy files; see `read_arrays`."""
    for name in ("images", "labels"):
        if name in content:
            np.save(folder / f"{name}.npy", content[name], allow_pickle=False)


def read_arrays(folder: Path) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays that `write_arrays` wrote."""
    return {path.stem: np.load(path, allow_pickle=False) for path in sorted(folder.glob("*.npy"))}
