# SPDX-License-Identifier: Apache-2.0
"""JSON files of other commands that the report shows."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..ortops.errors import InputError

_MOST_BYTES = 64 << 20


def read_record(
    path: str | os.PathLike[str], command: str
) -> tuple[Any, Callable[[str], InputError]]:
    """Read what a command wrote with ``-o``.

    Parameters
    ----------
    path : path
    command : str
        ``sensitivity`` or ``protect``.

    Returns
    -------
    (object, callable)
        The JSON value, and what makes the error that says what is wrong with it.

    Raises
    ------
    InputError
        The file is missing, cannot be read, is too large or no JSON.
    """

    def bad(what: str) -> InputError:
        return InputError(
            f"{os.fspath(path)}: {what}: expected a file of `noisystore {command} -o`"
        )

    try:
        with Path(path).open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise bad(f"cannot be read ({error.strerror or error})") from None
    if len(data) > _MOST_BYTES:
        raise bad(f"larger than {_MOST_BYTES >> 20} MiB")
    try:
        return json.loads(data), bad
    except (ValueError, RecursionError):
        raise bad("no JSON") from None
