# SPDX-License-Identifier: Apache-2.0
"""Put NoisyStore at chosen tensors of a traced PyTorch graph."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from .kinds import STORE
from .rows import measure_rows
from .sites import Choice
from .storage import site_format, word_bits, word_format
from .torch_graph import Trace, is_symbolic
from .torch_op import NOISE_NAMES, noise_tensors
from .torch_parameters import attribute, tensor_value


@dataclass(frozen=True)
class Site:
    """One site's record, as it stands in the exported file's metadata.

    ``elements`` are those of one sample; of a weight or bias, which is stored once
    (``rows_per_sample`` 0), those of the whole tensor.
    """

    site: int
    name: str
    kind: str
    op: str
    storage_format: str
    elements: int
    bits_per_word: int
    rows_per_sample: int

    def as_dict(self) -> dict[str, Any]:
        """Give the record as a dictionary."""
        return asdict(self)


@dataclass
class NoisyTrace:
    """A traced model with its NoisyStore nodes; the noise inputs follow the model's own.

    ``word_formats`` name the format of each site's words, ``links`` pair the graph's parameters
    and buffers with the model's.
    """

    trace: Trace
    sites: list[Site]
    word_formats: list[str]
    links: list[tuple[nn.Module, str, nn.Module, str]]


def rows_of(
    traced: Trace, choices: Sequence[Choice], known: Sequence[int] | None, measure: bool
) -> list[int]:
    """Find rows_per_sample of chosen tensors.

    Parameters
    ----------
    traced : Trace
    choices : sequence of Choice
    known : sequence of int, optional
        What was measured before on the same model in another mode; taken where it fits.
    measure : bool
        Run the graph to see; else the shapes decide.

    Returns
    -------
    list of int
        0 for parameters; see `rows.measure_rows`.

    Raises
    ------
    InputError
        The graph does not run on the example.
    """
    if known is not None and len(known) == len(choices):
        return list(known)
    moving = [choice.node.handle for choice in choices if choice.node.dynamic]
    if measure:
        found = iter(measure_rows(traced, moving) if moving else ())
    else:
        found = iter(_rows_by_shape(node.meta["val"], traced.batch) for node in moving)
    return [next(found) if choice.node.dynamic else 0 for choice in choices]


def insert_stores(
    traced: Trace, choices: Sequence[Choice], rows: Sequence[int], formats: Mapping[str, str]
) -> tuple[list[Site], list[str]]:
    """Put a NoisyStore at every chosen tensor and give the graph its four noise inputs, if any.

    Parameters
    ----------
    traced : Trace
        Changed in place.
    choices : sequence of Choice
        Of `find_sites`, in execution order.
    rows : sequence of int
        rows_per_sample of each.
    formats : mapping of str to str
        Storage format of each kind of site; the model's own NoisyStore modules keep theirs.

    Returns
    -------
    list of Site
        In execution order.
    list of str
        The format of the words of each.

    Raises
    ------
    InputError
        The format cannot hold a site's type.
    """
    if not choices:
        return [], []
    graph = traced.module.graph
    last = [node for node in graph.nodes if node.op == "placeholder"][-1]
    taken = {node.target for node in graph.nodes if node.op == "placeholder"}
    inputs = []
    for name, noise_value in zip(NOISE_NAMES, noise_tensors(len(choices)), strict=True):
        with graph.inserting_after(last):
            own = f"noise_{name}"
            while own in taken:
                own += "_"
            last = graph.placeholder(own)
        last.meta["val"] = noise_value
        inputs.append(last)
    records, word_formats = [], []
    for number, (choice, rows_per_sample) in enumerate(zip(choices, rows, strict=True)):
        node: fx.Node = choice.node.handle
        value = tensor_value(traced.module, node)
        if choice.op == STORE:
            source, *_, format_, scale, zero_point, _ = _bound_arguments(node)
            format_ = site_format(format_, value.dtype, scale=scale, zero_point=zero_point)
            node.args = (source, *inputs, number, format_, scale, zero_point, rows_per_sample)
            node.kwargs = {}
        else:
            format_ = site_format(formats[choice.kind], value.dtype)
            attributes = (*inputs, number, format_, 1.0, 0, rows_per_sample)
            if node.op == "get_attr":
                _store_attribute(traced.module, node, last, attributes)
            else:
                _store_result(graph, node, last if node.op == "placeholder" else node, attributes)
        records.append(
            Site(
                site=number,
                name=choice.name,
                kind=choice.kind,
                op=choice.op,
                storage_format=format_,
                elements=_elements(value, traced.batch),
                bits_per_word=word_bits(format_, value.dtype),
                rows_per_sample=rows_per_sample,
            )
        )
        word_formats.append(word_format(format_, value.dtype))
    for node in reversed(list(graph.nodes)):
        if node.op == "get_attr" and not node.users:
            graph.erase_node(node)
    graph.lint()
    traced.module.recompile()
    return records, word_formats


def _store_result(
    graph: fx.Graph, node: fx.Node, after: fx.Node, attributes: tuple[Any, ...]
) -> None:
    with graph.inserting_after(after):
        new = graph.call_function(torch.ops.noisystore.store.default, (node, *attributes))
    new.meta = dict(node.meta)
    for user in [user for user in node.users if user is not new]:
        user.replace_input_with(node, new)


def _store_attribute(
    module: fx.GraphModule, node: fx.Node, after: fx.Node, attributes: tuple[Any, ...]
) -> None:
    """Store a parameter before anything reads it, under whichever of its names."""
    graph = module.graph
    tensor = attribute(module, node.target)
    readers = [
        other
        for other in graph.nodes
        if other.op == "get_attr" and attribute(module, other.target) is tensor
    ]
    with graph.inserting_after(after):
        source = graph.get_attr(str(node.target))
    source.meta = dict(node.meta)
    with graph.inserting_after(source):
        new = graph.call_function(torch.ops.noisystore.store.default, (source, *attributes))
    new.meta = dict(node.meta)
    for other in readers:
        other.replace_all_uses_with(new)


def _bound_arguments(node: fx.Node) -> list[Any]:
    schema = node.target._schema  # type: ignore[union-attr]
    given = dict(zip((a.name for a in schema.arguments), node.args, strict=False))
    given.update(node.kwargs)
    return [given.get(a.name, a.default_value) for a in schema.arguments]


def _length(length: Any) -> int:
    """Length of a traced axis; of a symbolic one, that of the example."""
    known: Any = length.node.hint if isinstance(length, torch.SymInt) else length
    return int(known)


def _rows_by_shape(value: Tensor, batch: int) -> int:
    rows, rest = divmod(_length(value.shape[0]) if value.dim() else 1, batch)
    return -1 if rest else rows


def _elements(value: Tensor, batch: int) -> int:
    """Elements per sample of a traced tensor, from the hint of its symbolic batch size."""
    total = math.prod(_length(length) for length in value.shape)
    grows = any(is_symbolic(length) for length in value.shape)
    return total // batch if grows and total % batch == 0 else total


def links(module: fx.GraphModule, model: nn.Module) -> list[tuple[nn.Module, str, nn.Module, str]]:
    """Pair every parameter and buffer of the graph with the model's own."""
    owners = dict(model.named_modules(remove_duplicate=False))
    pairs = []
    for path, copy in module.named_modules(remove_duplicate=False):
        for name in [*copy._parameters, *copy._buffers]:
            owner = owners.get(path)
            if owner is not None and (name in owner._parameters or name in owner._buffers):
                pairs.append((copy, name, owner, name))
    return pairs
