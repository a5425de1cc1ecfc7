# SPDX-License-Identifier: Apache-2.0
"""Tables of a protection, for people."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .protection_result import Design, Means, Protection
from .rram_writes import Range
from .texts import printable

Table = Callable[[Sequence[str], Sequence[Sequence[str]]], str]

_MEANS = {
    "none": "-",
    "reliable": "in reliable memory (SRAM)",
    "rewrite": "write, check, correct",
    "secded": "SECDED (72, 64)",
}


def report(found: Protection, table: Table) -> str:
    """Return what was found: designs, what their means cost, and the bits of the best.

    Parameters
    ----------
    found : Protection
    table : callable
        Lays out a head and rows.
    """
    p01, p10 = found.rate
    rate = f"{p01:g}" if p01 == p10 else f"{p01:g}/{p10:g}"
    parts = [
        f"{printable(found.model)} at bit error rate {rate}, target {found.target}: "
        f"{found.stored_bits:,} noisy bits a sample",
        table(
            [
                "mitigation",
                "alone",
                "protected bits",
                "of all",
                "accuracy",
                "95% interval",
                "target",
                "holds",
            ],
            [_design_row(found, design) for design in found.designs],
        ),
        table(
            [
                "mitigation",
                "protected bits",
                "means",
                "accuracy",
                "holds",
                "area (F2)",
                "energy (nJ)",
                "time (us)",
                "extra bits",
            ],
            [
                _plain_row(found),
                *(
                    _means_row(found, i, j)
                    for i, design in enumerate(found.designs)
                    for j in range(len(design.means))
                ),
            ],
        ),
    ]
    failed = [
        f"{design.mitigation}: {why}" for design in found.designs for why in design.failed.values()
    ]
    if failed:
        parts.append("\n".join(failed))
    if found.best is None:
        parts.append("no design holds the target")
    else:
        parts.append(_best(found, table))
    if found.compared:
        parts.append(_compared(found, table))
    return "\n\n".join(parts)


def bits_of_mask(mask: int, width: int) -> str:
    """Return the bits of a mask counted from the top, such as 1-6,8.

    Parameters
    ----------
    mask : int
    width : int
        Bits of the word.
    """
    places = [place for place in range(width) if mask >> (width - 1 - place) & 1]
    runs: list[list[int]] = []
    for place in places:
        if runs and runs[-1][1] == place - 1:
            runs[-1][1] = place
        else:
            runs.append([place, place])
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs) or "-"


def _design_row(found: Protection, design: Design) -> list[str]:
    alone, (low, high) = design.unprotected[0], design.interval
    return [
        design.mitigation,
        f"{alone:.4f}",
        f"{design.bits:,}",
        f"{design.bits / max(found.stored_bits, 1):.2%}",
        f"{design.accuracy:.4f}",
        f"[{low:.4f}, {high:.4f}]",
        f"{design.target:.4f}",
        "yes" if design.meets else "no",
    ]


def _plain_row(found: Protection) -> list[str]:
    plain = found.plain
    costs = [_range(plain.area_f2), _range(plain.energy_pj, 1e3), _range(plain.time_ns, 1e3)]
    return ["none", "0", "-", "-", "-", *costs, "0"]


def _means_row(found: Protection, i: int, j: int) -> list[str]:
    design, means = found.designs[i], found.designs[i].means[j]
    spent = means.cost
    name = _MEANS[spent.means]
    if spent.rewrites:
        name += f" (up to {spent.rewrites})"
    return [
        design.mitigation + (" *" if (i, j) == found.best else ""),
        f"{design.bits:,}",
        name,
        f"{means.accuracy:.4f}",
        "yes" if means.meets else "no",
        _range(spent.area_f2),
        _range(spent.energy_pj, 1e3),
        _range(spent.time_ns, 1e3),
        _extra(means),
    ]


def _extra(means: Means) -> str:
    spent = means.cost
    if spent.reliable_bits:
        return f"{spent.reliable_bits:,} reliable"
    return f"{spent.check_bits:,} check" if spent.check_bits else "0"


def _range(values: Range, unit: float = 1.0) -> str:
    low, high = (f"{value / unit:.4g}" for value in values)
    return low if low == high else f"{low} to {high}"


def _best(found: Protection, table: Table) -> str:
    assert found.best is not None
    design = found.designs[found.best[0]]
    head = f"* least {found.goal}"
    if not design.bits:
        return f"{head}: no bit has to be protected"
    rows = [
        [
            str(site.site),
            printable(site.name),
            f"{site.elements:,}",
            bits_of_mask(design.masks[site.site], site.noisy_bits),
            f"{site.elements * design.masks[site.site].bit_count():,}",
        ]
        for site in found.sites
        if design.masks[site.site]
    ]
    return f"{head}; bit 0 is the top bit:\n" + table(
        ["site", "name", "words", "protected", "bits"], rows
    )


def _compared(found: Protection, table: Table) -> str:
    rows = []
    for compared in found.compared:
        row = [f"{compared.bits:,}", f"{compared.accuracy:.4f}"]
        for accuracy, (gain, (low, high)) in (
            (compared.equal, compared.gain_over_equal),
            (compared.by_layer, compared.gain_over_by_layer),
        ):
            row += [f"{accuracy:.4f}", f"{gain:+.4f} [{low:+.4f}, {high:+.4f}]"]
        rows.append(row)
    return "at equal bits, on the same images and flips:\n" + table(
        ["bits", "chosen", "all sites equally", "gain", "greedy by layer", "gain"], rows
    )
