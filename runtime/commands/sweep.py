# SPDX-License-Identifier: Apache-2.0
"""`noisystore sweep`: accuracy at many bit error rates, kept in SQLite."""

from __future__ import annotations

import argparse
import importlib.util
import os
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...ortops.errors import InputError
from .cluster_options import add_cluster, cluster
from .common import (
    check_plot,
    check_written,
    counted,
    positive,
    print_json,
    progress,
    table,
    use_board,
)
from .live_options import add_live, live_page
from .noise_options import (
    add_model_and_data,
    add_noise_options,
    add_run_options,
    fixed_rates,
    joined,
)

if TYPE_CHECKING:
    from ..rram_rates import ConditionAccuracy

LONG = True
HELP = "measure accuracy against bit error rate"
DESCRIPTION = """\
Run an annotated graph on a data set at many bit error rates, several trials each. Every measured
point is kept at once: an interrupted sweep goes on when the same command runs again."""
EXAMPLE = (
    "noisystore sweep vgg-a.onnx --data cifar10:DIR --rates 1e-8:1e-1:4/decade --trials 5 "
    "-o results.sqlite"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_model_and_data(parser)
    parser.add_argument(
        "--rates",
        default="1e-8:1e-1:4/decade",
        metavar="LOW:HIGH:N/decade",
        help="or a list, 1e-6,1e-5; P01/P10 where they differ (default: %(default)s)",
    )
    parser.add_argument(
        "--rates-from",
        metavar="FILE.json",
        help="of `noisystore rram -o`: also measure at each condition's rates, and mark it in the "
        "plot",
    )
    parser.add_argument(
        "--trials",
        type=positive,
        default=5,
        metavar="T",
        help="runs with fresh noise at each rate (default: %(default)s)",
    )
    parser.add_argument(
        "--images", type=positive, metavar="N", help="the first N images (default: all)"
    )
    add_noise_options(parser)
    add_run_options(parser)
    parser.add_argument(
        "--workers",
        type=workers,
        default="auto",
        metavar="N|auto",
        help="processes that share the cores; auto: one a core, or as many as fit into the memory, "
        "once the sweep is seen to be long (default: %(default)s)",
    )
    add_cluster(parser)
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="FILE.sqlite",
        help="results; more points are added to a file that exists",
    )
    parser.add_argument(
        "--plot", metavar="FILE.png|.svg", help="also fit the points of this sweep and draw them"
    )
    add_live(parser, "while it runs, for a browser on this machine")


def workers(text: str) -> int | str:
    """Argument type: a number of processes, or auto."""
    if text == "auto":
        return text
    try:
        return positive(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"expected an integer of 1 or more, or auto, got {text!r}"
        ) from None


def run(args: argparse.Namespace) -> int:
    """Measure, and print what was spent."""
    from ..sweep import parse_rates, sweep

    read = (args.model, args.data, args.rates_from)
    check_written({"output": args.output, "plot": args.plot}, *read)
    check_plot(args.plot)
    where = cluster(args)
    rates = parse_rates(args.rates)
    cells = []
    if args.rates_from is not None and args.mixed == "each":
        raise InputError(
            "--rates-from: expected one kind of machine, got --mixed each: its points of one rate "
            "have the same noise"
        )
    if args.rates_from is not None:
        from ..rram_rates import accuracies, read_rates

        cells = read_rates(args.rates_from)
    use_board(args)
    pairs = [*rates, *(cell.measured for cell in cells)]
    wanted = ((p01, p10, trial) for p01, p10 in pairs for trial in range(args.trials))
    with live_page(args, [args.output], wanted):
        summary = sweep(
            args.model,
            args.data,
            pairs,
            trials=args.trials,
            images=args.images,
            noisy=joined(args.noisy),
            fixed_rates=fixed_rates(args.fixed_rate),
            bit_mask=args.mask,
            seed=args.seed,
            batch_size=args.batch_size,
            providers=args.provider,
            threads=args.threads,
            custom_op_libraries=args.custom_ops,
            results=args.output,
            progress=True,
            workers=args.workers,
            cluster=where,
        )
    args.kept = f"all points are in {args.output}"
    conditions = accuracies(summary.points, cells) if cells else []
    if args.plot is not None:
        grid = [row for row in summary.points if (row["p01"], row["p10"]) in set(rates)]
        try:
            _draw(grid, args.plot, conditions, args.rates_from)
        except InputError as error:
            raise InputError(f"{error} (all points are kept in {args.output})") from None
        progress(f"wrote {args.plot}")
    result = {
        "rows": summary.rows,
        "clean_accuracy": summary.clean_accuracy,
        "images": summary.images,
        "seconds": summary.seconds,
        "inferences": summary.inferences,
        "run_seconds": summary.run_seconds,
        "prepare_seconds": summary.prepare_seconds,
        "skipped": summary.skipped,
        "measured": summary.measured,
        "sweep": summary.sweep,
        "noisy": summary.noisy,
        "path": args.output,
    }
    if cells:
        result["conditions"] = [condition.as_dict() for condition in conditions]
    if args.json:
        print_json(result)
        return 0
    clean = (
        "" if summary.clean_accuracy is None else f"clean accuracy {summary.clean_accuracy:.4f}, "
    )
    noisy = f"noisy: {summary.noisy}, " if summary.noisy else ""
    print(
        f"{counted(summary.rows, 'point')} of this sweep in {args.output} ({summary.measured:,} "
        f"measured now): {noisy}{clean}{counted(summary.images, 'image')}, "
        f"{counted(summary.inferences, 'inference')} "
        f"({summary.skipped:,} skipped: no flip), {summary.seconds:.1f} s"
    )
    if cells:
        print(_conditions_table(conditions))
    plot = "" if importlib.util.find_spec("matplotlib") is None else " --plot midpoint.png"
    print(f"next: noisystore fit {shlex.quote(args.output)}{plot}")
    return 0


def _draw(
    points: list[dict[str, Any]],
    path: str,
    conditions: Sequence[ConditionAccuracy],
    source: str | None,
) -> None:
    from ..midpoint_groups import fit_results
    from ..plot import Curve, Mark, plain_text, plot_accuracy

    marks = [Mark(c.name, c.mean_rate, c.accuracy, c.interval) for c in conditions]
    label = f"conditions of {plain_text(os.path.basename(source or ''))}, 95% interval"
    if any(c.p01 != c.p10 for c in conditions):
        label += " (at the mean of p01 and p10)"
    groups = fit_results(points)
    plot_accuracy(
        [Curve(group.label, group.points, group.fit) for group in groups],
        path,
        title=groups[0].label if len(groups) == 1 else "",
        ylabel=groups[0].keys["metric"],
        marks=marks,
        marks_label=label,
    )


def _conditions_table(conditions: Sequence[ConditionAccuracy]) -> str:
    rows = [
        [
            c.name,
            f"{c.p01:.3g}" if c.p01 == c.p10 else f"{c.p01:.3g}/{c.p10:.3g}",
            f"{c.accuracy:.4f}",
            f"[{c.interval[0]:.4f}, {c.interval[1]:.4f}]",
            "-" if c.of_clean is None else f"{c.of_clean:.4f}",
        ]
        for c in conditions
    ]
    return table(["condition", "rate", "accuracy", "95% interval", "of clean"], rows)
