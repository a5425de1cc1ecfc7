# SPDX-License-Identifier: Apache-2.0
"""Calibration images of a model, and the ranges that its activations take on them."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.quantization import CalibrationDataReader

from ..ortops.errors import InputError
from ..ortops.noise_inputs import NORMALIZATION_KEY
from .onnx_files import Source
from .onnx_model import check_normalization
from .onnx_sessions import open_session

if TYPE_CHECKING:
    from ..runtime.dataset import Dataset

#: Images that are drawn where the caller names no number and the data set has as many.
DEFAULT_IMAGES = 512
#: A batch has at most so many images, and elements of the model's input: every activation of a
#: batch is in memory at once.
MOST_IMAGES, MOST_ELEMENTS = 32, 1 << 20


@dataclass(frozen=True)
class Calibration:
    """Images for one model, as it takes them.

    Attributes
    ----------
    input_name : str
    batches : list of arrays [n, ...]
        All of one length n.
    normalization : dict or None
        ``mean`` and ``std`` of the data set's images, on x / 255.
    record : dict
        What the file remembers of them: data, images, seed, sha256 (of the images drawn).
    notes : list of str
        What the user should know of them.
    """

    input_name: str
    batches: list[npt.NDArray[Any]]
    normalization: dict[str, list[float]] | None
    record: dict[str, Any]
    notes: list[str] = field(default_factory=list)


class Reader(CalibrationDataReader):
    """Hands batches to onnxruntime's quantizer, one after the other or a range of them."""

    def __init__(self, calibration: Calibration, tick: Callable[[int], None]) -> None:
        self._calibration, self._tick = calibration, tick
        self._next, self._end = 0, len(calibration.batches)

    def __len__(self) -> int:
        return len(self._calibration.batches)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Go on with the batches from `start_index` to before `end_index`."""
        self._next, self._end = start_index, end_index

    def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
        """Give the next batch by the input's name, or None."""
        if self._next >= self._end:
            return None
        batch = self._calibration.batches[self._next]
        self._next += 1
        self._tick(len(batch))
        return {self._calibration.input_name: batch}


def draw(
    source: Source, data: Dataset | str, images: int | None, seed: int, normalization: Any
) -> Calibration:
    """Draw images and prepare them for a model.

    Parameters
    ----------
    source : Source
    data : Dataset or str
        Of a specification the train split is read, or the test split where that is all.
    images : int, optional
        Number of images; None: `DEFAULT_IMAGES`, or all if there are fewer.
    seed : int
        Chooses the images: the first of ``numpy.random.default_rng(seed).permutation``.
    normalization
        As for `quantize`.

    Raises
    ------
    InputError
        The model does not take one tensor of images, the data do not fit it, there are too few,
        or every image is of one value.
    """
    from ..runtime.dataset import Dataset, prepare

    name, shape, dtype = _image_input(source)
    dataset, notes = _load(data, shape) if isinstance(data, str) else (data, [])
    if not isinstance(dataset, Dataset):
        raise InputError(
            f"calibration data: expected a Dataset or its specification, got {data!r:.80}"
        )
    if not isinstance(seed, (int, np.integer)) or not 0 <= seed < 1 << 63:
        raise InputError(f"seed: expected an integer from 0 to 2^63-1, got {seed!r}")
    what = f"calibration data {dataset.name}"
    if len(dataset.images.shape) != len(shape) or any(
        want is not None and want != got
        for want, got in zip(shape[1:], dataset.images.shape[1:], strict=False)
    ):
        expected = ", ".join("N" if axis is None else str(axis) for axis in shape)
        raise InputError(
            f"{what}: expected images of shape [{expected}] for input {name} of {source.name}, "
            f"got {list(dataset.images.shape)}"
        )
    count = _number_of_images(images, len(dataset), shape[0], what)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(dataset))[:count])
    drawn = dataset.images[chosen]
    flat = drawn.reshape(count, -1)
    if (flat == flat[:, :1]).all():
        raise InputError(
            f"{what}: each of the {count} images drawn is of one value throughout: expected "
            "images as the network will see them"
        )
    norm = None
    if drawn.dtype == np.uint8 and dtype == np.float32:
        norm = resolve_normalization(source, normalization)
    prepared = prepare(drawn, norm, dtype)
    size = shape[0] or batch_size(count, prepared[0].size)
    record = {
        "data": dataset.name,
        "images": count,
        "seed": int(seed),
        "sha256": hashlib.sha256(np.ascontiguousarray(drawn).data).hexdigest(),
    }
    batches = [prepared[i : i + size] for i in range(0, count, size)]
    return Calibration(name, batches, norm, record, notes)


def _load(spec: str, shape: tuple[int | None, ...]) -> tuple[Dataset, list[str]]:
    from ..runtime.dataset import load

    height, width = shape[2:] if len(shape) == 4 else (None, None)
    size = None if height is None or width is None else (height, width)
    try:
        return load(spec, split="train", size=size), []
    except InputError:
        with contextlib.suppress(InputError):
            note = "the data set has no train split: the calibration images are test images"
            return load(spec, split="test", size=size), [note]
        raise


