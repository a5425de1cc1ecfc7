# SPDX-License-Identifier: Apache-2.0
"""`noisystore bench`: how fast the operator, a model and the harness are on this machine."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...ortops.errors import InputError
from .common import (
    add_board,
    add_custom_ops,
    check_written,
    positive,
    print_json,
    progress,
    use_board,
)

if TYPE_CHECKING:
    from ..bench_tables import Section

HELP = "measure speed, memory and energy on this machine, or compare such reports"
DESCRIPTION = """\
Time the operator alone (float32, in place, one thread) as a ratio to memcpy of the same tensor;
with --model also an annotated graph in ONNX Runtime: noisy against all rates 0, images a second
at the batch size and one by one, memory, start-up time, and energy where the machine has a meter
that may be read. The cost of a foreign call that does nothing is measured and subtracted from
operator and memcpy. Times are medians of measurements made in turn, in one run. With --compare,
put the reports of several runs into one table, which says what is not comparable:
  noisystore bench --compare here.json board.json -o comparison.md"""
EXAMPLE = "noisystore bench --model vgg-a.onnx --clean vgg-a-plain.onnx --data digits -o here.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--quick", action="store_true", help="fewer rounds, rougher figures")
    parser.add_argument("--model", metavar="MODEL.onnx", help="annotated graph to measure")
    parser.add_argument("--data", metavar="D", help="its data set (default: digits)")
    parser.add_argument(
        "--clean", metavar="MODEL.onnx", help="the same network without sites, timed beside it"
    )
    parser.add_argument(
        "--batch-size",
        type=positive,
        metavar="N",
        help="of --model (default: the board's, or 100)",
    )
    parser.add_argument(
        "--threads",
        type=positive,
        metavar="N",
        help="of --model (default: the board's, or ONNX Runtime's choice)",
    )
    parser.add_argument(
        "--provider",
        metavar="P",
        help="execution provider of --model: cpu, cuda, or its full name, also of a plugin's "
        "package (default: the board's, or cpu)",
    )
    add_board(parser)
    add_custom_ops(parser)
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="write the report: FILE.json, which --compare reads, or FILE.md",
    )
    parser.add_argument(
        "--compare",
        nargs="+",
        metavar="REPORT.json",
        help="measure nothing; compare reports of one model",
    )


def run(args: argparse.Namespace) -> int:
    """Measure or compare, write and print."""
    if args.output is not None:
        read = (args.model, args.clean, args.data, args.board, *(args.compare or ()))
        check_written({"output": args.output}, *read)
        if Path(args.output).suffix not in (".json", ".md"):
            raise InputError(f"output {args.output}: expected a name that ends in .json or .md")
    if args.compare is not None:
        _compare(args)
        return 0
    if args.model is None:
        for option in ("data", "clean", "provider", "threads", "batch_size", "custom_ops"):
            if getattr(args, option):
                name = option.replace("_", "-")
                raise InputError(f"--{name}: expected --model too, the annotated graph to measure")
    report = _measure(args)
    from ..bench_tables import report_sections

    _give(args, report, "NoisyStore: measured speed, memory and energy", report_sections(report))
    return 0


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    board = use_board(args)
    from .. import bench, bench_model, bench_report

    # The load is that before the measurements.
    report = bench_report.new_report(board)
    if args.model is not None:
        report |= bench_model.bench_model(
            args.model,
            "digits" if args.data is None else args.data,
            clean=args.clean,
            batch=args.batch_size,
            threads=args.threads,
            providers=args.provider,
            custom_op_libraries=args.custom_ops,
            quick=args.quick,
            progress=progress,
        )
    progress("operator ...")
    report["operator"] = bench.bench_operator(quick=args.quick)
    progress("import ...")
    report["import_seconds"] = bench.import_seconds(quick=args.quick)
    return report


def _compare(args: argparse.Namespace) -> None:
    from ..bench_compare import compare, compare_sections

    options = ("model", "data", "clean", "board", "provider", "threads", "batch_size")
    for option in (*options, "custom_ops", "quick"):
        if getattr(args, option):
            name = option.replace("_", "-")
            raise InputError(f"--compare: measures nothing; give --{name} in a run of its own")
    result = compare(args.compare)
    _give(args, result, "NoisyStore: reports compared", compare_sections(result))


def _give(
    args: argparse.Namespace, result: dict[str, Any], title: str, sections: Sequence[Section]
) -> None:
    """Write the file, if one is wanted, and print."""
    from ...ortops.files import write_whole
    from ..bench_tables import markdown, plain

    if args.output is not None:
        as_json = Path(args.output).suffix == ".json"
        text = json.dumps(result, indent=2, allow_nan=False) + "\n" if as_json else ""
        write_whole(args.output, (text or markdown(title, sections)).encode())
    if args.json:
        print_json(result)
    else:
        print(plain(sections))
