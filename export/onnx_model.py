# SPDX-License-Identifier: Apache-2.0
"""Small transforms of an ONNX model that make it an annotated graph, and its atomic writing."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..ortops.errors import InputError
from ..ortops.files import write_whole
from ..ortops.noise_inputs import (
    DOMAIN,
    NOISE_INPUTS,
    NOISE_MODEL,
    NOISE_MODEL_KEY,
    NORMALIZATION_KEY,
    OPERATOR,
    OPSET_VERSION,
    SAMPLE_INDEX,
    SITES_KEY,
    mask_table,
    rate_table,
    sample_index_array,
    seed_array,
)

#: Symbolic dimension of the sample indices.
SAMPLES_DIM = "noise_samples"
#: Highest IR version that ONNX Runtime 1.17 loads.
MAX_IR = 9
#: Size of the largest protobuf message.
MAX_BYTES = 2**31 - 1


def finish(
    model: onnx.ModelProto,
    sites: Sequence[Mapping[str, Any]],
    normalization: Mapping[str, list[float]] | None = None,
) -> None:
    """Turn a graph that holds NoisyStore nodes into an annotated graph, in place.

    Parameters
    ----------
    model : onnx.ModelProto
    sites : sequence of mapping
        One record a site, by number.
    normalization : mapping, optional
        ``mean`` and ``std`` of the images.

    Raises
    ------
    InputError
        The graph's NoisyStore nodes are not exactly those sites, it is too large for one file,
        or the checker refuses it.
    """
    if model.ByteSize() > MAX_BYTES:
        raise InputError(
            f"the model takes {model.ByteSize()} bytes; one ONNX file holds at most {MAX_BYTES}"
        )
    check_stores(model, len(sites))
    set_noise_inputs(model, len(sites))
    name_batch(model)
    strip_exporter_metadata(model)
    set_metadata(model, sites, normalization)
    lower_versions(model)
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise InputError(f"onnx.checker refuses the model: {str(error).splitlines()[0]}") from error


def store_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """List the graph's NoisyStore nodes in order."""
    return [n for n in model.graph.node if n.domain == DOMAIN and n.op_type == OPERATOR]


def check_stores(model: onnx.ModelProto, sites: int) -> None:
    """Make sure that no NoisyStore was lost, doubled or cut off from the noise inputs.

    Raises
    ------
    InputError
        It was.
    """
    nodes = store_nodes(model)
    numbers = sorted(a.i for n in nodes for a in n.attribute if a.name == "site")
    inputs = {v.name for v in model.graph.input}
    fed = all(len(n.input) == 5 and set(n.input[1:]) <= inputs for n in nodes)
    if numbers != list(range(sites)) or not fed:
        raise InputError(
            f"the exporter changed the NoisyStore nodes: expected sites 0 to {sites - 1} fed by "
            f"the graph's noise inputs, found sites {numbers}"
        )


def set_noise_inputs(model: onnx.ModelProto, sites: int) -> None:
    """Name and type the four noise inputs, put them last and give each a default."""
    graph = model.graph
    present = list(store_nodes(model)[0].input[1:])
    rename = dict(zip(present, NOISE_INPUTS, strict=True))
    for node in store_nodes(model):
        node.input[1:] = [rename[name] for name in node.input[1:]]
    own = [v for v in graph.input if v.name not in rename and v.name not in NOISE_INPUTS]
    infos = [v for v in graph.value_info if v.name not in rename]
    defaults = (
        rate_table(0.0, sites),
        mask_table(None, sites),
        seed_array(0),
        sample_index_array(0),
    )
    added = [
        helper.make_tensor_value_info(
            name,
            helper.np_dtype_to_tensor_dtype(array.dtype),
            [SAMPLES_DIM] if name == SAMPLE_INDEX else list(array.shape),
        )
        for name, array in zip(NOISE_INPUTS, defaults, strict=True)
    ]
    values = [
        numpy_helper.from_array(np.ascontiguousarray(array), name)
        for name, array in zip(NOISE_INPUTS, defaults, strict=True)
    ]
    _replace(graph.input, [*own, *added])
    for i in reversed(range(len(graph.initializer))):
        if graph.initializer[i].name in {*rename, *NOISE_INPUTS}:
            del graph.initializer[i]
    graph.initializer.extend(values)
    _replace(graph.value_info, infos)


def _replace(field: Any, values: Iterable[Any]) -> None:
    kept = list(values)
    del field[:]
    field.extend(kept)


def name_batch(model: onnx.ModelProto) -> None:
    """Call the first input's symbolic axis 0 "batch" wherever it occurs."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    if not dims or not dims[0].dim_param:
        return
    symbol = re.compile(rf"\b{re.escape(dims[0].dim_param)}\b")
    graph = model.graph
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = symbol.sub("batch", dim.dim_param)


def strip_exporter_metadata(model: onnx.ModelProto) -> None:
    """Drop the exporter's notes (stack traces, paths), which need IR 10 and are large."""
    for graph in _graphs(model.graph):
        del graph.metadata_props[:]
        for node in graph.node:
            del node.metadata_props[:]
            node.ClearField("doc_string")
        for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
            del value.metadata_props[:]
    for function in model.functions:
        del function.metadata_props[:]
        for node in function.node:
            del node.metadata_props[:]


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graphs(attribute.g)


def set_metadata(
    model: onnx.ModelProto,
    sites: Sequence[Mapping[str, Any]],
    normalization: Mapping[str, list[float]] | None,
) -> None:
    """Record the sites, the noise model's version and the normalization."""
    values = {p.key: p.value for p in model.metadata_props if not p.key.startswith("pkg.")}
    values[SITES_KEY] = json.dumps([dict(site) for site in sites])
    values[NOISE_MODEL_KEY] = NOISE_MODEL
    if normalization is not None:
        values[NORMALIZATION_KEY] = json.dumps(normalization)
    helper.set_model_props(model, values)


def lower_versions(model: onnx.ModelProto) -> None:
    """Mark the model with the lowest opset and IR version that its nodes need."""
    present = {o.domain: o.version for o in model.opset_import}
    current = present.get("", 1)
    needed = 1
    used = {DOMAIN}
    nodes = [n for graph in _graphs(model.graph) for n in graph.node]
    for node in [*nodes, *(n for f in model.functions for n in f.node)]:
        used.add(node.domain)
        if node.domain in ("", "ai.onnx"):
            schema = onnx.defs.get_schema(node.op_type, current, "")
            needed = max(needed, schema.since_version)
    versions = {"": needed if not model.functions else current}
    for domain, version in present.items():
        if domain and domain in used:
            versions[domain] = version
    versions[DOMAIN] = OPSET_VERSION
    _replace(model.opset_import, (helper.make_opsetid(d, v) for d, v in versions.items()))
    standard = [helper.make_opsetid("", versions[""])]
    lowest = helper.find_min_ir_version_for(standard)
    # Functions appeared with IR 8, overridable initializers with IR 4.
    model.ir_version = min(MAX_IR, max(lowest, 8 if model.functions else 4))


def write_model(model: onnx.ModelProto, path: str | os.PathLike[str]) -> None:
    """Write a model under a temporary name, then move it to its place.

    Raises
    ------
    InputError
        The file cannot be written.
    """
    write_whole(path, model.SerializeToString())
