# SPDX-License-Identifier: Apache-2.0
"""Which layers of a quantized model ONNX Runtime runs in integers, read off its optimized graph."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import onnx

from ..ortops.errors import InputError
from .onnx_files import graphs, write_model
from .onnx_sessions import exact_session

#: ONNX Runtime's operators of convolutions and matrix products, standard and its own.
INTEGER_KERNELS = frozenset(
    {
        "QLinearConv",
        "ConvInteger",
        "QGemm",
        "QLinearMatMul",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "DynamicQuantizeMatMul",
    }
)
FLOAT_KERNELS = frozenset(
    {
        "Conv",
        "FusedConv",
        "NhwcFusedConv",
        "ConvTranspose",
        "Gemm",
        "FusedGemm",
        "MatMul",
        "FusedMatMul",
    }
)


@dataclass(frozen=True)
class Kernels:
    """Convolutions and matrix products of an optimized graph.

    Attributes
    ----------
    integer : int
        How many run in integers.
    floats : tuple of str
        Names of the others.
    """

    integer: int
    floats: tuple[str, ...]

    @property
    def total(self) -> int:
        """How many there are."""
        return self.integer + len(self.floats)

    def __str__(self) -> str:
        return f"{self.integer} of {self.total}"


def integer_kernels(model: onnx.ModelProto) -> Kernels:
    """Let ONNX Runtime optimize a model, and count the kernels of its convolutions and products.

    Parameters
    ----------
    model : onnx.ModelProto
        Quantized, annotated or not.

    Returns
    -------
    Kernels

    Raises
    ------
    InputError
        ONNX Runtime cannot load the model.
    """
    with tempfile.TemporaryDirectory(prefix="noisystore.") as folder:
        path, optimized = Path(folder) / "model.onnx", Path(folder) / "optimized.onnx"
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        write_model(copy, path)
        try:
            exact_session(os.fspath(path), optimized=optimized)
            found = onnx.load(optimized, load_external_data=False)
        except Exception as error:
            raise InputError(
                "ONNX Runtime does not load the quantized model: "
                f"{' '.join(str(error).split())[:300]}"
            ) from None
    nodes = [node for graph in graphs(found.graph) for node in graph.node]
    floats = [node.name or node.output[0] for node in nodes if node.op_type in FLOAT_KERNELS]
    return Kernels(sum(node.op_type in INTEGER_KERNELS for node in nodes), tuple(floats))
