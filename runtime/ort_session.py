# SPDX-License-Identifier: Apache-2.0
"""Sessions of ONNX Runtime: execution providers, operator libraries, and how they are made."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..ortops import ort_options
from ..ortops.errors import InputError
from . import onnx_file, ort_plugins
from .stored_parameters import Parameter, StoredParameters
from .texts import one_line

if TYPE_CHECKING:
    from .board import Board

#: Name and options of an execution provider.
Provider = tuple[str, Mapping[str, str]]

_SHORT_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# One provider: plugins had a name of their own at first.
CUDA = ("CUDAExecutionProvider", "CudaPluginExecutionProvider")
# Options that change results, and what they are without being given.
_ROUNDING = {
    "use_tf32": "1",
    "trt_fp16_enable": "0",
    "trt_bf16_enable": "0",
    "trt_int8_enable": "0",
}
_ONLY_CPU: list[Provider] = [("CPUExecutionProvider", {})]
# Errors of ONNX Runtime carry those that they follow from at their ends.
_CONTEXT = re.compile(r".*\[ONNXRuntimeError\] : \d+ : \w+ : ")
_BFLOAT16 = 16  # TensorProto.DataType

# Since 1.21 a model that is given as bytes can have weight files.
_FOLDER_ENTRY, _FOLDER_SINCE = "session.model_external_initializers_file_folder_path", (1, 21)


@dataclass(frozen=True)
class SessionMaker:
    """Makes sessions of one model.

    Attributes
    ----------
    path : pathlib.Path
        Of the ONNX file.
    providers : list of (str, dict)
        Execution providers, by ONNX Runtime's names, best first, each with its options.
    threads : int or None
        Inside one operator; None: ONNX Runtime's choice.
    libraries : tuple of str
        Libraries of custom operators, NoisyStore's aside.
    optimized : bool
        Whether ONNX Runtime may rewrite the graph.
    """

    path: Path
    providers: list[Provider]
    threads: int | None
    libraries: tuple[str, ...] = ()
    optimized: bool = True

    def from_file(self) -> Any:
        """Make a session of the file as it is.

        Raises
        ------
        InputError
            ONNX Runtime does not load it, or not on the wanted provider.
        """
        return self._make(str(self.path))

    def from_bytes(self, model: bytes) -> Any:
        """Make a session of another graph in the place of the file, whose weight files it reads.

        Raises
        ------
        InputError
            As `from_file`; or this ONNX Runtime finds no weight files of a graph in memory.
        """
        if not any(onnx_file.locations(memoryview(model))):
            return self._make(model)
        if ort_version() < _FOLDER_SINCE:
            raise InputError(
                f"model {self.path}: has weights in files of their own, which needs ONNX Runtime "
                "1.21 or newer here"
            )
        return self._make(model, self._weight_folder)

    def with_values(self, stored: StoredParameters, values: Mapping[str, Any]) -> Any:
        """Make a session of the model without stores of parameters.

        Parameters
        ----------
        stored : StoredParameters
            Of the same file.
        values : mapping from name to onnxruntime.OrtValue
            Of each parameter. They must live as long as the session, which may read them in place.

        Raises
        ------
        InputError
            As `from_file`.
        """

        def complete(options: Any) -> None:
            if stored.external:
                self._weight_folder(options)
            # Unlike `add_initializer` this reaches the optimizers, which rearrange constant
            # weights.
            options.add_external_initializers(list(values), list(values.values()))

        return self._make(stored.model, complete)

    def _weight_folder(self, options: Any) -> None:
        options.add_session_config_entry(_FOLDER_ENTRY, str(self.path.parent.absolute()))

    def _options(self, entries: Mapping[str, str]) -> Any:
        import onnxruntime

        from .. import ortops

        options = onnxruntime.SessionOptions()
        # Else overridable initializers print warnings, and errors that are raised are printed, too.
        options.log_severity_level = 4
        if self.threads is not None:
            options.intra_op_num_threads = int(self.threads)
        if not self.optimized:
            disabled = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.graph_optimization_level = disabled
        for key, value in entries.items():
            options.add_session_config_entry(key, value)
        ortops.register(options)
        ort_options.register_libraries(options, self.libraries)
        return options

    def _session(
        self,
        model: str | bytes,
        complete: Callable[[Any], None] | None,
        providers: list[Provider],
    ) -> Any:
        import onnxruntime

        def make(entries: Mapping[str, str]) -> Any:
            options = self._options(entries)
            if complete is not None:
                complete(options)
            # With its fallback ONNX Runtime goes over to the CPU after some errors, in a run, too.
            if ort_plugins.configure(options, providers):
                return onnxruntime.InferenceSession(model, options, enable_fallback=0)
            return onnxruntime.InferenceSession(
                model, options, providers=providers, enable_fallback=0
            )

        with _quiet_providers():
            return ort_options.with_exact_integers(make)

    def _make(self, model: str | bytes, complete: Callable[[Any], None] | None = None) -> Any:
        try:
            session = self._session(model, complete, self.providers)
        except InputError:
            raise
        except Exception as error:
            on_the_cpu = None
            if self.providers != _ONLY_CPU:
                with contextlib.suppress(Exception):  # of a model that is bad anywhere
                    on_the_cpu = self._session(model, complete, _ONLY_CPU)
            why = self._not_a_model if on_the_cpu is None else self._not_there
            raise InputError(why(error)) from None
        wanted = self.providers[0][0]
        if session.get_providers()[0] != wanted:
            raise InputError(
                f"execution provider {wanted} does not start here (no device, or a "
                f"library is missing): ONNX Runtime offers {session.get_providers()} instead"
            )
        return session

    def _not_there(self, error: Exception) -> str:
        reason = _CONTEXT.sub("", " ".join(str(error).split()))[:300]
        return (
            f"execution provider {self.providers[0][0]} does not start here, or does not run "
            f"{self.path}, which the CPU does: {reason}"
        )

    def _not_a_model(self, error: Exception) -> str:
        import onnxruntime

        return (
            f"model {self.path}: expected an ONNX model that ONNX Runtime "
            f"{onnxruntime.__version__} loads: {one_line(error)}{self._missing_library()}"
        )

    def _missing_library(self) -> str:
        wanted = ort_options.EXTENSION_DOMAINS.intersection(_domains(self.path))
        if wanted and ort_options.extensions_library() is None:
            return "; its operators need: pip install onnxruntime-extensions"
        return ""


@contextlib.contextmanager
def _quiet_providers() -> Iterator[None]:
    """Silence what providers that do not start print: that is found out, and said, afterwards."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    try:
        yield
    finally:
        onnxruntime.set_default_logger_severity(2)  # its default; there is no way to ask


