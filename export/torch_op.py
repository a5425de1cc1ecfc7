# SPDX-License-Identifier: Apache-2.0
"""The torch operator ``noisystore::store`` and the module that applies it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..ortops.errors import InputError
from ..ortops.formats import WORD_FORMATS, check_quantization
from ..ortops.noise_inputs import mask_table, rate_table, sample_index_array, seed_array
from .storage import check_name

_SUPPORTED = (
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.int8,
    torch.uint8,
    torch.int32,
)


def _as_numpy(x: Tensor) -> np.ndarray[Any, Any]:
    """View a contiguous CPU tensor as an array; bfloat16 as its uint16 words."""
    if x.dtype == torch.bfloat16:
        return x.view(torch.int16).numpy().view(np.uint16)
    return x.numpy()


# Its noise is read on the host, so that a captured CUDA graph would repeat it for ever: compilers
# that make such graphs are to leave it out of them.
_OPTIONS: dict[str, Any] = (
    {"tags": [torch.Tag.cudagraph_unsafe]} if hasattr(torch.Tag, "cudagraph_unsafe") else {}
)


@torch.library.custom_op("noisystore::store", mutates_args=(), **_OPTIONS)
def store(
    x: Tensor,
    bit_error_rate: Tensor,
    bit_mask: Tensor,
    seed: Tensor,
    sample_index: Tensor,
    site: int,
    storage_format: str = "native",
    scale: float = 1.0,
    zero_point: int = 0,
    rows_per_sample: int = 1,
) -> Tensor:
    """Write a tensor to noisy memory and read it back; its own memory is left as it is.

    Parameters
    ----------
    x : Tensor
        float16, bfloat16, float32, float64, int8, uint8 or int32, on the CPU or a CUDA device;
        axis 0 is the batch. The noise inputs lie on the CPU.
    bit_error_rate : Tensor of float64, shape [S, 2]
        Row ``site`` holds (p01, p10).
    bit_mask : Tensor of int64 or uint64, shape [S]
        Bit patterns of the unsigned masks.
    seed : Tensor of int64, shape [1]
    sample_index : Tensor of int64, shape [1] or [N]
    site : int
    storage_format, scale, zero_point, rows_per_sample
        As the ONNX operator's attributes; every format is taken for every float type.

    Returns
    -------
    Tensor
        Of x's shape and type, contiguous. The gradient passes to x unchanged.

    Raises
    ------
    InputError
        Another device or type, a format that does not fit the type, a bad scale or zero point,
        or a noise input of the wrong shape or value.
    """
    from .. import ortops

    if x.device.type not in ("cpu", "cuda"):
        raise InputError(
            f"NoisyStore runs on CPU and CUDA tensors in PyTorch, got one on {x.device}; "
            "move the model and its input there, or export it and run the ONNX file"
        )
    if x.dtype not in _SUPPORTED:
        names = ", ".join(str(t).removeprefix("torch.") for t in _SUPPORTED)
        raise InputError(f"NoisyStore: expected a tensor of {names}, got {x.dtype}")
    if bit_mask.dtype == torch.uint64:
        bit_mask = bit_mask.view(torch.int64)
    sites = bit_error_rate.shape[0] if bit_error_rate.dim() == 2 else -1
    if tuple(bit_error_rate.shape) != (sites, 2) or tuple(bit_mask.shape) != (sites,):
        raise InputError(
            "NoisyStore: expected bit_error_rate of shape [S, 2] and bit_mask of shape [S], "
            f"got {list(bit_error_rate.shape)} and {list(bit_mask.shape)}"
        )
    if bit_error_rate.dtype != torch.float64 or tuple(seed.shape) != (1,):
        raise InputError(
            "NoisyStore: expected bit_error_rate of torch.float64 and seed of shape [1], "
            f"got {bit_error_rate.dtype} and {list(seed.shape)}"
        )
    if not 0 <= site < sites:
        raise InputError(f"NoisyStore: site {site} is outside the {sites} rows of bit_error_rate")
    given = (bit_error_rate, bit_mask, seed, sample_index)
    for name, tensor in zip(NOISE_NAMES, given, strict=True):
        if tensor.device.type != "cpu":
            raise InputError(
                f"NoisyStore: expected {name} on the CPU, got it on {tensor.device}: noise is read "
                "on the host"
            )
    x = x.detach().contiguous()
    out = torch.empty_like(x)
    p01, p10 = bit_error_rate[site].tolist()
    rate = p01 if p01 == p10 else (p01, p10)  # one number is checked faster
    arguments: dict[str, Any] = {
        "bit_mask": int(bit_mask[site]) & ((1 << 64) - 1),
        "seed": int(seed[0]),
        "site": site,
        "sample_index": sample_index.numpy(),
        "storage_format": storage_format,
        "scale": scale,
        "zero_point": zero_point,
        "rows_per_sample": rows_per_sample,
    }
    if x.device.type == "cpu":
        ortops.apply(_as_numpy(x), rate, out=_as_numpy(out), **arguments)
        return out
    with torch.cuda.device(x.device):
        ortops.apply_on_cuda(
            x.data_ptr(),
            out.data_ptr(),
            str(x.dtype).removeprefix("torch."),
            tuple(x.shape),
            rate,
            stream=torch.cuda.current_stream().cuda_stream,
            **arguments,
        )
    return out


@store.register_fake
def _(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _straight_through(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return (grad, *[None] * 9)


store.register_autograd(_straight_through)


class NoisyStore(nn.Module):
    """One noisy memory, to be placed by hand in a model; clean until `noise` sets rates.

    Instrumenting or exporting the model makes each call of it a site, beside the sites that
    are asked for.

    Parameters
    ----------
    storage_format : str
        How values are held; "native" is the tensor's own type. Integers hold a float tensor by
        scale and zero_point.
    scale, zero_point : float, int
        Of an integer format: the value of a stored q is ``(q - zero_point) * scale``.
    rows_per_sample : int
        Consecutive rows of axis 0 that make one sample. Exporting finds it by itself.

    Raises
    ------
    InputError
        An unknown format, a scale that is not finite and positive, or a zero point outside the
        format's range.
    """

    bit_error_rate: Tensor
    bit_mask: Tensor
    seed: Tensor
    sample_index: Tensor

    def __init__(
        self,
        storage_format: str = "native",
        *,
        scale: float = 1.0,
        zero_point: int = 0,
        rows_per_sample: int = 1,
    ) -> None:
        super().__init__()
        check_name(storage_format)
        word = WORD_FORMATS.get(storage_format)
        if word is not None and word.is_integer:
            check_quantization(word, scale, zero_point)
        self.storage_format = storage_format
        self.scale = float(scale)
        self.zero_point = int(zero_point)
        self.rows_per_sample = int(rows_per_sample)
        self.site = 0
        for name, value in zip(NOISE_NAMES, noise_tensors(1), strict=True):
            self.register_buffer(name, value, persistent=False)

    def _apply(self, fn: Any, recurse: bool = True) -> NoisyStore:
        return self  # the rates stay float64 on the CPU when the model is moved or cast

    def forward(self, x: Tensor) -> Tensor:
        """Store and load x (any shape, axis 0 the batch)."""
        return torch.ops.noisystore.store(
            x,
            self.bit_error_rate,
            self.bit_mask,
            self.seed,
            self.sample_index,
            self.site,
            self.storage_format,
            self.scale,
            self.zero_point,
            self.rows_per_sample,
        )

    def extra_repr(self) -> str:
        """Describe the memory."""
        text = f"storage_format={self.storage_format!r}"
        word = WORD_FORMATS.get(self.storage_format)
        if word is not None and word.is_integer:
            text += f", scale={self.scale!r}, zero_point={self.zero_point}"
        return text


#: Arguments 1 to 4 of the operator, in order.
NOISE_NAMES = ("bit_error_rate", "bit_mask", "seed", "sample_index")


def noise_tensors(
    sites: int,
    bit_error_rate: Any = 0.0,
    bit_mask: Any = None,
    seed: int = 0,
    sample_index: Any = 0,
    formats: Sequence[str | None] | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Make the operator's noise inputs of a graph with a number of sites.

    Parameters
    ----------
    sites : int
    bit_error_rate : float, (p01, p10), or array_like [S, 2]
    bit_mask : int, str, or array_like [S] of them, optional
        Numbers or names (`noisystore.ortops.bit_mask`). By default every bit.
    seed : int
    sample_index : int, or array_like or Tensor [N], on any device
    formats : sequence of str or None [S], optional
        Word format of each site, for names of masks; None: not known.

    Returns
    -------
    tuple of Tensor
        float64 [S, 2], int64 [S], int64 [1], int64 [1] or [N].

    Raises
    ------
    InputError
        A rate, mask, seed or index of the wrong shape or value.
    """
    if isinstance(sample_index, Tensor):
        sample_index = sample_index.detach().cpu().numpy()
    return (
        torch.from_numpy(rate_table(bit_error_rate, sites).copy()),
        torch.from_numpy(_masks(bit_mask, sites, formats).view(np.int64)),
        torch.from_numpy(seed_array(seed)),
        torch.from_numpy(sample_index_array(sample_index).copy()),
    )


def _masks(bit_mask: Any, sites: int, formats: Sequence[str | None] | None) -> np.ndarray[Any, Any]:
    """Make the table of masks, which training asks for in every step."""
    if bit_mask is None or isinstance(bit_mask, str):
        known = None if formats is None else tuple(formats)
        return _named_masks(bit_mask, sites, known).copy()
    return mask_table(bit_mask, sites, formats)


@functools.lru_cache(maxsize=64)
def _named_masks(
    bit_mask: str | None, sites: int, formats: tuple[str | None, ...] | None
) -> np.ndarray[Any, Any]:
    return mask_table(bit_mask, sites, formats)