def batch_size(images: int, elements: int) -> int:
    """Give the largest batch size that divides `images`, for inputs of `elements` a sample."""
    most = max(1, min(MOST_IMAGES, MOST_ELEMENTS // max(elements, 1), images))
    return next(size for size in range(most, 0, -1) if images % size == 0)


def _number_of_images(images: int | None, available: int, batch: int | None, what: str) -> int:
    if images is None:
        images = min(DEFAULT_IMAGES, available)
        images -= images % (batch or 1)
        if not images:
            raise InputError(
                f"{what}: the model runs {batch} images at a time, but there are {available}"
            )
    if not isinstance(images, (int, np.integer)) or not 1 <= images <= available:
        raise InputError(
            f"images: expected a number from 1 to {available} (all of {what.split()[-1]}), "
            f"got {images!r}"
        )
    if images % (batch or 1):
        raise InputError(
            f"images: the model runs {batch} images at a time: expected a multiple of {batch}, "
            f"got {images}"
        )
    return int(images)


def _image_input(source: Source) -> tuple[str, tuple[int | None, ...], np.dtype[Any]]:
    """Name, shape (None: free) and type of the model's one data input."""
    graph = source.model.graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1:
        raise InputError(
            f"{source.name}: expected one input that takes the images, got "
            f"{[value.name for value in inputs]}"
        )
    tensor = inputs[0].type.tensor_type
    types = {onnx.TensorProto.FLOAT: np.float32, onnx.TensorProto.UINT8: np.uint8}
    if tensor.elem_type not in types:
        kind = onnx.TensorProto.DataType.Name(tensor.elem_type)
        raise InputError(
            f"{source.name}: input {inputs[0].name}: expected FLOAT (or UINT8), got {kind}: "
            "quantize the float32 model"
        )
    shape = tuple(
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None
        for dim in tensor.shape.dim
    )
    return inputs[0].name, shape, np.dtype(types[tensor.elem_type])


def resolve_normalization(source: Source, given: Any) -> dict[str, list[float]] | None:
    """Give the normalization of uint8 images: `given`, or the one that the model names.

    Raises
    ------
    InputError
        There is none, or it is not of the form (mean, std).
    """
    if given is None:
        text = {p.key: p.value for p in source.model.metadata_props}.get(NORMALIZATION_KEY)
        if not text:
            raise InputError(
                f"{source.name}: it does not say how images are normalized: give normalization "
                "(--normalization), (mean, std) on x / 255, a number a channel, or none"
            )
        try:
            given = json.loads(text)
        except (ValueError, RecursionError):
            given = text[:80]
    return None if isinstance(given, str) and given == "none" else check_normalization(given)


def check_ranges(source: Source, calibration: Calibration, tick: Callable[[int], None]) -> None:
    """Run the float model on the calibration images and look at every activation.

    Parameters
    ----------
    source : Source
    calibration : Calibration
    tick : callable
        Called after each batch with its number of images.

    Raises
    ------
    InputError
        ONNX Runtime cannot run the model, or an activation is not finite, or 0 throughout.
    """
    names = list(_float_tensors(source.model))
    try:
        session = open_session(source, names, ())
    except Exception as error:  # ONNX Runtime's own classes
        raise InputError(
            f"{source.name}: ONNX Runtime: {' '.join(str(error).split())[:300]}"
        ) from None
    seen = dict.fromkeys(names, False)
    for number, batch in enumerate(calibration.batches):
        try:
            arrays = session.run(names, {calibration.input_name: batch})
        except Exception as error:
            raise InputError(
                f"{source.name}: ONNX Runtime: {' '.join(str(error).split())[:300]}"
            ) from None
        for name, array in zip(names, arrays, strict=True):
            if not np.isfinite(array.sum(dtype=np.float64)) and not np.isfinite(array).all():
                raise InputError(
                    f"{source.name}: tensor {name} is NaN or infinite on calibration batch "
                    f"{number}: such a range cannot be quantized; check the weights and the "
                    "normalization"
                )
            seen[name] = seen[name] or array.size == 0 or bool(array.any())
        tick(len(batch))
    for name, any_value in seen.items():
        if not any_value:
            raise InputError(
                f"{source.name}: tensor {name} is 0 on all {calibration.record['images']} "
                "calibration images, which leaves it without a range: check the weights, or "
                "take more images"
            )


def _float_tensors(model: onnx.ModelProto) -> Iterator[str]:
    """Names of the float32 tensors that the main graph's nodes compute from the images."""
    inferred = onnx.shape_inference.infer_shapes(model)
    kinds = {
        value.name: value.type.tensor_type.elem_type
        for value in (*inferred.graph.value_info, *inferred.graph.output)
    }
    constants = {tensor.name for tensor in model.graph.initializer}
    images = {value.name for value in model.graph.input} - constants
    for node in model.graph.node:
        # Of a shape, not of values: masks of zeros are made so.
        if node.op_type in ("Shape", "Size") or images.isdisjoint(node.input):
            continue
        images.update(node.output)
        for name in node.output:
            if kinds.get(name) == onnx.TensorProto.FLOAT:
                yield name
