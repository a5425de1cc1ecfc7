# SPDX-License-Identifier: Apache-2.0
"""`noisystore sensitivity`: which layer and which bit must be protected."""

from __future__ import annotations

import argparse

from .common import (
    check_plot,
    check_written,
    positive,
    precision,
    print_json,
    progress,
    use_board,
)
from .noise_options import add_model_and_data, add_run_options, joined

LONG = True
HELP = "which layer and which bit is sensitive: midpoints of each alone"
DESCRIPTION = """\
Find the midpoint noise level of each site alone, and of each bit position alone: the lowest are
those to protect. With --cross also of each bit of each site: a map. Every midpoint is kept at
once: what was interrupted goes on when the same command runs again."""
EXAMPLE = "noisystore sensitivity vgg-a.onnx --data cifar10:DIR --cross -o map.json --plot map.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_model_and_data(parser)
    parser.add_argument(
        "--sites",
        action="append",
        metavar="SITES",
        help="sites to take, the others have no noise: activation, weight, bias, input, names, "
        "patterns or numbers, separated by commas; may be repeated (default: all)",
    )
    parser.add_argument(
        "--masks",
        default="bits",
        metavar="bits|LIST|none",
        help="bits: each bit of the widest word; or masks of `noisystore sweep --mask`, such as "
        "sign,exponent,mantissa (default: %(default)s)",
    )
    parser.add_argument("--cross", action="store_true", help="also each site with each mask")
    parser.add_argument(
        "--precision",
        type=precision,
        default=0.15,
        metavar="P",
        help="half width of each interval, as a share of the midpoint: 15%% or 0.15 "
        "(default: 15%%)",
    )
    parser.add_argument(
        "--images",
        type=positive,
        metavar="N",
        help="the first N images, of which random ones are run (default: all)",
    )
    add_run_options(parser)
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE.json",
        help="results; midpoints that it has are not measured again",
    )
    parser.add_argument("--csv", metavar="FILE.csv", help="also write one line a midpoint")
    parser.add_argument("--plot", metavar="FILE.png|.svg", help="also draw a map")


def run(args: argparse.Namespace) -> int:
    """Measure, and print tables."""
    from ..sensitivity import sensitivity
    from ..sensitivity_report import write_csv

    written = {"output": args.output, "csv": args.csv, "plot": args.plot}
    check_written(written, args.model, args.data)
    check_plot(args.plot)
    use_board(args)
    found = sensitivity(
        args.model,
        args.data,
        sites=joined(args.sites),
        masks=args.masks,
        cross=args.cross,
        precision=args.precision,
        images=args.images,
        seed=args.seed,
        batch_size=args.batch_size,
        providers=args.provider,
        threads=args.threads,
        custom_op_libraries=args.custom_ops,
        results=args.output,
        progress=True,
    )
    if args.output is not None:
        args.kept = f"all midpoints are in {args.output}"
    if args.csv is not None:
        write_csv(found, args.csv)
        progress(f"wrote {args.csv}")
    if args.plot is not None:
        from ..sensitivity_plot import plot_sensitivity

        plot_sensitivity(found, args.plot)
        progress(f"wrote {args.plot}")
    if args.json:
        print_json(found.as_dict())
        return 0
    print(found)
    where = "" if found.path is None else f" in {found.path}"
    print(
        f"{len(found.entries)} midpoints{where} ({found.measured} measured now): "
        f"{found.inferences:,} inferences, {found.seconds:.1f} s"
    )
    return 0
