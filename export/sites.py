# SPDX-License-Identifier: Apache-2.0
"""The rules that say which tensors of a graph are sites; they know neither PyTorch nor ONNX."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from ..ortops.errors import InputError
from .activation_patterns import match_activation
from .dataflow import Node, Scope
from .kinds import ACTIVATIONS, LAYERS, STORE

KEYWORDS = ("activation", "layer", "input")
VALID_FORMS = (
    "'activation', 'layer', 'input', or a list of these, of torch.nn.Module types and of name "
    "patterns such as 'features.*'"
)


@dataclass(frozen=True)
class Request:
    """A parsed ``sites`` argument."""

    keywords: frozenset[str] = frozenset()
    types: tuple[type, ...] = ()
    patterns: tuple[str, ...] = ()


@dataclass
class Choice:
    """One chosen tensor: where noise goes, and what its record says."""

    node: Node
    name: str
    kind: str
    op: str


@dataclass
class _Candidate:
    op: str
    interior: set[Node] = field(default_factory=set)


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
        if item in ("weight", "bias"):
            raise InputError(f"sites: {item!r} is not supported yet; expected {VALID_FORMS}")
        if isinstance(item, type):
            types.append(item)
        elif not isinstance(item, str) or not item:
            raise InputError(f"sites: expected {VALID_FORMS}, got {item!r} in the list")
        elif item in KEYWORDS:
            keywords.add(item)
        else:
            patterns.append(item)
    return Request(frozenset(keywords), tuple(types), tuple(patterns))


def find_sites(nodes: Sequence[Node], sites: Any) -> list[Choice]:
    """Choose the sites of a graph.

    Parameters
    ----------
    nodes : sequence of Node
        The graph in execution order, its inputs first.
    sites : Request, str or sequence
        What to choose; see `parse_sites`.

    Returns
    -------
    list of Choice
        In execution order, with unique names that are not empty.

    Raises
    ------
    InputError
        Nothing matches, or a type or pattern of the list matches nothing.
    """
    request = sites if isinstance(sites, Request) else parse_sites(sites)
    candidates = _candidates(nodes)
    chosen: list[Choice] = []
    used_types: set[type] = set()
    used_patterns: set[str] = set()
    for node in nodes:
        if node.kind == STORE:
            chosen.append(Choice(node, _module_name(node) or STORE, "activation", STORE))
            continue
        if not node.is_float or not node.dynamic or _already_stored(node):
            continue
        candidate = candidates.get(node)
        op = candidate.op if candidate else node.kind or "tensor"
        kind = "input" if node.kind == "input" else "activation"
        name = node.label if kind == "input" else _name(node, op)
        wanted = _by_keyword(node, candidate, request)
        for scope in _left_scopes(node):
            for module_type in request.types:
                if isinstance(scope.module, module_type):
                    used_types.add(module_type)
                    wanted = True
            for pattern in request.patterns:
                if scope.path and fnmatchcase(scope.path, pattern):
                    used_patterns.add(pattern)
                    wanted = True
        if candidate or kind == "input":
            for pattern in request.patterns:
                if fnmatchcase(name, pattern):
                    used_patterns.add(pattern)
                    wanted = True
        if wanted:
            chosen.append(Choice(node, name, kind, op))
    _check_use(request, used_types, used_patterns, nodes)
    if not chosen:
        raise InputError(
            f"sites: the model has no site for {_describe(request)}; expected {VALID_FORMS}"
        )
    _make_unique(chosen)
    return chosen


def _candidates(nodes: Sequence[Node]) -> dict[Node, _Candidate]:
    found: dict[Node, _Candidate] = {}
    for node in nodes:
        match = match_activation(node) or _match_layer(node)
        if match is not None:
            found[node] = _Candidate(*match)
    absorbed: set[Node] = set()
    for end in reversed(nodes):
        if end not in found or end in absorbed:
            continue
        interior = found[end].interior
        inside = interior | {end}
        absorbed |= {n for n in interior if not n.is_output and inside.issuperset(n.readers)}
    return {node: c for node, c in found.items() if node not in absorbed}


def _match_layer(node: Node) -> tuple[str, set[Node]] | None:
    if node.kind in LAYERS:
        return node.kind, set()
    if node.kind == "mean" and node.attrs.get("spatial"):
        return "avg_pool", set()
    if _is_product_with_weights(node):
        return "linear", set()
    if node.kind == "add":
        for value, other in (node.inputs, node.inputs[::-1]):
            if isinstance(value, Node) and _is_product_with_weights(value) and _constant(other):
                return "linear", {value}
    return None


def _is_product_with_weights(node: Node) -> bool:
    return node.kind in ("gemm", "matmul") and any(_constant(value) for value in node.inputs[:2])


def _constant(value: Any) -> bool:
    return not (isinstance(value, Node) and value.dynamic)


def _by_keyword(node: Node, candidate: _Candidate | None, request: Request) -> bool:
    if node.kind == "input":
        return "input" in request.keywords
    if candidate is None:
        return False
    if candidate.op in ACTIVATIONS:
        return bool(request.keywords & {"activation", "layer"})
    return "layer" in request.keywords and not node.is_output


def _already_stored(node: Node) -> bool:
    return bool(node.readers) and not node.is_output and all(r.kind == STORE for r in node.readers)


def _left_scopes(node: Node) -> list[Scope]:
    """Module calls that this tensor leaves: it is their result, or part of it."""
    return [
        scope
        for scope in node.scopes
        if node.is_output
        or any(scope.key not in {s.key for s in reader.scopes} for reader in node.readers)
    ]


def _module_name(node: Node) -> str:
    return node.scopes[-1].path if node.scopes else ""


def _name(node: Node, op: str) -> str:
    """Path of the module whose result this is, else of the enclosing module and the operation."""
    if not node.scopes:
        return node.label or op
    innermost = node.scopes[-1]
    if innermost.path and innermost.leaf and innermost in _left_scopes(node):
        return innermost.path
    return f"{innermost.path}.{op}" if innermost.path else op


def _make_unique(chosen: Sequence[Choice]) -> None:
    taken = {choice.name for choice in chosen}
    seen: set[str] = set()
    for choice in chosen:
        name, count = choice.name, 0
        while name in seen or (count and name in taken):
            count += 1
            name = f"{choice.name}:{count}"
        choice.name = name
        seen.add(name)


def _check_use(
    request: Request, used_types: set[type], used_patterns: set[str], nodes: Sequence[Node]
) -> None:
    paths = list(dict.fromkeys(s.path for node in nodes for s in node.scopes if s.path))
    known = f"the model's modules are {', '.join(paths[:6])}" + (", ..." if len(paths) > 6 else "")
    for module_type in request.types:
        if module_type not in used_types:
            raise InputError(f"sites: no module of type {module_type.__name__}; {known}")
    for pattern in request.patterns:
        if pattern not in used_patterns:
            raise InputError(f"sites: nothing matches {pattern!r}; expected {VALID_FORMS}; {known}")


def _describe(request: Request) -> str:
    names = sorted(request.keywords) + [t.__name__ for t in request.types] + list(request.patterns)
    return ", ".join(repr(name) for name in names) or "an empty list"
