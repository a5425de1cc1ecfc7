# SPDX-License-Identifier: Apache-2.0
"""What the metadata of an annotated model says: its sites and its normalisation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..ortops import noise_inputs
from ..ortops.errors import InputError


@dataclass(frozen=True)
class Site:
    """One NoisyStore node, as the model's metadata describes it.

    Attributes
    ----------
    site : int
        Number of the site, its row in the tables of rates and masks.
    name : str
        Module path or tensor name.
    kind : str
        ``activation``, ``layer``, ``weight``, ``bias`` or ``input``.
    storage_format : str
        How an element is held in the memory.
    elements : int
        Elements of one sample (of the whole tensor where rows_per_sample is 0); 0: unknown.
    bits_per_word : int
        Bits of one stored element.
    rows_per_sample : int
        Rows of axis 0 that make one sample; 0: the whole tensor is sample 0;
        -1: the tensor has no batch axis in front.
    op : str
        What computed the tensor, for people to read.
    """

    site: int
    name: str
    kind: str
    storage_format: str
    elements: int
    bits_per_word: int
    rows_per_sample: int
    op: str = ""


def read_sites(metadata: Mapping[str, str], path: Path) -> list[Site]:
    """Return the sites that a model's metadata lists, ordered by number.

    Raises
    ------
    InputError
        There are none, they are of another noise model, or the list is damaged.
    """
    if noise_inputs.SITES_KEY not in metadata:
        raise InputError(
            f"model {path}: expected sites, got a model without any: "
            "add them with `noisystore annotate` or `noisystore export`"
        )
    version = metadata.get(noise_inputs.NOISE_MODEL_KEY)
    if version != noise_inputs.NOISE_MODEL:
        raise InputError(
            f"model {path}: expected noise model {noise_inputs.NOISE_MODEL}, got "
            f"{version or 'none'}: annotate it again with this version of noisystore"
        )
    try:
        records = json.loads(metadata[noise_inputs.SITES_KEY])
        sites = sorted((_site(record) for record in records), key=lambda site: site.site)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"model {path}: damaged list of sites ({one_line(error)})") from None
    if not sites:
        raise InputError(f"model {path}: expected at least one site, got an empty list")
    if [site.site for site in sites] != list(range(len(sites))):
        raise InputError(
            f"model {path}: expected sites 0 to {len(sites) - 1}, "
            f"got {[site.site for site in sites]}"
        )
    return sites


def _site(record: Mapping[str, Any]) -> Site:
    return Site(
        site=int(record["site"]),
        name=str(record["name"]),
        kind=str(record["kind"]),
        storage_format=str(record["storage_format"]),
        elements=int(record["elements"] or 0),
        bits_per_word=int(record["bits_per_word"]),
        rows_per_sample=int(record["rows_per_sample"]),
        op=str(record.get("op") or ""),
    )


def read_normalization(metadata: Mapping[str, str], path: Path) -> dict[str, list[float]] | None:
    """Return the normalisation ``{"mean": [...], "std": [...]}`` that a model names, or None.

    Raises
    ------
    InputError
        It is there, but not of that form.
    """
    text = metadata.get(noise_inputs.NORMALIZATION_KEY)
    if not text:
        return None
    try:
        value = json.loads(text)
        mean, std = [float(v) for v in value["mean"]], [float(v) for v in value["std"]]
        good = len(mean) == len(std) > 0 and np.isfinite(mean).all() and np.isfinite(std).all()
    except (ValueError, TypeError, KeyError):
        good = False
    if not good or min(std) <= 0:
        raise InputError(
            f'model {path}: {noise_inputs.NORMALIZATION_KEY}: expected {{"mean": [...], '
            f'"std": [...]}} of equal length with std > 0, got {text[:80]}'
        )
    return {"mean": mean, "std": std}


def one_line(error: BaseException) -> str:
    """Return the message of an exception as one line of at most 300 characters."""
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else text[:297] + "..."
