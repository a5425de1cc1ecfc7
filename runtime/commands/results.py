# SPDX-License-Identifier: Apache-2.0
"""`noisystore results`: what is in a results file; export and merge."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ...ortops.errors import InputError
from ..texts import printable
from .common import check_apart, check_output, counted, print_json, table

if TYPE_CHECKING:
    from ..results_summary import Summary

HELP = "show, export and merge results files"
DESCRIPTION = """\
Say what a results file holds; write its points as CSV or Parquet (--export); or put the points of
other files into it (--merge), those of other machines, too. A point that two files hold counts
once; two outcomes of one point are refused. A merge takes all, or nothing."""
EXAMPLE = "noisystore results a.sqlite --merge b.sqlite c.sqlite -o all.sqlite"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("file", metavar="FILE.sqlite", help="written by `noisystore sweep`")
    parser.add_argument(
        "--export", metavar="FILE.csv|.parquet", help="write the points, one a row (see --where)"
    )
    parser.add_argument(
        "--where",
        nargs="+",
        action="extend",
        default=[],
        metavar="COLUMN=VALUE",
        help="export only these points, for example model=vgg-a.onnx mask=all p01=1e-6",
    )
    parser.add_argument(
        "--bits", action="store_true", help="export which images were right, too (large)"
    )
    parser.add_argument(
        "--merge", nargs="+", metavar="FILE.sqlite", help="put the points of these files into FILE"
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE.sqlite", help="merge into this new file instead"
    )


def run(args: argparse.Namespace) -> int:
    """Show, export or merge."""
    if args.export is not None and args.merge is not None:
        raise InputError("results: expected --export or --merge, got both: merge first")
    if args.export is None and (args.where or args.bits):
        raise InputError("results: --where and --bits choose what --export writes")
    if args.output is not None and args.merge is None:
        raise InputError("results: -o names a new file for --merge: give --export its own name")
    from ..interrupt import terminable

    with terminable():
        return _merge(args) if args.merge is not None else _read(args)


def _read(args: argparse.Namespace) -> int:
    from ..results import Results

    with Results(args.file, readonly=True) as results:
        if args.export is not None:
            return _export(args, results)
        from ..results_summary import summarize

        summary = summarize(results)
    if args.json:
        from ..json_values import finite

        print_json(finite(asdict(summary)))
    else:
        print(report(summary))
    return 0


def _export(args: argparse.Namespace, results: Any) -> int:
    from ..results_columns import parse_condition
    from ..results_export import check_export, export_points

    check_export(args.export)
    check_apart(check_output(args.export), args.file, "export")
    equal = dict(parse_condition(text) for text in args.where)
    count = export_points(results, args.export, bits=args.bits, **equal)
    if args.json:
        print_json({"path": args.export, "points": count})
    else:
        print(f"{counted(count, 'point')} in {args.export}")
    return 0


def _merge(args: argparse.Namespace) -> int:
    from ..results_merge import merge_results

    merged = merge_results(args.file, args.merge, args.output)
    into = args.output or args.file
    if args.json:
        print_json(
            {"path": into, "sources": [{**asdict(m), "source": str(m.source)} for m in merged]}
        )
        return 0
    rows = [[str(m.source), f"{m.sweeps:,}", f"{m.points:,}", f"{m.known:,}"] for m in merged]
    print(table(["from", "new sweeps", "new points", "known points"], rows))
    print(f"next: noisystore results {into}")
    return 0


def report(summary: Summary) -> str:
    """Tables of sweeps and machines, for people."""
    sweeps = [
        [
            _label(row),
            row["storage_format"],
            f"{row['data']} ({row['images']:,})",
            f"{row['provider'].removesuffix('ExecutionProvider')} {row['machine']}",
            str(row["seed"]),
            f"{row['points']:,}",
            f"{row['rates']:,}",
            "-" if row["low"] is None else f"{row['low']:.3g} to {row['high']:.3g}",
            f"{row['trials']:,}",
            "-" if row["clean_accuracy"] is None else f"{row['clean_accuracy']:.4f}",
        ]
        for row in summary.sweeps
    ]
    head = ["model", "format", "data (images)", "on", "seed", "points", "rates", "p01", "trials"]
    machines = [
        [
            row["host"],
            row["cpu"],
            "default" if row["threads"] == 0 else str(row["threads"]),
            row["onnxruntime_version"],
            row["library_version"],
            f"{row['runs']:,}",
            f"{row['points']:,}",
            f"{row['seconds']:,.0f}",
        ]
        for row in summary.machines
    ]
    lines = [
        f"{summary.path}: sweeps {len(sweeps):,}, points {summary.points:,}, bytes "
        f"{summary.bytes:,}, schema {summary.schema}",
        "",
        table([*head, "clean"], _printable(sweeps)),
        "",
        table(
            ["host", "cpu", "threads", "ONNX Runtime", "library", "runs", "points", "seconds"],
            _printable(machines),
        ),
    ]
    return "\n".join(lines)


def _label(row: dict[str, Any]) -> str:
    mask = "" if row["mask"] == "all" else f"mask {row['mask']}"
    metric = f"metric {row['metric_name']}" if row["metric_name"] else ""
    return ", ".join(part for part in (row["model"], row["noisy"], mask, metric) if part)


def _printable(rows: list[list[str]]) -> list[list[str]]:
    """Return cells in which no control character of a file from elsewhere moves the cursor."""
    return [[printable(cell) for cell in row] for row in rows]
