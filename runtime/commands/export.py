# SPDX-License-Identifier: Apache-2.0
"""`noisystore export`: a PyTorch model as an ONNX graph with noisy memory sites."""

from __future__ import annotations

import argparse

from .common import (
    add_normalization,
    bounded,
    check_written,
    positive,
    print_json,
    progress,
    require,
)

HELP = "export a PyTorch model to ONNX with noisy memory sites"
DESCRIPTION = """\
Export a model with a NoisyStore operator at every site. With all rates 0, the default, the file
computes what the model computes; `noisystore sweep` sets the rates.

FILE.py:function is a function of your own without arguments, in a Python file; it returns the
torch.nn.Module, or (module, example arguments). Without the latter an image is [3, 32, 32], or as
the module's attribute input_size says."""
EXAMPLE = "noisystore export vgg-a --weights vgg-a.safetensors --sites weight,bias -o vgg-a.onnx"

#: What `noisystore.export` imports.
EXPORT_MODULES = ("torch", "onnx", "onnxscript", "safetensors")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="vgg-a, vgg-b, vgg-d, vgg-e, torchvision:NAME or FILE.py:function",
    )
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="trained weights, .safetensors or .pt (default: untrained)",
    )
    parser.add_argument(
        "--sites",
        default="activation",
        metavar="KIND[,KIND]",
        help="what lies in noisy memory: activation, layer, input, weight, bias, or patterns of "
        "module and parameter names such as features.* and *.weight; none: the plain model, for "
        "quantize and annotate (default: %(default)s)",
    )
    parser.add_argument(
        "--storage-format",
        default="native",
        metavar="F",
        help="how values lie in memory, or KIND=F[,KIND=F] for some of activation, input, weight "
        "and bias (default: %(default)s, the tensor's type)",
    )
    parser.add_argument(
        "--width",
        type=bounded(0, 64, "width"),
        default=None,
        metavar="W",
        help="of a vgg: factor on its numbers of channels (default: 1)",
    )
    parser.add_argument(
        "--classes",
        type=positive,
        default=None,
        metavar="K",
        help="of a vgg (default: 10) or torchvision network (default: its own)",
    )
    add_normalization(parser)
    parser.add_argument("-o", "--output", required=True, metavar="OUT.onnx")


def run(args: argparse.Namespace) -> int:
    """Load, export, report the sites."""
    check_written({"output": args.output}, args.weights, args.model)
    require(EXPORT_MODULES, "export")
    from ... import export

    options = {
        name: value
        for name, value in (("width", args.width), ("classes", args.classes))
        if value is not None
    }
    model, example = export.load_model(args.model, weights=args.weights, **options)
    result = export.export_onnx(
        model,
        example,
        args.output,
        sites=args.sites,
        storage_format=args.storage_format,
        normalization=args.normalization,
    )
    if args.weights is None and ".py:" not in args.model:
        progress("note: untrained: its weights are random; --weights FILE loads trained ones")
    if args.json:
        print_json(result.as_dict())
    elif not result.sites:
        print(f"wrote {result.path}: the plain model, without sites")
    else:
        parameters = (
            f", {result.parameter_bits:,} of weights and biases" if result.parameter_bits else ""
        )
        print(
            f"wrote {result.path}: {len(result.sites)} sites, {result.bits_per_sample:,} noisy "
            f"bits per sample{parameters}"
        )
    return 0
