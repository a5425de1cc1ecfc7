# SPDX-License-Identifier: Apache-2.0
"""Values to run an ONNX model on: drawn for each type, or like an example's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from ..ortops.errors import InputError

Arrays = dict[str, npt.NDArray[Any]]

#: Lengths of free axes that are no batch, and bounds of integers, in the order of trial.
_KINDS = ((32, 10), (64, 10), (224, 10), (8, 10), (32, 2), (8, 2), (1, 1))
#: Length of an axis 0 that may be no batch: no multiple of a batch that is tried, and not 1, which
#: would be broadcast.
_OWN = 7


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

    Raises
    ------
    InputError
        The example does not fit the inputs.

    Notes
    -----
    The first input decides which length on axis 0 is the batch. Inputs with the same length or
    symbol there are batched. Where another is free, it is no batch unless the example has the same
    length in both, or the model runs only so. A fixed length in front of free ones leaves the
    batch axis unknown (a recurrent state [1, N, H] before the input [N, T, D]).
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
                    tuple(max(d.dim_value, 0) or d.dim_param or None for d in kind.shape.dim)
                    if kind.HasField("shape")
                    else None
                )
        self.example = _checked(example, self.shapes, self.codes)
        self._generator = np.random.default_rng(0)
        self._kind = 0
        self._classify()

    def _classify(self) -> None:
        front = {name: shape[0] for name, shape in self.shapes.items() if shape}
        length = next(iter(front.values()), None)
        self.fixed_batch = length if isinstance(length, int) else None
        self.batch_symbol = length if isinstance(length, str) else None
        free = {name for name, other in front.items() if not isinstance(other, int)}
        self._tied: set[str] = set()
        self._maybe: set[str] = set()
        same = {n for n, other in front.items() if length is not None and other == length}
        if self.fixed_batch is not None:
            self._surely = set() if free else same
            return
        self._surely = same | {*list(front)[:1]}
        self._maybe = free - self._surely
        if self.example and front:
            size = len(self.example[next(iter(front))])
            self._surely |= {n for n in self._maybe if len(self.example[n]) == size}
            self._maybe -= self._surely

    @property
    def batched(self) -> set[str]:
        """Inputs whose axis 0 runs over the batch."""
        return self._surely | self._tied

    @property
    def tied(self) -> list[str]:
        """Inputs that are taken for batched, since the model does not run with none of them so."""
        return sorted(self._tied)

    def untie(self, name: str) -> None:
        """Take an input for not batched."""
        self._tied.discard(name)

    def tie(self, name: str) -> None:
        """Take an input for batched."""
        self._tied.add(name)

    @property
    def all_batched(self) -> bool:
        """Whether every input's axis 0 runs over the batch."""
        return self.batched == {*self.shapes}

    @property
    def free_axes(self) -> bool:
        """Whether other axes than the batch's have no fixed length."""
        return any(
            shape is None or any(self._is_free(name, axis) for axis in range(len(shape)))
            for name, shape in self.shapes.items()
        )

    def _is_batch(self, name: str, axis: int) -> bool:
        length = (self.shapes[name] or ())[axis]
        named = isinstance(length, str) and length == self.batch_symbol
        return named or (not axis and name in self.batched)

    def _is_free(self, name: str, axis: int) -> bool:
        fixed = isinstance((self.shapes[name] or ())[axis], int)
        return not fixed and not self._is_batch(name, axis)

    def next_kind(self) -> bool:
        """Go on to another kind of drawn values; False where there is none left."""
        if self.example:
            return False
        self._kind += 1
        if self._kind == len(_KINDS) and self._maybe and not self._tied:
            self._kind, self._tied = 0, {*self._maybe}
        return self._kind < len(_KINDS)

    def draw(self, batch: int) -> Arrays:
        """Draw values for a batch, or fit the example to its size.

        Raises
        ------
        ValueError
            An input is of a type or shape for which nothing can be drawn.
        """
        return {name: self._one(name, batch) for name in self.shapes}

    def _one(self, name: str, batch: int) -> npt.NDArray[Any]:
        shape = self.shapes[name]
        if name in self.example:
            array = self.example[name]
            for axis in range(array.ndim if shape is not None else 0):
                if self._is_batch(name, axis):
                    array = _repeated(array, axis, batch)
            return array
        if shape is None:
            raise ValueError(f"input {name} has no shape")
        free, bound = _KINDS[min(self._kind, len(_KINDS) - 1)]
        lengths = []
        for axis, length in enumerate(shape):
            if self._is_batch(name, axis):
                lengths.append(batch)
            elif isinstance(length, int):
                lengths.append(length)
            else:
                lengths.append(free if axis or name not in self._maybe else _OWN)
        return self._random(name, tuple(lengths), bound)

    def stretched(self, feed: Arrays) -> Iterator[Arrays]:
        """Yield copies of a feed with other lengths of the free axes, the batch as it is."""
        for other in (lambda n: 2 * n, lambda n: max(n // 2, 1), lambda n: n + 1):
            result = {}
            for name, array in feed.items():
                for axis in range(array.ndim if self.shapes[name] is not None else 0):
                    if self._is_free(name, axis):
                        array = _repeated(array, axis, other(array.shape[axis]))
                result[name] = array
            if any(result[name].shape != feed[name].shape for name in feed):
                yield result

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


def _repeated(array: npt.NDArray[Any], axis: int, length: int) -> npt.NDArray[Any]:
    """Repeat or cut an array along an axis."""
    return array.take(np.arange(length) % array.shape[axis], axis)


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
