# SPDX-License-Identifier: Apache-2.0
"""The little of CUDA's driver that gpu.py needs: memory, copies and events of one device.

Through libcuda.so.1, which every machine with a CUDA driver has, so that measuring needs neither
PyTorch nor a CUDA toolkit.
"""

from __future__ import annotations

import ctypes
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

_POINTER = ctypes.c_uint64


class CudaError(Exception):
    """What the driver says, in one line."""


class Device:
    """A CUDA device, with its primary context current: the one that runtimes use."""

    def __init__(self, number: int = 0) -> None:
        try:
            self._cuda = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise CudaError(f"no CUDA driver on this machine ({error})") from None
        self._call("cuInit", 0)
        device, self._context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuDeviceGet", ctypes.byref(device), number)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)
        self.make_current()
        name = ctypes.create_string_buffer(100)
        self._call("cuDeviceGetName", name, 100, device)
        version = ctypes.c_int()
        self._call("cuDriverGetVersion", ctypes.byref(version))
        self.name = name.value.decode()
        self.cuda = f"{version.value // 1000}.{version.value % 1000 // 10}"
        numbers = []
        # Compute capability, major and minor; access to pageable memory of the host.
        for attribute in (75, 76, 88):
            value = ctypes.c_int()
            self._call("cuDeviceGetAttribute", ctypes.byref(value), attribute, device)
            numbers.append(value.value)
        self.capability = f"{numbers[0]}{numbers[1]}"
        self.reaches_host = bool(numbers[2])

    def _call(self, function: str, *arguments: Any) -> None:
        status = getattr(self._cuda, function)(*arguments)
        if status != 0:
            text = ctypes.c_char_p()
            self._cuda.cuGetErrorString(status, ctypes.byref(text))
            raise CudaError(f"{function}: {(text.value or b'unknown').decode()} ({status})")

    def make_current(self) -> None:
        """Make it the device that the calls of this thread mean."""
        self._call("cuCtxSetCurrent", self._context)

    def is_current(self) -> bool:
        """Say whether calls of this thread mean it."""
        current = ctypes.c_void_p()
        self._call("cuCtxGetCurrent", ctypes.byref(current))
        return current.value == self._context.value

    def allocate(self, size: int) -> int:
        """Return the address of `size` bytes on the device."""
        address = _POINTER()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(size, 1)))
        return address.value

    def free(self, address: int) -> None:
        """Give memory back."""
        self._call("cuMemFree_v2", _POINTER(address))

    def write(self, address: int, values: npt.NDArray[Any]) -> None:
        """Copy an array to the device, for all streams."""
        pointer = ctypes.c_void_p(values.ctypes.data)
        self._call("cuMemcpyHtoD_v2", _POINTER(address), pointer, ctypes.c_size_t(values.nbytes))
        # A copy from pageable memory may return before it has arrived, and streams that do not wait
        # for the default one would not see it.
        self._call("cuCtxSynchronize")

    def read(self, address: int, like: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Copy an array of another's shape and type from the device, after all that is queued."""
        values = np.empty_like(like)
        pointer = ctypes.c_void_p(values.ctypes.data)
        self._call("cuCtxSynchronize")
        self._call("cuMemcpyDtoH_v2", pointer, _POINTER(address), ctypes.c_size_t(values.nbytes))
        return values

    def copy(self, target: int, source: int, size: int) -> None:
        """Queue a copy from device to device on the default stream."""
        size_ = ctypes.c_size_t(size)
        self._call("cuMemcpyDtoDAsync_v2", _POINTER(target), _POINTER(source), size_, None)

    def stream(self) -> int:
        """Return a stream that does not wait for the default one."""
        stream = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(stream), 1)  # CU_STREAM_NON_BLOCKING
        return stream.value or 0

    def read_on(self, stream: int, address: int, like: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Copy an array from the device, after all that is queued on a stream, and no other."""
        values = np.empty_like(like)
        pointer, size = ctypes.c_void_p(values.ctypes.data), ctypes.c_size_t(values.nbytes)
        on = ctypes.c_void_p(stream)
        self._call("cuMemcpyDtoHAsync_v2", pointer, _POINTER(address), size, on)
        self._call("cuStreamSynchronize", on)
        return values

    def microseconds(
        self,
        queue: Callable[[], None],
        repeats: int,
        rounds: int = 7,
        busy: Callable[[], None] | None = None,
    ) -> float:
        """Median time of what `queue` queues, by the device's own clock.

        What `busy` queues comes first and is not counted: until it is done, the host is ahead.
        """
        start, stop = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuEventCreate", ctypes.byref(start), 0)
        self._call("cuEventCreate", ctypes.byref(stop), 0)
        times = []
        for _ in range(rounds + 1):
            if busy is not None:
                busy()
            self._call("cuEventRecord", start, None)
            for _ in range(repeats):
                queue()
            self._call("cuEventRecord", stop, None)
            self._call("cuEventSynchronize", stop)
            elapsed = ctypes.c_float()
            self._call("cuEventElapsedTime", ctypes.byref(elapsed), start, stop)
            times.append(elapsed.value * 1e3 / repeats)
        return statistics.median(times[1:])  # the first round warms up
