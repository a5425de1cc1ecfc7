# SPDX-License-Identifier: Apache-2.0
"""`noisystore inspect`: the sites of an annotated graph."""

from __future__ import annotations

import argparse
from typing import Any

from .common import add_custom_ops, print_json, rate, table

HELP = "list the noisy memory sites of an annotated ONNX graph"
DESCRIPTION = """\
List the sites of a graph: what each stores, in which format, how many bits of it one sample
writes, and how many of them flip at a bit error rate. Weights and biases are written once: their
bits and flips are the model's, shared by all samples."""
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
    add_custom_ops(parser)


def run(args: argparse.Namespace) -> int:
    """Read the sites and print them."""
    from ..hardening import read_hardening
    from ..session import NoisySession

    session = NoisySession(args.model, threads=1, custom_op_libraries=args.custom_ops)
    hardening = read_hardening(session.path)
    sites = [describe(site, args.rate) for site in session.sites]
    bits = sum(site["bits_per_sample"] for site in sites)
    parameters = sum(site["parameter_bits"] for site in sites)
    result = {
        "path": args.model,
        "sha256": session.model_sha256,
        "inputs": list(session.input_names),
        "input_shape": session.input_shape and list(session.input_shape),
        "batch": session.batch,
        "sites": sites,
        "bits_per_sample": bits,
        "parameter_bits": parameters,
        "rate": args.rate,
        "flips_per_sample": bits * args.rate,
        "parameter_flips": parameters * args.rate,
        "hardening": None if hardening is None else hardening.as_dict(),
    }
    if args.json:
        print_json(result)
    else:
        print(text(result))
        if hardening is not None:
            print(f"hardened: {hardening}")
    return 0


def describe(site: Any, bit_error_rate: float) -> dict[str, Any]:
    """One site as plain values, with its bits and expected flips.

    Those of a weight or bias are shared by all samples: they stand under names of their own.
    """
    bits = site.elements * site.noisy_bits
    once = site.rows_per_sample == 0
    return {
        "site": site.site,
        "name": site.name,
        "kind": site.kind,
        "op": site.op,
        "storage_format": site.storage_format,
        "element_type": site.element_type,
        "elements": site.elements,
        "bits_per_word": site.bits_per_word,
        "bits_per_sample": 0 if once else bits,
        "parameter_bits": bits if once else 0,
        "rows_per_sample": site.rows_per_sample,
        "flips_per_sample": 0.0 if once else bits * bit_error_rate,
        "parameter_flips": bits * bit_error_rate if once else 0.0,
    }


def text(result: dict[str, Any]) -> str:
    """Tables of the sites, for people: those of each sample, then weights and biases."""
    rate = f"{result['rate']:g}"
    sites = result["sites"]
    sampled = [s for s in sites if s["rows_per_sample"] != 0]
    once = [s for s in sites if s["rows_per_sample"] == 0]
    lines = []
    if sampled:
        lines.append(_table(sampled, "bits_per_sample", "flips_per_sample", rate))
    if any(s["rows_per_sample"] == -1 for s in sampled):
        lines.append("* no batch axis in front: batches stay whole, and no sample is skipped")
    if once:
        lines.append("weights and biases, written once:")
        lines.append(_table(once, "parameter_bits", "parameter_flips", rate))
    lines.append(
        f"{len(sites)} sites, {result['bits_per_sample']:,} bits per sample, "
        f"{result['flips_per_sample']:.4g} flips per sample expected at {rate}"
    )
    if once:
        lines.append(
            f"{result['parameter_bits']:,} bits of weights and biases, "
            f"{result['parameter_flips']:.4g} flips expected at {rate}, shared by all samples"
        )
    if any(s["elements"] == 0 for s in sites):
        lines.append("sites with 0 elements have a size that the file does not fix")
    return "\n".join(lines)


def _table(sites: list[dict[str, Any]], bits: str, flips: str, rate: str) -> str:
    head = ["site", "name", "kind", "op", "format", "elements", "bits", "rows", f"flips at {rate}"]
    rows = [
        [
            str(s["site"]),
            s["name"],
            s["kind"],
            s["op"],
            _format(s),
            f"{s['elements']:,}",
            f"{s[bits]:,}",
            f"{s['rows_per_sample']}{'*' if s['rows_per_sample'] == -1 else ''}",
            f"{s[flips]:.4g}",
        ]
        for s in sites
    ]
    return table(head, rows)


def _format(site: dict[str, Any]) -> str:
    native = site["storage_format"] == "native" and site["element_type"]
    return f"native ({site['element_type']})" if native else str(site["storage_format"])
