# SPDX-License-Identifier: Apache-2.0
"""What a person should know of a measurement before it begins, a line each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..ortops import cuda_architectures
from ..ortops.bit_masks import ALL_BITS
from .dataset import Dataset
from .noisy_sites import NoisySites
from .ort_session import CUDA
from .session import NoisySession
from .sites import Site, site_masks


def session_notes(session: NoisySession, data: Dataset) -> list[str]:
    """Return what is unusual about how a session runs a data set."""
    return scaled_unasked(session, data) + without_kernels(session.provider)


def scaled_unasked(session: NoisySession, data: Dataset) -> list[str]:
    """Return a note where 8-bit images are scaled without a word about it in the model."""
    unasked = session.input_dtype != np.uint8 and not session.normalization
    if data.images.dtype != np.uint8 or not unasked:
        return []
    return ["note: images as x / 255: the model names no normalization"]


def without_kernels(provider: str) -> list[str]:
    """Return a note where a CUDA device has to leave the sites to the CPU."""
    if provider not in CUDA or cuda_architectures():
        return []
    return [
        "note: this NoisyStore library was built without CUDA (no nvcc was found): its sites run "
        "on the CPU"
    ]


def too_wide(
    label: str, masks: int | list[int] | None, sites: Sequence[Site], chosen: NoisySites
) -> list[str]:
    """Return a warning where a mask has bits beyond the words of all noisy sites.

    Label and masks are those of `swept_masks`.
    """
    each = site_masks(masks, sites)
    noisy = [(site.noisy_bits, int(each[site.site])) for site in sites if chosen.noisy[site.site]]
    if not noisy or any(mask == ALL_BITS or not mask >> bits for bits, mask in noisy):
        return []
    bits, mask = max(noisy)
    word = (1 << bits) - 1
    kept = "all of them" if mask & word == word else f"{mask & word:#x}"
    return [
        f"warning: mask {label}: words of the noisy sites have at most {bits} bits: it means {kept}"
    ]
