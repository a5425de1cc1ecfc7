# SPDX-License-Identifier: Apache-2.0
"""`noisystore quantize`: an ONNX model in 8-bit integers, with noisy memory sites on them."""

from __future__ import annotations

import argparse
import json

from ...ortops.files import write_whole
from .common import (
    add_normalization,
    check_written,
    natural,
    positive,
    print_json,
    progress,
    require,
)

HELP = "quantize an ONNX model to 8 bits, with noisy memory sites on the integers"
DESCRIPTION = """\
Quantize a plain float32 ONNX model: activations to uint8 or int8 (scale and zero point from
calibration images), weights to int8, biases to int32. The sites store these integers, and ONNX
Runtime still runs integer kernels, which is checked. The scales are kept in the file's metadata."""
EXAMPLE = (
    "noisystore quantize vgg-a.onnx --data cifar10:cifar --normalization cifar10 -o vgg-a-int8.onnx"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", metavar="MODEL.onnx")
    parser.add_argument(
        "--data",
        required=True,
        metavar="D",
        help="calibration images: cifar10:DIR, npz:FILE, digits, images:DIR or raw:DIR; the "
        "train split where there is one",
    )
    parser.add_argument(
        "--images",
        type=positive,
        default=None,
        metavar="N",
        help="number of calibration images (default: 512, or all if there are fewer)",
    )
    parser.add_argument(
        "--method",
        default="minmax",
        metavar="M",
        help="how values give a range: minmax, percentile (99.99) or entropy (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=natural,
        default=0,
        metavar="S",
        help="chooses the calibration images (default: %(default)s)",
    )
    parser.add_argument(
        "--activation-type",
        metavar="T",
        help="uint8, fast on x86, or int8, fast on Arm (default: the board's, or uint8); where "
        "p01 = p10 the same bits flip in both",
    )
    parser.add_argument(
        "--board",
        metavar="NAME|FILE",
        help="take the type of activations that is fast on a board (`noisystore board --list`)",
    )
    parser.add_argument(
        "--format",
        default="qdq",
        metavar="F",
        help="qdq (QuantizeLinear and DequantizeLinear) or qoperator (QLinearConv...) (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--sites",
        default="activation",
        metavar="KIND[,KIND]",
        help="what lies in noisy memory, as for annotate; none: a quantized model without sites "
        "(default: %(default)s)",
    )
    add_normalization(parser)
    parser.add_argument(
        "--scales", metavar="FILE.json", help="write the scales to a file of their own, too"
    )
    parser.add_argument("-o", "--output", required=True, metavar="OUT.onnx")


def run(args: argparse.Namespace) -> int:
    """Quantize, report the sites and the kernels."""
    check_written({"-o": args.output, "--scales": args.scales}, args.model, args.data, args.board)
    require(("onnx",), "export")
    from ... import export

    result = export.quantize(
        args.model,
        args.data,
        args.output,
        images=args.images,
        method=args.method,
        seed=args.seed,
        activation_type=args.activation_type or _activation_type(args.board),
        graph_format=args.format,
        sites=args.sites,
        normalization=args.normalization,
        progress=_Progress(),
    )
    if args.scales is not None:
        write_whole(args.scales, (json.dumps(result.quantization, indent=2) + "\n").encode())
    for note in result.notes:
        progress(f"note: {note}")
    if args.json:
        print_json({**result.as_dict(), "scales": args.scales})
        return 0
    parameters = (
        f", {result.parameter_bits:,} of weights and biases" if result.parameter_bits else ""
    )
    print(
        f"wrote {result.path}: {len(result.sites)} sites, {result.bits_per_sample:,} noisy bits "
        f"per sample{parameters}"
    )
    print(
        f"calibrated on {result.quantization['images']} images of {result.quantization['data']}; "
        f"integer kernels: {result.kernels}"
    )
    return 0


class _Progress:
    """Says each phase once, and its end, on standard error."""

    def __init__(self) -> None:
        self._phase = ""

    def __call__(self, phase: str, done: int, total: int) -> None:
        if phase != self._phase:
            self._phase = phase
            progress(f"{phase}: {total} images")


def _activation_type(board: str | None) -> str:
    if board is None:
        return "uint8"
    from ..board import load_board

    return load_board(board).activation_type
