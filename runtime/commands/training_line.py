# SPDX-License-Identifier: Apache-2.0
"""How far training is, on a terminal, below the lines of its epochs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from ..progress import clock

_REDRAW_SECONDS = 0.2


class TrainingLine:
    """Shows the step and the time that is left, where standard error is a terminal.

    Parameters
    ----------
    say : callable
        Prints a line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._width = 0
        self._drawn = -_REDRAW_SECONDS
        self._first = self._start = 0.0

    def step(self, done: int, steps: int) -> None:
        """Show that `done` of all steps are taken."""
        now = time.monotonic()
        if not self._start:
            self._first, self._start = done, now
            left = ""
        else:
            each = (now - self._start) / (done - self._first)
            left = f"  {clock(each * (steps - done))} left"
        if now - self._drawn >= _REDRAW_SECONDS:
            self._drawn = now
            self.show(f"step {done:,} of {steps:,}{left}")

    def show(self, text: str) -> None:
        """Write a text that the next one replaces."""
        if sys.stderr.isatty():
            sys.stderr.write("\r" + text.ljust(self._width))
            sys.stderr.flush()
            self._width = len(text)

    def say(self, text: str) -> None:
        """Print a line in the place of what is shown."""
        self._clear()
        self._say(text)

    def _clear(self) -> None:
        if self._width:
            sys.stderr.write("\r" + " " * self._width + "\r")
            sys.stderr.flush()
            self._width = 0

    def __enter__(self) -> TrainingLine:
        return self

    def __exit__(self, *_: object) -> None:
        self._clear()
