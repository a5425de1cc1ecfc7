# SPDX-License-Identifier: Apache-2.0
"""`noisystore demo`: the whole way, on scanned digits, in about a minute."""

from __future__ import annotations

import argparse

from .common import print_json, progress

HELP = "train, export, sweep and fit a small network in about a minute"
DESCRIPTION = """\
Train a narrow VGG-A on scanned digits, export it with noisy activations, sweep the bit error rate
and fit the midpoint noise level. Writes model.onnx (with --quick model-quick.onnx), results.sqlite,
midpoint.png, midpoint.svg and summary.txt, which explains the result. Run again, it goes on after
the last finished epoch, or point of the sweep."""
EXAMPLE = "noisystore demo -o noisystore-demo"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "-o",
        "--output",
        default="noisystore-demo",
        metavar="FOLDER",
        help="default: %(default)s",
    )
    parser.add_argument("--quick", action="store_true", help="a rough answer in a few seconds")


def run(args: argparse.Namespace) -> int:
    """Run the demonstration and print its summary."""
    from ..demo import run_demo

    args.kept = f"what is finished is in {args.output}; the same command goes on from there"
    result = run_demo(args.output, quick=args.quick, say=progress)
    if args.json:
        print_json(result)
    else:
        print(result["summary"], end="")
    return 0
