# SPDX-License-Identifier: Apache-2.0
"""A progress line on standard error, with the time that is left."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TextIO

from .run_log import LOGGER

_REDRAW_SECONDS = 0.2
_LINE_SECONDS = 30.0
_SAY_SECONDS = 2.0


class Progress:
    """Shows how far a measurement is.

    Parameters
    ----------
    work : float
        All the work, in samples that are expected to be run.
    points : int
        Number of points, those measured earlier included.
    show : bool, optional
        True: always, False: never; None: where the stream is a terminal. On another stream
        than a terminal a line is written every 30 seconds.
    stream : text stream, optional
        None: standard error.
    stored : int
        Number of points that were measured earlier; none of the work is theirs.
    """

    def __init__(
        self,
        work: float,
        points: int,
        show: bool | None = None,
        stream: TextIO | None = None,
        stored: int = 0,
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty()
        self._show = self._terminal if show is None else show
        self._work, self._points, self._stored = max(work, 1.0), points, stored
        self._done, self._point, self._inside = 0.0, stored, 0.0
        self._text = ""
        self._start = self._drawn = time.monotonic()
        if not self._terminal:
            self._drawn -= _LINE_SECONDS

    def say(self, *texts: str) -> None:
        """Write lines of their own."""
        _say(texts, self._stream if self._show else None)

    def start(self, text: str) -> None:
        """Name what is measured now."""
        self._text = text
        self._draw()

    def tick(self, samples: int) -> None:
        """Count samples that were just run, inside the current point."""
        self._inside += samples
        self._draw()

    def finish(self, expected: float, text: str, points: int = 1) -> None:
        """Count the current point as measured: `expected` is its share of the work."""
        self._done += expected
        self._inside = 0.0
        self._point += points
        self._text = text
        LOGGER.info("%s/%s points  %s", self._point, self._points, text)
        self._draw()

    def close(self) -> None:
        """Write the last state and end the line."""
        if self._show:
            self._draw(final=True)
            if self._terminal:
                self._stream.write("\n")
            self._stream.flush()

    def _draw(self, final: bool = False) -> None:
        if not self._show:
            return
        now = time.monotonic()
        if not final and now - self._drawn < (_REDRAW_SECONDS if self._terminal else _LINE_SECONDS):
            return
        self._drawn = now
        share = min(1.0, (self._done + self._inside) / self._work)
        elapsed = now - self._start
        left = (
            f"{clock(elapsed * (1 - share) / share)} left"
            if share > 0 and not final
            else f"{clock(elapsed)} in all"
            if final
            else ""
        )
        line = "  ".join(
            part for part in (f"{self._point}/{self._points} points", left, self._text) if part
        )
        if self._terminal:
            width = _width()
            old = self._stored / max(self._points, 1)
            full = int((old + share * (1 - old)) * 20)
            line = f"[{'#' * full}{'.' * (20 - full)}] {line}"[:width]
            self._stream.write("\r" + line.ljust(width))
        else:
            self._stream.write(line + "\n")
        self._stream.flush()


class StatusLine:
    """Says what a measurement of unknown length knows by now.

    Parameters
    ----------
    show, stream
        As `Progress` takes them.

    Attributes
    ----------
    text : str
        What was said last.
    """

    def __init__(self, show: bool | None = None, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty()
        self._show = self._terminal if show is None else show
        self._start = time.monotonic()
        self._said, self._unsaid = -_SAY_SECONDS, False
        self._width = 0
        self.text = ""

    def show(self, text: str) -> None:
        """Say something new: in the same place on a terminal, else now and then on a line."""
        if text != self.text:
            LOGGER.info("%s", text)
        self.text = text
        elapsed = time.monotonic() - self._start
        self._unsaid = True
        if not self._show or (not self._terminal and elapsed - self._said < _SAY_SECONDS):
            return
        self._said, self._unsaid = elapsed, False
        line = f"{text}  {clock(elapsed)}"
        if self._terminal:
            line = line[: _width()]
            self._stream.write("\r" + line.ljust(self._width))
            self._width = len(line)
        else:
            self._stream.write(line + "\n")
        self._stream.flush()

    def say(self, *texts: str) -> None:
        """Write lines of their own."""
        _say(texts, self._stream if self._show else None)

    def close(self) -> None:
        """Say what was held back, and end the line."""
        if self._unsaid:
            self._said = -_SAY_SECONDS
            self.show(self.text)
        if self._show and self._terminal and self._width:
            self._stream.write("\n")
            self._stream.flush()


def _say(texts: Sequence[str], stream: TextIO | None) -> None:
    """Write lines; on a terminal in the place of one that is still changing."""
    for text in texts:
        LOGGER.info("%s", text)
        if stream is not None:
            stream.write(("\r" + text.ljust(_width()) if stream.isatty() else text) + "\n")
            stream.flush()


def _width() -> int:
    """Return how many columns of the terminal a line may fill."""
    import shutil

    return shutil.get_terminal_size().columns - 1


def clock(seconds: float) -> str:
    """Return a duration as 12s, 3m05s or 2h07m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
