# SPDX-License-Identifier: Apache-2.0
"""`noisystore fit`: midpoint noise levels of a results file."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .common import add_fit_options, check_plot, check_written, print_json, progress, table

if TYPE_CHECKING:
    from ..midpoint_groups import Group

HELP = "fit the midpoint noise level to a sweep's results"
DESCRIPTION = """\
Fit accuracy against bit error rate with the paper's logistic curve (eq. 2), one fit for each
model, mask, data set and provider in the files. The midpoint is the rate at which the accuracy
is half way between clean and chance. Where the rates swept do not hold it, the result says so;
a curve that cannot be fitted is named on standard error, and the others go on. Curves that would
read the same also say in what they differ."""
EXAMPLE = "noisystore fit results.sqlite --plot midpoint.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "results", metavar="FILE.sqlite", nargs="+", help="written by `noisystore sweep`"
    )
    add_fit_options(parser)
    parser.add_argument(
        "--plot",
        metavar="FILE.png|.svg",
        help="also draw accuracy against rate, with the fit, its band, and the midpoint",
    )


def run(args: argparse.Namespace) -> int:
    """Fit, print, and draw."""
    from ..midpoint_groups import fit_files

    check_written({"plot": args.plot}, *args.results)
    check_plot(args.plot)
    groups = fit_files(
        args.results,
        axis=args.axis,
        confidence=args.confidence,
        warn=lambda text: progress(f"noisystore: warning: {text}"),
    )
    if args.plot is not None:
        draw(groups, args.plot)
        progress(f"wrote {args.plot}")
    if args.json:
        print_json([group.as_dict() for group in groups])
    else:
        print(report(groups))
    return 0


def draw(groups: list[Group], path: str) -> None:
    """Draw all groups into one figure."""
    from ..midpoint_groups import labels_of
    from ..plot import Curve, plot_accuracy

    labels = labels_of(groups)
    curves = [Curve(said, g.points, g.fit) for said, g in zip(labels, groups, strict=True)]
    title = labels[0] if len(groups) == 1 else ""
    plot_accuracy(curves, path, title=title, ylabel=groups[0].keys["metric"])


def report(groups: list[Group]) -> str:
    """Table of the fits, for people."""
    from ..midpoint_groups import labels_of

    rows = []
    for label, group in zip(labels_of(groups), groups, strict=True):
        fit = group.fit
        interval = "" if fit.interval is None else f"[{fit.interval[0]:.3g}, {fit.interval[1]:.3g}]"
        rows.append(
            [
                label,
                f"{fit.bound} {fit.limit:.3g}" if fit.midpoint is None else f"{fit.midpoint:.3g}",
                interval or "-",
                _number(fit.half_level),
                _number(fit.sigma),
                _number(fit.rate_99),
                f"{fit.clean_accuracy:.4f}",
                str(fit.images),
                str(group.keys["trials"]),
            ]
        )
    head = [
        "model",
        "midpoint",
        f"{100 * groups[0].fit.confidence:g}% interval",
        "half level",
        f"sigma ({groups[0].fit.axis})",
        "99% noise",
        "clean",
        "images",
        "trials",
    ]
    covers = "; ".join(sorted({group.fit.covers for group in groups}))
    return f"{table(head, rows)}\nintervals cover: {covers}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
