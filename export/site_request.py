# SPDX-License-Identifier: Apache-2.0
"""What a ``sites`` argument asks for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..ortops.errors import InputError

#: Kinds of sites that are stored parameters, in the order in which a layer reads them.
PARAMETER_KINDS = ("weight", "bias")
KEYWORDS = ("activation", "layer", "input", *PARAMETER_KINDS)
VALID_FORMS = (
    "'activation', 'layer', 'input', 'weight', 'bias', or a list of these, of torch.nn.Module "
    "types or ONNX operators, and of name patterns such as 'features.*' or '*.weight'"
)


@dataclass(frozen=True)
class Request:
    """A parsed ``sites`` argument; or the part of one that ``only_parameters`` can answer."""

    keywords: frozenset[str] = frozenset()
    types: tuple[type, ...] = ()
    patterns: tuple[str, ...] = ()
    only_parameters: bool = False


def parse_sites(sites: Any) -> Request:
    """Parse a ``sites`` argument.

    Parameters
    ----------
    sites : str, type, or sequence of them
        Keywords, module types and name patterns; a string may hold several, comma-separated.
        An empty sequence chooses only the `NoisyStore` modules that the model holds.

    Returns
    -------
    Request

    Raises
    ------
    InputError
        Another kind of value, or a keyword that is not supported.
    """
    items: Iterable[Any]
    if isinstance(sites, str):
        items = [part.strip() for part in sites.split(",")]
        if not all(items):
            raise InputError(f"sites: expected {VALID_FORMS}, got {sites!r} with an empty item")
    elif isinstance(sites, type):
        items = [sites]
    elif isinstance(sites, (Sequence, set, frozenset)):
        items = sites
    else:
        raise InputError(f"sites: expected {VALID_FORMS}, got {sites!r}")
    keywords, types, patterns = set(), [], []
    for item in items:
        if isinstance(item, type):
            types.append(item)
        elif not isinstance(item, str) or not item:
            raise InputError(f"sites: expected {VALID_FORMS}, got {item!r} in the list")
        elif item in KEYWORDS:
            keywords.add(item)
        else:
            patterns.append(item)
    return Request(frozenset(keywords), tuple(types), tuple(patterns))


def describe(request: Request) -> str:
    """List what a request names, for messages."""
    names = sorted(request.keywords) + [t.__name__ for t in request.types] + list(request.patterns)
    return ", ".join(repr(name) for name in names) or "an empty list"
