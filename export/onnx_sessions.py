# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime on models in memory: the clean one's tensors; whether the annotated one loads."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import onnx
from google.protobuf.message import EncodeError

from ..ortops.errors import InputError
from ..ortops.library import register
from ..ortops.ort_options import custom_libraries, register_libraries, with_exact_integers
from .onnx_files import Source, read_model


def open_session(source: Source, outputs: Sequence[str], libraries: Sequence[Any]) -> Any:
    """Make an ONNX Runtime session of the clean model that gives further tensors.

    Parameters
    ----------
    source : Source
    outputs : sequence of str
        Tensors of the main graph, given after the model's own outputs.
    libraries : sequence of path-like
        Of custom operators.

    Raises
    ------
    InputError
        A library does not load.
    Exception
        ONNX Runtime cannot run the model.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    domains = {opset.domain for opset in source.model.opset_import}
    register_libraries(options, custom_libraries(domains, libraries))
    if source.folder is not None:
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(source.folder.resolve())
        )
    graph = source.model.graph
    present = len(graph.output)
    named = {value.name for value in graph.output}
    graph.output.extend(onnx.ValueInfoProto(name=n) for n in outputs if n not in named)
    try:
        data = source.model.SerializeToString()
    except (EncodeError, ValueError) as error:
        raise RuntimeError("the model in memory is too large to be run") from error
    finally:
        del graph.output[present:]
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def check_loads(
    annotated: onnx.ModelProto, original: Any, libraries: Sequence[Any], notes: list[str]
) -> None:
    """Make sure that ONNX Runtime loads an annotated model, if it loads the original.

    Parameters
    ----------
    annotated : onnx.ModelProto
        With its tensors; one that is too large for memory is not looked at.
    original : onnx.ModelProto or path-like
        As `read_model` takes it.
    libraries : sequence of path-like
        Of custom operators.
    notes : list of str
        A line is added where it loads neither.

    Raises
    ------
    InputError
        It loads the original only.
    """
    try:
        data = annotated.SerializeToString()
    except (EncodeError, ValueError):
        return
    reason = _refusal(data, annotated, libraries)
    if reason is None:
        return
    source = read_model(original)
    source.load_tensors()
    if _refusal(source.model.SerializeToString(), source.model, libraries) is not None:
        notes.append(f"ONNX Runtime loads the model neither annotated nor as it is: {reason}")
        return
    raise InputError(f"ONNX Runtime loads {source.name}, but not with these sites: {reason}")


def _refusal(data: bytes, model: onnx.ModelProto, libraries: Sequence[Any]) -> str | None:
    domains = {opset.domain for opset in model.opset_import}
    try:
        exact_session(data, custom_libraries(domains, libraries))
    except InputError:
        raise
    except Exception as error:  # ONNX Runtime's own classes
        return " ".join(str(error).split())[:300]
    return None


def exact_session(
    model: str | bytes,
    libraries: Iterable[str] = (),
    optimized: str | os.PathLike[str] | None = None,
) -> Any:
    """Make a session that runs a model, annotated or not, in exact integer arithmetic.

    Parameters
    ----------
    model : str or bytes
        Path of an ONNX file, or what it holds.
    libraries : iterable of str
        Of other custom operators.
    optimized : path-like, optional
        Where to write the optimized graph.

    Returns
    -------
    onnxruntime.InferenceSession
        On the CPU.

    Raises
    ------
    Exception
        ONNX Runtime cannot load the model.
    """
    import onnxruntime

    def make(entries: Mapping[str, str]) -> Any:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        for key, value in entries.items():
            options.add_session_config_entry(key, value)
        register(options)
        register_libraries(options, libraries)
        if optimized is not None:
            options.optimized_model_filepath = os.fspath(optimized)
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    return with_exact_integers(make)
