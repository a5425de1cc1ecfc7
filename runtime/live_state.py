# SPDX-License-Identifier: Apache-2.0
"""What a live page shows: results files read again as they grow, and how far their sweep is."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..ortops.errors import InputError
from .progress import clock
from .report import Paths, read_all, summary, title_of
from .report_curves import Known
from .report_html import content, links, page
from .results import Results, rates_key, utc_now
from .texts import one_line, printable

#: Reading and drawing take at most one part in so many of the time: the sweep has the rest.
_SHARE = 10


class LiveState:
    """Content of a live page, made anew where the files have more points.

    Parameters
    ----------
    results : sequence of path
        A file may be made later: until then there is nothing to show.
    wanted : iterable of (p01, p10, trial), optional
        Points of the sweep that runs, to say how far it is.
    each : bool
        Every kind of machine measures all of them.
    title : str, optional
    axis, confidence
        As `fit_midpoint` takes them.
    """

    def __init__(
        self,
        results: Paths,
        *,
        wanted: Iterable[tuple[float, float, int]] | None = None,
        each: bool = False,
        title: str | None = None,
        axis: str = "log10",
        confidence: float = 0.95,
    ) -> None:
        self._paths = [Path(path) for path in results]
        self._wanted: set[tuple[str, int]] | None = None
        if wanted is not None:
            self._wanted = {(rates_key(p01, p10), trial) for p01, p10, trial in wanted}
        self._each = each
        self._title = printable(title or title_of(self._paths))
        self._axis, self._confidence = axis, confidence
        self._known: Known = {}
        self._lock = threading.Lock()
        self._points, self._version, self._next = -1, 0, 0.0
        self._content, self._about = content([]), summary([])
        self._progress: dict[str, Any] = {"text": "Waiting for the first point.", "share": None}
        self._since = utc_now()
        self._first: tuple[float, int] | None = None
        self._ended = False

    def page(self) -> str:
        """Return the whole page."""
        with self._lock:
            self._refresh()
            return page(self._title, self._about, self._content, live=True)

    def state(self, known: str) -> dict[str, Any]:
        """Return what a page needs whose content has the version `known`."""
        with self._lock:
            self._refresh()
            state = {"known": str(self._version), "ended": self._ended, **self._progress}
            if known != state["known"]:
                state |= {"main": self._content.main, "data": self._content.data}
                state |= {"about": self._about, "links": links(self._content)}
            return state

    def end(self) -> None:
        """Say from now on that no more points come."""
        with self._lock:
            self._ended, self._next = True, 0.0

    def _refresh(self) -> None:
        begin = time.monotonic()
        if begin < self._next:
            return
        try:
            self._read()
        except InputError as error:
            self._progress = {"text": one_line(error), "share": None}
        self._next = time.monotonic() + _SHARE * (time.monotonic() - begin)

    def _read(self) -> None:
        paths = [path for path in self._paths if path.exists() and path.stat().st_size]
        points = 0
        for path in paths:
            with Results(path, readonly=True) as results:
                points += len(results)
        if points != self._points:
            curves, notes = read_all(
                paths, axis=self._axis, confidence=self._confidence, known=self._known
            )
            self._content, self._about = content(curves, notes=notes), summary(curves)
            self._points = points
            self._version += 1
        if self._ended:
            self._progress = {"text": f"Ended, with {points:,} points.", "share": None}
        elif self._wanted is None:
            text = f"{points:,} points, as of {utc_now().partition('+')[0].replace('T', ' ')} UTC."
            self._progress = {"text": printable(text), "share": None}
        else:
            self._progress = self._how_far(paths[0], self._wanted) if paths else self._progress

    def _how_far(self, path: Path, wanted: set[tuple[str, int]]) -> dict[str, Any]:
        # The sweep that runs is the one that has points since it began, and maybe older ones.
        sweeps: set[str] = set()
        found: list[tuple[str, int]] = []
        with Results(path, readonly=True) as results:
            for block in results.blocks(("sweep", "measured")):
                if max(block.own["measured"]) >= self._since:
                    sweeps.add(block.shared["sweep"])
            for sweep in sweeps:
                for block in results.blocks(("p01", "p10", "trial"), sweep=sweep):
                    points = zip(
                        *(block.own[name] for name in ("p01", "p10", "trial")), strict=True
                    )
                    found += [(rates_key(p01, p10), trial) for p01, p10, trial in points]
        done = sum(point in wanted for point in (found if self._each else set(found)))
        everything, now = len(wanted), time.monotonic()
        if self._each:
            everything *= max(len(sweeps), 1)
        text = f"{done:,} of {everything:,} points"
        if done and self._first is None:
            self._first = now, done
        if self._first is not None and done > self._first[1]:
            begin, before = self._first
            left = (now - begin) * (everything - done) / (done - before)
            text += f", about {clock(left)} left"
        return {"text": text, "share": done / max(everything, 1)}