def custom_libraries(path: Path, given: Sequence[str | os.PathLike[str]]) -> tuple[str, ...]:
    """Return the libraries of custom operators that a model is to be loaded with.

    Parameters
    ----------
    path : path of an ONNX file
    given : sequence of path
        Named by the user; see `noisystore.ortops.ort_options.custom_libraries`.

    Raises
    ------
    InputError
        One is missing or no file.
    """
    return ort_options.custom_libraries(_domains(path), given)


def _domains(path: Path) -> Collection[str]:
    try:
        return onnx_file.imported_domains(path)
    except InputError:
        # ONNX Runtime says better what is wrong with the file.
        return ()


def can_be_filled(stored: StoredParameters) -> bool:
    """Return whether this ONNX Runtime takes the values of a trial for these parameters."""
    import onnxruntime

    if stored.external and ort_version() < _FOLDER_SINCE:
        return False
    words = any(p.element_type == _BFLOAT16 for p in stored.parameters)
    return not words or hasattr(onnxruntime.OrtValue, "ortvalue_from_numpy_with_onnx_type")


def ort_value(parameter: Parameter, values: npt.NDArray[Any]) -> Any:
    """Return values of a parameter as ONNX Runtime takes them, without a copy."""
    from onnxruntime import OrtValue

    if parameter.element_type == _BFLOAT16:
        return OrtValue.ortvalue_from_numpy_with_onnx_type(values, _BFLOAT16)
    return OrtValue.ortvalue_from_numpy(np.ascontiguousarray(values))


