# SPDX-License-Identifier: Apache-2.0
"""`noisystore verify`: whether a board gives the bits and the logits that its bundle expects."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .common import print_json, progress, table

if TYPE_CHECKING:
    from ..verify import Verdict

HELP = "check on a board that a bundle gives the expected bits"
DESCRIPTION = """\
Run a bundle's model on this machine and hold it against the answers that were made with it: the
bits of every site, in the network and on known words, clean logits, noisy predictions, accuracy.
Prints time and memory an image as well. Exit status 0: all as expected, 1: a difference."""
EXAMPLE = "noisystore verify bundle.zip"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("bundle", metavar="BUNDLE|DIR", help="the archive, or its unpacked folder")
    parser.add_argument(
        "--board",
        metavar="NAME|FILE",
        help="settings of another board: execution providers, threads (default: the bundle's)",
    )


def run(args: argparse.Namespace) -> int:
    """Verify, print, and return 0 where all is as expected, else 1."""
    from ..verify import verify

    verdict = verify(args.bundle, args.board, progress=progress)
    if args.json:
        print_json(verdict.as_dict())
    else:
        print(text(verdict))
    return 0 if verdict.equal else 1


def text(verdict: Verdict) -> str:
    """Tables of what was found, for people."""
    rows = [
        [
            str(site.site),
            site.name,
            site.kind,
            site.storage_format,
            f"{site.flips:,}",
            f"{site.words:,}",
            "equal" if site.equal else site.difference,
        ]
        for site in verdict.sites
    ]
    good, all_sites = sum(site.equal for site in verdict.sites), len(verdict.sites)
    lines = [
        table(["site", "name", "kind", "format", "flips", "words", "bits"], rows),
        "",
        f"bits: {good} of {all_sites} sites equal",
        f"logits: largest difference {verdict.logits_difference:.3g} (allowed: "
        f"{verdict.tolerance:.3g})",
    ]
    if verdict.accuracy is not None:
        lines.append(
            f"accuracy: clean {verdict.accuracy:.4f} (expected {verdict.expected_accuracy:.4f}), "
            f"at {verdict.bit_error_rate:g} {verdict.noisy_accuracy:.4f} (expected "
            f"{verdict.expected_noisy_accuracy:.4f})"
        )
    if verdict.agreement is not None:
        nan = f", {verdict.left_out} left out: NaN" if verdict.left_out else ""
        lines.append(
            f"noisy predictions: {verdict.agreement:.2%} of {verdict.images - verdict.left_out} "
            f"equal (at least 99.5%, or all but one, expected{nan})"
        )
    lines.append(
        f"{verdict.milliseconds_per_image:.3g} ms an image ({verdict.provider}, batch "
        f"{verdict.batch_size}), {_mebibytes(verdict.memory_per_image)} an image, "
        f"{_mebibytes(verdict.peak_memory)} in all"
    )
    lines.append(
        f"{verdict.board}: all as expected"
        if verdict.equal
        else f"{verdict.board}: NOT as expected"
    )
    return "\n".join(lines)


def _mebibytes(count: float | None) -> str:
    return "memory not known" if count is None else f"{count / (1 << 20):.3g} MiB"
