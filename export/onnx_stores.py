# SPDX-License-Identifier: Apache-2.0
"""Put NoisyStore at chosen tensors of an ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx
from onnx import helper

from ..ortops.errors import InputError
from ..ortops.formats import ELEMENT_TYPES, check_storage_format
from ..ortops.noise_inputs import DOMAIN, NOISE_INPUTS, OPERATOR
from .kinds import STORE
from .onnx_files import Source
from .onnx_graph import dataflow, is_store
from .onnx_order import graphs, readers, refill, rename_reads
from .onnx_types import FLOATS, Stored, infer_types
from .site_request import PARAMETER_KINDS, Request
from .sites import Choice, find_sites

_TYPES = {kind.code: kind for kind in ELEMENT_TYPES.values()}
#: Named in the records though native: a reader of these cannot tell the type by the word's width.
_NAMED = frozenset({"float16", "bfloat16", "int8", "uint8"})


def insert_stores(
    model: onnx.ModelProto,
    choices: Sequence[Choice],
    rows: Sequence[int],
    formats: Sequence[str],
    records: Mapping[int, Mapping[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """Put a NoisyStore at every chosen tensor, and number all of the graph's.

    Y takes the name of a tensor that a node makes, so that the graph's outputs and what subgraphs
    capture keep theirs; of an input or initializer, the readers are renamed.

    Parameters
    ----------
    model : onnx.ModelProto
        Changed in place; `onnx_model.finish` makes it whole.
    choices : sequence of Choice
        Of `find_sites`, in execution order, with `Stored` handles.
    rows : sequence of int
        rows_per_sample of each.
    formats : sequence of str
        Storage format asked for, of each.
    records : mapping, optional
        Of the NoisyStore nodes that the graph holds already, by their present number.

    Returns
    -------
    list of dict
        One record a site, by number.

    Raises
    ------
    InputError
        A format cannot hold a site's type.
    """
    graph = model.graph
    stores = [node for node in graph.node if is_store(node)]
    present = {node.output[0]: node for node in stores}
    noise = list(stores[0].input[1:]) if stores else list(NOISE_INPUTS)
    edit = _Edit(graph)
    result = []
    for number, (choice, count, wanted) in enumerate(zip(choices, rows, formats, strict=True)):
        stored: Stored = choice.node.handle
        if choice.op == STORE:
            node = present[stored.name]
            old = next(a for a in node.attribute if a.name == "site")
            record = dict((records or {})[old.i], site=number)
            old.i = number
        else:
            name, bits = storage_format_of(wanted, stored, choice.name)
            record = {
                "site": number,
                "name": choice.name,
                "kind": choice.kind,
                "op": choice.op,
                "storage_format": name,
                "elements": stored.elements(count),
                "bits_per_word": bits,
                "rows_per_sample": count,
            }
            attributes = {} if name == "native" else {"storage_format": name}
            edit.add(stored, noise, site=number, rows_per_sample=count, **attributes)
        result.append(record)
    edit.finish()
    return result


def storage_format_of(wanted: str, stored: Stored, site: str) -> tuple[str, int]:
    """Name the format of a site and give the bits of its words.

    Raises
    ------
    InputError
        The format cannot hold the tensor's type, or NoisyStore does not take the type.
    """
    kind = _TYPES.get(stored.type.code)
    if kind is None:
        code = stored.type.code
        known = onnx.TensorProto.DataType.Name(code).lower() if code else "an unknown type"
        raise InputError(
            f"sites: {site}: expected a tensor of {', '.join(ELEMENT_TYPES)}, got one of {known}; "
            "leave it out"
        )
    word = check_storage_format(wanted, kind)
    if word.is_integer and stored.type.code in FLOATS:
        raise InputError(
            f"storage format {wanted}: the scale of the {kind.name} tensor of site {site} is not "
            "known; quantize the model first with `noisystore quantize`"
        )
    name = kind.name if wanted == "native" and kind.name in _NAMED else wanted
    return name, word.word_bits


class _Edit:
    """Collects NoisyStore nodes of a graph and puts them in."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.taken: set[str] = set()
        self.node_names: set[str] = set()
        for part in graphs(graph):  # a subgraph's own name would hide the outer one
            self.taken |= {n for node in part.node for n in (*node.input, *node.output)}
            self.taken |= {v.name for v in (*part.input, *part.output, *part.initializer)}
            self.node_names |= {node.name for node in part.node}
        self.made = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
        self.readers = readers(graph)
        self.before: dict[int, list[onnx.NodeProto]] = {}
        self.after: dict[int, list[onnx.NodeProto]] = {}
        self.renamed: dict[str, str] = {}
        self.dropped: set[int] = set()

    def add(self, stored: Stored, noise: Sequence[str], **attributes: Any) -> None:
        """Add a NoisyStore of one tensor."""
        name = stored.name
        producer = self.made.get(name)
        if producer is not None and self._make_initializer(producer, name):
            producer = None
        if producer is not None:
            source, result = self._unique(f"{name}.clean"), name
            outputs = self.graph.node[producer].output
            outputs[list(outputs).index(name)] = source
            self.after.setdefault(producer, []).append(
                self._node(source, result, noise, attributes)
            )
            self._note_type(source, stored)
        else:
            source, result = name, self._unique(f"{name}.noisy")
            self.renamed[name] = result
            first = min(self.readers.get(name, ()), default=0)
            self.before.setdefault(first, []).append(self._node(source, result, noise, attributes))
        self._note_type(result, stored)

    def _make_initializer(self, producer: int, name: str) -> bool:
        """Turn a Constant into an initializer, where runtimes look for parameters."""
        node = self.graph.node[producer]
        if node.op_type != "Constant" or node.attribute[0].name != "value":
            return False
        self.graph.initializer.append(node.attribute[0].t)
        self.graph.initializer[-1].name = name
        self.dropped.add(producer)
        return True

    def _unique(self, name: str) -> str:
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        return name

    def _node(
        self, source: str, result: str, noise: Sequence[str], attributes: Mapping[str, Any]
    ) -> onnx.NodeProto:
        name = f"NoisyStore_{attributes['site']}"
        while name in self.node_names:
            name += "_"
        self.node_names.add(name)
        return helper.make_node(
            OPERATOR, [source, *noise], [result], name=name, domain=DOMAIN, **attributes
        )

    def _note_type(self, name: str, stored: Stored) -> None:
        """Say a tensor's size, so that a reader of the file can confirm the record."""
        if stored.type.shape is None:
            return
        info = helper.make_tensor_value_info(name, stored.type.code, list(stored.type.shape))
        for values in (self.graph.output, self.graph.input):
            if any(value.name == name for value in values):
                return
        for i, value in enumerate(self.graph.value_info):
            if value.name == name:
                del self.graph.value_info[i]
                break
        self.graph.value_info.append(info)

    def finish(self) -> None:
        """Put the nodes in and rename the readers."""
        nodes = list(self.graph.node)
        for i in {i for name in self.renamed for i in self.readers.get(name, ())}:
            rename_reads(nodes[i], self.renamed)
        ordered: list[onnx.NodeProto] = []
        for i, node in enumerate(nodes):
            kept = () if i in self.dropped else (node,)
            ordered += [*self.before.get(i, ()), *kept, *self.after.get(i, ())]
        refill(self.graph.node, ordered)


def add_parameter_sites(
    model: onnx.ModelProto,
    request: Request,
    formats: Mapping[str, str],
    records: Sequence[Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Add the weight and bias sites of a request to a graph that holds activation sites.

    Parameters
    ----------
    model : onnx.ModelProto
        With NoisyStore nodes that are numbered as `records` are; changed in place. All sites are
        numbered anew, in execution order.
    request : Request
        Of which only what names parameters counts: "weight", "bias" and patterns.
    formats : mapping
        Storage format by kind, "weight" and "bias".
    records : sequence of mapping
        Of the sites that are there.

    Returns
    -------
    list of dict
        One record a site, by number.

    Raises
    ------
    InputError
        The request names no parameter, or a format cannot hold one.
    """
    nodes = dataflow(model, infer_types(Source(model, "the model")))
    choices = [
        choice
        for choice in find_sites(nodes, request)
        if choice.op == STORE or choice.kind in PARAMETER_KINDS
    ]
    return insert_stores(
        model,
        choices,
        [0] * len(choices),
        [formats.get(choice.kind, "native") for choice in choices],
        {int(record["site"]): record for record in records},
    )
