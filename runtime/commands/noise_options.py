# SPDX-License-Identifier: Apache-2.0
"""Options of the commands that run a network with noise."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ...ortops.bit_masks import mask_name
from ...ortops.errors import InputError
from .common import add_board, add_custom_ops, positive, seed


def add_model_and_data(parser: argparse.ArgumentParser) -> None:
    """Declare the model and the data set."""
    parser.add_argument(
        "model",
        metavar="MODEL.onnx",
        help="annotated graph (`noisystore export`, `annotate`, `quantize`)",
    )
    parser.add_argument(
        "--data",
        required=True,
        metavar="D",
        help="cifar10:DIR, npz:FILE, digits, images:DIR or raw:DIR",
    )


def add_noise_options(parser: argparse.ArgumentParser) -> None:
    """Declare which sites and bits are noisy."""
    parser.add_argument(
        "--noisy",
        action="append",
        metavar="SITES",
        help="sites that have the rates: activation, weight, bias, input, names, patterns or "
        "numbers, separated by commas; may be repeated (default: all without a fixed rate)",
    )
    parser.add_argument(
        "--fixed-rate",
        type=fixed_rate,
        action="append",
        default=[],
        metavar="SITES=R",
        help="rate, or P01/P10, that other sites keep throughout, such as weight=1e-6; may be "
        "repeated (default: 0)",
    )
    parser.add_argument(
        "--mask",
        type=parse_mask,
        default="all",
        metavar="M",
        help="noisy bits of a word: all, sign, exponent, mantissa, msb:9-31 (0 is the top bit), "
        "exponent:3- (the 3rd exponent bit and all below) or 0x7f800000; a comma list has one a "
        "site (default: %(default)s)",
    )


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Declare the seed, and how ONNX Runtime runs the model."""
    parser.add_argument("--seed", type=seed, default=0, metavar="S", help="default: %(default)s")
    parser.add_argument(
        "--batch-size",
        type=positive,
        metavar="N",
        help="images a run (default: the board's, or 100)",
    )
    parser.add_argument(
        "--threads",
        type=positive,
        metavar="N",
        help="default: the board's, or ONNX Runtime's choice",
    )
    parser.add_argument(
        "--provider",
        metavar="P",
        help="execution provider: cpu, cuda, or its full name, also of a plugin's package "
        "(default: the board's, or cpu)",
    )
    add_board(parser)
    add_custom_ops(parser)


def fixed_rate(text: str) -> tuple[str, tuple[float, float]]:
    """Turn SITES=R, or SITES=P01/P10, into the sites and their rates.

    Raises
    ------
    argparse.ArgumentTypeError
        Another form, or a rate outside [0, 1].
    """
    from ..rates import parse_rates

    sites, _, rate = text.rpartition("=")
    try:
        pairs = parse_rates(rate)
    except InputError:
        pairs = []
    if not sites or len(pairs) != 1:
        raise argparse.ArgumentTypeError(
            "expected SITES=R or SITES=P01/P10 with rates from 0 to 1, such as weight=1e-6, "
            f"got {text!r}"
        )
    return sites, pairs[0]


def parse_mask(text: str) -> str | list[str]:
    """Turn a mask argument into a name, or one a site, in their one spelling.

    Raises
    ------
    argparse.ArgumentTypeError
        No name of a mask.
    """
    try:
        names = [mask_name(name) for name in text.split(",")]
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("bit mask: ")) from None
    return names[0] if len(names) == 1 else names


def fixed_rates(given: list[tuple[str, tuple[float, float]]]) -> dict[str, tuple[float, float]]:
    """Return the rates of all `--fixed-rate` as a mapping.

    Raises
    ------
    InputError
        The same sites stand there twice.
    """
    rates = dict(given)
    if len(rates) < len(given):
        raise InputError("--fixed-rate: expected each sites once, got some twice")
    return rates


def joined(names: Sequence[str] | None) -> str | None:
    """Return the sites of a repeated option as one list of names; None: it was not given."""
    return None if names is None else ",".join(names)
