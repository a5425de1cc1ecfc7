# SPDX-License-Identifier: Apache-2.0
"""The rules that say which tensors of a graph are sites; they know neither PyTorch nor ONNX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from ..ortops.errors import InputError
from .activation_patterns import match_activation
from .dataflow import Node, Scope
from .kinds import ACTIVATIONS, AGAIN, LAYERS, NORMALISATIONS, STORE
from .site_request import PARAMETER_KINDS, VALID_FORMS, Request, describe, parse_sites


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


def find_sites(nodes: Sequence[Node], sites: Any) -> list[Choice]:
    """Choose the sites of a graph.

    Parameters
    ----------
    nodes : sequence of Node
        The graph in execution order, its inputs first; stored parameters stand only in the
        ``parameters`` of the nodes that read them.
    sites : Request, str or sequence
        What to choose; see `parse_sites`. A pattern that matches no result and no input chooses
        the parameters whose names it matches.

    Returns
    -------
    list of Choice
        In execution order, with unique names that are not empty. A stored parameter stands
        before the first layer that reads it, its weight before its bias.

    Raises
    ------
    InputError
        Nothing matches, or a type, a pattern, "weight" or "bias" of the list matches nothing.
    """
    request = sites if isinstance(sites, Request) else parse_sites(sites)
    stored = _stored_parameters(nodes)
    outputs, used_types, used_patterns = _chosen_outputs(nodes, request, stored)
    free = [pattern for pattern in request.patterns if pattern not in used_patterns]
    chosen: list[Choice] = []
    first_reads: dict[Node, list[Choice]] = {}
    for choice, layer in stored.values():
        matching = {pattern for pattern in free if fnmatchcase(choice.name, pattern)}
        used_patterns |= matching
        own = choice.node.kind == STORE
        if not own and (matching or choice.kind in request.keywords):
            first_reads.setdefault(layer, []).append(choice)
    for node in nodes:
        chosen += first_reads.get(node, [])
        if node in outputs:
            chosen.append(outputs[node])
    _check_use(request, used_types, used_patterns, nodes, stored)
    if not chosen:
        raise _no_site(request)
    _make_unique(chosen)
    return chosen


def split_sites(nodes: Sequence[Node], request: Request) -> tuple[list[Choice], Request | None]:
    """Choose the sites that are no parameters, and leave those to whoever sees the file's.

    Exporters merge, rename and make parameters, so that requests for them are answered later.

    Parameters
    ----------
    nodes : sequence of Node
        As of `find_sites`.
    request : Request

    Returns
    -------
    list of Choice
        In execution order; empty where only parameters are asked for.
    Request or None
        What asks for parameters, for `find_sites`: "weight", "bias" and the patterns that match
        nothing else.

    Raises
    ------
    InputError
        A type matches nothing; or nothing matches and no parameter is asked for.
    """
    stored = _stored_parameters(nodes)
    outputs, used_types, used_patterns = _chosen_outputs(nodes, request, stored)
    keywords = request.keywords & {*PARAMETER_KINDS}
    patterns = tuple(pattern for pattern in request.patterns if pattern not in used_patterns)
    _check_use(Request(types=request.types), used_types, used_patterns, nodes, stored)
    rest = Request(keywords, (), patterns, only_parameters=True) if keywords or patterns else None
    chosen = list(outputs.values())
    if not chosen and rest is None:
        raise _no_site(request)
    _make_unique(chosen)
    return chosen, rest


def _no_site(request: Request) -> InputError:
    return InputError(
        f"sites: the model has no site for {describe(request)}; expected {VALID_FORMS}"
    )


def _chosen_outputs(
    nodes: Sequence[Node], request: Request, stored: Mapping[Node, tuple[Choice, Node]]
) -> tuple[dict[Node, Choice], set[type], set[str]]:
    """Choose among inputs and results; also give the types and patterns that matched."""
    candidates = _candidates(nodes)
    chosen: dict[Node, Choice] = {}
    used_types: set[type] = set()
    used_patterns: set[str] = set()
    for node in nodes:
        if node.kind == STORE:
            kind = stored[node][0].kind if node in stored else "activation"
            chosen[node] = Choice(node, _module_name(node) or STORE, kind, STORE)
            continue
        if request.only_parameters or not node.is_float or not node.dynamic:
            continue
        if _already_stored(node):
            continue
        candidate = candidates.get(node)
        origin = _origin(node)
        op = candidate.op if candidate else origin.kind or "tensor"
        kind = "input" if origin.kind == "input" else "activation"
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
        for pattern in _own_names(node) & {*request.patterns}:
            used_patterns.add(pattern)
            wanted = True
        if candidate or kind == "input":
            for pattern in request.patterns:
                if fnmatchcase(name, pattern):
                    used_patterns.add(pattern)
                    wanted = True
        if wanted:
            chosen[node] = Choice(node, name, kind, op)
    return chosen, used_types, used_patterns


def _own_names(node: Node) -> set[str]:
    """Operator and tensor, by which a request may choose a node whatever it is."""
    own = {node.op_type, node.label, node.label.removesuffix("_quantized")}
    if node.fused is not None:
        own |= _own_names(node.fused)
    return own if node.kind != AGAIN else own | _own_names(_origin(node))


def _origin(node: Node) -> Node:
    """Result that a node stores, itself or once more."""
    return node.inputs[0] if node.kind == AGAIN else node


def _stored_parameters(nodes: Sequence[Node]) -> dict[Node, tuple[Choice, Node]]:
    """Pair every layer's parameter with what its site would be and the first layer that reads it.

    In the order in which layers read them. A parameter that the model stores itself stands as
    its NoisyStore.
    """
    found: dict[Node, tuple[Choice, Node]] = {}
    for node in nodes:
        layer = _layer_with_parameters(node)
        if layer is None:
            continue
        for kind in PARAMETER_KINDS:
            parameter = node.parameters.get(kind)
            if parameter is not None and parameter.is_float and parameter not in found:
                name = _parameter_name(parameter.label, kind)
                found[parameter] = Choice(parameter, name, kind, layer), node
    return found


def _parameter_name(label: str, kind: str) -> str:
    """A parameter's name without what tools append when they quantize it or merge a shift in."""
    name = label.removesuffix("_quantized")
    folded = kind == "bias" and name.endswith(".weight_bias")
    return f"{name.removesuffix('.weight_bias')}.bias" if folded else name


