# SPDX-License-Identifier: Apache-2.0
"""`noisystore inspect`: the sites of an annotated graph."""

from __future__ import annotations

import argparse
from typing import Any

from .common import print_json, rate, table

HELP = "list the noisy memory sites of an annotated ONNX graph"
DESCRIPTION = """\
List the sites of a graph: what each stores, in which format, how many bits of it one sample
writes, and how many of them flip at a bit error rate."""
EXAMPLE = "noisystore inspect vgg-a.onnx --rate 1e-5"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", metavar="MODEL.onnx")
    parser.add_argument(
        "--rate",
        type=rate,
        default=1e-6,
        metavar="R",
        help="bit error rate of the expected flips (default: %(default)g)",
    )


def run(args: argparse.Namespace) -> int:
    """Read the sites and print them."""
    from ..session import NoisySession

    session = NoisySession(args.model, threads=1)
    sites = [describe(site, args.rate) for site in session.sites]
    bits = sum(site["bits_per_sample"] for site in sites)
    result = {
        "path": args.model,
        "sha256": session.model_sha256,
        "inputs": list(session.input_names),
        "input_shape": session.input_shape and list(session.input_shape),
        "batch": session.batch,
        "sites": sites,
        "bits_per_sample": bits,
        "rate": args.rate,
        "flips_per_sample": bits * args.rate,
    }
    if args.json:
        print_json(result)
    else:
        print(text(result))
    return 0


def describe(site: Any, bit_error_rate: float) -> dict[str, Any]:
    """One site as plain values, with bits and expected flips of one sample."""
    bits = site.elements * site.noisy_bits
    return {
        "site": site.site,
        "name": site.name,
        "kind": site.kind,
        "op": site.op,
        "storage_format": site.storage_format,
        "elements": site.elements,
        "bits_per_word": site.bits_per_word,
        "bits_per_sample": bits,
        "rows_per_sample": site.rows_per_sample,
        "flips_per_sample": bits * bit_error_rate,
    }


def text(result: dict[str, Any]) -> str:
    """Table of the sites, for people."""
    head = [
        "site",
        "name",
        "kind",
        "op",
        "format",
        "elements",
        "bits",
        "rows",
        f"flips at {result['rate']:g}",
    ]
    rows = [
        [
            str(s["site"]),
            s["name"],
            s["kind"],
            s["op"],
            s["storage_format"],
            f"{s['elements']:,}",
            f"{s['bits_per_sample']:,}",
            f"{s['rows_per_sample']}{'*' if s['rows_per_sample'] == -1 else ''}",
            f"{s['flips_per_sample']:.4g}",
        ]
        for s in result["sites"]
    ]
    lines = [table(head, rows)]
    if any(s["rows_per_sample"] == -1 for s in result["sites"]):
        lines.append("* no batch axis in front: batches stay whole, and no sample is skipped")
    lines.append(
        f"{len(rows)} sites, {result['bits_per_sample']:,} bits per sample, "
        f"{result['flips_per_sample']:.4g} flips per sample expected at {result['rate']:g}"
    )
    if any(s["elements"] == 0 for s in result["sites"]):
        lines.append("sites with 0 elements have a size that the file does not fix")
    return "\n".join(lines)
