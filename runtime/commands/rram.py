# SPDX-License-Identifier: Apache-2.0
"""`noisystore rram`: from the resistances of a memory cell to its bit error rates."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...ortops.errors import InputError
from .common import bounded, check_plot, check_written, natural, print_json, progress
from .common import table as columns

if TYPE_CHECKING:
    from ..rram_report import CellReport, Choices

HELP = "bit error rates of a memory cell, from its resistances"
DESCRIPTION = """\
Fit log-normal distributions to resistances of the low and the high resistance state (LRS, HRS),
set the threshold so that both errors are equal (eq. 1 of the paper) or cost least, and say how
many bits are read wrongly, under each condition, such as a forming voltage; and what
write-check-correct leaves of that, with energy and time of the paper's table 1.
`noisystore sweep --rates-from` takes the result."""
EXAMPLE = "noisystore rram resistances.csv --rewrites 2 --plot cells.png -o rram.json"

#: Most pJ and ns of an access: far beyond any cell, and sums of them are finite.
MOST_COST = 1e12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "samples",
        metavar="FILE.csv",
        nargs="?",
        help="resistances in ohm: a column `state` (LRS or HRS) and one a condition, or columns "
        "such as 'LRS 1.5 V' and 'HRS 1.5 V'",
    )
    parser.add_argument(
        "--condition",
        action="append",
        default=[],
        metavar="NAME=LRS_MEDIAN,LRS_SIGMA,HRS_MEDIAN,HRS_SIGMA",
        help="log-normal parameters: medians in ohm, standard deviations of ln R; may be repeated",
    )
    parser.add_argument(
        "--lrs-is",
        type=int,
        choices=(0, 1),
        default=1,
        help="the bit that the LRS stands for (default: %(default)s)",
    )
    parser.add_argument(
        "--cost-ratio",
        type=bounded(0, math.inf, "cost ratio"),
        metavar="C",
        help="cost of an error 0 to 1 over that of an error 1 to 0: the threshold makes the "
        "expected cost least (default: both errors are equally likely, eq. 1)",
    )
    parser.add_argument(
        "--ones-fraction",
        type=bounded(0, 1, "ones fraction"),
        default=0.5,
        metavar="F",
        help="share of ones among the stored bits (default: %(default)s)",
    )
    parser.add_argument(
        "--rates-by",
        choices=("lognormal", "samples"),
        default="lognormal",
        help="fitted distributions, or counts of the samples (default: %(default)s)",
    )
    parser.add_argument(
        "--confidence",
        type=bounded(0, 1, "confidence"),
        default=0.95,
        metavar="C",
        help="of the intervals (default: %(default)s)",
    )
    parser.add_argument(
        "--rewrites",
        type=natural,
        default=0,
        metavar="R",
        help="write a wrong bit again, at most R times, each write followed by a read that checks "
        "(default: %(default)s: no check)",
    )
    parser.add_argument(
        "--energy",
        type=span,
        default=(0.1, 3.0),
        metavar="LOW:HIGH",
        help="of one access to one bit, in pJ (default: 0.1:3)",
    )
    parser.add_argument(
        "--read-time",
        type=span,
        default=(0.0, 10.0),
        metavar="LOW:HIGH",
        help="in ns (default: 0:10)",
    )
    parser.add_argument(
        "--write-time",
        type=span,
        default=(10.0, 10.0),
        metavar="LOW:HIGH",
        help="in ns (default: 10)",
    )
    parser.add_argument(
        "--plot", metavar="FILE.png|.svg", help="draw the distributions, as in fig. 1 of the paper"
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE.json", help="for `noisystore sweep --rates-from`"
    )


def span(text: str) -> tuple[float, float]:
    """Turn LOW:HIGH, or one number, into both.

    Raises
    ------
    argparse.ArgumentTypeError
        Another form, a number below 0 or above `MOST_COST`, or LOW above HIGH.
    """
    try:
        ends = [float(part) for part in text.split(":")]
    except ValueError:
        ends = []
    if len(ends) not in (1, 2) or not 0 <= ends[0] <= ends[-1] <= MOST_COST:
        raise argparse.ArgumentTypeError(
            f"expected LOW:HIGH, or one number, from 0 to {MOST_COST:g}, got {text!r}"
        )
    return ends[0], ends[-1]


def run(args: argparse.Namespace) -> int:
    """Work out, write, draw, print."""
    from ..rram_csv import MOST_CONDITIONS, parse_condition, read_samples
    from ..rram_report import Choices, as_dict, cell_report, write_report
    from ..rram_writes import AccessCost

    check_plot(args.plot)
    check_written({"output": args.output, "plot": args.plot}, args.samples)
    conditions = [] if args.samples is None else read_samples(args.samples)
    conditions += [parse_condition(text) for text in args.condition]
    if not conditions:
        raise InputError("expected FILE.csv, or at least one --condition, got neither")
    if len(conditions) > MOST_CONDITIONS:
        raise InputError(
            f"expected at most {MOST_CONDITIONS} conditions, of FILE.csv and --condition together, "
            f"got {len(conditions)}"
        )
    names = [condition.name for condition in conditions]
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if twice:
        raise InputError(f"--condition: expected each name once, got {twice[0]!r} twice")
    choices = Choices(
        lrs_is=args.lrs_is,
        ones_fraction=args.ones_fraction,
        cost_ratio=args.cost_ratio,
        rewrites=args.rewrites,
        rates_by=args.rates_by,
        confidence=args.confidence,
        cost=AccessCost(args.energy, args.read_time, args.write_time),
    )
    reports = [cell_report(condition, choices) for condition in conditions]
    if args.plot is not None:
        from ..rram_plot import plot_cells

        plot_cells(reports, args.plot)
        progress(f"wrote {args.plot}")
    if args.output is not None:
        write_report(reports, choices, args.output)
        progress(f"wrote {args.output}")
    if args.json:
        print_json(as_dict(reports, choices))
        return 0
    print(text_report(reports, choices))
    if args.output is not None:
        print(f"next: noisystore sweep MODEL.onnx --data D --rates-from {args.output} -o r.sqlite")
    return 0


def text_report(reports: Sequence[CellReport], choices: Choices) -> str:
    """Tables of the rates and of what rewriting leaves, for people."""
    equal = choices.cost_ratio is None
    confidence = f"{100 * choices.confidence:g}%"
    head = ["condition", "from", "LRS ohm", "sigma", "HRS ohm", "sigma", "threshold ohm"]
    head += ["bit error rate"] if equal else ["p01", "p10", "bit error rate"]
    head += [f"{confidence} interval", ""]
    rows, notes = [], []
    for report in reports:
        cell = report.condition
        states = [f"{x:.3g}" for fit in (cell.lrs, cell.hrs) for x in (fit.median, fit.sigma)]
        for name, rates in (("log-normal", report.lognormal), ("samples", report.samples)):
            if rates is None:
                continue
            first = name == "log-normal"
            row = [cell.name if first else "", name, *(states if first else [""] * 4)]
            row.append(f"{rates.threshold:.3g}")
            row += [] if equal else [f"{rates.p01:.3g}", f"{rates.p10:.3g}"]
            row.append(f"{rates.bit_error_rate:.3g}")
            apart = rates.overlap is False
            interval = rates.interval
            row.append(
                "-"
                if interval is None
                else f"at most {interval[1]:.2g}"
                if apart
                else f"[{interval[0]:.2g}, {interval[1]:.2g}]"
            )
            row.append("states do not overlap" if apart else "")
            rows.append(row)
        notes += _notes(report, choices)
    lines = [columns(head, rows)]
    lines.append(
        f"LRS is {choices.lrs_is}; threshold: "
        + (
            "both errors equally likely (eq. 1)"
            if equal
            else f"least cost, an error 0 to 1 costs {choices.cost_ratio:g} times one 1 to 0"
        )
        + f"; {100 * choices.ones_fraction:g}% ones; rates by {choices.rates_by}"
    )
    lines += notes
    if choices.rewrites:
        lines += ["", _writes_table(reports)]
        lines.append(
            "expected for one bit; cycles are independent, only wrong bits are written again, "
            "reads make no errors"
        )
    return "\n".join(lines)


def _notes(report: CellReport, choices: Choices) -> list[str]:
    from ..rram_report import BAD_FIT

    bad = [
        f"{state} (p = {p:.2g})"
        for state, p in zip(("LRS", "HRS"), report.p_values, strict=True)
        if p is not None and p < BAD_FIT
    ]
    cell, samples = report.condition, report.samples
    notes = []
    if choices.rates_by == "samples" and samples is not None and not samples.overlap:
        counts = [len(x) for x in (cell.lrs_samples, cell.hrs_samples) if x is not None]
        notes.append(
            f"note: {cell.name}: 0 is what was counted in {counts[0]} LRS and {counts[1]} HRS "
            "samples; the rate of one write may be "
            + ("above 0" if samples.interval is None else f"up to {samples.interval[1]:.2g}")
        )
    if bad:
        notes.append(
            f"note: {cell.name}: not log-normal by Anderson and Darling's test: "
            f"{', '.join(bad)}; trust the samples' rate more"
        )
    elif choices.rates_by == "lognormal" and samples is not None and not samples.overlap:
        notes.append(
            f"note: {cell.name}: no sample is an error; the log-normal rate is an "
            "extrapolation of the fitted tails"
        )
    return notes


def _writes_table(reports: Sequence[CellReport]) -> str:
    head = ["condition", "rewrites", "p01 left", "p10 left", "writes", "check reads"]
    head += ["energy pJ", "time ns"]
    rows = [
        [
            report.condition.name if not written.rewrites else "",
            str(written.rewrites),
            f"{written.p01:.3g}",
            f"{written.p10:.3g}",
            f"{written.writes:.6g}",
            f"{written.reads:.6g}",
            *(f"{low:.3g} to {high:.3g}" for low, high in (written.energy_pj, written.time_ns)),
        ]
        for report in reports
        for written in report.written
    ]
    return columns(head, rows)