def _layer_with_parameters(node: Node) -> str | None:
    """Kind of the layer whose parameters a node reads, if it reads any at run time."""
    if not node.dynamic or not node.parameters:
        return None
    if node.kind in ("conv", "linear") or node.kind in NORMALISATIONS:
        return node.kind
    if _is_product_with_weights(node):
        return "linear"
    product = _completed_product(node)
    return "linear" if product is not None and "bias" not in product.parameters else None


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
        absorbed |= {n for n in interior if not n.is_output and inside.issuperset(_readers(n))}
    kept = {node: c for node, c in found.items() if node not in absorbed}
    again = [node for node in nodes if node.kind == AGAIN and node.inputs[0] in kept]
    return kept | {node: _Candidate(kept[node.inputs[0]].op) for node in again}


def _readers(node: Node) -> list[Node]:
    return [reader for reader in node.readers if reader.kind != AGAIN]


def _match_layer(node: Node) -> tuple[str, set[Node]] | None:
    if node.kind in LAYERS:
        return node.kind, set()
    if node.kind == "mean" and node.attrs.get("spatial"):
        return "avg_pool", set()
    if _is_product_with_weights(node):
        return "linear", set()
    product = _completed_product(node)
    return ("linear", {product}) if product is not None else None


def _completed_product(node: Node) -> Node | None:
    """Product with weights to which a node adds a constant."""
    if node.kind == "add":
        for value, other in (node.inputs, node.inputs[::-1]):
            if isinstance(value, Node) and _is_product_with_weights(value) and _constant(other):
                return value
    return None


def _is_product_with_weights(node: Node) -> bool:
    return node.kind in ("gemm", "matmul") and any(_constant(value) for value in node.inputs[:2])


def _constant(value: Any) -> bool:
    return not (isinstance(value, Node) and value.dynamic)


def _by_keyword(node: Node, candidate: _Candidate | None, request: Request) -> bool:
    if _origin(node).kind == "input":
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
    origin = _origin(node)
    return [
        scope
        for scope in origin.scopes
        if origin.is_output
        or any(scope.key not in {s.key for s in r.scopes} for r in _readers(origin))
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
    request: Request,
    used_types: set[type],
    used_patterns: set[str],
    nodes: Sequence[Node],
    stored: Mapping[Node, tuple[Choice, Node]],
) -> None:
    paths = list(dict.fromkeys(s.path for node in nodes for s in node.scopes if s.path))
    operators = list(dict.fromkeys(node.op_type for node in nodes if node.op_type))
    labels = list(dict.fromkeys(node.label for node in nodes if node.label))
    found = {"modules": paths, "operators": operators, "tensors": labels}
    known = "; ".join(f"the model's {what} are {_some(v)}" for what, v in found.items() if v)
    for module_type in request.types:
        if module_type not in used_types:
            raise InputError(f"sites: no module of type {module_type.__name__}; {known}")
    parameters = [choice for choice, _ in stored.values()]
    if parameters:
        known += f"; its parameters are {_some([choice.name for choice in parameters])}"
    for pattern in request.patterns:
        if pattern not in used_patterns:
            raise InputError(f"sites: nothing matches {pattern!r}; expected {VALID_FORMS}; {known}")
    for kind in PARAMETER_KINDS:
        if kind in request.keywords and all(choice.kind != kind for choice in parameters):
            raise InputError(
                f"sites: no convolution, linear layer or normalisation of the graph has a {kind} "
                f"(PyTorch's exporter drops biases that are 0); leave {kind!r} out"
            )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
