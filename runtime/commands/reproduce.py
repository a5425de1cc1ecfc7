# SPDX-License-Identifier: Apache-2.0
"""`noisystore reproduce`: the paper's figures and tables, measured again."""

from __future__ import annotations

import argparse

from ...ortops.errors import InputError
from .common import positive, print_json, progress, require, seed, table
from .export import EXPORT_MODULES

LONG = True
HELP = "run the paper's experiments, and set the results beside its figures"
DESCRIPTION = """\
Run experiments of Emonds, Xi and Fröning (2024) again: sweeps of VGGs with noise at the output of
every layer. Writes all points (reproduce.sqlite), and for each experiment its figure (PNG, SVG),
its points (CSV) and a table paper | here | ratio (Markdown), which also names the networks that
cannot be fitted. Says beforehand how long it takes; what is measured is kept, so that the same
command goes on after an interruption."""
EXAMPLE = "noisystore reproduce table2 --data cifar10:DIR --weights weights --quick -o reproduction"

WHAT = ("fig3", "table2", "fig4", "table5", "fig5", "fig6", "table4", "fig7", "a2", "all")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "what",
        nargs="+",
        choices=WHAT,
        metavar="WHAT",
        help=f"{', '.join(WHAT)} (fig. 1 is `noisystore rram`)",
    )
    parser.add_argument("--data", required=True, metavar="D", help="cifar10:DIR")
    parser.add_argument(
        "--weights",
        required=True,
        metavar="DIR",
        help="folder with vgg-a*.safetensors, and vgg-b*, vgg-d*, vgg-e* where they are to be "
        "measured (`noisystore train`)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="the first 1,000 images, 2 trials, rates around the drop (default: all images, 5 "
        "trials, all rates, as in the paper)",
    )
    parser.add_argument(
        "--images", type=positive, metavar="N", help="the first N images (also beside --quick)"
    )
    parser.add_argument("--trials", type=positive, metavar="T", help="runs a rate")
    parser.add_argument(
        "--rates",
        choices=("drop", "paper"),
        help="drop: from 1/30 to 10 times the paper's midpoint, 4 a decade, and on until both ends "
        "of the drop are seen; paper: 1e-8 to 1e-1, of masks to 0.5",
    )
    parser.add_argument(
        "--networks", metavar="N[,N]", help="of a, b, d, e (default: all in --weights)"
    )
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        help="for the re-training of a2: on cuda all masks and rates of the paper, 10 epochs; on "
        "cpu, or with --quick, one of each, 2 epochs (default: cuda where there is one)",
    )
    parser.add_argument("--seed", type=seed, default=0, metavar="S", help="default: %(default)s")
    parser.add_argument("--threads", type=positive, metavar="N", help="default: ONNX Runtime's")
    parser.add_argument(
        "-o",
        "--output",
        default="noisystore-reproduce",
        metavar="DIR",
        help="folder of results, figures and models (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Measure, write, print the tables."""
    from dataclasses import replace

    from ..reproduce import reproduce
    from ..reproduce_report import HEAD, TITLES, cells, reasons
    from ..reproduce_settings import effort

    require(EXPORT_MODULES, "export")
    require(("matplotlib",), "report")
    device = args.device or _device()
    amount = effort(args.quick, device)
    given = {
        "images": args.images,
        "trials": args.trials,
        "whole_range": None if args.rates is None else args.rates == "paper",
    }
    amount = replace(amount, **{k: v for k, v in given.items() if v is not None})
    if args.quick:
        progress(
            f"--quick: {amount.images or amount.most_images:,} images at most, {amount.trials} "
            f"trials{'' if amount.whole_range else ', rates around the drop'}: intervals are wider "
            "than those of a full run"
        )
    args.kept = f"what is measured is in {args.output}; the same command goes on from there"
    rows = reproduce(
        "all" if "all" in args.what else list(dict.fromkeys(args.what)),
        args.data,
        args.weights,
        args.output,
        amount=amount,
        networks=_networks(args.networks),
        seed=args.seed,
        threads=args.threads,
        device=device,
        say=progress,
        progress=True,
    )
    if args.json:
        print_json([row.as_dict() for row in rows])
        return 0
    for name in dict.fromkeys(row.experiment for row in rows):
        own = [row for row in rows if row.experiment == name]
        print(f"{TITLES[name]}\n")
        print("\n".join([table(HEAD, [cells(row) for row in own]), *reasons(own)]), end="\n\n")
    print(f"figures, tables and points: {args.output}")
    return 0


def _networks(text: str | None) -> list[str] | None:
    if text is None:
        return None
    names = [name.strip().upper().removeprefix("VGG-") for name in text.split(",")]
    unknown = [name for name in names if name not in ("A", "B", "D", "E")]
    if unknown:
        raise InputError(f"--networks: expected some of a, b, d, e, got {text!r}")
    return names


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
