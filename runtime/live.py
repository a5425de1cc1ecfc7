# SPDX-License-Identifier: Apache-2.0
"""The page of results files while points come, served to a browser on this machine."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import threading
import time
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ..ortops.errors import InputError
from .live_state import LiveState
from .report import Paths
from .report_html import policy

#: A page asks every 2 s. One that asked in this time is told of the end before its server goes.
_LAST_WORD = 3.0
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": policy(live=True) + "; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class LivePage:
    """Serves the page of results files while its context lasts.

    It reads the files when a browser asks, and changes nothing. By default it listens at the
    loopback address only.

    Parameters
    ----------
    results : sequence of path
        A file may be made later: until then the page is empty.
    wanted : iterable of (p01, p10, trial), optional
        Points of the sweep that runs, which has the first file, to say how far it is.
    each : bool
        Every kind of machine measures all of them.
    host : str
        Address to listen at.
    port : int
        0: any that is free.
    title : str, optional
    axis, confidence
        As `fit_midpoint` takes them.

    Attributes
    ----------
    url : str
        Of the page, once the context is entered.

    Raises
    ------
    InputError
        On entering: there is no such address here, or its port is in use.

    Examples
    --------
    >>> from noisystore.runtime.live import LivePage
    >>> with LivePage(["results.sqlite"]) as live:
    ...     print(live.url)  # doctest: +SKIP
    """

    def __init__(
        self,
        results: Paths,
        *,
        wanted: Iterable[tuple[float, float, int]] | None = None,
        each: bool = False,
        host: str = "127.0.0.1",
        port: int = 0,
        title: str | None = None,
        axis: str = "log10",
        confidence: float = 0.95,
    ) -> None:
        self._state = LiveState(
            results, wanted=wanted, each=each, title=title, axis=axis, confidence=confidence
        )
        self._host, self._port = host, port
        self._server: _Server | None = None
        self.url = ""

    def __enter__(self) -> LivePage:
        try:
            self._server = _Server((self._host, self._port), self._state)
        except (OSError, OverflowError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise InputError(
                f"live page: cannot listen at {self._host}:{self._port} ({reason}): choose "
                "another --live-port (0: any that is free) or --live-host"
            ) from None
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True
        ).start()
        self.url = f"http://{self._host}:{self._server.server_address[1]}/"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        try:
            if kind is None and time.monotonic() - self._server.asked < _LAST_WORD:
                self._server.told.clear()
                self._state.end()
                self._server.ending = True
                self._server.told.wait(_LAST_WORD)
        finally:
            self._server.shutdown()
            self._server.server_close()


class _Server(ThreadingHTTPServer):
    """Answers requests for one state.

    Attributes
    ----------
    asked : float
        Monotonic time of the last request for the state.
    ending : bool
        Whether the next answer is the last.
    told : threading.Event
        Set by that answer.
    """

    daemon_threads = True

    def __init__(self, address: tuple[str, int], state: LiveState) -> None:
        self.state = state
        self.asked, self.ending, self.told = -1e9, False, threading.Event()
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a browser that goes away is no failure of the sweep."""


class _Handler(BaseHTTPRequestHandler):
    """GET of the page and of its state."""

    server: _Server
    timeout = 10
    server_version, sys_version = "NoisyStore", ""

    def do_GET(self) -> None:
        """Answer the page, the state, or what is wrong."""
        if not is_address(self.headers.get("Host", "")):
            # A foreign site whose name was made to mean this machine.
            self._answer(403, "text/plain", b"expected an address or localhost as Host\n")
            return
        parts = urlsplit(self.path)
        if parts.path == "/":
            self._answer(200, "text/html", self.server.state.page().encode())
        elif parts.path == "/state":
            ending = self.server.ending
            known = parse_qs(parts.query).get("known", [""])[0]
            state = self.server.state.state(known)
            self.server.asked = time.monotonic()
            self._answer(200, "application/json", json.dumps(state, allow_nan=False).encode())
            if ending:
                self.server.told.set()
        else:
            self._answer(404, "text/plain", b"expected / or /state\n")

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Write nothing: standard error has the sweep's progress."""


def is_address(host: str) -> bool:
    """Return whether a Host header names this machine by address, or as localhost.

    Any port: the page may be reached through a tunnel.

    Examples
    --------
    >>> is_address("127.0.0.1:8000"), is_address("[::1]"), is_address("example.org")
    (True, True, False)
    """
    name = urlsplit(f"//{host}").hostname if "@" not in host else None
    if name == "localhost":
        return True
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(name or "")
        return True
    return False
