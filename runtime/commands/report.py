# SPDX-License-Identifier: Apache-2.0
"""`noisystore report`: results as one page for a browser, or while a sweep runs."""

from __future__ import annotations

import argparse
import threading
from pathlib import Path

from ...ortops.errors import InputError
from .common import add_fit_options, check_output, print_json, progress
from .live_options import add_live, check_live, live_page

HELP = "show results as one page: curves, midpoints, sensitivity, tables"
DESCRIPTION = """\
Write the results of sweeps as one HTML file that needs no network: accuracy against bit error rate
with fits, intervals and single trials, formats, masks, networks and boards side by side, tables to
sort and to save as CSV, and where all of it comes from. With --live the page is served instead,
and grows while a sweep writes to the file. The results are opened read-only."""
EXAMPLE = "noisystore report results.sqlite --sensitivity map.json -o report.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "results", metavar="FILE.sqlite", nargs="+", help="written by `noisystore sweep`"
    )
    parser.add_argument("-o", "--output", metavar="FILE.html", help="the page")
    parser.add_argument(
        "--sensitivity",
        action="append",
        default=[],
        metavar="MAP.json",
        help="of `noisystore sensitivity -o`: also show this map; may be repeated",
    )
    parser.add_argument(
        "--protection",
        action="append",
        default=[],
        metavar="FILE.json",
        help="of `noisystore protect -o`: also show its designs; may be repeated",
    )
    parser.add_argument(
        "--figures",
        metavar="FOLDER",
        help="also write each figure as SVG, and as PNG where matplotlib is installed",
    )
    parser.add_argument("--title", help="of the page (default: the names of the files)")
    add_fit_options(parser)
    add_live(parser, "until Ctrl-C; it grows with the file")


def run(args: argparse.Namespace) -> int:
    """Write the page, or serve it."""
    if args.live:
        if args.output or args.figures or args.sensitivity or args.protection:
            raise InputError(
                "--live: expected no -o, --figures, --sensitivity or --protection beside it"
            )
        return _serve(args)
    check_live(args)
    if args.output is None and args.figures is None:
        raise InputError("report: expected -o FILE.html, --figures FOLDER or --live")
    if args.output is not None:
        _check_output(args)
    from ..report import counted, write_report

    found = write_report(
        args.results,
        args.output,
        sensitivity=args.sensitivity,
        protection=args.protection,
        figures=args.figures,
        title=args.title,
        axis=args.axis,
        confidence=args.confidence,
    )
    if args.json:
        print_json(found)
        return 0
    for note in found["notes"]:
        progress(f"note: {note}")
    files = found["files"]
    where = files[0] if len(files) == 1 else f"{len(files)} files, the last {files[-1]}"
    print(
        f"{counted(found['curves'], 'curve')}, {counted(found['midpoints'], 'midpoint')}, "
        f"{counted(found['points'], 'point')}: {where}"
    )
    return 0


def _check_output(args: argparse.Namespace) -> None:
    output = check_output(args.output)
    if output.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"output {output}: expected a file name that ends in .html")


def _serve(args: argparse.Namespace) -> int:
    from ..interrupt import terminable
    from ..results import Results

    for path in args.results:
        Results(Path(path), readonly=True).close()
    with terminable(), live_page(args, args.results):
        progress("Ctrl-C ends it")
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            progress("ended")
    return 0
