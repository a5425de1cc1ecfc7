# SPDX-License-Identifier: Apache-2.0
"""Finding and loading the operator library, and registering it with ONNX Runtime."""

from __future__ import annotations

import ctypes
import functools
import pathlib
from typing import Any

from .errors import InputError


class Call(ctypes.Structure):
    """``noisystore_call`` of noisystore.h."""

    _fields_ = (
        ("struct_size", ctypes.c_uint32),
        ("type", ctypes.c_int32),
        ("storage_format", ctypes.c_char_p),
        ("scale", ctypes.c_uint32),  # a float's bits: ctypes rounds as the thread does
        ("zero_point", ctypes.c_int32),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("rank", ctypes.c_uint32),
        ("site", ctypes.c_uint32),
        ("rows_per_sample", ctypes.c_int64),
        ("sample_index", ctypes.c_void_p),
        ("sample_index_count", ctypes.c_uint64),
        ("p01", ctypes.c_double),
        ("p10", ctypes.c_double),
        ("bit_mask", ctypes.c_uint64),
        ("seed", ctypes.c_int64),
    )


def library_path() -> str:
    """Return the path of the operator library.

    Returns
    -------
    str
        What ``onnxruntime.SessionOptions.register_custom_ops_library`` takes.

    Raises
    ------
    InputError
        The library is not installed beside this package.
    """
    here = pathlib.Path(__file__).parent
    for folder in (here, *_install_folders()):
        path = folder / "libnoisystore.so"
        if path.is_file():
            return str(path)
    raise InputError(
        f"operator library: expected {here / 'libnoisystore.so'}, which is not there; "
        "install the package again (pip install noisystore)"
    )


def _install_folders() -> list[pathlib.Path]:
    """Folders of the installed package, which an editable install keeps apart from the sources."""
    import noisystore.ortops

    return [pathlib.Path(folder) for folder in noisystore.ortops.__path__]


APPLY_ARGUMENTS = (
    ctypes.POINTER(Call),
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_char_p,
    ctypes.c_size_t,
)


@functools.cache
def load() -> ctypes.CDLL:
    """Load the library once and declare its functions.

    Raises
    ------
    InputError
        It is missing, or no NoisyStore library for this machine.
    """
    path = library_path()
    try:
        library = ctypes.CDLL(path)
        library.noisystore_apply.argtypes = APPLY_ARGUMENTS
        library.noisystore_count_flips.argtypes = (
            ctypes.POINTER(Call),
            ctypes.c_void_p,
            ctypes.c_char_p,
            ctypes.c_size_t,
        )
        library.noisystore_samples.restype = ctypes.c_uint64
        library.noisystore_version.restype = ctypes.c_char_p
        library.noisystore_instruction_set.restype = ctypes.c_char_p
        library.noisystore_apply_cuda.argtypes = (
            *APPLY_ARGUMENTS[:3],
            ctypes.c_void_p,
            *APPLY_ARGUMENTS[3:],
        )
        library.noisystore_cuda_architectures.restype = ctypes.c_char_p
    except (OSError, AttributeError) as error:
        raise InputError(
            f"operator library: {path} is not a NoisyStore library for this machine ({error}); "
            "install the package again"
        ) from error
    return library


def library_version() -> str:
    """Return the library's version."""
    return str(load().noisystore_version().decode())


def instruction_set() -> str:
    """Return the instruction set in use: ``avx512``, ``avx2`` or ``portable``."""
    return str(load().noisystore_instruction_set().decode())


def cuda_architectures() -> tuple[str, ...]:
    """Return the CUDA compute capabilities that the library holds code for.

    Returns
    -------
    tuple of str
        Such as ``("87", "90")``; empty where it was built without CUDA.
    """
    return tuple(load().noisystore_cuda_architectures().decode().split())


def register(session_options: Any) -> None:
    """Make NoisyStore known to the sessions made with these options.

    Parameters
    ----------
    session_options : onnxruntime.SessionOptions

    Raises
    ------
    InputError
        The library is missing, is no NoisyStore library, or ONNX Runtime is too old.
    """
    path = library_path()
    load()
    try:
        session_options.register_custom_ops_library(path)
    except Exception as error:
        raise InputError(f"operator library: ONNX Runtime refused {path}: {error}") from error
