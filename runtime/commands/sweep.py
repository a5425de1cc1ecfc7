# SPDX-License-Identifier: Apache-2.0
"""`noisystore sweep`: accuracy at many bit error rates, kept in SQLite."""

from __future__ import annotations

import argparse

from ...ortops.errors import InputError
from .common import check_plot, positive, print_json, progress, seed

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
    parser.add_argument("model", metavar="MODEL.onnx", help="annotated graph (`noisystore export`)")
    parser.add_argument(
        "--data", required=True, metavar="D", help="cifar10:DIR, npz:FILE, digits or images:DIR"
    )
    parser.add_argument(
        "--rates",
        default="1e-8:1e-1:4/decade",
        metavar="LOW:HIGH:N/decade",
        help="or a list, 1e-6,1e-5; P01/P10 where they differ (default: %(default)s)",
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
    parser.add_argument(
        "--mask",
        type=parse_mask,
        default="all",
        metavar="M",
        help="noisy bits of a word: all, or a number such as 0x7f800000 (default: %(default)s)",
    )
    parser.add_argument("--seed", type=seed, default=0, metavar="S", help="default: %(default)s")
    parser.add_argument(
        "--batch-size",
        type=positive,
        default=100,
        metavar="N",
        help="images a run (default: %(default)s)",
    )
    parser.add_argument(
        "--threads", type=positive, metavar="N", help="default: ONNX Runtime's choice"
    )
    parser.add_argument(
        "--provider",
        metavar="P",
        help="execution provider: cpu, cuda, or its full name (default: cpu)",
    )
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


def parse_mask(text: str) -> tuple[str, int | None]:
    """Turn a mask argument into its name and its value (None: all bits).

    Raises
    ------
    argparse.ArgumentTypeError
        Neither ``all`` nor a number from 0x1 to 2^64 - 1.
    """
    if text == "all":
        return "all", None
    try:
        value = int(text, 16) if text.lower().startswith("0x") else -1
    except ValueError:
        value = -1
    if not 0 < value < 1 << 64:
        raise argparse.ArgumentTypeError(
            "expected all, or the noisy bits as a hexadecimal number from 0x1 to "
            f"0xffffffffffffffff, got {text!r}"
        )
    return hex(value), value


def run(args: argparse.Namespace) -> int:
    """Measure, and print what was spent."""
    from ..sweep import sweep

    check_plot(args.plot)
    name, mask = args.mask
    summary = sweep(
        args.model,
        args.data,
        args.rates,
        trials=args.trials,
        images=args.images,
        bit_mask=mask,
        mask_name=name,
        seed=args.seed,
        batch_size=args.batch_size,
        providers=args.provider,
        threads=args.threads,
        results=args.output,
        progress=True,
    )
    if args.plot is not None:
        args.kept = f"all points are in {args.output}"
        try:
            _draw(summary.points, args.plot)
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
        "skipped": summary.skipped,
        "measured": summary.measured,
        "sweep": summary.sweep,
        "path": args.output,
    }
    if args.json:
        print_json(result)
        return 0
    clean = (
        "" if summary.clean_accuracy is None else f"clean accuracy {summary.clean_accuracy:.4f}, "
    )
    print(
        f"{summary.rows} points in {args.output} ({summary.measured} measured now): {clean}"
        f"{summary.images} images, {summary.inferences:,} inferences "
        f"({summary.skipped:,} skipped: no flip), {summary.seconds:.1f} s"
    )
    print(f"next: noisystore fit {args.output} --plot midpoint.png")
    return 0


def _draw(points: list[dict[str, object]], path: str) -> None:
    from ..midpoint_groups import fit_results
    from .fit import draw

    draw(fit_results(points), path)
