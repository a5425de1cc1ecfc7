# SPDX-License-Identifier: Apache-2.0
"""The storage format of each kind of site, and the bits that sites take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..ortops.errors import InputError
from ..ortops.formats import STORAGE_FORMATS, WORD_FORMATS

#: Kinds of sites, as records name them; a layer's result is an activation.
SITE_KINDS = ("activation", "input", "weight", "bias")
_FORMS = "one format, or KIND=FORMAT for some of the kinds " + ", ".join(SITE_KINDS)


def parse_formats(storage_format: Any) -> dict[str, str]:
    """Read a ``storage_format`` argument.

    Parameters
    ----------
    storage_format : str or mapping of str to str
        One format for all sites; or formats by kind ("activation", "input", "weight", "bias"),
        also as text such as "weight=bfloat16,activation=float16"; kinds that are left out are
        "native".

    Returns
    -------
    dict of str to str
        The format of each kind.

    Raises
    ------
    InputError
        Another kind of value, or an unknown kind or format.
    """
    if isinstance(storage_format, str) and "=" not in storage_format:
        return dict.fromkeys(SITE_KINDS, _known(storage_format))
    if isinstance(storage_format, str):
        parts = [part.partition("=") for part in storage_format.split(",")]
        pairs = [(kind.strip(), format_.strip()) for kind, _, format_ in parts]
        if len(dict(pairs)) < len(pairs):
            raise InputError(f"storage format: a kind stands twice in {storage_format!r}")
    elif isinstance(storage_format, Mapping):
        pairs = list(storage_format.items())
    else:
        raise InputError(f"storage format: expected {_FORMS}, got {storage_format!r}")
    formats = dict.fromkeys(SITE_KINDS, "native")
    for kind, format_ in pairs:
        if kind not in SITE_KINDS:
            raise InputError(f"storage format: unknown kind of site {kind!r}; expected {_FORMS}")
        formats[kind] = _known(format_)
    return formats


def check_used(formats: Mapping[str, str], kinds: Iterable[str]) -> None:
    """Refuse a format that is named for a kind of site which there is none of.

    Parameters
    ----------
    formats : mapping of str to str
        Of `parse_formats`; one format for all kinds may be more than there are.
    kinds : iterable of str
        Of the sites.

    Raises
    ------
    InputError
        There is one.
    """
    present = {*kinds}
    unused = [k for k, f in formats.items() if f != "native" and k not in present]
    if unused and len({*formats.values()}) > 1:
        kind = unused[0]
        raise InputError(
            f"storage format: {formats[kind]} is for {kind} sites, of which there are none: add "
            f"them to the sites, which are of the kinds {', '.join(sorted(present))}"
        )


def stored_bits(records: Iterable[Mapping[str, Any]]) -> tuple[int, int]:
    """Add up the bits that sites keep in noisy memory.

    Parameters
    ----------
    records : iterable of mapping
        Of sites; elements that are not known count nothing.

    Returns
    -------
    int
        Bits of one sample, over the sites that are written for each sample.
    int
        Bits of the sites that are written once: weights and biases.
    """
    bits = [0, 0]
    for record in records:
        once = record["rows_per_sample"] == 0
        word = WORD_FORMATS.get(record["storage_format"])
        noisy = record["bits_per_word"] if word is None else word.noisy_bits
        bits[once] += int(record["elements"] or 0) * int(noisy)
    return bits[0], bits[1]


def _known(storage_format: Any) -> str:
    if not isinstance(storage_format, str) or storage_format not in ("native", *STORAGE_FORMATS):
        raise InputError(
            f"storage format: expected native, {', '.join(STORAGE_FORMATS)}, got {storage_format!r}"
        )
    return storage_format
