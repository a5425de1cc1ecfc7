# SPDX-License-Identifier: Apache-2.0
"""Any ONNX model in, the same model with NoisyStore at its sites out."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from onnx import helper

from ..ortops.errors import InputError
from ..ortops.noise_inputs import NOISE_INPUTS, NORMALIZATION_KEY
from .dataflow import Node
from .image_processing import add_image_processing
from .onnx_files import Source, read_model, write_model
from .onnx_graph import dataflow, is_store
from .onnx_model import check, check_normalization, finish, lower_versions
from .onnx_order import graphs, refill, subgraphs
from .onnx_quantized import merge_quantizers
from .onnx_rows import measure_rows
from .onnx_sessions import check_loads
from .onnx_stores import insert_stores, storage_format_of
from .onnx_types import FLOATS, Stored, TensorType, infer_types
from .site_formats import check_used, parse_formats, stored_bits
from .site_request import PARAMETER_KINDS, Request, parse_sites
from .sites import Choice, find_sites


@dataclass(frozen=True)
class Annotated:
    """What `annotate` made.

    Attributes
    ----------
    path : str or None
        None: nothing was written.
    sites : list of dict
        The records of the file's metadata.
    bits_per_sample : int
        Stored bits of one sample, over all sites but weights and biases.
    parameter_bits : int
        Stored bits of the weights and biases that are sites.
    notes : list of str
        What was left alone, and what could not be measured.
    model : onnx.ModelProto or None
        Where no path was given.
    """

    path: str | None
    sites: list[dict[str, Any]]
    bits_per_sample: int
    parameter_bits: int = 0
    notes: list[str] = field(default_factory=list)
    model: onnx.ModelProto | None = None

    def as_dict(self) -> dict[str, Any]:
        """Give all but the model as a dictionary."""
        return {
            "path": self.path,
            "sites": self.sites,
            "bits_per_sample": self.bits_per_sample,
            "parameter_bits": self.parameter_bits,
            "notes": self.notes,
        }

    def __getitem__(self, key: str) -> Any:
        return self.as_dict()[key]


def annotate(
    model: Any,
    path: str | os.PathLike[str] | None = None,
    *,
    sites: Any = "activation",
    storage_format: Any = "native",
    example: Any = None,
    custom_op_libraries: Sequence[Any] = (),
    normalization: Any = None,
    preprocess: str | None = None,
) -> Annotated:
    """Put NoisyStore at the sites of an ONNX model of any producer.

    With all rates 0, the default, the result computes what the model computes. In quantized
    models the stored tensors are the integers: what QuantizeLinear and the QLinear operators
    give, and integer weights and biases. Subgraphs (If, Loop, Scan) and functions get no site.

    Parameters
    ----------
    model : onnx.ModelProto or path-like
        Left as it is.
    path : path-like, optional
        Written whole or not at all; weights go to ``<path>.data`` where one file is too small.
    sites : str or sequence
        "activation", "layer", "input", "weight", "bias", ONNX operators such as "Conv", tensor
        names, and patterns of names; where PyTorch's exporter left module names, of these.
    storage_format : str or mapping
        How values are held in memory, or that of each kind of site; "native" is each tensor's
        own type.
    example : mapping, sequence or array, optional
        Values of the inputs, axis 0 the batch, to measure rows per sample with.
    custom_op_libraries : sequence of path-like
        Shared libraries with the model's own operators; that of onnxruntime-extensions is found.
    normalization : (mean, std), or "none", optional
        Of an image data set (on x/255, one value a channel), for the metadata; None: what the
        model states, "none": images are scaled to x/255 and no more.
    preprocess : "image", optional
        Build the decoding of a PNG or JPEG file in front and its label and score behind into the
        graph; see `noisystore.export.image_processing.add_image_processing`.

    Returns
    -------
    Annotated

    Raises
    ------
    InputError
        A bad argument, a model that cannot be read, has no such site or holds NoisyStore already,
        a type that NoisyStore does not store, or a path that cannot be written.

    Examples
    --------
    >>> annotate("resnet.onnx", "noisy.onnx", sites="Relu").bits_per_sample
    """
    request = parse_sites(sites)
    if request.types:
        raise InputError(
            f"sites: expected names of ONNX operators, got the type {request.types[0].__name__}; "
            "pass a string such as 'Conv'"
        )
    formats = parse_formats(storage_format)
    bare = isinstance(normalization, str) and normalization == "none"
    norm = None if bare else check_normalization(normalization)
    if preprocess not in (None, "image"):
        raise InputError(f"preprocess: expected 'image', got {preprocess!r}")
    if path is not None:
        folder = os.path.dirname(os.path.abspath(path))
        if not os.path.isdir(folder):
            raise InputError(f"{os.fspath(path)}: the folder {folder} does not exist; create it")
    source = read_model(model)
    _refuse_annotated(source)
    merge_quantizers(source.model)
    notes = _left_alone(source.model)
    types = infer_types(source, custom_op_libraries, notes)
    _complete_outputs(source.model, types)
    nodes = dataflow(source.model, types)
    choices = _choices(nodes, request, notes)
    check_used(formats, (choice.kind for choice in choices))
    wanted = [formats[choice.kind] for choice in choices]
    for choice, format_ in zip(choices, wanted, strict=True):
        storage_format_of(format_, choice.node.handle, choice.name)
    rows = _rows(source, choices, example, custom_op_libraries, notes)
    records = insert_stores(source.model, choices, rows, wanted)
    _drop_listed_initializers(source.model)
    finish(source.model, records, "none" if bare else norm, from_torch=False)
    if preprocess is not None:
        unscaled = {"mean": [0.0], "std": [1.0]}
        stated = unscaled if bare else norm or _stated_normalization(source.model)
        add_image_processing(source.model, stated)
        lower_versions(source.model)
        check(source.model)
    source.load_tensors()
    check_loads(source.model, model, custom_op_libraries, notes)
    if path is not None:
        write_model(source.model, path)
    return Annotated(
        os.fspath(path) if path is not None else None,
        records,
        *stored_bits(records),
        notes,
        source.model if path is None else None,
    )


def _stated_normalization(model: onnx.ModelProto) -> dict[str, list[float]] | None:
    text = next((p.value for p in model.metadata_props if p.key == NORMALIZATION_KEY), "null")
    try:
        return check_normalization(json.loads(text))
    except (ValueError, RecursionError):
        raise InputError(
            f"metadata {NORMALIZATION_KEY}: expected mean and std as JSON, got {text[:80]!r}"
        ) from None


def _refuse_annotated(source: Source) -> None:
    graph = source.model.graph
    nodes = [n for g in graphs(graph) for n in g.node]
    nodes += [n for f in source.model.functions for n in f.node]
    names = {v.name for v in graph.input} | {t.name for t in graph.initializer}
    if any(is_store(node) for node in nodes) or {*NOISE_INPUTS} <= names:
        raise InputError(
            f"{source.name}: it is annotated already; annotate the model that it was made from"
        )
    names |= {name for node in nodes for name in (*node.input, *node.output)}
    for name in NOISE_INPUTS:
        if name in names:
            raise InputError(
                f"{source.name}: has a tensor {name}, a name that annotated models keep for an "
                "input of theirs; rename it"
            )


def _choices(nodes: Sequence[Node], request: Request, notes: Sequence[str]) -> list[Choice]:
    try:
        return find_sites(nodes, _by_label(request, nodes))
    except InputError as error:
        raise InputError("; ".join([str(error), *notes])) from None


def _complete_outputs(model: onnx.ModelProto, types: Mapping[str, TensorType]) -> None:
    """State the shapes of outputs that do not, where they are known: onnx.checker wants them."""
    for value in model.graph.output:
        known = types.get(value.name, TensorType())
        if not value.type.tensor_type.HasField("shape") and known.code and known.shape is not None:
            info = helper.make_tensor_value_info(value.name, known.code, known.shape)
            value.type.CopyFrom(info.type)


def _by_label(request: Request, nodes: Sequence[Node]) -> Request:
    """Let the names of stored integers stand for the tensors that they hold.

    Raises
    ------
    InputError
        A tensor that is named is of a type that NoisyStore does not store.
    """
    labels = {node.handle.name: node.label for node in nodes if node.is_float}
    for node in nodes:
        in_kernel = node.handle.type.code in FLOATS  # a float result that lies in no memory
        if node.is_float or in_kernel or node.label in labels:
            continue
        if node.label in request.patterns:
            storage_format_of("native", node.handle, node.label)
            node.is_float = True  # integers that are stored as they are, since they are asked for
    return replace(request, patterns=tuple(labels.get(p, p) for p in request.patterns))


def _left_alone(model: onnx.ModelProto) -> list[str]:
    notes = []
    holders = Counter(n.op_type for n in model.graph.node if any(True for _ in subgraphs(n)))
    if holders:
        text = ", ".join(f"{count} {name}" for name, count in holders.items())
        notes.append(f"subgraphs are left alone, they get no sites: {text}")
    functions = {(f.domain, f.name) for f in model.functions}
    calls = Counter(n.op_type for n in model.graph.node if (n.domain, n.op_type) in functions)
    if calls:
        text = ", ".join(f"{count} {name}" for name, count in calls.items())
        notes.append(f"functions are left alone, their bodies get no sites: {text}")
    return notes


def _rows(
    source: Source,
    choices: Sequence[Any],
    example: Any,
    libraries: Sequence[Any],
    notes: list[str],
) -> list[int]:
    measured: list[Stored] = [c.node.handle for c in choices if c.kind not in PARAMETER_KINDS]
    found = iter(
        measure_rows(source, measured, _example(source, example), libraries, notes)
        if measured
        else ()
    )
    rows = [0 if choice.kind in PARAMETER_KINDS else next(found) for choice in choices]
    uncertain = sum(count < 0 for count in rows)
    if uncertain:
        notes.append(
            f"{uncertain} of {len(rows)} sites have no batch axis in front: batches stay whole"
        )
    return rows


def _example(source: Source, example: Any) -> dict[str, np.ndarray[Any, Any]]:
    if example is None:
        return {}
    graph = source.model.graph
    fixed = {tensor.name for tensor in graph.initializer}
    names = [value.name for value in graph.input if value.name not in fixed]
    if isinstance(example, Mapping):
        return dict(example)
    arrays = list(example) if isinstance(example, (list, tuple)) else [example]
    if len(arrays) != len(names):
        raise InputError(
            f"example: expected one array for each of the inputs {', '.join(names)}, got "
            f"{len(arrays)}"
        )
    return dict(zip(names, arrays, strict=True))


def _drop_listed_initializers(model: onnx.ModelProto) -> None:
    """Make initializers constant that an IR of 3 had to list as inputs."""
    if model.ir_version >= 4:
        return
    fixed = {tensor.name for tensor in model.graph.initializer}
    refill(model.graph.input, [v for v in model.graph.input if v.name not in fixed])
