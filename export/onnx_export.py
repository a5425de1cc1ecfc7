# SPDX-License-Identifier: Apache-2.0
"""PyTorch model in, noise-annotated ONNX file out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import onnx
import onnxscript
import torch
from torch import nn

from ..ortops.errors import InputError
from ..ortops.noise_inputs import DOMAIN, OPERATOR, OPSET_VERSION
from .instrumented import Instrumented, NoisyTrace, evaluating, instrument
from .onnx_files import graphs
from .onnx_model import check_normalization, finish, name_batch, set_normalization, write_model
from .onnx_stores import add_parameter_sites
from .site_formats import check_used, stored_bits
from .torch_graph import quiet, trace
from .torch_op import noise_tensors

#: Opsets that the writer offers; ONNX Runtime 1.17 loads up to 20.
OPSETS = range(18, 21)

#: ``sites`` of a file without any.
NO_SITES = "none"
_TRACE_NOTES = ("pkg.torch.onnx.stack_trace", "pkg.torch.onnx.fx_node")


@dataclass(frozen=True)
class Export:
    """What `export_onnx` wrote.

    Attributes
    ----------
    path : str
    sites : list of dict
        The records of the file's metadata.
    bits_per_sample : int
        Stored bits of one sample, over all sites but weights and biases.
    parameter_bits : int
        Stored bits of the weights and biases that are sites.
    """

    path: str
    sites: list[dict[str, Any]]
    bits_per_sample: int
    parameter_bits: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Give the four as a dictionary."""
        return asdict(self)

    def __getitem__(self, key: str) -> Any:
        return self.as_dict()[key]


def export_onnx(
    model: nn.Module,
    args: Any,
    path: str | os.PathLike[str],
    *,
    sites: Any = "activation",
    storage_format: str | Mapping[str, str] = "native",
    normalization: Any = None,
    opset_version: int = 20,
    verbose: bool = False,
) -> Export:
    """Export a model with NoisyStore at its sites.

    The file runs as it is, as the clean model, wherever the operator library is loaded; the four
    ``noise.*`` inputs, which have defaults, set the noise of each run.

    Weights and biases are sites as the file holds them: PyTorch's exporter merges batch
    normalisation into the convolution before it, transposes the weight of a linear layer whose
    input has more than two axes, leaves out biases that are 0, and keeps one copy of equal
    tensors. Where it does none of these, their bits are those of `instrument`.

    Parameters
    ----------
    model : torch.nn.Module
        Exported in evaluation mode; or the result of `instrument`, whose own sites are used.
    args : torch.Tensor or tuple
        Example arguments, axis 0 the batch; the exported batch size is free.
    path : path-like
        Written whole or not at all.
    sites, storage_format
        As for `instrument`; "none" writes the plain model, for `quantize` and `annotate`.
    normalization : (mean, std), optional
        Of an image data set (on x/255, one value a channel), for the metadata; by default the
        model's ``normalization``, if it has one; "none": none.
    opset_version : int
        From 18 to 20; the file is marked with the lowest that its nodes need.
    verbose : bool
        Let the exporter print.

    Returns
    -------
    Export
        Path, sites and bits_per_sample.

    Raises
    ------
    InputError
        A bad argument, a model that cannot be traced or exported, or a path that cannot be
        written.
    """
    if opset_version not in OPSETS:
        raise InputError(
            f"opset_version: expected {OPSETS.start} to {OPSETS.stop - 1}, got {opset_version!r}"
        )
    plain = sites == NO_SITES and not isinstance(model, Instrumented)
    noisy = (
        model
        if plain or isinstance(model, Instrumented)
        else instrument(model, sites=sites, storage_format=storage_format)
    )
    if normalization is None:
        original = noisy.model if isinstance(noisy, Instrumented) else noisy
        normalization = getattr(original, "normalization", None)
    named = not (isinstance(normalization, str) and normalization == "none")
    norm = check_normalization(normalization) if named else None
    directory = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(directory):
        raise InputError(f"{os.fspath(path)}: the folder {directory} does not exist; create it")
    if not isinstance(noisy, Instrumented):
        with evaluating(noisy):
            unchanged = NoisyTrace(trace(noisy, args), [], [], [])
            proto = _to_onnx(unchanged, opset_version, verbose)
        _finish_plain(proto, norm)
        write_model(proto, path)
        return Export(os.fspath(path), [], 0)
    with evaluating(noisy):
        traced, parameters = noisy.traced_without_parameters(
            args if isinstance(args, tuple) else (args,)
        )
        proto = _to_onnx(traced, opset_version, verbose)
    records = [site.as_dict() for site in traced.sites]
    if parameters is not None:
        records = add_parameter_sites(proto, parameters, noisy.formats, records)
    check_used(noisy.formats, (record["kind"] for record in records))
    finish(proto, records, norm)
    write_model(proto, path)
    return Export(os.fspath(path), records, *stored_bits(records))


