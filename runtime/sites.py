# SPDX-License-Identifier: Apache-2.0
"""What the metadata of an annotated model says: its sites and its normalisation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..ortops import noise_inputs
from ..ortops.bit_masks import mask_name
from ..ortops.errors import InputError
from ..ortops.formats import STORAGE_FORMATS, WORD_FORMATS
from .onnx_file import Store
from .texts import TOO_MUCH, one_line


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
    element_type : str
        Of the tensor, as the graph states it; empty: not known.
    """

    site: int
    name: str
    kind: str
    storage_format: str
    elements: int
    bits_per_word: int
    rows_per_sample: int
    op: str = ""
    element_type: str = ""

    @property
    def word_format(self) -> str | None:
        """Name of the words' format, which gives a mask's name its bits; None: not known."""
        named = self.storage_format if self.storage_format != "native" else self.element_type
        return named or None

    @property
    def noisy_bits(self) -> int:
        """Bits of a word that can flip: fewer than the word's where the format is narrower."""
        word = WORD_FORMATS.get(self.word_format or "")
        return self.bits_per_word if word is None else word.noisy_bits


def read_sites(metadata: Mapping[str, str], path: Path) -> list[Site]:
    """Return the sites that a model's metadata lists, ordered by number.

    Parameters
    ----------
    metadata : mapping from str to str
    path : path
        Of the model, for messages.

    Raises
    ------
    InputError
        There are none, they are of another noise model, or the list is damaged.
    """
    if noise_inputs.SITES_KEY not in metadata:
        raise InputError(
            f"model {path}: expected sites, got a model without any: "
            "add them with `noisystore export` or `noisystore annotate`"
        )
    version = metadata.get(noise_inputs.NOISE_MODEL_KEY)
    if version != noise_inputs.NOISE_MODEL:
        raise InputError(
            f"model {path}: expected noise model {noise_inputs.NOISE_MODEL}, got "
            f"{version or 'none'}: export it again with this version of noisystore"
        )
    try:
        records = json.loads(metadata[noise_inputs.SITES_KEY])
        sites = sorted((_site(record) for record in records), key=lambda site: site.site)
    except (ValueError, TypeError, KeyError, AttributeError, *TOO_MUCH) as error:
        raise InputError(f"model {path}: damaged list of sites ({one_line(error)})") from None
    if not sites:
        raise InputError(f"model {path}: expected at least one site, got an empty list")
    if [site.site for site in sites] != list(range(len(sites))):
        raise InputError(
            f"model {path}: expected sites 0 to {len(sites) - 1}, "
            f"got {[site.site for site in sites][:20]}"
        )
    return sites


def _site(record: Mapping[str, Any]) -> Site:
    site = Site(
        site=_integer(record, "site", 0),
        name=str(record["name"]),
        kind=str(record["kind"]),
        storage_format=str(record["storage_format"]),
        elements=0 if record["elements"] is None else _integer(record, "elements", 0),
        bits_per_word=_integer(record, "bits_per_word", 8),
        rows_per_sample=_integer(record, "rows_per_sample", -1),
        op=str(record.get("op") or ""),
    )
    known = {"native": (8, 16, 32, 64), **{k: (v,) for k, v in STORAGE_FORMATS.items()}}
    if site.bits_per_word not in known.get(site.storage_format, ()):
        raise ValueError(
            f"site {site.site}: {site.storage_format} with {site.bits_per_word} bits a word"
        )
    return site


def _integer(record: Mapping[str, Any], name: str, least: int) -> int:
    value = record[name]
    if type(value) is not int or not least <= value < 1 << 62:
        raise ValueError(f"{name}: expected an integer of {least} or more, got {value!r}")
    return value


def typed_sites(sites: Sequence[Site], stores: Sequence[Store]) -> list[Site]:
    """Return the sites with the element types that the graph states.

    Parameters
    ----------
    sites : sequence of Site
        Ordered by number.
    stores : sequence of Store
        Of the same file, one a site.
    """
    types = {store.site: store.element_type or "" for store in stores}
    return [replace(site, element_type=types[site.site]) for site in sites]


