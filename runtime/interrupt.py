# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C and SIGTERM during a measurement."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """A sweep was stopped by a signal; what it measured is kept and it can be resumed.

    Attributes
    ----------
    signal : int
        Number of the signal: an exit status of 128 + signal says so to shells.
    """

    def __init__(self, message: str, number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.signal = int(number)


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM interrupt as Ctrl-C does, so that the last transaction ends properly."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted("", number)

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if previous is None else previous)
