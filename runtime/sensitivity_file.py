# SPDX-License-Identifier: Apache-2.0
"""The results file of `noisystore sensitivity`: JSON, whole after every entry.

The object has the version ``noisystore_sensitivity`` (1), ``settings`` (what the entries depend
on), ``sites`` (number, name, kind, format, elements) and the list ``entries``. Each of these has
``site`` (null: all of them), ``mask`` (``all``: every bit) and the fields of `FoundMidpoint`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from ..ortops.bit_masks import mask_name
from ..ortops.errors import InputError
from ..ortops.files import write_whole
from .midpoint_finder import FoundMidpoint
from .sites import Site
from .texts import one_line, printable

VERSION = 1
_MOST_BYTES = 64 << 20
_LONGEST_MASK = 32

#: Settings that are there for people: entries do not depend on a file's name.
_NAMES = ("model", "data")

#: Number of the noisy site, or None for all; and name of the noisy bits.
Key = tuple[int | None, str]
Entries = dict[Key, FoundMidpoint]


def write_entries(
    path: str | os.PathLike[str],
    settings: Mapping[str, Any],
    sites: Sequence[Site],
    entries: Entries,
) -> None:
    """Write all entries.

    Raises
    ------
    InputError
        The file cannot be written.
    """
    record = {
        "noisystore_sensitivity": VERSION,
        "settings": settings,
        "sites": [
            {
                "site": site.site,
                "name": site.name,
                "kind": site.kind,
                "format": site.word_format,
                "elements": site.elements,
            }
            for site in sites
        ],
        "entries": [
            {"site": site, "mask": mask, **found.as_dict()}
            for (site, mask), found in entries.items()
        ],
    }
    write_whole(path, (json.dumps(record, indent=1, allow_nan=False) + "\n").encode())


def read_entries(path: Path, settings: Mapping[str, Any], sites: Collection[int]) -> Entries:
    """Return the entries of a file; none where there is no file.

    Parameters
    ----------
    path : Path
    settings : mapping
        What the entries must have been measured with.
    sites : collection of int
        Numbers that the entries may have.

    Raises
    ------
    InputError
        The file cannot be read, is damaged or another one, or was measured with other settings.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError(f"results {path}: cannot be read: {error.strerror or error}") from None

    def bad(what: str) -> InputError:
        return InputError(
            f"results {path}: {what}: expected a file of `noisystore sensitivity`; "
            "delete it or choose another"
        )

    if len(data) > _MOST_BYTES:
        raise bad(f"larger than {_MOST_BYTES >> 20} MiB")
    try:
        record = json.loads(data, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise bad("no JSON") from None
    version = record.get("noisystore_sensitivity") if isinstance(record, dict) else None
    if type(version) is not int or version != VERSION:
        raise bad(f'no "noisystore_sensitivity": {VERSION}')
    _check_settings(path, record.get("settings"), settings)
    entries = record.get("entries")
    if not isinstance(entries, list):
        raise bad("no list of entries")
    found: Entries = {}
    for i, entry in enumerate(entries):
        try:
            key, midpoint = _entry(entry, sites)
        except InputError as error:
            raise bad(f"entry {i}: {one_line(error)}") from None
        if key in found:
            raise bad(f"entry {i} stands there twice")
        found[key] = midpoint
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


def _check_settings(path: Path, found: Any, expected: Mapping[str, Any]) -> None:
    found = found if isinstance(found, dict) else {}
    for name, want in expected.items():
        got = found.get(name)
        if name not in _NAMES and (type(got) is not type(want) or got != want):
            said = "none" if got is None else printable(str(got))[:80] or "all"
            raise InputError(
                f"results {path}: expected entries with {name.replace('_', ' ')} "
                f"{want or 'all' if name == 'sites' else want}, got {said}: choose another file"
            )


def _entry(entry: Any, sites: Collection[int]) -> tuple[Key, FoundMidpoint]:
    if not isinstance(entry, dict):
        raise InputError("no object")
    values = dict(entry)
    site, mask = values.pop("site", ""), values.pop("mask", "")
    if site is not None and (type(site) is not int or site not in sites):
        raise InputError("the site is none of the model")
    if not isinstance(mask, str) or len(mask) > _LONGEST_MASK or mask_name(mask) != mask:
        raise InputError("the mask is not in its one spelling")
    found = FoundMidpoint.from_dict(values)
    low, high = found.interval or (0.0, 0.0)
    middle = found.midpoint if found.bound is None else found.limit
    good = middle is not None and 0 < middle <= 1
    if found.bound is None:
        good = good and 0 < low <= (middle or 0) <= high <= 1
    elif found.midpoint is not None or found.interval is not None:
        good = False
    if not good or not 0 <= found.chance_accuracy < found.clean_accuracy <= 1:
        raise InputError("the midpoint is damaged")
    return (site, mask), replace(found, reason=printable(found.reason)[:300])
