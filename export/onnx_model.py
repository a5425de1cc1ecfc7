# SPDX-License-Identifier: Apache-2.0
"""Small transforms of an ONNX model that make it an annotated graph, and its atomic writing."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..ortops.errors import InputError
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
from .onnx_files import check, tensors, write_model
from .onnx_order import graphs, refill

__all__ = ["check_normalization", "finish", "write_model"]

#: Symbolic dimension of the sample indices.
SAMPLES_DIM = "noise_samples"
#: Highest IR version that ONNX Runtime 1.17 loads.
MAX_IR = 9
#: Lowest opset that files are marked with.
MIN_OPSET = 7
#: IR version that element types appeared with.
_TYPE_IR: dict[int, int] = {
    onnx.TensorProto.FLOAT8E4M3FN: 9,
    onnx.TensorProto.FLOAT8E4M3FNUZ: 9,
    onnx.TensorProto.FLOAT8E5M2: 9,
    onnx.TensorProto.FLOAT8E5M2FNUZ: 9,
    onnx.TensorProto.UINT4: 10,
    onnx.TensorProto.INT4: 10,
}


def finish(
    model: onnx.ModelProto,
    sites: Sequence[Mapping[str, Any]],
    normalization: Mapping[str, list[float]] | str | None = None,
    *,
    from_torch: bool = True,
) -> None:
    """Turn a graph that holds NoisyStore nodes into an annotated graph, in place.

    Parameters
    ----------
    model : onnx.ModelProto
    sites : sequence of mapping
        One record a site, by number.
    normalization : mapping or "none", optional
        ``mean`` and ``std`` of the images; see `set_normalization`.
    from_torch : bool
        Written by this package's own export: the first input's batch axis is named, and what the
        exporter noted for people is dropped.

    Raises
    ------
    InputError
        The graph's NoisyStore nodes are not exactly those sites, or the checker refuses it.
    """
    check_stores(model, len(sites))
    set_noise_inputs(model, len(sites))
    if from_torch:
        name_batch(model)
    strip_exporter_metadata(model, doc_strings=from_torch)
    set_metadata(model, sites, normalization)
    lower_versions(model)
    check(model)


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
    inputs = {v.name for v in model.graph.input} | {*NOISE_INPUTS}
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
    refill(graph.input, [*own, *added])
    for i in reversed(range(len(graph.initializer))):
        if graph.initializer[i].name in {*rename, *NOISE_INPUTS}:
            del graph.initializer[i]
    graph.initializer.extend(values)
    refill(graph.value_info, infos)


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


def strip_exporter_metadata(model: onnx.ModelProto, doc_strings: bool = True) -> None:
    """Drop the exporter's notes (stack traces, paths), which need IR 10 and are large."""
    for graph in graphs(model.graph):
        del graph.metadata_props[:]
        for node in graph.node:
            del node.metadata_props[:]
            if doc_strings:
                node.ClearField("doc_string")
        for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
            del value.metadata_props[:]
    for function in model.functions:
        del function.metadata_props[:]
        for node in function.node:
            del node.metadata_props[:]


def set_metadata(
    model: onnx.ModelProto,
    sites: Sequence[Mapping[str, Any]],
    normalization: Mapping[str, list[float]] | str | None,
) -> None:
    """Record the sites, the noise model's version and the normalization."""
    values = {p.key: p.value for p in model.metadata_props if not p.key.startswith("pkg.")}
    values[SITES_KEY] = json.dumps([dict(site) for site in sites])
    values[NOISE_MODEL_KEY] = NOISE_MODEL
    helper.set_model_props(model, values)
    set_normalization(model, normalization)


def set_normalization(
    model: onnx.ModelProto, normalization: Mapping[str, list[float]] | str | None
) -> None:
    """Record the normalization of the images; None leaves what is there, "none" drops it."""
    if normalization is None:
        return
    values = {p.key: p.value for p in model.metadata_props if p.key != NORMALIZATION_KEY}
    if not isinstance(normalization, str):
        values[NORMALIZATION_KEY] = json.dumps(normalization)
    helper.set_model_props(model, values)


def lower_versions(model: onnx.ModelProto) -> None:
    """Mark the model with the lowest opset and IR version that its nodes and types need."""
    present = {o.domain: o.version for o in model.opset_import}
    current = present.get("", present.get("ai.onnx", 1))
    needed = min(MIN_OPSET, current)
    used = {DOMAIN}
    nodes = [n for graph in graphs(model.graph) for n in graph.node]
    for node in [*nodes, *(n for f in model.functions for n in f.node)]:
        if node.domain == "ai.onnx":
            node.domain = ""
        used.add(node.domain)
        if not node.domain:
            try:
                schema = onnx.defs.get_schema(node.op_type, current, "")
                needed = max(needed, schema.since_version)
            except onnx.defs.SchemaError:  # an operator that a runtime adds to ONNX's domain
                needed = current
    versions = {"": needed if not model.functions else current}
    for domain, version in present.items():
        if domain and domain != "ai.onnx" and domain in used:
            versions[domain] = version
    versions[DOMAIN] = OPSET_VERSION
    refill(model.opset_import, (helper.make_opsetid(d, v) for d, v in versions.items()))
    model.ir_version = _lowest_ir(model, versions[""])


def _lowest_ir(model: onnx.ModelProto, opset: int) -> int:
    standard = helper.find_min_ir_version_for([helper.make_opsetid("", opset)], ignore_unknown=True)
    codes = {tensor.data_type for tensor in tensors(model)}
    for graph in graphs(model.graph):
        for value in (*graph.input, *graph.output, *graph.value_info):
            codes.add(value.type.tensor_type.elem_type)
    for node in (n for graph in graphs(model.graph) for n in graph.node):
        codes |= {a.i for a in node.attribute if a.name in ("to", "output_dtype", "dtype")}
    newest = max(_TYPE_IR)
    needs = [_TYPE_IR.get(code, model.ir_version if code > newest else 0) for code in codes]
    # Overridable initializers appeared with IR 4, functions with 8, their overloads with 10.
    functions = 8 if model.functions else 4
    overloads = 10 if any(f.overload for f in model.functions) else 4
    # Runtimes go by the opsets: a newer one does not need the IR version it came out with.
    return max(min(standard, MAX_IR), functions, overloads, *needs)


def check_normalization(value: Any) -> dict[str, list[float]] | None:
    """Read a normalization argument, (mean, std) or a mapping of the two.

    Raises
    ------
    InputError
        It is of another form.
    """
    if value is None:
        return None
    try:
        mean, std = (value["mean"], value["std"]) if isinstance(value, Mapping) else value
        result = {"mean": [float(v) for v in mean], "std": [float(v) for v in std]}
    except (TypeError, ValueError, KeyError, OverflowError):
        raise InputError(
            f"normalization: expected (mean, std), one number a channel each, got {value!r:.200}"
        ) from None
    mean, std = result["mean"], result["std"]
    finite = all(map(math.isfinite, (*mean, *std)))
    if len(mean) != len(std) or not finite or not all(v > 0 for v in std):
        raise InputError(
            "normalization: expected as many positive standard deviations as means, all finite, "
            f"got {value!r:.200}"
        )
    return result
