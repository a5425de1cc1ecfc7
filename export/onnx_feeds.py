# SPDX-License-Identifier: Apache-2.0
"""Values to run an ONNX model on: drawn for each type, or like an example's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from ..ortops.errors import InputError

Arrays = dict[str, npt.NDArray[Any]]

#: Lengths of free axes that are no batch, and bounds of integers, in the order of trial.
_KINDS = ((32, 10), (64, 10), (224, 10), (8, 10), (32, 2), (8, 2), (1, 1))


class Feeds:
    """Draws values for the data inputs of a model.

    Parameters
    ----------
    model : onnx.ModelProto
    example : mapping from input name to array
        One array an input, or none at all.

    Attributes
    ----------
    fixed_batch : int or None
        Batch size that the file fixes.
    batch_symbol : str or None
        Name of the free batch axis.
    batched : set of str
        Inputs whose axis 0 runs over the batch.
    free_axes : bool
        Other axes than the batch's have no fixed length.

    Raises
    ------
    InputError
        The example does not fit the inputs.
    """

    def __init__(self, model: onnx.ModelProto, example: Mapping[str, npt.NDArray[Any]]) -> None:
        fixed = {tensor.name for tensor in model.graph.initializer}
        self.shapes: dict[str, tuple[Any, ...] | None] = {}
        self.codes: dict[str, int] = {}
        for value in model.graph.input:
            if value.name not in fixed:
                kind = value.type.tensor_type
                self.codes[value.name] = kind.elem_type
                self.shapes[value.name] = (
                    tuple(d.dim_value or d.dim_param or None for d in kind.shape.dim)
                    if kind.HasField("shape")
                    else None
                )
        self.example = _checked(example, self.shapes, self.codes)
        self._generator = np.random.default_rng(0)
        self._kind = 0
        self._classify()

    def _classify(self) -> None:
        ranked = {name: shape for name, shape in self.shapes.items() if shape}
        first = next(iter(ranked.values()), None)
        length = first[0] if first else None
        self.fixed_batch = length if isinstance(length, int) else None
        self.batch_symbol = length if isinstance(length, str) else None
        self.batched = {
            name
            for name, shape in ranked.items()
            if (shape[0] == length if self.fixed_batch else not isinstance(shape[0], int))
        }
        self.free_axes = any(
            shape is None
            or any(
                not isinstance(length, int)
                for i, length in enumerate(shape)
                if i or name not in self.batched
            )
            for name, shape in self.shapes.items()
        )

    def next_kind(self) -> bool:
        """Go on to another kind of drawn values; False where there is none left."""
        self._kind += 1
        return not self.example and self._kind < len(_KINDS)

    def draw(self, batch: int) -> Arrays:
        """Draw values for a batch, or fit the example to its size.

        Raises
        ------
        ValueError
            An input is of a type or shape for which nothing can be drawn.
        """
        return {name: self._one(name, batch) for name in self.shapes}

    def _one(self, name: str, batch: int) -> npt.NDArray[Any]:
        if name in self.example:
            array = self.example[name]
            if name not in self.batched or len(array) == batch:
                return array
            return np.resize(array, (batch, *array.shape[1:]))
        shape = self.shapes[name]
        if shape is None:
            raise ValueError(f"input {name} has no shape")
        free, bound = _KINDS[min(self._kind, len(_KINDS) - 1)]
        lengths = [length if isinstance(length, int) else free for length in shape]
        if name in self.batched:
            lengths[0] = batch
        return self._random(name, tuple(lengths), bound)

    def _random(self, name: str, shape: tuple[int, ...], bound: int) -> npt.NDArray[Any]:
        dtype = numpy_type(self.codes[name])
        if dtype is None:
            raise ValueError(f"input {name} is no tensor of numbers")
        if dtype.kind in "fV":
            return self._generator.standard_normal(shape).astype(dtype)
        if dtype.kind == "b":
            return self._generator.integers(0, 2, shape).astype(dtype)
        high = 256 if dtype == np.uint8 else 128 if dtype == np.int8 else bound
        low = -128 if dtype == np.int8 else 0
        return self._generator.integers(low, high, shape).astype(dtype)

    def vary(self, feed: Arrays, sample: int) -> Arrays:
        """Copy a feed with new values for one sample."""
        result = dict(feed)
        for name in self.batched:
            array = feed[name].copy()
            rows = array[sample : sample + 1]
            if self.example and rows.dtype.kind != "V":
                new = self._like(array)[sample : sample + 1]
            else:
                new = self._random(name, rows.shape, _KINDS[min(self._kind, len(_KINDS) - 1)][1])
            array[sample : sample + 1] = new
            result[name] = array
        return result

    def _like(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Draw values with an array's spread, or from its own."""
        if array.dtype.kind == "f":
            spread = float(np.std(array.astype(np.float64))) or 1.0
            mean = float(np.mean(array.astype(np.float64)))
            return (self._generator.standard_normal(array.shape) * spread + mean).astype(
                array.dtype
            )
        return self._generator.choice(array.reshape(-1), array.shape).astype(array.dtype)


def numpy_type(code: int) -> np.dtype[Any] | None:
    """NumPy's type of an ONNX code, None for strings and unknown ones."""
    if code in (onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING):
        return None
    try:
        return np.dtype(helper.tensor_dtype_to_np_dtype(code))
    except (KeyError, TypeError):
        return None


def _checked(
    example: Mapping[str, npt.NDArray[Any]],
    shapes: Mapping[str, tuple[Any, ...] | None],
    codes: Mapping[str, int],
) -> Arrays:
    if not example:
        return {}
    if {*example} != {*shapes}:
        raise InputError(
            f"example: expected one array for each of the inputs {', '.join(shapes)}, got "
            f"{', '.join(example)}"
        )
    for name, array in example.items():
        shape, dtype = shapes[name], numpy_type(codes[name])
        if not isinstance(array, np.ndarray) or array.dtype != dtype:
            got = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            raise InputError(f"example: input {name}: expected an array of {dtype}, got {got}")
        fits = shape is None or (
            len(shape) == array.ndim
            and all(
                not isinstance(length, int) or length == got
                for length, got in zip(shape, array.shape, strict=True)
            )
        )
        if not fits or 0 in array.shape:
            names = ", ".join("N" if not isinstance(v, int) else str(v) for v in shape or ())
            raise InputError(
                f"example: input {name}: expected shape [{names}], got {list(array.shape)}"
            )
    return dict(example)
