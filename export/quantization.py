# SPDX-License-Identifier: Apache-2.0
"""Static quantization of an ONNX model to 8 bits, with noisy memory sites on its integers."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper
from onnxruntime import quantization as ort_quantization

from ..ortops.errors import InputError
from ..ortops.noise_inputs import DOMAIN, NOISE_INPUTS
from .calibration import Calibration, Reader, check_ranges, draw
from .integer_kernels import FLOAT_KERNELS, Kernels, integer_kernels
from .onnx_annotate import annotate
from .onnx_files import MAX_BYTES, Source, graphs, read_model, write_model
from .onnx_graph import dataflow
from .onnx_types import infer_types
from .quantized_model import (
    QUANTIZED_ENDS,
    keep_scopes,
    own_biases,
    record_quantization,
    tensor_scales,
)
from .site_request import Request, parse_sites
from .sites import find_sites

if TYPE_CHECKING:
    from ..runtime.dataset import Dataset

METHODS = {
    "minmax": ort_quantization.CalibrationMethod.MinMax,
    "entropy": ort_quantization.CalibrationMethod.Entropy,
    "percentile": ort_quantization.CalibrationMethod.Percentile,
}
ACTIVATION_TYPES = {
    "uint8": ort_quantization.QuantType.QUInt8,
    "int8": ort_quantization.QuantType.QInt8,
}
GRAPH_FORMATS = {
    "qdq": ort_quantization.QuantFormat.QDQ,
    "qoperator": ort_quantization.QuantFormat.QOperator,
}
#: Part of an activation's values, in percent, that the method percentile keeps unclipped.
PERCENTILE = 99.99
#: Below it, QuantizeLinear and the integer operators have no place or other rules.
LEAST_OPSET = 11

_QUANTIZED = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
_HALVES = {onnx.TensorProto.FLOAT16: "float16", onnx.TensorProto.BFLOAT16: "bfloat16"}


@dataclass(frozen=True)
class Quantized:
    """What `quantize` wrote.

    Attributes
    ----------
    path : str
    sites : list of dict
        The records of the file's metadata; [] where no sites were asked for.
    bits_per_sample : int
        Stored bits of one sample, over all sites but weights and biases.
    parameter_bits : int
        Stored bits of the weights and biases that are sites.
    quantization : dict
        How it was quantized (method, images, seed, data, types, version of ONNX Runtime), and
        ``scales``, tensor to [scale, zero point]: a stored q is worth (q - zero point) * scale.
    kernels : Kernels
        The layers that ONNX Runtime runs in integers, and the others.
    notes : list of str
        What the reader of the result should know.
    """

    path: str
    sites: list[dict[str, Any]]
    bits_per_sample: int
    parameter_bits: int
    quantization: dict[str, Any]
    kernels: Kernels
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Give everything as a dictionary."""
        return {
            "path": self.path,
            "sites": self.sites,
            "bits_per_sample": self.bits_per_sample,
            "parameter_bits": self.parameter_bits,
            "integer_kernels": {
                "integer": self.kernels.integer,
                "of": self.kernels.total,
                "float": list(self.kernels.floats),
            },
            "quantization": self.quantization,
            "notes": self.notes,
        }

    def __getitem__(self, key: str) -> Any:
        return self.as_dict()[key]


