# SPDX-License-Identifier: Apache-2.0
"""Element types and shapes of an ONNX graph's tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from ..ortops.errors import InputError
from .kinds import ONNX_KINDS
from .onnx_files import Source, light
from .onnx_sessions import open_session

Shape = tuple[Any, ...]

#: ONNX codes of floating-point tensors that NoisyStore takes.
FLOATS = frozenset(
    {
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.DOUBLE,
        onnx.TensorProto.FLOAT16,
        onnx.TensorProto.BFLOAT16,
    }
)

_SESSION_TYPES = {
    "tensor(float)": onnx.TensorProto.FLOAT,
    "tensor(double)": onnx.TensorProto.DOUBLE,
    "tensor(float16)": onnx.TensorProto.FLOAT16,
    "tensor(bfloat16)": onnx.TensorProto.BFLOAT16,
    "tensor(uint8)": onnx.TensorProto.UINT8,
    "tensor(int8)": onnx.TensorProto.INT8,
    "tensor(int32)": onnx.TensorProto.INT32,
    "tensor(int64)": onnx.TensorProto.INT64,
    "tensor(bool)": onnx.TensorProto.BOOL,
    "tensor(string)": onnx.TensorProto.STRING,
}


@dataclass
class TensorType:
    """Element type (an ONNX code, 0 unknown) and shape of a tensor.

    ``shape`` holds an int, a symbol or None for each axis, or is None.
    """

    code: int = 0
    shape: Shape | None = None


@dataclass
class Stored:
    """A tensor that may become a site.

    Attributes
    ----------
    name : str
        Of the tensor that lies in memory.
    type : TensorType
    sample : int or None
        Measured elements of one sample, where the shape does not tell them.
    """

    name: str
    type: TensorType
    sample: int | None = None

    def elements(self, rows_per_sample: int) -> int | None:
        """Elements of one sample, or of the whole tensor where rows_per_sample is 0."""
        shape = self.type.shape
        if shape is not None and rows_per_sample > 0:
            fixed = shape[1:]
            if all(isinstance(length, int) for length in fixed):
                return rows_per_sample * math.prod(fixed)
        if shape is not None and rows_per_sample == 0:
            return math.prod(shape)
        return self.sample


def infer_types(
    source: Source, libraries: Sequence[Any] = (), notes: list[str] | None = None
) -> dict[str, TensorType]:
    """Find the types of the main graph's tensors.

    ONNX's shape inference comes first; what it does not know, as behind operators of other
    domains, ONNX Runtime is asked.

    Parameters
    ----------
    source : Source
    libraries : sequence of path-like
        Of custom operators.
    notes : list of str, optional
        A line is added where some types stay unknown.

    Returns
    -------
    dict from tensor name to TensorType
    """
    model = light(source.model)
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # inference is a help: what it does not know is asked for below
        inferred = model
    graph = inferred.graph
    types = {t.name: TensorType(t.data_type, tuple(t.dims)) for t in source.model.graph.initializer}
    for value in (*graph.value_info, *graph.output, *graph.input):
        if value.name not in types:
            types[value.name] = _of(value)
    unknown = [
        name
        for node in graph.node
        for name in node.output
        if name and types.get(name, TensorType()).code == 0
    ]
    if unknown:
        _ask_runtime(source, unknown, libraries, types, notes if notes is not None else [])
        _assume(source.model.graph, types)
    return types


def _assume(graph: onnx.GraphProto, types: dict[str, TensorType]) -> None:
    """Take what the site rules know as float operations to have their operands' float type."""
    outer = [types[v.name].code for v in graph.input if v.name in types]
    usual = next((code for code in outer if code in FLOATS), onnx.TensorProto.FLOAT)
    for node in graph.node:
        first = next(iter(node.output), "")
        known = not first or types.get(first, TensorType()).code
        if node.op_type not in ONNX_KINDS or known:
            continue
        codes = [types[name].code for name in node.input if name in types]
        types[first] = TensorType(next((code for code in codes if code in FLOATS), usual))


def _of(value: onnx.ValueInfoProto) -> TensorType:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return TensorType(tensor.elem_type)
    return TensorType(
        tensor.elem_type,
        tuple(
            d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else d.dim_param or None
            for d in tensor.shape.dim
        ),
    )


def _ask_runtime(
    source: Source,
    unknown: Sequence[str],
    libraries: Sequence[Any],
    types: dict[str, TensorType],
    notes: list[str],
) -> None:
    try:
        session = open_session(source, unknown, libraries)
    except InputError:
        raise
    except Exception as error:  # whatever ONNX Runtime refuses, types stay unknown
        reason = next((line for line in str(error).splitlines() if line.strip()), "")
        notes.append(f"the types of {len(unknown)} tensors are unknown ({reason[:160]})")
        return
    for value in session.get_outputs():
        if value.name in unknown:
            code = _SESSION_TYPES.get(value.type, 0)
            types[value.name] = TensorType(code, tuple(value.shape))
