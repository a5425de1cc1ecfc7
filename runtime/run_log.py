# SPDX-License-Identifier: Apache-2.0
"""Long runs: a log file, a terminal that may close, and an end that says why."""

from __future__ import annotations

import argparse
import errno
import json
import logging
import os
import re
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO, cast

from ..ortops.errors import InputError
from .interrupt import Interrupted, terminable

#: What is measured is logged here, in Python programs, too: ``logging.getLogger("noisystore")``.
LOGGER = logging.getLogger("noisystore")

_LINE = "%(asctime)s %(levelname)s %(message)s"
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_FIRST = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ [A-Z]+ ")


def add_log(parser: argparse.ArgumentParser) -> None:
    """Declare the option that names a log file."""
    parser.add_argument(
        "--log",
        metavar="FILE.log",
        help="also write start, versions, points, warnings and the end here, with times; lines are "
        "added to a log that exists",
    )


def check_log(path: str | os.PathLike[str]) -> None:
    """Check, before long work, that lines can be added to a log.

    Raises
    ------
    InputError
        It is a folder or another kind of file, which stays as it is, or cannot be written.
    """
    log = Path(path)
    if log.exists() and not log.is_file():
        raise InputError(f"log {path}: expected a file, got a folder, a device or a pipe")
    try:
        with log.open("rb") as file:
            start = file.read(100)
    except FileNotFoundError:
        if not log.parent.is_dir():
            raise InputError(
                f"log {path}: the folder {log.parent} does not exist: create it first"
            ) from None
        start = b""
    except OSError as error:
        raise InputError(f"log {path}: cannot be read: {error.strerror}") from None
    if start and not _FIRST.match(start):
        raise InputError(
            f"log {path}: expected a log of noisystore, got another kind of file; it was left as "
            "it is"
        )
    if not os.access(log if log.exists() else log.parent, os.W_OK):
        raise InputError(f"log {path}: no permission to write there")


@contextmanager
def long_run(
    log: str | os.PathLike[str] | None, command: str, options: Mapping[str, Any]
) -> Iterator[None]:
    """Let a run outlive its terminal, end cleanly on SIGTERM, and log itself.

    SIGHUP is ignored, also by the processes that the run starts; what cannot be written to a
    terminal that is gone is dropped, and so is progress that a pipe or a full disk does not take.

    Parameters
    ----------
    log : path, optional
        See `check_log`; None: no log.
    command : str
        What runs.
    options : mapping
        What was asked of it.

    Raises
    ------
    InputError
        As `check_log`.
    """
    with ExitStack() as stack:
        if log is not None:
            check_log(log)
            stack.enter_context(_logged(log, command, options))
        stack.enter_context(terminable())
        stack.enter_context(_without_terminal())
        yield


@contextmanager
def _logged(
    path: str | os.PathLike[str], command: str, options: Mapping[str, Any]
) -> Iterator[None]:
    try:
        handler = _LogFile(path, encoding="utf-8")
    except OSError as error:
        raise InputError(f"log {path}: cannot be written: {error.strerror}") from None
    formatter = logging.Formatter(_LINE, _TIME)
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    level, show = LOGGER.level, warnings.showwarning

    def warn(message: Warning | str, *where: Any, **more: Any) -> None:
        LOGGER.warning("%s", message)
        show(message, *where, **more)

    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    warnings.showwarning = warn
    begin = time.monotonic()
    try:
        chosen = {name: value for name, value in options.items() if value not in (None, [], False)}
        LOGGER.info("start: noisystore %s %s", command, json.dumps(chosen, default=str))
        LOGGER.info("%s", _versions())
        yield
        LOGGER.info("end: done after %.1f s", time.monotonic() - begin)
    except KeyboardInterrupt as error:
        number = error.signal if isinstance(error, Interrupted) else signal.SIGINT
        text = str(error) or "interrupted"
        LOGGER.error("end: %s: %s", signal.Signals(number).name, text)
        raise
    except (InputError, OSError) as error:
        LOGGER.error("end: %s", error)
        raise
    except BaseException:
        LOGGER.exception("end: a failure that nobody expected")
        raise
    finally:
        warnings.showwarning = show
        LOGGER.setLevel(level)
        LOGGER.removeHandler(handler)
        with suppress(OSError):
            handler.close()


class _LogFile(logging.FileHandler):
    """A log whose failure ends no run."""

    _failed = False

    def format(self, record: logging.LogRecord) -> str:
        """Return one line, but for tracebacks."""
        line = super().format(record)
        return line if record.exc_info else " ".join(line.splitlines())

    def handleError(self, record: logging.LogRecord) -> None:
        """Say once that the log cannot be written."""
        if not self._failed:
            self._failed = True
            reason = sys.exc_info()[1]
            print(f"noisystore: warning: log {self.baseFilename}: {reason}", file=sys.stderr)


@contextmanager
def _without_terminal() -> Iterator[None]:
    """Ignore SIGHUP, and drop what a terminal does not take any more."""
    hangup = getattr(signal, "SIGHUP", None)
    streams = sys.stdout, sys.stderr
    main = threading.current_thread() is threading.main_thread()
    previous = signal.signal(hangup, signal.SIG_IGN) if main and hangup is not None else None
    if sys.stdout.isatty():
        sys.stdout = _guarded(sys.stdout, errno.EIO)
    # A pipe's reader (tee) ends with the terminal, too; a disk may be full.
    sys.stderr = _guarded(sys.stderr, errno.EIO, errno.EPIPE, errno.ENOSPC)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = streams
        if main and hangup is not None:
            signal.signal(hangup, signal.SIG_DFL if previous is None else previous)


def _guarded(stream: TextIO, *errors: int) -> TextIO:
    return cast(TextIO, _Guarded(stream, errors))


class _Guarded:
    """A stream that may break, with one of some errors: after that it is the null device."""

    def __init__(self, stream: TextIO, errors: tuple[int, ...]) -> None:
        self._stream, self._errors = stream, errors

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, or drop what a broken stream does not take."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._let_go(error)
            return len(text)

    def flush(self) -> None:
        """Flush, as `write` writes."""
        try:
            self._stream.flush()
        except OSError as error:
            self._let_go(error)

    def _let_go(self, error: OSError) -> None:
        if error.errno not in self._errors:
            raise error
        # In the descriptor's place, for what Python still holds and what it prints at exit.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._stream.fileno())
        os.close(null)


def _versions() -> str:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    from .cli import version_text

    try:
        runtime = version("onnxruntime")
    except PackageNotFoundError:  # Builds for devices have names of their own.
        runtime = "of another package"
    return (
        f"{version_text()}; ONNX Runtime {runtime}, Python {platform.python_version()}, "
        f"{platform.node()} ({platform.machine()}), process {os.getpid()}, in {os.getcwd()}"
    )
