# SPDX-License-Identifier: Apache-2.0
"""`noisystore annotate`: an ONNX model of any producer with noisy memory sites."""

from __future__ import annotations

import argparse
from typing import Any

from ...ortops.errors import InputError
from .common import (
    add_custom_ops,
    add_normalization,
    check_written,
    print_json,
    progress,
    require,
)

HELP = "put noisy memory sites into any ONNX model"
DESCRIPTION = """\
Put a NoisyStore operator at every site of an ONNX model, float or quantized (QDQ, QOperator). With
all rates 0, the default, the file computes what the model computes; `noisystore sweep` sets the
rates. Subgraphs of If, Loop and Scan are left alone."""
EXAMPLE = "noisystore annotate resnet.onnx --sites weight,activation -o resnet-noisy.onnx"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", metavar="MODEL.onnx")
    parser.add_argument(
        "--sites",
        default="activation",
        metavar="KIND[,KIND]",
        help="what lies in noisy memory: activation, layer, input, weight, bias, ONNX operators "
        "such as Conv, tensor names, or patterns of names (default: %(default)s)",
    )
    parser.add_argument(
        "--storage-format",
        default="native",
        metavar="F",
        help="how values lie in memory (default: %(default)s, the tensor's type), or "
        "weight=F,activation=F",
    )
    parser.add_argument(
        "--example",
        metavar="FILE.npz",
        help="one array an input, by its name, to measure rows per sample with (default: drawn)",
    )
    parser.add_argument(
        "--preprocess",
        choices=("image",),
        help="build pre- and post-processing into the file: image takes the bytes of one PNG or "
        "JPEG file and gives label and score (needs onnxruntime-extensions)",
    )
    add_normalization(parser)
    add_custom_ops(parser)
    parser.add_argument("-o", "--output", required=True, metavar="OUT.onnx")


def run(args: argparse.Namespace) -> int:
    """Annotate, report the sites."""
    check_written({"-o": args.output}, args.model, args.example, *args.custom_ops)
    require(("onnx",), "export")
    from ... import export

    result = export.annotate(
        args.model,
        args.output,
        sites=args.sites,
        storage_format=args.storage_format,
        example=_read_example(args.example) if args.example is not None else None,
        custom_op_libraries=args.custom_ops,
        normalization=args.normalization,
        preprocess=args.preprocess,
    )
    for note in result.notes:
        progress(f"note: {note}")
    if args.json:
        print_json(result.as_dict())
        return 0
    parameters = (
        f", {result.parameter_bits:,} of weights and biases" if result.parameter_bits else ""
    )
    print(
        f"wrote {result.path}: {len(result.sites)} sites, {result.bits_per_sample:,} noisy bits "
        f"per sample{parameters}"
    )
    return 0


def _read_example(path: str) -> dict[str, Any]:
    import zipfile

    from ..npz import read_arrays

    try:
        with zipfile.ZipFile(path) as archive:
            names = [n[: -len(".npy")] for n in archive.namelist() if n.endswith(".npy")]
        return read_arrays(path, names)
    except InputError as error:
        raise InputError(f"--example {path}: {error}") from None
    except zipfile.BadZipFile:
        raise InputError(
            f"--example {path}: expected a NumPy archive (.npz), got something else"
        ) from None