def site_masks(bit_mask: Any, sites: Sequence[Site]) -> npt.NDArray[np.uint64]:
    """Return the bits that a mask argument means at every site.

    Parameters
    ----------
    bit_mask : int, str, array_like of int or str [sites], or None
        Numbers, or names that each site's own format gives its bits
        (`noisystore.ortops.bit_mask`); None: every bit.
    sites : sequence of Site

    Returns
    -------
    numpy.ndarray of uint64, shape [sites]

    Raises
    ------
    InputError
        Another length, no mask, or a name that selects no bit at a site.
    """
    return noise_inputs.mask_table(bit_mask, len(sites), [site.word_format for site in sites])


def named_mask(bit_mask: Any, sites: Sequence[Site]) -> tuple[str, int | list[int] | None]:
    """Return the label of a mask argument, and its bits as numbers.

    Parameters
    ----------
    bit_mask, sites
        As `site_masks` takes them.

    Returns
    -------
    (str, int or list of int [sites] or None)
        A name in its one spelling or a number in hexadecimal, several joined by commas where the
        sites differ; and one number, or one a site, or None for every bit.

    Raises
    ------
    InputError
        As `site_masks`.
    """
    masks = [int(mask) for mask in site_masks(bit_mask, sites)]
    given = ["all" if bit_mask is None else bit_mask] if np.ndim(bit_mask) == 0 else list(bit_mask)
    labels = [mask_name(v) if isinstance(v, str) else hex(int(v)) for v in given]
    label = labels[0] if len(set(labels)) == 1 else ",".join(labels)
    if label == "all":
        return label, None
    return label, masks[0] if len(set(masks)) == 1 else masks


def confirm_sites(sites: Sequence[Site], stores: Sequence[Store], path: Path) -> bool:
    """Hold the metadata's sites against the graph's NoisyStore nodes.

    Parameters
    ----------
    sites : sequence of Site
        Ordered by number.
    stores : sequence of Store
        Of the same file.
    path : path
        Of the model, for messages.

    Returns
    -------
    bool
        Whether the graph states the sizes of all tensors, so that flips can be counted without
        running it.

    Raises
    ------
    InputError
        The two contradict each other.
    """
    if sorted(store.site for store in stores) != list(range(len(sites))):
        raise InputError(
            f"model {path}: expected one NoisyStore node for each of its {len(sites)} sites, got "
            f"nodes of the sites {sorted(store.site for store in stores)[:20]}"
        )
    sure = True
    for store in stores:
        site = sites[store.site]
        for name, said, found in (
            ("storage format", site.storage_format, store.storage_format),
            ("rows per sample", site.rows_per_sample, store.rows_per_sample),
            ("elements", site.elements or None, store.elements),
            ("bits of a word", site.bits_per_word, _word_bits(store)),
        ):
            if said is not None and found is not None and said != found:
                raise InputError(
                    f"model {path}: site {site.site}: the metadata say {name} {said}, the graph "
                    f"{found}: export the model again"
                )
        counted = site.rows_per_sample >= 0 and site.elements > 0
        sure = sure and (not counted or None not in (store.elements, _word_bits(store)))
    return sure


def _word_bits(store: Store) -> int | None:
    return STORAGE_FORMATS.get(store.storage_format, store.word_bits)


def read_normalization(metadata: Mapping[str, str], path: Path) -> dict[str, list[float]] | None:
    """Return the normalisation ``{"mean": [...], "std": [...]}`` that a model names, or None.

    Parameters
    ----------
    metadata : mapping from str to str
    path : path
        Of the model, for messages.

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
    except (ValueError, TypeError, KeyError, *TOO_MUCH):
        good = False
    if not good or min(std) <= 0:
        raise InputError(
            f'model {path}: {noise_inputs.NORMALIZATION_KEY}: expected {{"mean": [...], '
            f'"std": [...]}} of equal length with std > 0, got {text[:80]}'
        )
    return {"mean": mean, "std": std}
