# SPDX-License-Identifier: Apache-2.0
"""What is constant in an ONNX graph: numbers, and the stored tensors behind them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from ..ortops.errors import InputError
from .onnx_files import is_external

#: Operators that move the elements of a constant, or change their type, but compute nothing.
_MOVES = frozenset(
    {
        *("Identity", "Cast", "CastLike", "Reshape", "Flatten", "Transpose"),
        *("Squeeze", "Unsqueeze", "Expand", "Dropout"),
    }
)
_RANDOM = frozenset(
    {
        *("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"),
        *("Bernoulli", "Multinomial"),
    }
)
_SMALL = 64


class Constants:
    """Constant tensors of the main graph.

    Attributes
    ----------
    names : set of str
        Every tensor that does not depend on a graph input.
    stored : dict
        From a constant tensor to the one that lies in memory: the initializer (or constant) whose
        elements it holds, or the integers that a QuantizeLinear made of it.

    Raises
    ------
    InputError
        A tensor's data do not fit its shape.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.names: set[str] = {""}
        self.stored: dict[str, str] = {}
        self._arrays: dict[str, npt.NDArray[Any]] = {}
        for tensor in graph.initializer:
            self._add_tensor(tensor.name, tensor)
        for sparse in graph.sparse_initializer:
            self.names.add(sparse.values.name)

    def _add_tensor(self, name: str, tensor: onnx.TensorProto) -> None:
        self.names.add(name)
        self.stored[name] = name
        if not is_external(tensor) and int(np.prod(tensor.dims)) <= _SMALL:
            try:
                self._arrays[name] = numpy_helper.to_array(tensor)
            except (ValueError, TypeError) as error:
                raise InputError(f"tensor {name}: its data are damaged ({error})") from None

    def take(self, node: onnx.NodeProto, captured: set[str]) -> bool:
        """Note the outputs of a node if they are constant, and say whether they are."""
        if node.op_type in _RANDOM or not {*node.input, *captured} <= self.names:
            return False
        self.names.update(node.output)
        output = node.output[0]
        if node.op_type == "Constant":
            self._take_constant(node, output)
        elif node.op_type == "QuantizeLinear":
            self.stored[output] = output
        elif node.op_type in _MOVES or node.op_type == "DequantizeLinear":
            source = self.stored.get(node.input[0])
            if source is not None:
                self.stored[output] = source
            array = self._arrays.get(node.input[0])
            if array is not None and node.op_type == "DequantizeLinear":
                array = self._dequantized(node, array)
            if array is not None and array.size == 1:
                self._arrays[output] = array
        return True

    def _take_constant(self, node: onnx.NodeProto, output: str) -> None:
        for attribute in node.attribute:
            if attribute.name == "value":
                self._add_tensor(output, attribute.t)
            elif attribute.name in ("value_float", "value_int", "value_floats", "value_ints"):
                self._arrays[output] = np.asarray(helper.get_attribute_value(attribute))

    def _dequantized(
        self, node: onnx.NodeProto, array: npt.NDArray[Any]
    ) -> npt.NDArray[Any] | None:
        scale = self.array(node.input[1])
        zero = self.array(node.input[2]) if len(node.input) > 2 and node.input[2] else 0
        if scale is None or zero is None or np.size(scale) != 1:
            return None
        return np.asarray((array.astype(np.float64) - np.float64(zero)) * np.float64(scale))

    def array(self, name: str) -> npt.NDArray[Any] | None:
        """Give a small constant's elements, or None."""
        return self._arrays.get(name)

    def number(self, name: str) -> float | None:
        """Give a constant of one element as a float, or None."""
        array = self._arrays.get(name)
        if array is None or array.size != 1 or array.dtype.kind not in "fiub":
            return None
        return float(array.reshape(-1)[0])

    def integers(self, name: str) -> list[int] | None:
        """Give a small constant as a list of integers, or None."""
        array = self._arrays.get(name)
        return None if array is None else [int(v) for v in array.reshape(-1)]
