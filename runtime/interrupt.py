# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C and SIGTERM during a measurement."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

#: Seconds after a signal in which further ones are ignored, so that it can be said what is kept.
GRACE_SECONDS = 5.0
_stopped = -math.inf
_put_off: list[int] | None = None


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
    """Let SIGTERM interrupt as Ctrl-C does, and either only once in `GRACE_SECONDS`.

    Then the last transaction ends properly, also where an impatient user presses Ctrl-C again.
    """
    global _stopped
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is _stop:
        yield
        return
    _stopped = -math.inf
    previous = {signal.SIGTERM: signal.getsignal(signal.SIGTERM)}
    # Others ignore it (a shell's background jobs), or have a handler of their own.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        previous[signal.SIGINT] = signal.default_int_handler
    for number in previous:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Put off what a signal does to a `terminable` run until this is done, which must be short."""
    global _put_off
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _put_off = []
    try:
        yield
    finally:
        numbers, _put_off = _put_off, None
    if numbers:
        _stop(numbers[0], None)


def _stop(number: int, frame: FrameType | None) -> None:
    global _stopped
    if _put_off is not None:
        _put_off.append(number)
        return
    now = time.monotonic()
    if now - _stopped > GRACE_SECONDS:
        _stopped = now
        raise Interrupted("", number)
