# SPDX-License-Identifier: Apache-2.0
"""`noisystore protect`: the cheapest protection that holds an accuracy at a rate."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ...ortops.errors import InputError
from ...ortops.files import write_whole
from .common import (
    check_plot,
    check_written,
    positive,
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
HELP = "find the cheapest protection that holds an accuracy at a rate"
DESCRIPTION = """\
Find which bits of which sites to protect so that a network holds an accuracy at a bit error rate,
with as few as possible, without and with clipping and NaN to 0; verify it by runs on other images;
and say what it costs in reliable memory, with write-check-correct, or with a SECDED code."""
EXAMPLE = (
    "noisystore protect vgg-a.onnx --data cifar10:DIR --rate 1e-4 --target 99% --plot protect.png"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_model_and_data(parser)
    parser.add_argument(
        "--rate", required=True, metavar="R", help="bit error rate, or P01/P10 where they differ"
    )
    parser.add_argument(
        "--target",
        default="99%",
        metavar="T",
        help="accuracy to hold: 0.84, or a share of the clean accuracy (default: 99%%)",
    )
    parser.add_argument(
        "--mitigate",
        metavar="LIST",
        help="what is tried beside protected bits: none, clip (to the range of the clean network), "
        "nan (reads as 0), clip+nan (default: none and, where sites hold floats, clip+nan; all but "
        "none need the extra export)",
    )
    parser.add_argument(
        "--means",
        default="reliable,rewrite,secded",
        metavar="LIST",
        help="ways to protect a bit (default: %(default)s)",
    )
    parser.add_argument(
        "--minimize",
        default="bits",
        choices=("bits", "area", "energy", "time"),
        help="what the recommended design costs least of (default: %(default)s)",
    )
    parser.add_argument(
        "--compare",
        action="store_true",
        help="also compare with protecting all sites equally and greedy by layer, at equal bits",
    )
    parser.add_argument(
        "--images",
        type=positive,
        default=2000,
        metavar="N",
        help="random images that verify a design (default: %(default)s)",
    )
    add_noise_options(parser)
    add_run_options(parser)
    parser.add_argument("-o", "--output", metavar="FILE.json", help="write the result")
    parser.add_argument("--plot", metavar="FILE.png|.svg", help="draw accuracy against bits")
    parser.add_argument(
        "--save-model",
        metavar="OUT.onnx",
        help="write the recommended design's graph, where it has a mitigation",
    )


def run(args: argparse.Namespace) -> int:
    """Search, verify, report; 1 if no design holds the target."""
    from ..protection import parse_target, protect
    from ..rates import parse_rates

    written = {"output": args.output, "plot": args.plot, "save-model": args.save_model}
    check_written(written, args.model, args.data)
    check_plot(args.plot)
    parse_target(args.target)
    rates = parse_rates(args.rate)
    if len(rates) != 1:
        raise InputError(f"--rate: expected one rate, or P01/P10, got {args.rate!r}")
    use_board(args)
    found = protect(
        args.model,
        args.data,
        rates[0],
        args.target,
        mitigations=None if args.mitigate is None else _names(args.mitigate),
        means=_names(args.means),
        goal=args.minimize,
        compare_with=args.compare,
        images=args.images,
        noisy=joined(args.noisy),
        fixed_rates=fixed_rates(args.fixed_rate),
        bit_mask=args.mask,
        save_model=args.save_model,
        seed=args.seed,
        batch_size=args.batch_size,
        providers=args.provider,
        threads=args.threads,
        custom_op_libraries=args.custom_ops,
        progress=True,
    )
    result = found.as_dict()
    if args.output is not None:
        write_whole(Path(args.output), (json.dumps(result, indent=2) + "\n").encode())
        progress(f"wrote {args.output}")
    if args.plot is not None:
        from ..protection_plot import plot_protection

        plot_protection(found, args.plot)
        progress(f"wrote {args.plot}")
    if args.save_model is not None:
        mitigation = "none" if found.best is None else found.designs[found.best[0]].mitigation
        done = "wrote" if mitigation != "none" else "no mitigation is recommended: did not write"
        progress(f"{done} {args.save_model}")
    if args.json:
        print_json(result)
    else:
        print(found)
        print(f"\n{found.inferences:,} inferences, {found.seconds:.0f} s")
    return 0 if found.best is not None else 1


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]
