# SPDX-License-Identifier: Apache-2.0
"""Writing of files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets

from .errors import InputError

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


def target_of(path: str | os.PathLike[str]) -> str:
    """Return the path of the file to be replaced: what a link points to, and no device.

    Raises
    ------
    InputError
        A folder, a device or a pipe is there.
    """
    name = os.fspath(path)
    target = os.path.realpath(name)
    if os.path.exists(target) and not os.path.isfile(target):
        found = "a folder" if os.path.isdir(target) else "a device or a pipe"
        raise InputError(f"{name}: cannot be written: expected a file, got {found}")
    return target


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file under a temporary name beside it, then move it to its place.

    Parameters
    ----------
    path : path-like
        A file that is there already is replaced; of a link, the file that it points to.
    data : bytes

    Raises
    ------
    InputError
        The file cannot be written.
    """
    name = os.fspath(path)
    target = target_of(name)
    temporary = os.path.join(os.path.dirname(target), f".{secrets.token_hex(8)}.tmp")
    made = False
    try:
        # Opened like any new file, so that the umask gives it its permissions.
        with os.fdopen(os.open(temporary, _FLAGS, 0o666), "wb") as file:
            made = True
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        if made:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        if not isinstance(error, OSError):
            raise
        raise InputError(
            f"{name}: cannot be written ({error.strerror}); choose another path"
        ) from error
