# SPDX-License-Identifier: Apache-2.0
"""The operator alone against its peers, at equal effective bit flip rates.

float32, in place, one thread, one process, measurements in turn, medians.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
import time
from typing import Any

import torch
from peer_operators import (
    SAMPLE,
    WORD_BITS,
    NoisyStorePrepared,
    Operator,
    Unavailable,
    available,
    rounded,
    versions,
)

from noisystore.runtime import bench, bench_report
from noisystore.runtime.commands.common import table

RATES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1)
SIZES = (SAMPLE, 64 * SAMPLE)
QUICK_RATES = (1e-5, 1e-3, 0.1)
QUICK_SIZES = (SAMPLE,)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rates and rounds, one size")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    args = parser.parse_args()
    # MRFI warns in every call of matched rates above 3e-3, which would count as its time.
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    torch.manual_seed(1)
    operators, skipped = available()
    result: dict[str, Any] = {
        "benchmark": "peers",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": bench_report.machine(),
        "versions": versions(),
        "skipped": skipped,
        "rows": [],
    }
    rates = QUICK_RATES if args.quick else RATES
    effective = {
        (type(operator), rate): effective_rate(operator, rate, 0.02 if args.quick else 1.0)
        for rate in rates
        for operator in operators
    }
    for elements in QUICK_SIZES if args.quick else SIZES:
        per_flip: dict[str, float] = {}
        for rate in rates:
            print(f"{elements} elements, rate {rate:g} ...", file=sys.stderr)
            rows = measure(operators, elements, rate, per_flip, args.quick)
            for row, operator in zip(rows, operators, strict=True):
                row |= effective[type(operator), rate]
            result["rows"] += rows
    result["machine"]["load_after"] = bench_report.machine()["load"]
    print(json.dumps(rounded(result), indent=1) if args.json else text(result))


def measure(
    operators: list[Operator],
    elements: int,
    rate: float,
    per_flip: dict[str, float],
    quick: bool,
) -> list[dict[str, Any]]:
    """Times of one call of each at one size and rate; `per_flip` carries what extrapolates."""
    flips = elements * WORD_BITS * rate
    work, notes = {}, {}
    for operator in operators:
        try:
            asked = operator.asked(rate)
        except Unavailable as reason:
            notes[operator.name] = str(reason)
            continue
        if flips > operator.most_flips:
            notes[operator.name] = "extrapolated"
            continue
        values = torch.empty(elements // SAMPLE, SAMPLE).uniform_(-0.9, 0.9)
        work[operator.name] = operator.calls(values, asked, 32 if elements == SAMPLE else 4)
    rounds = 3 if quick else 31 if elements == SAMPLE else 11
    medians = bench.interleaved(work, rounds=rounds, seconds=1e-3 if quick else 4e-3)
    rows = []
    for operator in operators:
        name = operator.name
        seconds = medians.get(name)
        if seconds is not None:
            per_flip[name] = seconds / flips
        elif notes[name] == "extrapolated" and name in per_flip:
            seconds = per_flip[name] * flips
        own = medians[NoisyStorePrepared.name]
        rows.append(
            {
                "operator": name,
                "elements": elements,
                "rate": rate,
                "us": None if seconds is None else seconds * 1e6,
                "ns_per_element": None if seconds is None else seconds * 1e9 / elements,
                "ns_per_flip": None if seconds is None else seconds * 1e9 / flips,
                "ratio": None if seconds is None else seconds / own,
                "note": notes.get(name, ""),
            }
        )
    return rows


def effective_rate(operator: Operator, rate: float, seconds: float) -> dict[str, Any]:
    """Effective over nominal rate: expected, counted, and its standard error."""
    try:
        asked = operator.asked(rate)
    except Unavailable:
        return {"asked": None, "effective_expected": None, "effective": None, "error": None}
    flips = bits = 0
    if SAMPLE * WORD_BITS * rate <= operator.most_flips:
        end = time.perf_counter() + seconds
        while bits == 0 or (time.perf_counter() < end and flips < 1e6):
            values = torch.empty(1, SAMPLE).uniform_(-0.9, 0.9)
            before = values.clone()
            operator.flip(values, asked)
            flips += operator.count(before, values)
            bits += SAMPLE * WORD_BITS
    return {
        "asked": asked,
        "effective_expected": operator.expected(asked) / rate,
        "effective": flips / bits / rate if bits else None,
        "error": math.sqrt(bits * rate) / bits / rate if bits else None,
    }


def text(result: dict[str, Any]) -> str:
    """The figures as tables."""
    machine = result["machine"]
    lines = [
        f"{machine['cpu']}, {machine['instruction_set']}, load {machine['load']:.1f} before and "
        f"{machine['load_after']:.1f} after; "
        + ", ".join(f"{name} {version}" for name, version in result["versions"].items()),
        *(f"skipped: {line}" for line in result["skipped"]),
    ]
    for elements in sorted({row["elements"] for row in result["rows"]}):
        lines += ["", f"{elements} float32 elements, in place, one thread"]
        rows = [row for row in result["rows"] if row["elements"] == elements]
        lines.append(
            table(
                ["rate", "operator", "ns/element", "ns/flip", "effective/nominal", "x NoisyStore"],
                [cells(row) for row in rows],
            )
        )
    if any(row["note"] == "extrapolated" for row in result["rows"]):
        lines += ["", "* extrapolated from the operator's cost a flip at the largest rate run"]
    return "\n".join(lines)


def cells(row: dict[str, Any]) -> list[str]:
    start = [f"{row['rate']:g}", row["operator"]]
    if row["us"] is None:
        return [*start, "-", "-", "-", row["note"] or "-"]
    star = "*" if row["note"] == "extrapolated" else ""
    counted = (
        f"{row['effective_expected']:.3f} by construction"
        if row["effective"] is None
        else f"{row['effective']:.3f} +- {row['error']:.3f}"
    )
    return [
        *start,
        number(row["ns_per_element"]) + star,
        number(row["ns_per_flip"]) + star,
        counted,
        number(row["ratio"]) + star,
    ]


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    main()
