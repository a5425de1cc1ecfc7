# SPDX-License-Identifier: Apache-2.0
"""Names of an annotated graph's noise inputs and metadata, and the arrays that are fed to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .bit_masks import ALL_BITS, mask_value
from .errors import InputError

#: Version of the noise model (noise-model page, NoisyStore.md) that this package implements.
NOISE_MODEL = "1"

#: Operator domain and name.
DOMAIN, OPERATOR, OPSET_VERSION = "noisystore", "NoisyStore", 1

#: Graph inputs shared by every site, in the operator's input order (inputs 1 to 4).
BIT_ERROR_RATE = "noise.bit_error_rate"
BIT_MASK = "noise.bit_mask"
SEED = "noise.seed"
SAMPLE_INDEX = "noise.sample_index"
NOISE_INPUTS = (BIT_ERROR_RATE, BIT_MASK, SEED, SAMPLE_INDEX)

#: Keys of an annotated graph's ``metadata_props``.
SITES_KEY = "noisystore.sites"
NOISE_MODEL_KEY = "noisystore.noise_model"
NORMALIZATION_KEY = "noisystore.normalization"
PREPROCESS_KEY = "noisystore.preprocess"


def rate_table(bit_error_rate: Any, sites: int) -> npt.NDArray[np.float64]:
    """Turn a rate argument into the array that input 1 takes.

    Parameters
    ----------
    bit_error_rate : float, (p01, p10), or array_like [sites, 2]
        Probabilities that a stored 0 reads as 1 (p01) and a stored 1 as 0 (p10).
        A length-2 sequence always means (p01, p10).
    sites : int
        Number of sites of the graph.

    Returns
    -------
    numpy.ndarray of float64, shape [sites, 2]

    Raises
    ------
    InputError
        Another shape, or a rate that is NaN or outside [0, 1].
    """
    try:
        rates = np.asarray(bit_error_rate, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(
            f"bit error rate: expected a number, (p01, p10) or an array [{sites}, 2], "
            f"got {bit_error_rate!r}"
        ) from None
    if rates.shape not in {(), (2,), (sites, 2)}:
        raise InputError(
            f"bit error rate: expected a number, (p01, p10) or an array of shape [{sites}, 2] "
            f"(one row a site), got shape {list(rates.shape)}"
        )
    if not np.all((rates >= 0) & (rates <= 1)):
        bad = rates[~((rates >= 0) & (rates <= 1))].flat[0]
        raise InputError(f"bit error rate: expected values in [0, 1], got {bad}")
    return np.ascontiguousarray(np.broadcast_to(rates, (sites, 2)))


def mask_table(
    bit_mask: Any, sites: int, formats: Sequence[str | None] | None = None
) -> npt.NDArray[np.uint64]:
    """Turn a bit-mask argument into the array that input 2 takes.

    Parameters
    ----------
    bit_mask : int, str, array_like of int or str [sites], or None
        Set bits may flip; only the low word_bits count. A name (`noisystore.ortops.bit_mask`)
        means the bits that each site's own format gives it. None: every bit.
    sites : int
        Number of sites of the graph.
    formats : sequence of str or None [sites], optional
        Word format of each site, for names; None: not known, ``all`` and ``0x...`` will do.

    Returns
    -------
    numpy.ndarray of uint64, shape [sites]

    Raises
    ------
    InputError
        Another length, a mask that does not fit 64 bits, or a name that a site's format lacks.
    """
    if bit_mask is None:
        bit_mask = ALL_BITS
    if np.ndim(bit_mask) > 1:
        raise InputError(
            f"bit mask: expected one integer or name, or {sites} (one a site), got an array "
            f"of {np.ndim(bit_mask)} axes"
        )
    values = [bit_mask] * sites if np.ndim(bit_mask) == 0 else list(bit_mask)
    if len(values) != sites:
        raise InputError(
            f"bit mask: expected one integer or name, or {sites} (one a site), got {len(values)}"
        )
    known = [None] * sites if formats is None else formats
    masks = [
        mask_value(value, word_format, site)
        for site, (value, word_format) in enumerate(zip(values, known, strict=True))
    ]
    return np.array(masks, dtype=np.uint64)


def noise_of_site(
    bit_error_rate: Any, bit_mask: Any, site: int, word_format: str | None = None
) -> tuple[float, float, int]:
    """Pick one site's noise out of rate and mask arguments.

    Parameters
    ----------
    bit_error_rate : float, (p01, p10), or array_like [S, 2]
    bit_mask : int, str, array_like of int or str [S], or None
    site : int
    word_format : str, optional
        Of the site's words, for a mask's name.

    Returns
    -------
    (p01, p10, mask)

    Raises
    ------
    InputError
        A bad value, or a table without a row for the site.
    """
    if not isinstance(site, (int, np.integer)) or not 0 <= site < 1 << 32:
        raise InputError(f"site: expected an integer from 0 to 2^32-1, got {site!r}")
    if isinstance(bit_error_rate, float) and 0 <= bit_error_rate <= 1:  # the usual case, quickly
        p01 = p10 = bit_error_rate
    else:
        is_table = np.ndim(bit_error_rate) == 2
        table = rate_table(bit_error_rate, len(bit_error_rate) if is_table else 1)
        if is_table and site >= len(table):
            raise InputError(f"site: {site} is out of range, bit_error_rate has {len(table)} rows")
        p01, p10 = map(float, table[site if is_table else 0])
    if bit_mask is None:
        return p01, p10, ALL_BITS
    if np.ndim(bit_mask) == 1:
        rows = len(bit_mask)
        if site >= rows:
            raise InputError(f"site: {site} is out of range, bit_mask has {rows} elements")
        if np.ndim(bit_error_rate) == 2 and len(bit_error_rate) != rows:
            raise InputError(
                f"bit_mask: expected {len(bit_error_rate)} elements, one a row of bit_error_rate, "
                f"got {rows}"
            )
        bit_mask = bit_mask[site]
    return p01, p10, mask_value(bit_mask, word_format, site)


def seed_array(seed: int) -> npt.NDArray[np.int64]:
    """Turn a seed into the array that input 3 takes.

    Parameters
    ----------
    seed : int
        64 bits, signed or not.

    Returns
    -------
    numpy.ndarray of int64, shape [1]

    Raises
    ------
    InputError
        No integer, or one of more than 64 bits.
    """
    if not isinstance(seed, (int, np.integer)) or not -(1 << 63) <= int(seed) < (1 << 64):
        raise InputError(f"seed: expected an integer of 64 bits, got {seed!r}")
    return np.array([int(seed) & ALL_BITS], dtype=np.uint64).view(np.int64)


def sample_index_array(sample_index: Any) -> npt.NDArray[np.int64]:
    """Turn sample indices into the array that input 4 takes.

    Parameters
    ----------
    sample_index : int or array_like of int [N]
        Data-set index of a batch's first sample, or of each.

    Returns
    -------
    numpy.ndarray of int64, shape [1] or [N]

    Raises
    ------
    InputError
        No integers, or more than one axis.
    """
    values = np.asarray(sample_index)
    if values.shape == (0,):  # of a batch without samples
        return np.zeros(0, np.int64)
    if values.ndim > 1 or not np.issubdtype(values.dtype, np.integer):
        raise InputError(
            "sample index: expected one integer or a one-dimensional array of them, "
            f"got {values.dtype} of shape {list(values.shape)}"
        )
    return np.ascontiguousarray(values.reshape(-1).astype(np.int64))
