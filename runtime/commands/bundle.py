# SPDX-License-Identifier: Apache-2.0
"""`noisystore bundle`: one file with all that an offline board needs."""

from __future__ import annotations

import argparse

from .common import check_written, positive, print_json, progress

HELP = "pack a model with all that an offline board needs"
DESCRIPTION = """\
Write one file for a board without Internet: model, wheels of NoisyStore, ONNX Runtime and what they
need, a slice of the data set, expected answers, an installer, a C++ example and checksums. On the
board: unpack it, `bash install.sh`. The same input gives the same bytes.

Wheels come from the package registry. NoisyStore's own is made of what is installed here; for
another processor its library is compiled here, which needs that processor's cross compiler."""
EXAMPLE = (
    "noisystore bundle vgg-a.onnx --board raspberry-pi-5 --data cifar10:DIR --images 256 "
    "-o bundle.zip"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", metavar="MODEL.onnx", help="annotated graph")
    parser.add_argument(
        "--board",
        required=True,
        metavar="NAME|FILE",
        help="`noisystore board --list` has the names; or a TOML file",
    )
    parser.add_argument(
        "--data",
        required=True,
        metavar="D",
        help="cifar10:DIR, npz:FILE, digits, images:DIR or raw:DIR",
    )
    parser.add_argument(
        "--images",
        type=positive,
        metavar="N",
        help="the first N images (default: 256, or all if there are fewer)",
    )
    parser.add_argument(
        "--wheels",
        action="append",
        default=[],
        metavar="FOLDER",
        help="wheels that the registry lacks: a vendor's ONNX Runtime, or NoisyStore's for this "
        "board; may be repeated",
    )
    parser.add_argument("-o", "--output", required=True, metavar="OUT.zip")


def run(args: argparse.Namespace) -> int:
    """Make the bundle, and print what it is."""
    from ..bundle import make_bundle

    check_written({"output": args.output}, args.model, args.data, args.board)
    made = make_bundle(
        args.model,
        args.board,
        args.data,
        args.output,
        images=args.images,
        wheels=args.wheels,
        progress=progress,
    )
    if args.json:
        print_json(
            {
                "path": str(made.path),
                "sha256": made.sha256,
                "bytes": made.bytes,
                "files": made.files,
                "clean_accuracy": made.clean_accuracy,
                "board": made.board,
                "missing": made.missing,
            }
        )
        return 0
    print(f"wrote {made.path}: {made.files} files, {made.bytes / 1e6:.1f} MB, sha256 {made.sha256}")
    if made.missing:
        print(f"without the wheel of {made.missing}, which the board has to bring: see README.txt")
    print(f"next, on the board: unzip {made.path.name} -d bundle && bash bundle/install.sh")
    return 0
