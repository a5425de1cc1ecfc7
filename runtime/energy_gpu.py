# SPDX-License-Identifier: Apache-2.0
"""The energy counter of an NVIDIA GPU, from the management library of its driver (NVML)."""

from __future__ import annotations

import ctypes
import os
from typing import Any

from .energy import Meter

_LIBRARY = "libnvidia-ml.so.1"


def gpu_meters() -> list[Meter]:
    """Return a meter of the GPU that is used.

    Raises
    ------
    ValueError
        There is no driver, or it has no counter (as on Jetson boards), or it cannot be told
        which of several GPUs is used.
    """
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError:
        raise ValueError(f"no energy of a GPU: no {_LIBRARY}") from None
    _call(library, "nvmlInit_v2")
    device = _device(library)

    def read() -> float:
        millijoules = ctypes.c_ulonglong()
        _call(library, "nvmlDeviceGetTotalEnergyConsumption", device, ctypes.byref(millijoules))
        return millijoules.value * 1e-3

    name = ctypes.create_string_buffer(96)
    _call(library, "nvmlDeviceGetName", device, name, len(name))
    return [Meter(f"GPU {name.value.decode(errors='replace')}", read, counter=True)]


def _device(library: Any) -> ctypes.c_void_p:
    device = ctypes.c_void_p()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    # The numbers of CUDA and NVML differ; identifiers are the same.
    if visible.startswith("GPU-") and "," not in visible:
        by_uuid = ctypes.c_char_p(visible.encode())
        _call(library, "nvmlDeviceGetHandleByUUID", by_uuid, ctypes.byref(device))
        return device
    count = ctypes.c_uint()
    _call(library, "nvmlDeviceGetCount_v2", ctypes.byref(count))
    if count.value != 1:
        raise ValueError(
            f"no energy of a GPU: there are {count.value}; set CUDA_VISIBLE_DEVICES to the "
            "identifier GPU-... of one"
        )
    _call(library, "nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(0), ctypes.byref(device))
    return device


def _call(library: Any, name: str, *arguments: Any) -> None:
    try:
        status = getattr(library, name)(*arguments)
    except AttributeError:
        raise ValueError(f"no energy of a GPU: {_LIBRARY} has no {name}") from None
    if status != 0:
        library.nvmlErrorString.restype = ctypes.c_char_p
        said = (library.nvmlErrorString(status) or b"").decode(errors="replace")
        raise ValueError(f"no energy of a GPU: {name}: {said or status}")
