# SPDX-License-Identifier: Apache-2.0
"""PyTorch on an emulated CUDA device: a pytest plugin (`pytest -p emulated_torch`).

Tensors are in the device's memory, and NoisyStore's kernels run there. PyTorch's own kernels, of
which there is no PTX, are done by the host: their arguments are copied to it, and results back. An
operator that mixes devices is refused, as a device would.
"""

from __future__ import annotations

from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

# They launch no kernel.
_NATIVE = (
    "aten::empty",
    "aten::empty_strided",
    "aten::detach",
    "aten::set_",
    "aten::record_stream",
)
_COPIES = ("aten::copy_", "aten::_to_copy")  # between devices


def _is_on_device(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and x.is_cuda


def _whole(x: torch.Tensor) -> torch.Tensor:
    """Return all of a tensor's storage, which copies without a kernel."""
    return torch.empty(0, dtype=x.dtype, device=x.device).set_(x.untyped_storage())


def _to_host(x: torch.Tensor) -> torch.Tensor:
    return _whole(x).cpu().as_strided(x.size(), x.stride(), x.storage_offset())


def _to_device(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    made = torch.empty_strided(x.size(), x.stride(), dtype=x.dtype, device=device)
    plain = torch.empty_strided(x.size(), x.stride(), dtype=x.dtype).copy_(x)
    _whole(made).copy_(_whole(plain))
    return made


def _contiguous(x: Any) -> Any:
    if not _is_on_device(x) or x.is_contiguous():
        return x
    return _to_device(_to_host(x).contiguous(), x.device)


class HostKernels(TorchDispatchMode):
    """Does what PyTorch's CUDA kernels do."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name: str = function._schema.name
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        on_device = [x for x in tensors if x.is_cuda]
        wanted = torch.device(kwargs.get("device") or (on_device[0].device if on_device else "cpu"))
        native = function.is_view or name in _NATIVE
        native |= any(isinstance(x, FakeTensor) for x in tensors)  # those of torch.export
        if native or not (on_device or wanted.type == "cuda"):
            return function(*args, **kwargs)
        if not name.startswith("aten::"):  # NoisyStore's; makes its arguments contiguous
            return function(*tree_map(_contiguous, args), **kwargs)
        strangers = [x for x in tensors if not x.is_cuda and x.dim() > 0]
        if on_device and strangers and name not in _COPIES:
            raise RuntimeError(f"{function}: expected all tensors on one device, got cpu and cuda")
        copies = {id(x): _to_host(x) for x in on_device}
        originals = {id(copies.get(id(x), x)): x for x in tensors}

        def there(x: Any) -> Any:
            if isinstance(x, torch.device):
                return torch.device("cpu")
            return copies.get(id(x), x)

        result = function(*tree_map(there, args), **tree_map(there, kwargs))
        # The schemas of batch normalizations do not tell of the statistics that they update.
        hides = "batch_norm" in name
        for argument, value in zip(function._schema.arguments, args, strict=False):
            if hides or (argument.alias_info is not None and argument.alias_info.is_write):
                for x in filter(_is_on_device, tree_leaves(value)):
                    _whole(x).copy_(_whole(copies[id(x)]))

        def back(x: Any) -> Any:
            if not isinstance(x, torch.Tensor) or id(x) in originals:
                return originals.get(id(x), x)
            return _to_device(x, wanted) if wanted.type == "cuda" else x

        return tree_map(back, result)


def pytest_configure(config: Any) -> None:
    """Begin; the mode lasts as long as the process."""
    if not torch.cuda.is_available():
        raise RuntimeError("emulated_torch: expected a CUDA device, got none")
    torch.backends.cudnn.enabled = False  # its operators have no form of the host
    HostKernels().__enter__()
