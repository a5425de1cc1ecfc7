# SPDX-License-Identifier: Apache-2.0
"""ONNX files in and out, weights in other files included; sessions of the clean model."""

from __future__ import annotations

import contextlib
import math
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import helper

from ..ortops.errors import InputError
from ..ortops.files import target_of, write_whole
from .onnx_order import graphs, sort_nodes

#: Size of the largest protobuf message.
MAX_BYTES = 2**31 - 1
#: Larger tensors are left where they are until the model is written, in bytes.
LARGE = 1 << 16
#: Bits of element types that share bytes.
_NARROW = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}
_TAKEN = ("No Op registered for", "Field 'shape' of 'type' is required")


@dataclass
class Source:
    """A model that was read.

    Attributes
    ----------
    model : onnx.ModelProto
        A copy of its own; large tensors of other files are not loaded.
    name : str
        Of the model, for messages.
    folder : pathlib.Path or None
        Where tensors of other files lie.
    """

    model: onnx.ModelProto
    name: str
    folder: Path | None = None

    def load_tensors(self) -> None:
        """Bring the tensors of other files into the model."""
        for tensor in tensors(self.model):
            if self.folder is not None and is_external(tensor):
                _load(tensor, self.folder, self.name)


def read_model(model: Any) -> Source:
    """Read an ONNX model.

    Parameters
    ----------
    model : onnx.ModelProto or path-like
        A model in memory is copied.

    Returns
    -------
    Source

    Raises
    ------
    InputError
        The file is missing, damaged or no ONNX model, onnx.checker refuses it, or a tensor lies
        outside its folder.
    """
    if isinstance(model, onnx.ModelProto):
        source = Source(onnx.ModelProto(), "the model")
        source.model.CopyFrom(model)
        _check_texts(source.model, source.name)
        if any(is_external(tensor) for tensor in tensors(model)):
            raise InputError(
                "the model: its tensors lie in other files; pass the path of its file instead"
            )
    elif isinstance(model, (str, os.PathLike)):
        path = Path(model)
        source = Source(_parse(path), f"model {path}", path.parent)
        _check_texts(source.model, source.name)
        for tensor in tensors(source.model):
            if is_external(tensor):
                size = _span(tensor, path.parent, source.name)[2]
                if size <= LARGE:
                    _load(tensor, path.parent, source.name)
    else:
        raise InputError(
            f"model: expected an onnx.ModelProto or the path of an ONNX file, got a "
            f"{type(model).__name__}"
        )
    graph = source.model.graph
    if not graph.node or not graph.output or not source.model.opset_import:
        what = "outputs" if graph.node and source.model.opset_import else "operators"
        raise InputError(f"{source.name}: expected an ONNX model, got one without {what}")
    for tensor in tensors(source.model):  # the checker sees neither large ones nor too much data
        if tensor.HasField("raw_data") and tensor.data_type != onnx.TensorProto.STRING:
            expected = _data_bytes(tensor, source.name)
            if len(tensor.raw_data) != expected:
                raise _misfit(tensor, expected, len(tensor.raw_data), source.name)
    sort_nodes(source.model.graph)
    check(source.model, source.name)
    return source


def _check_texts(message: Any, name: str) -> None:
    """Refuse names that are no text; protobuf gives them as bytes.

    Raises
    ------
    InputError
        There is one. What is written for people only may be in any encoding.
    """
    for field, value in message.ListFields():
        if field.name == "doc_string":
            continue
        if field.type == field.TYPE_STRING:
            several = not isinstance(value, (str, bytes))
            if any(isinstance(v, bytes) for v in (value if several else (value,))):
                raise InputError(f"{name}: expected text in UTF-8, got a damaged file")
        elif field.type == field.TYPE_MESSAGE:
            for part in [value] if hasattr(value, "ListFields") else value:
                _check_texts(part, name)


def _parse(path: Path) -> onnx.ModelProto:
    try:
        if not path.is_file():
            reason = "got something that is no file" if path.exists() else "no such file"
            raise InputError(f"model {path}: expected an ONNX file: {reason}")
        return onnx.ModelProto.FromString(path.read_bytes())
    except DecodeError:
        raise InputError(
            f"model {path}: expected an ONNX file, got a damaged file or something else"
        ) from None
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"model {path}: expected an ONNX file: {reason}") from None


def check(model: onnx.ModelProto, name: str = "the model") -> None:
    """Let onnx.checker look at a model of any size.

    What runtimes take all the same is taken: operators that they add to ONNX's own domain, and
    outputs without a shape.

    Raises
    ------
    InputError
        It refuses it.
    """
    try:
        onnx.checker.check_model(light(model))
    except Exception as error:  # the checker raises several kinds
        text = next((line for line in str(error).splitlines() if line.strip()), "")
        if not any(reason in text for reason in _TAKEN):
            raise InputError(f"{name}: onnx.checker refuses the model: {text}") from None


def tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor of a model."""
    nodes = [node for function in model.functions for node in function.node]
    for graph in graphs(model.graph):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        nodes.extend(graph.node)
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def is_external(tensor: onnx.TensorProto) -> bool:
    """Say whether a tensor's data lie in another file."""
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def _span(tensor: onnx.TensorProto, folder: Path, name: str) -> tuple[Path, int, int]:
    """File, offset and length of an external tensor, which lies in the model's folder."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    try:
        file = (folder / location).resolve()
        offset = int(entries.get("offset") or 0)
        if not location or not file.is_relative_to(folder.resolve()):
            raise InputError(
                f"{name}: expected weight files in its folder, got {location!r}: save the model "
                "again"
            )
        if not file.is_file():
            raise InputError(f"{name}: its weight file {location!r} is missing")
        size = file.stat().st_size
        expected = _data_bytes(tensor, name)
        length = int(entries.get("length") or expected)
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name}: tensor {tensor.name}: damaged reference to its data") from None
    if offset < 0 or length < 0 or offset + length > size:
        raise InputError(
            f"{name}: tensor {tensor.name}: expected {length} bytes at {offset} of {location!r}, "
            f"which has {size}"
        )
    if length != expected:
        raise _misfit(tensor, expected, length, name)
    return file, offset, length


def _data_bytes(tensor: onnx.TensorProto, name: str) -> int:
    """Bytes that a tensor of this type and shape has."""
    try:
        kind = onnx.TensorProto.DataType.Name(tensor.data_type)
        width = _NARROW.get(kind) or 8 * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except (KeyError, ValueError):
        raise InputError(
            f"{name}: tensor {tensor.name}: expected an element type of this version of onnx, got "
            f"number {tensor.data_type}"
        ) from None
    if any(length < 0 for length in tensor.dims):
        raise InputError(f"{name}: tensor {tensor.name}: damaged shape {list(tensor.dims)}")
    return -(-math.prod(tensor.dims) * width // 8)


def _misfit(tensor: onnx.TensorProto, expected: int, got: int, name: str) -> InputError:
    return InputError(
        f"{name}: tensor {tensor.name}: expected {expected} bytes for its shape "
        f"{list(tensor.dims)}, got {got}: save the model again"
    )


def _load(tensor: onnx.TensorProto, folder: Path, name: str) -> None:
    file, offset, length = _span(tensor, folder, name)
    try:
        with file.open("rb") as stream:
            stream.seek(offset)
            tensor.raw_data = stream.read(length)
    except OSError as error:
        raise InputError(f"{name}: weight file {file.name}: {error.strerror}") from None
    del tensor.external_data[:]
    tensor.data_location = onnx.TensorProto.DEFAULT


def light(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a model without the data of large tensors, which become inputs of the graph."""
    copy = onnx.ModelProto()
    for field, value in model.ListFields():
        if field.name != "graph":
            _copy_field(copy, field, value)
    for field, value in model.graph.ListFields():
        if field.name != "initializer":
            _copy_field(copy.graph, field, value)
    inputs = {value.name for value in copy.graph.input}
    for tensor in model.graph.initializer:
        if not is_external(tensor) and len(tensor.raw_data) <= LARGE:
            copy.graph.initializer.append(tensor)
        elif tensor.name not in inputs:
            copy.graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
    return copy


def _copy_field(target: Any, field: Any, value: Any) -> None:
    if isinstance(value, (int, str, bytes)):
        setattr(target, field.name, value)
    elif hasattr(value, "CopyFrom"):
        getattr(target, field.name).CopyFrom(value)
    else:
        getattr(target, field.name).extend(value)


def write_model(model: onnx.ModelProto, path: str | os.PathLike[str]) -> None:
    """Write a model, and its weights beside it where one file cannot hold it, whole or not at all.

    Parameters
    ----------
    model : onnx.ModelProto
        Its large tensors are moved out of it where they go to ``<path>.data``.
    path : path-like

    Raises
    ------
    InputError
        The file cannot be written.
    """
    held = sum(len(t.raw_data) or t.ByteSize() for t in model.graph.initializer)
    if held <= MAX_BYTES:
        with contextlib.suppress(EncodeError, ValueError):
            data = model.SerializeToString()
            if len(data) <= MAX_BYTES:
                write_whole(path, data)
                return
    name = os.fspath(path)
    chunks = _move_out(model, os.path.basename(name) + ".data")
    _write_files({name + ".data": chunks, name: [model.SerializeToString()]})


def _move_out(model: onnx.ModelProto, location: str) -> list[bytes]:
    chunks, offset = [], 0
    for tensor in tensors(model):
        if len(tensor.raw_data) > 1024:
            padding = -offset % 4096  # so that readers may map it
            chunks += [bytes(padding), tensor.raw_data]
            offset += padding
            entries = {"location": location, "offset": offset, "length": len(tensor.raw_data)}
            offset += len(tensor.raw_data)
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            del tensor.external_data[:]
            for key, value in entries.items():
                tensor.external_data.add(key=key, value=str(value))
    return chunks


def _write_files(files: Mapping[str, Sequence[bytes]]) -> None:
    """Write files under temporary names, then move all of them to their places."""
    temporary: dict[str, str] = {}
    name = ""
    try:
        for name, chunks in files.items():
            target = target_of(name)
            folder = os.path.dirname(target)
            temporary[target] = os.path.join(folder, f".{secrets.token_hex(8)}.tmp")
            with open(temporary[target], "xb") as file:
                for chunk in chunks:
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
        for name, made in temporary.items():
            os.replace(made, name)
    except BaseException as error:
        for made in temporary.values():
            with contextlib.suppress(OSError):
                os.unlink(made)
        if isinstance(error, OSError):
            raise InputError(
                f"{name}: cannot be written ({error.strerror}); choose another path"
            ) from error
        raise
