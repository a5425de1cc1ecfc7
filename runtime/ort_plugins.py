# SPDX-License-Identifier: Apache-2.0
"""Execution providers that are libraries of their own, plugins of ONNX Runtime.

A package ``onnxruntime_ep_*`` brings such a library and names its providers [1]_: CUDA's is to come
as ``onnxruntime-ep-cuda12`` and ``onnxruntime-ep-cuda13``. Libraries that a program has registered
itself count, too.

References
----------
.. [1] ONNX Runtime, "Plugin Execution Provider Library Packaging Guidance".
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import itertools
import pkgutil
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from ..ortops.errors import InputError
from .texts import one_line

_PACKAGES = "onnxruntime_ep_"
_CPU = "CPUExecutionProvider"
#: How the names of NVIDIA's execution providers begin.
NVIDIA = ("CUDA", "Cuda", "Tensorrt", "NvTensorRT")
_finding = threading.Lock()  # a library is registered once


def available() -> list[str]:
    """Return the names of execution providers: ONNX Runtime's, then those of registered plugins."""
    import onnxruntime

    names = [*onnxruntime.get_available_providers(), *(d.ep_name for d in _devices())]
    return list(dict.fromkeys(names))


def find(names: Sequence[str]) -> str | None:
    """Return the first execution provider that is there; register the plugin that brings it.

    Parameters
    ----------
    names : sequence of str
        ONNX Runtime's names, best first.

    Raises
    ------
    InputError
        None is there, and a package that may bring one, or its library, does not load, or finds no
        device.
    """
    import onnxruntime

    with _finding:
        there = available()
        for name in names:
            if name in there:
                if name.startswith(NVIDIA) and name in onnxruntime.get_available_providers():
                    _load_nvidia()
                return name
        if not hasattr(onnxruntime, "register_execution_provider_library"):  # before 1.22
            return None
        problems: list[str] = []
        packages = [m.name for m in pkgutil.iter_modules() if m.name.startswith(_PACKAGES)]
        for name in names:
            for package in packages:
                if _register(name, package, problems):
                    return name
    if problems:
        raise InputError(problems[0])
    return None


@functools.cache
def _load_nvidia() -> None:
    """Load CUDA and cuDNN from Python packages (``nvidia-*``), where the loader does not look."""
    import onnxruntime

    if not hasattr(onnxruntime, "preload_dlls"):  # before 1.21
        return
    # What it does not find it prints, on standard output; that the provider then does not start is
    # told where the session is made.
    with contextlib.suppress(Exception), contextlib.redirect_stdout(io.StringIO()):
        onnxruntime.preload_dlls()


def _register(name: str, package: str, problems: list[str]) -> bool:
    """Register a package's library if it brings a provider; collect what is wrong with it."""
    import onnxruntime

    try:
        module = importlib.import_module(package)
        if name not in getattr(module, "get_ep_names", list)():
            return False
        library = str(module.get_library_path())
    except Exception as error:  # of the package's own
        problems.append(f"package {package}: does not load: {one_line(error)}; repair or remove it")
        return False
    who = f"execution provider {name}: {package}"
    try:
        onnxruntime.register_execution_provider_library(name, library)
    except Exception as error:  # ONNX Runtime's own classes
        release = f"ONNX Runtime {onnxruntime.__version__}"
        problems.insert(0, f"{who}: its library does not load in {release}: {one_line(error)}")
        return False
    if name in available():
        return True
    onnxruntime.unregister_execution_provider_library(name)
    problems.insert(0, f"{who} finds no device here (is there one, and a driver?)")
    return False


def configure(session_options: Any, providers: Sequence[tuple[str, Mapping[str, str]]]) -> bool:
    """Give a session its execution providers, if one of them is a plugin's.

    Parameters
    ----------
    session_options : onnxruntime.SessionOptions
    providers : sequence of (str, mapping of str to str)
        ONNX Runtime's names, best first, each with its options. A plugin's option ``device_id``
        selects one of its devices; else the first is taken.

    Returns
    -------
    bool
        Whether the options name the providers now. If not, no plugin is among them.

    Raises
    ------
    InputError
        There is no such device.
    """
    # The CPU takes what is left, and is there without being named.
    before = list(itertools.takewhile(lambda provider: provider[0] != _CPU, providers))
    if not any(_devices(name) for name, _ in before):
        return False
    for name, options in before:
        if _devices(name):
            rest = {key: value for key, value in options.items() if key != "device_id"}
            session_options.add_provider_for_devices([_device(name, options)], rest)
        else:
            session_options.add_provider(name, dict(options))
    return True


def _devices(name: str | None = None) -> list[Any]:
    """Return the devices of plugins that are registered, or of one of their providers."""
    import onnxruntime

    if not hasattr(onnxruntime, "get_ep_devices"):  # before 1.22
        return []
    devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name != _CPU]
    return [device for device in devices if name in (None, device.ep_name)]


def _device(name: str, options: Mapping[str, str]) -> Any:
    devices = _devices(name)
    wanted = options.get("device_id")
    if wanted is None:
        return devices[0]
    numbers = [device.ep_options.get("device_id", str(i)) for i, device in enumerate(devices)]
    if wanted not in numbers:
        raise InputError(
            f"execution provider {name}: expected device_id to be one of {', '.join(numbers)}, "
            f"got {wanted}"
        )
    return devices[numbers.index(wanted)]
