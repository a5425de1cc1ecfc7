# SPDX-License-Identifier: Apache-2.0
"""`noisystore bench`: how fast the operator and the harness are on this machine."""

from __future__ import annotations

import argparse
from typing import Any

from .common import add_custom_ops, positive, print_json, progress, table

HELP = "time the operator and the harness on this machine"
DESCRIPTION = """\
Time the operator alone (float32, in place, one thread) as a ratio to memcpy of the same tensor;
with --model also an annotated graph in ONNX Runtime, noisy against all rates 0. The cost of a
foreign call that does nothing is measured and subtracted from operator and memcpy. All figures are
medians of measurements made in turn, in one run."""
EXAMPLE = "noisystore bench --model vgg-a.onnx --clean vgg-a-plain.onnx --data digits"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--quick", action="store_true", help="fewer rounds, rougher figures")
    parser.add_argument("--model", metavar="MODEL.onnx", help="annotated graph to time end to end")
    parser.add_argument(
        "--data", default="digits", metavar="D", help="its data set (default: %(default)s)"
    )
    parser.add_argument(
        "--clean", metavar="MODEL.onnx", help="the same network without sites, timed beside it"
    )
    parser.add_argument(
        "--batch-size",
        type=positive,
        default=100,
        metavar="N",
        help="of --model (default: %(default)s)",
    )
    parser.add_argument(
        "--threads", type=positive, metavar="N", help="of --model (default: ONNX Runtime's choice)"
    )
    add_custom_ops(parser)


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    from .. import bench

    if args.clean is not None and args.model is None:
        from ...ortops.errors import InputError

        raise InputError("--clean: expected --model too, the annotated graph to compare with")
    result: dict[str, Any] = {"machine": bench.machine()}
    if args.model is not None:
        progress("model in ONNX Runtime ...")
        result["model"] = bench.bench_model(
            args.model,
            args.data,
            clean=args.clean,
            batch=args.batch_size,
            threads=args.threads,
            custom_op_libraries=args.custom_ops,
            quick=args.quick,
        )
    progress("operator ...")
    result["operator"] = bench.bench_operator(quick=args.quick)
    progress("import ...")
    result["import_seconds"] = bench.import_seconds(quick=args.quick)
    if args.json:
        print_json(result)
    else:
        print(text(result))
    return 0


def text(result: dict[str, Any]) -> str:
    """Tables of the figures, for people."""
    machine, operator = result["machine"], result["operator"]
    load = "" if machine["load"] is None else f", load {machine['load']:.1f}"
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, {machine['instruction_set']}{load}",
        "",
        f"operator, {operator['elements']} x {operator['dtype']}, in place, one thread; memcpy "
        f"{operator['memcpy_us']:.2f} us; an empty foreign call, {operator['call_ns']:.0f} ns, is "
        "subtracted from all",
        table(
            ["rate", "us", "x memcpy", "flips", "ns a flip"],
            [
                [
                    f"{row['rate']:g}",
                    f"{row['us']:.2f}",
                    f"{row['ratio']:.3f}",
                    f"{row['flips']:.4g}",
                    "-" if row["ns_per_flip"] is None else f"{row['ns_per_flip']:.2f}",
                ]
                for row in operator["rows"]
            ],
        ),
    ]
    if "model" in result:
        model = result["model"]
        clean = "" if model["clean_ms"] is None else f", without sites {model['clean_ms']:.1f} ms"
        lines += [
            "",
            f"{model['model']} in ONNX Runtime, batch {model['batch']}: all rates 0 "
            f"{model['zero_ms']:.1f} ms{clean}",
            table(
                ["rate", "ms", "x all rates 0", "x without sites"],
                [
                    [
                        f"{row['rate']:g}",
                        f"{row['ms']:.1f}",
                        f"{row['ratio']:.3f}",
                        "-" if row["ratio_clean"] is None else f"{row['ratio_clean']:.3f}",
                    ]
                    for row in model["rows"]
                ],
            ),
            f"harness: a sweep takes {model['harness']['ratio']:.3f} x the time of its ONNX "
            f"Runtime runs ({model['harness']['seconds']:.1f} s)",
        ]
        if model["prepare_ms"] is not None:
            lines.append(f"noise of weights and biases: {model['prepare_ms']:.1f} ms a trial")
    seconds = result["import_seconds"]
    lines += [
        "",
        f"import noisystore.runtime: {seconds['package']:.3f} s; with all that it holds and ONNX "
        f"Runtime: {seconds['all']:.3f} s",
    ]
    return "\n".join(lines)