def ort_version() -> tuple[int, ...]:
    """Return ONNX Runtime's major and minor version."""
    import onnxruntime

    return tuple(int(part) for part in onnxruntime.__version__.split(".")[:2])


def board_providers(board: Board, provider: str | None = None) -> list[Provider]:
    """Return execution providers with a board's options, as `NoisySession` takes them.

    Parameters
    ----------
    board : Board
    provider : str, optional
        One to be used instead of the board's; ONNX Runtime's name, ``cpu`` or ``cuda``.

    Raises
    ------
    InputError
        The installed ONNX Runtime lacks one of the board's.
    """
    wanted = [provider] if provider is not None else board.providers
    found: list[Provider] = []
    for given in wanted:
        names = _names(given)
        name = ort_plugins.find(names)
        if name is None and provider is None:
            raise InputError(
                f"board {board.name}: expected an ONNX Runtime with {names[0]} "
                f"({board.ort_package} {board.ort_version}), got one with "
                f"{', '.join(ort_plugins.available())}: "
                "install it, or choose --provider cpu (verify: --board x86-server or arm-generic)"
            )
        options = [board.provider_options[n] for n in names if n in board.provider_options]
        found.append((name or names[0], options[0] if options else {}))
    return found


def named_providers(providers: Sequence[str | Provider] | str | None) -> list[Provider]:
    """Return execution providers by ONNX Runtime's names, each with its options.

    Parameters
    ----------
    providers : sequence of str or (str, mapping), str or None
        ONNX Runtime's names, ``cpu`` or ``cuda``, alone or with options; None: the CPU. What
        ONNX Runtime itself does not have is looked for in the packages of plugins.

    Raises
    ------
    InputError
        One is not available, or there is none; or a plugin's package does not load.
    """
    if providers is None:
        return list(_ONLY_CPU)
    wanted = [providers] if isinstance(providers, str) else list(providers)
    found: list[Provider] = []
    for given in wanted:
        name, options = (given, {}) if isinstance(given, str) else given
        if _flag(options.get("enable_cuda_graph", "0")) == "1":
            raise InputError(
                f"execution provider {name}: enable_cuda_graph: expected 0, got 1: a captured "
                "graph repeats the noise that it was captured with"
            )
        names = _names(str(name))
        there = ort_plugins.find(names)
        if there is None:
            raise InputError(
                f"execution provider: expected one of {ort_plugins.available()}, got {names[0]}"
            )
        found.append((there, {str(key): str(value) for key, value in options.items()}))
    if not found:
        raise InputError(f"execution provider: expected one of {ort_plugins.available()}, got none")
    return found


def arithmetic_of(provider: str, named: Sequence[Provider]) -> str:
    """Return a session's first provider as results name it, with the options of all that round."""
    rounding = {
        f"{option}={value}": None
        for _, options in named
        for option, usual in _ROUNDING.items()
        if (value := _flag(options.get(option, usual))) != usual
    }
    return " ".join([provider, *rounding])


def _flag(value: Any) -> str:
    text = str(value).lower()
    return {"true": "1", "false": "0"}.get(text, text)


def _names(provider: str) -> tuple[str, ...]:
    """Return the names that an execution provider may have, the given one first."""
    name = _SHORT_PROVIDERS.get(provider.lower(), provider)
    return (name, *(other for other in CUDA if other != name)) if name in CUDA else (name,)
