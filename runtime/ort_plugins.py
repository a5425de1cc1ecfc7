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

import importlib
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

from ..ortops.errors import InputError
from .sites import one_line

_PACKAGES = "onnxruntime_ep_"
_CPU = "CPUExecutionProvider"


def available() -> list[str]:
    """Return the names of execution providers: ONNX Runtime's, then those of registered plugins."""
    import onnxruntime

    names = [*onnxruntime.get_available_providers(), *(d.ep_name for d in _devices())]
    return list(dict.fromkeys(names))


def load(name: str) -> bool:
    """Register the plugin of an installed package that brings an execution provider.

    Parameters
    ----------
    name : str
        ONNX Runtime's name of the provider.

    Returns
    -------
    bool
        Whether the provider is there now, with a device.

    Raises
    ------
    InputError
        The package, or its library, does not load, or finds no device.
    """
    import onnxruntime

    if name in available():
        return True
    if not hasattr(onnxruntime, "register_execution_provider_library"):
        return False
    for package in _packages():
        if name not in _names(package):
            continue
        try:
            onnxruntime.register_execution_provider_library(name, str(package.get_library_path()))
        except Exception as error:  # ONNX Runtime's own classes, or the package's
            raise InputError(
                f"execution provider {name}: the library of {package.__name__} does not load in "
                f"ONNX Runtime {onnxruntime.__version__}: {one_line(error)}"
            ) from None
        if name not in available():
            raise InputError(
                f"execution provider {name}: {package.__name__} finds no device here "
                "(is there one, and a driver?)"
            )
        return True
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
        As `load`, or there is no such device.
    """
    for name, _ in providers:
        load(name)
    if not any(_devices(name) for name, _ in providers):
        return False
    for name, options in providers:
        if name == _CPU:  # takes what is left, and is there without being named
            break
        if _devices(name):
            rest = {key: value for key, value in options.items() if key != "device_id"}
            session_options.add_provider_for_devices([_device(name, options)], rest)
        else:
            session_options.add_provider(name, dict(options))
    return True


def _devices(name: str | None = None) -> list[Any]:
    """Return the devices of registered plugins, or of one."""
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


def _packages() -> Iterator[ModuleType]:
    for module in pkgutil.iter_modules():
        if module.name.startswith(_PACKAGES):
            try:
                yield importlib.import_module(module.name)
            except Exception as error:  # of the package's own
                raise InputError(
                    f"package {module.name}: does not load: {one_line(error)}; repair or remove it"
                ) from None


def _names(package: ModuleType) -> Sequence[str]:
    """Return the names of the providers in a package, if it tells them."""
    if hasattr(package, "get_ep_names"):
        return list(package.get_ep_names())
    return [package.get_ep_name()] if hasattr(package, "get_ep_name") else []
