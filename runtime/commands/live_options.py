# SPDX-License-Identifier: Apache-2.0
"""Options of commands that serve their results as a page."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterable, Iterator

from ...ortops.errors import InputError
from .common import progress

_LOOPBACK = "127.0.0.1"


def port(text: str) -> int:
    """Argument type: a TCP port, or 0."""
    try:
        value = int(text)
    except ValueError:
        value = -1
    if not 0 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, got {text!r}")
    return value


def add_live(parser: argparse.ArgumentParser, what: str) -> None:
    """Declare the options of a live page; `what`: when it is served."""
    parser.add_argument("--live", action="store_true", help=f"serve the page of the results {what}")
    parser.add_argument(
        "--live-port",
        type=port,
        default=0,
        metavar="P",
        help="port of that page; 0: any that is free (default: %(default)s)",
    )
    parser.add_argument(
        "--live-host",
        default=_LOOPBACK,
        metavar="ADDRESS",
        help="address of this machine that it listens at; any other than the default lets other "
        "machines read the results (default: %(default)s)",
    )


def check_live(args: argparse.Namespace) -> None:
    """Check that no option of a live page stands without ``--live``.

    Raises
    ------
    InputError
        One does.
    """
    if not args.live and (args.live_port or args.live_host != _LOOPBACK):
        raise InputError("--live-port, --live-host: expected --live beside them")


@contextlib.contextmanager
def live_page(
    args: argparse.Namespace,
    results: list[str],
    wanted: Iterable[tuple[float, float, int]] | None = None,
) -> Iterator[None]:
    """Serve the page of results files in this context, where ``--live`` asks for it.

    Parameters
    ----------
    args
        Parsed options of `add_live`; ``title``, ``axis`` and ``confidence`` are used if there.
    results : list of str
    wanted : iterable of (p01, p10, trial), optional
        Points of the sweep that runs.

    Raises
    ------
    InputError
        The address or its port cannot be had, or an option stands without ``--live``.
    """
    check_live(args)
    if not args.live:
        yield
        return
    from ..live import LivePage

    named = {name: vars(args)[name] for name in ("title", "axis", "confidence") if name in args}
    named["each"] = getattr(args, "mixed", None) == "each"
    with LivePage(
        results, wanted=wanted, host=args.live_host, port=args.live_port, **named
    ) as live:
        progress(f"live page: {live.url}")
        yield