def quantize(
    model: onnx.ModelProto | str | os.PathLike[str],
    data: Dataset | str,
    path: str | os.PathLike[str],
    *,
    images: int | None = None,
    method: str = "minmax",
    seed: int = 0,
    activation_type: str = "uint8",
    graph_format: str = "qdq",
    sites: Any = "activation",
    normalization: Any = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Quantized:
    """Quantize a float32 model with onnxruntime's static quantizer, and put sites on its integers.

    Activations become uint8 or int8 with a scale and a zero point a tensor, weights int8 with a
    scale a tensor, biases int32. The sites store these integers: `annotate` places them.

    Parameters
    ----------
    model : onnx.ModelProto or path-like
        Plain float32 model, batch normalization folded where its exporter did so; ONNX Runtime's
        basic optimizations fold the rest.
    data : Dataset or str
        Calibration images, or the specification of a data set, whose train split is taken where
        it has one.
    path : path-like
        Written whole or not at all.
    images : int, optional
        Number of images drawn; None: 512, or all if there are fewer.
    method : "minmax", "percentile" or "entropy"
        How the range of an activation follows from its values on the images: all of them, all
        but the 0.01 % largest, or onnxruntime's smallest divergence. A narrower range leaves the
        accuracy as it is but makes flips smaller: sweeps with different methods differ.
    seed : int
        Chooses the images.
    activation_type : "uint8" or "int8"
        x86 processors run uint8 activations fast, Arm processors int8. Both have the same scales,
        and zero points 128 apart: u8 = s8 xor 0x80. Where p01 = p10 both see the same flips in
        the same trial; else the two rates change places in the top bit.
    graph_format : "qdq" or "qoperator"
        QuantizeLinear and DequantizeLinear around float operators, which ONNX Runtime fuses, or
        its integer operators.
    sites
        As for `annotate`, or "none": a quantized model without sites.
    normalization : (mean, std), or "none", optional
        Of uint8 images (on x / 255, a number a channel); None: what the model's metadata say.
    progress : callable, optional
        Called with a phase, the images done and the images of that phase.

    Returns
    -------
    Quantized

    Raises
    ------
    InputError
        A bad argument; a model that is annotated, quantized, half-precision or too old, or that
        has nothing to quantize; images that do not fit it or are all of one value; activations
        that are not finite or always 0; or a path that cannot be written.
    """
    for what, value, known in (
        ("method", method, METHODS),
        ("activation type", activation_type, ACTIVATION_TYPES),
        ("graph format", graph_format, GRAPH_FORMATS),
    ):
        if not isinstance(value, str) or value not in known:
            raise InputError(f"{what}: expected {', '.join(known)}, got {value!r}")
    plain = isinstance(sites, str) and sites == "none"
    names = () if plain else parse_sites(sites).patterns
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise InputError(f"{os.fspath(path)}: the folder {folder} does not exist; create it")
    source = read_model(model)
    check_plain(source)
    source.load_tensors()
    check_weights(source)
    if source.model.ByteSize() > MAX_BYTES:
        raise InputError(
            f"{source.name}: expected a model of at most {MAX_BYTES} bytes, got "
            f"{source.model.ByteSize()}: onnxruntime's quantizer takes no larger one"
        )
    calibration = draw(source, data, images, seed, normalization)
    record = {
        "method": method,
        **calibration.record,
        "activation_type": activation_type,
        "weight_type": "int8",
        "bias_type": "int32",
        "graph_format": graph_format,
        "onnxruntime": onnxruntime.__version__,
    }
    if method == "percentile":
        record["percentile"] = PERCENTILE
    quantized = _quantized(source, names, calibration, record, progress or _no_progress)
    record["scales"] = tensor_scales(quantized)
    bare = isinstance(normalization, str) and normalization == "none"
    record_quantization(quantized, "none" if bare else calibration.normalization, record)
    if plain:
        records: list[dict[str, Any]] = []
        bits, parameter_bits, notes, final = 0, 0, [], quantized
    else:
        annotated = annotate(quantized, sites=sites)
        assert annotated.model is not None
        records, bits, final = annotated.sites, annotated.bits_per_sample, annotated.model
        parameter_bits, notes = annotated.parameter_bits, list(annotated.notes)
    notes = [*calibration.notes, *notes]
    kernels = integer_kernels(final)
    if kernels.floats:
        notes.append(
            f"{len(kernels.floats)} of {kernels.total} convolutions and matrix products stay in "
            f"floating point: {', '.join(kernels.floats[:5])}"
        )
    write_model(final, path)
    return Quantized(os.fspath(path), records, bits, parameter_bits, record, kernels, notes)


def _no_progress(phase: str, done: int, total: int) -> None:
    del phase, done, total


def check_plain(source: Source) -> None:
    """Refuse a model that cannot be quantized here.

    Raises
    ------
    InputError
        It is annotated, quantized, of half precision or too old, or has no layer to quantize.
    """
    model, name = source.model, source.name
    every = list(graphs(model.graph))
    nodes = [node for graph in every for node in graph.node]
    inputs = {value.name for value in model.graph.input}
    if any(node.domain == DOMAIN for node in nodes) or inputs & set(NOISE_INPUTS):
        raise InputError(
            f"{name}: it is annotated already: quantize the plain model, sites come after"
        )
    if any(
        node.op_type in _QUANTIZED
        or node.op_type.startswith("QLinear")
        or node.op_type in ("QGemm", "ConvInteger", "MatMulInteger")
        for node in nodes
    ):
        raise InputError(
            f"{name}: it is quantized already: noisystore annotate puts sites on its integers"
        )
    kinds = {tensor.data_type for graph in every for tensor in graph.initializer}
    kinds |= {
        value.type.tensor_type.elem_type
        for graph in every
        for value in (*graph.input, *graph.output, *graph.value_info)
    }
    half = [text for kind, text in _HALVES.items() if kind in kinds]
    if half:
        raise InputError(f"{name}: expected a float32 model, got {half[0]}: export it as float32")
    opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)
    if opset < LEAST_OPSET:
        raise InputError(
            f"{name}: expected opset {LEAST_OPSET} or newer, got {opset}: export it again"
        )
    if not any(node.op_type in FLOAT_KERNELS for node in model.graph.node):
        raise InputError(
            f"{name}: expected convolutions or matrix products to quantize, got none in its graph"
        )


