# SPDX-License-Identifier: Apache-2.0
"""`noisystore midpoint`: the midpoint noise level without a sweep."""

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
from .noise_options import (
    add_model_and_data,
    add_noise_options,
    add_run_options,
    fixed_rates,
    joined,
)

LONG = True
HELP = "find the midpoint noise level without a sweep"
DESCRIPTION = """\
Find the bit error rate at which accuracy is half way between clean and chance (paper, eq. 2), to
a precision that you choose: a sequential design runs random images where the midpoint depends on
them most, about 1% of the inferences of a full sweep for +-5%. The estimate is that of a sweep over
an even log10 grid. Where there is no drop up to the highest rate, the result says so."""
EXAMPLE = "noisystore midpoint vgg-a.onnx --data cifar10:DIR --precision 5%"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_model_and_data(parser)
    parser.add_argument(
        "--precision",
        type=precision,
        default=0.05,
        metavar="P",
        help="half width of the 95%% interval, as a share of the midpoint: 5%% or 0.05 "
        "(default: 5%%)",
    )
    parser.add_argument(
        "--inferences",
        type=positive,
        metavar="N",
        help="spend at most so many, 1000 or more; the interval is then wider (default: no limit)",
    )
    parser.add_argument(
        "--range",
        metavar="LOW:HIGH",
        help="rates between which to look (default: from one flip in ten samples to 0.5)",
    )
    parser.add_argument(
        "--images",
        type=positive,
        metavar="N",
        help="the first N images, of which random ones are run (default: all)",
    )
    add_noise_options(parser)
    add_run_options(parser)
    parser.add_argument(
        "--plot", metavar="FILE.png|.svg", help="also draw what was measured, and the fit"
    )


def run(args: argparse.Namespace) -> int:
    """Search, print, and draw."""
    from ..midpoint_finder import HIGHEST, find_midpoint

    check_written({"plot": args.plot}, args.model, args.data)
    check_plot(args.plot)
    low, high = (None, HIGHEST) if args.range is None else _range(args.range)
    use_board(args)
    found = find_midpoint(
        args.model,
        args.data,
        precision=args.precision,
        images=args.images,
        noisy=joined(args.noisy),
        fixed_rates=fixed_rates(args.fixed_rate),
        bit_mask=args.mask,
        low=low,
        high=high,
        most=args.inferences,
        seed=args.seed,
        batch_size=args.batch_size,
        providers=args.provider,
        threads=args.threads,
        custom_op_libraries=args.custom_ops,
        progress=True,
    )
    if args.plot is not None:
        from ..plot import Curve, plot_accuracy

        plot_accuracy([Curve(args.model, found.points, found.fit())], args.plot)
        progress(f"wrote {args.plot}")
    if args.json:
        print_json(found.as_dict())
    else:
        print(found)
    return 0


def _range(text: str) -> tuple[float, float]:
    from ...ortops.errors import InputError

    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError:
        low = high = 0.0
    if not 0 < low < high <= 1:
        raise InputError(f"--range: expected LOW:HIGH with 0 < LOW < HIGH <= 1, got {text!r}")
    return low, high
