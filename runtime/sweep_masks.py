# SPDX-License-Identifier: Apache-2.0
"""The bits of a mask argument at every site, for a choice of noisy sites."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..ortops.bit_masks import ALL_BITS, mask_name
from .noisy_sites import NoisySites
from .sites import Site, named_mask, site_masks


def swept_masks(
    bit_mask: Any, sites: Sequence[Site], chosen: NoisySites
) -> tuple[str, int | list[int] | None]:
    """Return label and bits of a mask, whose name only the noisy sites' formats must know.

    Parameters and errors are those of `named_mask`, and so is what it returns.
    """
    if not isinstance(bit_mask, str) or chosen.noisy.all():
        return named_mask(bit_mask, sites)
    each = [bit_mask if noisy else "all" for noisy in chosen.noisy]
    return mask_name(bit_mask), named_mask(each, sites)[1]


def too_wide(
    label: str, masks: int | list[int] | None, sites: Sequence[Site], chosen: NoisySites
) -> str:
    """Return a warning where a mask has bits beyond the words of all noisy sites; empty: none.

    Label and masks are those of `swept_masks`.
    """
    each = site_masks(masks, sites)
    noisy = [(site.noisy_bits, int(each[site.site])) for site in sites if chosen.noisy[site.site]]
    if not noisy or any(mask == ALL_BITS or not mask >> bits for bits, mask in noisy):
        return ""
    bits, mask = max(noisy)
    word = (1 << bits) - 1
    kept = "all of them" if mask & word == word else f"{mask & word:#x}"
    return (
        f"warning: mask {label}: words of the noisy sites have at most {bits} bits: it means {kept}"
    )
