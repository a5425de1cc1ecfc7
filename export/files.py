# SPDX-License-Identifier: Apache-2.0
"""Writing of files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile

from ..ortops.errors import InputError


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file under a temporary name beside it, then move it to its place.

    Raises
    ------
    InputError
        The file cannot be written.
    """
    name = os.fspath(path)
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(
            dir=os.path.dirname(os.path.abspath(name)), prefix=f".{os.path.basename(name)}."
        )
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, name)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if not isinstance(error, OSError):
            raise
        raise InputError(
            f"{name}: cannot be written ({error.strerror}); choose another path"
        ) from error