def _to_onnx(noisy: NoisyTrace, opset_version: int, verbose: bool) -> onnx.ModelProto:
    example, batched = noisy.trace.example, noisy.trace.batched
    noise = noise_tensors(len(noisy.sites)) if noisy.sites else ()
    shapes = [{0: "batch"} if i in batched else None for i in range(len(example))]
    try:
        with quiet(verbose):
            program = torch.onnx.export(
                noisy.trace.module,
                (*example, *noise),
                dynamo=True,
                dynamic_shapes=(*shapes, *[None] * len(noise)),
                custom_translation_table={torch.ops.noisystore.store.default: _translate},
                opset_version=opset_version,
                verbose=verbose,
            )
        assert program is not None
        return program.model_proto
    except Exception as error:
        cause = error.__cause__ or error  # the exporter wraps it in advice of many lines
        lines = [line for line in str(cause).splitlines() if line.strip()]
        raise InputError(
            f"the PyTorch exporter cannot write this model: {type(cause).__name__}: "
            f"{lines[0] if lines else ''}"
        ) from error


def _finish_plain(model: onnx.ModelProto, normalization: dict[str, list[float]] | None) -> None:
    """Keep the exporter's notes that say which module made a node; they name sites later."""
    name_batch(model)
    for graph in graphs(model.graph):
        for node in graph.node:
            kept = [entry for entry in node.metadata_props if entry.key not in _TRACE_NOTES]
            del node.metadata_props[:]
            node.metadata_props.extend(kept)
    set_normalization(model, normalization)


def _schema() -> onnx.defs.OpSchema:
    """Signature for the exporter, with the bit patterns of the masks as int64."""
    parameter, attribute = onnx.defs.OpSchema.FormalParameter, onnx.defs.OpSchema.Attribute
    kind = onnx.defs.OpSchema.AttrType
    types = ["float16", "bfloat16", "float", "double", "int8", "uint8", "int32"]
    return onnx.defs.OpSchema(
        OPERATOR,
        DOMAIN,
        OPSET_VERSION,
        inputs=[
            parameter("X", "T"),
            parameter("bit_error_rate", "tensor(double)"),
            parameter("bit_mask", "tensor(int64)"),
            parameter("seed", "tensor(int64)"),
            parameter("sample_index", "tensor(int64)"),
        ],
        outputs=[parameter("Y", "T")],
        type_constraints=[("T", [f"tensor({t})" for t in types], "")],
        attributes=[
            attribute("site", kind.INT, ""),
            attribute("rows_per_sample", kind.INT, "", required=False),
            attribute("storage_format", kind.STRING, "", required=False),
            attribute("scale", kind.FLOAT, "", required=False),
            attribute("zero_point", kind.INT, "", required=False),
        ],
    )


_OPERATOR = onnxscript.values.Op(
    onnxscript.values.Opset(DOMAIN, OPSET_VERSION), OPERATOR, _schema()
)


def _translate(
    x: Any,
    bit_error_rate: Any,
    bit_mask: Any,
    seed: Any,
    sample_index: Any,
    site: int,
    storage_format: str = "native",
    scale: float = 1.0,
    zero_point: int = 0,
    rows_per_sample: int = 1,
) -> Any:
    attributes: dict[str, Any] = {"site": site, "rows_per_sample": rows_per_sample}
    if storage_format != "native":
        attributes["storage_format"] = storage_format
    if scale != 1.0:
        attributes["scale"] = scale
    if zero_point != 0:
        attributes["zero_point"] = zero_point
    return _OPERATOR(x, bit_error_rate, bit_mask, seed, sample_index, **attributes)
