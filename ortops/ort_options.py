# SPDX-License-Identifier: Apache-2.0
"""Options that sessions of ONNX Runtime need: exact integers, libraries of custom operators."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from .errors import InputError

#: Domains of onnxruntime-extensions, whose library is found where it is installed.
EXTENSION_DOMAINS = frozenset({"ai.onnx.contrib", "com.microsoft.extensions"})

# On x86 ONNX Runtime keeps int8 activations in QuantizeLinear graphs only where this is "1".
_INT8_ALLOWED = {"session.qdqisint8allowed": "1"}
# On x86 without VNNI instructions sums of uint8 x int8 products saturate at 16 bits unless this is
# "1", which turns constant int8 weights into uint8 ones. Elsewhere it has no effect.
_EXACT_PRODUCTS = {"session.x64quantprecision": "1"}

_Session = TypeVar("_Session")


def with_exact_integers(make: Callable[[Mapping[str, str]], _Session]) -> _Session:
    """Make a session whose integer kernels compute exactly, as those of all processors should.

    Parameters
    ----------
    make : callable (mapping of session configuration entries) -> session
        Called once, or twice where ONNX Runtime does not take the first entries.

    Raises
    ------
    Exception
        What `make` raises.
    """
    try:
        return make({**_INT8_ALLOWED, **_EXACT_PRODUCTS})
    except Exception as error:  # ONNX Runtime's own classes
        # int8 activations have no kernels with uint8 weights; theirs with int8 weights are exact.
        # Weights that two layers share cannot be turned; with VNNI they need not be.
        shared = "replace the existing tensor" in str(error)
        if shared and not has_vnni():
            raise InputError(
                "two layers share an int8 weight, whose products ONNX Runtime cannot compute "
                "exactly on this x86 processor without VNNI; give each layer a copy of its own"
            ) from None
        if not shared and "NOT_IMPLEMENTED" not in str(error):
            raise
        return make(_INT8_ALLOWED)


def has_vnni() -> bool:
    """Say whether this processor sums products of uint8 and int8 in 32 bits."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            words = {*file.read().split()}
    except OSError:
        return False
    return not words.isdisjoint({"avx512_vnni", "avx_vnni"})


def extensions_library() -> str | None:
    """Return the path of onnxruntime-extensions' library, or None where it is not installed."""
    try:
        return str(importlib.import_module("onnxruntime_extensions").get_library_path())
    except ImportError:
        return None


def custom_libraries(
    domains: Iterable[str], given: Sequence[str | os.PathLike[str]]
) -> tuple[str, ...]:
    """Return the libraries of custom operators that a model is to be loaded with.

    Parameters
    ----------
    domains : iterable of str
        That the model imports.
    given : sequence of path
        Named by the user. That of onnxruntime-extensions is added where the model imports its
        domain and it is installed.

    Raises
    ------
    InputError
        One is missing or no file.
    """
    if isinstance(given, (str, os.PathLike)):
        raise InputError(f"custom operators: expected a list of libraries, got {given!r}")
    libraries = [os.fspath(library) for library in given]
    for library in libraries:
        if not os.path.isfile(library):
            raise InputError(f"custom operators {library}: expected a library, got no such file")
    extensions = extensions_library() if EXTENSION_DOMAINS.intersection(domains) else None
    if extensions is not None:
        libraries.append(extensions)
    # Loaded twice, a library would register its operators twice, which is an error.
    return tuple({os.path.realpath(library): library for library in libraries}.values())


def register_libraries(session_options: Any, libraries: Iterable[str]) -> None:
    """Register libraries of custom operators.

    Parameters
    ----------
    session_options : onnxruntime.SessionOptions
    libraries : iterable of path

    Raises
    ------
    InputError
        One does not load.
    """
    for library in libraries:
        try:
            session_options.register_custom_ops_library(library)
        except Exception as error:  # ONNX Runtime's own classes
            reason = " ".join(str(error).split())[:300]
            raise InputError(
                f"custom operators {library}: expected a library of ONNX Runtime operators: "
                f"{reason}"
            ) from None