def check_weights(source: Source) -> None:
    """Refuse weights that have no range.

    Raises
    ------
    InputError
        One is NaN or infinite.
    """
    for tensor in source.model.graph.initializer:
        is_float = tensor.data_type == onnx.TensorProto.FLOAT
        if is_float and not np.isfinite(numpy_helper.to_array(tensor)).all():
            raise InputError(f"{source.name}: weight {tensor.name} holds NaN or infinity")


def _check_names(names: Sequence[str], source: Source, folded: onnx.ModelProto) -> None:
    """Tell a mistake in the names of sites before the long work.

    Patterns, and names that only a quantized model has, are left for later.

    Raises
    ------
    InputError
        A name matches nothing in the model, nor in what ONNX Runtime's optimizations make of it.
    """
    exact = [n for n in names if not {*n} & {*"*?["}]
    exact = [n for n in exact if not n.endswith(QUANTIZED_ENDS) and not n.startswith("Q")]
    for name in exact:
        request = Request(patterns=(name,))
        with contextlib.suppress(InputError):
            optimized = Source(folded, source.name)
            find_sites(dataflow(folded, infer_types(optimized)), request)
            continue
        find_sites(dataflow(source.model, infer_types(source)), request)


def _quantized(
    source: Source,
    names: Sequence[str],
    calibration: Calibration,
    record: Mapping[str, Any],
    progress: Callable[[str, int, int], None],
) -> onnx.ModelProto:
    """Fold, look at the ranges, calibrate and quantize, all in a private folder."""
    total = record["images"]

    def ticker(phase: str) -> Callable[[int], None]:
        done = 0

        def tick(images: int) -> None:
            nonlocal done
            done += images
            progress(phase, done, total)

        return tick

    with tempfile.TemporaryDirectory(prefix="noisystore.") as folder:
        plain, folded, output = (Path(folder) / f"{n}.onnx" for n in ("plain", "folded", "output"))
        write_model(source.model, plain)
        try:
            with _quiet():
                ort_quantization.quant_pre_process(
                    os.fspath(plain), os.fspath(folded), skip_symbolic_shape=True
                )
        except Exception as error:
            raise InputError(f"{source.name}: ONNX Runtime: {_one_line(error)}") from None
        floats = onnx.load(folded)
        _check_names(names, source, floats)
        if own_biases(floats, source.model.graph):
            write_model(floats, folded)
        check_ranges(Source(floats, source.name), calibration, ticker("ranges"))
        try:
            with _quiet():
                ort_quantization.quantize_static(
                    os.fspath(folded),
                    os.fspath(output),
                    Reader(calibration, ticker("calibration")),
                    quant_format=GRAPH_FORMATS[record["graph_format"]],
                    activation_type=ACTIVATION_TYPES[record["activation_type"]],
                    weight_type=ort_quantization.QuantType.QInt8,
                    per_channel=False,
                    calibrate_method=METHODS[record["method"]],
                    # One batch at a time: the others' activations need not be in memory.
                    extra_options={"CalibStridedMinMax": 1, "CalibPercentile": PERCENTILE},
                )
            quantized = onnx.load(output)
        except Exception as error:  # the quantizer raises nearly anything
            advice = "" if record["method"] == "minmax" else "; the method minmax may do"
            raise InputError(
                f"{source.name}: onnxruntime's quantizer fails (method {record['method']}): "
                f"{type(error).__name__}: {_one_line(error)}{advice}"
            ) from None
    keep_scopes(source.model.graph, quantized.graph)
    return quantized


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the quantizer: prints, warnings, log lines, and the log handler that it adds."""
    previous, handler = logging.root.manager.disable, logging.NullHandler()
    logging.root.addHandler(handler)
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
        logging.root.removeHandler(handler)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
