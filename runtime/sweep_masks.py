# SPDX-License-Identifier: Apache-2.0
"""The bits of a mask argument at every site, for a choice of noisy sites."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..ortops.bit_masks import mask_name
from .noisy_sites import NoisySites
from .sites import Site, named_mask


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
