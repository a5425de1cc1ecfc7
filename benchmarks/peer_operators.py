# SPDX-License-Identifier: Apache-2.0
"""Bit flips in a float32 tensor, in place, as NoisyStore and its peers make them."""

from __future__ import annotations

import abc
import functools
import importlib
import importlib.metadata
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

WORD_BITS = 32
#: Elements of one sample; axis 0 of larger tensors runs over samples.
SAMPLE = 1 << 16

_BITS = torch.tensor([1 << b for b in range(31)] + [-(1 << 31)], dtype=torch.int32)


class Unavailable(Exception):
    """Says why an operator cannot be measured here."""


class Operator(abc.ABC):
    """One way to flip bits; `flip` draws new flips at every call."""

    name = ""
    #: Expected flips a call above which the operator is extrapolated instead of run.
    most_flips = math.inf

    def asked(self, rate: float) -> float:
        """The rate to ask for so that the effective bit flip rate is `rate`."""
        return rate

    def expected(self, asked: float) -> float:
        """Effective rate that follows from how flips are drawn at the rate asked for."""
        return asked

    @abc.abstractmethod
    def flip(self, values: Tensor, asked: float) -> None:
        """Flip bits of `values` in place."""

    def calls(self, values: Tensor, asked: float, seeds: int) -> list[Callable[[], Any]]:
        """Calls to be timed, one after the other."""
        del seeds
        return [functools.partial(self.flip, values, asked)]

    def count(self, before: Tensor, after: Tensor) -> int:
        """Flips between two states of a tensor."""
        words = (before.view(torch.int32) ^ after.view(torch.int32)).numpy().view(np.uint32)
        if hasattr(np, "bitwise_count"):
            return int(np.bitwise_count(words).sum(dtype=np.int64))
        return int(np.unpackbits(words.view(np.uint8)).sum(dtype=np.int64))


class NoisyStoreApply(Operator):
    """``noisystore.ortops.apply`` with all that Python checks in every call."""

    name = "NoisyStore, apply()"

    def __init__(self) -> None:
        self.seeds = itertools.count()

    def flip(self, values: Tensor, asked: float) -> None:
        from noisystore import ortops

        array = values.numpy()
        ortops.apply(array, asked, seed=next(self.seeds), out=array)


class NoisyStorePrepared(NoisyStoreApply):
    """The foreign function alone, which is what ONNX Runtime calls."""

    name = "NoisyStore"

    def calls(self, values: Tensor, asked: float, seeds: int) -> list[Callable[[], Any]]:
        from noisystore import ortops

        array = values.numpy()
        return [ortops.prepared_apply(array, asked, seed=s, out=array) for s in range(seeds)]


class DenseFliptensors(Operator):
    """The paper's operator, eq. 3: y = (x | f1) ^ (x & f2), a Bernoulli draw a bit and mask.

    Of five ways to make the masks the fastest on one thread: a bit plane after the other, a
    sample's planes at a time so that they stay in the cache.
    """

    name = "dense fliptensors (torch)"

    def expected(self, asked: float) -> float:
        # torch.rand gives multiples of 2**-24, and is compared as float32.
        return math.ceil(float(np.float32(asked)) * 2**24) / 2**24

    def flip(self, values: Tensor, asked: float) -> None:
        for part in values.view(torch.int32).view(-1).split(SAMPLE):
            f1, f2 = _fliptensor(part.numel(), asked), _fliptensor(part.numel(), asked)
            f2.bitwise_and_(part)
            part.bitwise_or_(f1).bitwise_xor_(f2)


def _fliptensor(elements: int, rate: float) -> Tensor:
    mask = torch.zeros(elements, dtype=torch.int32)
    uniform = torch.empty(elements)
    for bit in range(WORD_BITS):
        mask |= (uniform.uniform_() < rate).to(torch.int32) << bit
    return mask


class SparseLastWins(Operator):
    """A few lines of torch: of several flips that hit one value, one stays."""

    name = "sparse torch"

    def asked(self, rate: float) -> float:
        return _asked_one_flip_a_value(rate)

    def expected(self, asked: float) -> float:
        return -math.expm1(-WORD_BITS * asked) / WORD_BITS

    def flip(self, values: Tensor, asked: float) -> None:
        words = values.view(torch.int32).view(-1)
        places = _places(words.numel() * WORD_BITS, asked)
        element = places >> 5
        flipped = words.index_select(0, element) ^ _BITS.index_select(0, places & 31)
        words.index_put_((element,), flipped)


def _asked_one_flip_a_value(rate: float) -> float:
    """Rate of hits of which, at one flip a value at most, `rate` is left."""
    if rate * WORD_BITS >= 1:
        raise Unavailable("makes at most one flip a value, so cannot reach 1/32")
    return -math.log1p(-WORD_BITS * rate) / WORD_BITS


def _places(bits: int, rate: float) -> Tensor:
    count = int(torch.poisson(torch.tensor(bits * rate, dtype=torch.float64)))
    return torch.randint(bits, (count,))


class SparseExact(Operator):
    """Sparse torch whose flips are independent bit by bit, as NoisyStore's are.

    Poisson hits with repeats removed flip every bit independently. Repeats are removed by sorting
    where flips are few, and in a byte a bit where they are many; masks are made for the values
    hit or, where they are many, for all.
    """

    name = "sparse torch, exact"

    def asked(self, rate: float) -> float:
        return -math.log1p(-rate)

    def expected(self, asked: float) -> float:
        return -math.expm1(-asked)

    def flip(self, values: Tensor, asked: float) -> None:
        words = values.view(torch.int32).view(-1)
        if asked > 1 / 64:
            for part in words.split(SAMPLE):
                places = _places(part.numel() * WORD_BITS, asked)
                part.bitwise_xor_(_mask_by_bytes(places, part.numel()))
            return
        places = _places(words.numel() * WORD_BITS, asked).unique()
        element, bits = places >> 5, _BITS.index_select(0, places & 31)
        if asked > 3e-4:
            mask = torch.zeros_like(words).index_add_(0, element, bits)
            words.bitwise_xor_(mask)
            return
        element, which = torch.unique_consecutive(element, return_inverse=True)
        mask = torch.zeros(len(element), dtype=torch.int32).index_add_(0, which, bits)
        words.index_put_((element,), words.index_select(0, element) ^ mask)


def _mask_by_bytes(places: Tensor, elements: int) -> Tensor:
    hit = torch.zeros(elements * WORD_BITS, dtype=torch.uint8)
    hit[places] = 1
    planes = hit.view(-1, 8)
    mask = torch.zeros(len(planes), dtype=torch.uint8)
    for bit in range(8):
        mask |= planes[:, bit] << bit
    return mask.view(torch.int32)


class Mrfi(Operator):
    """MRFI's selector and error mode for floats, put together as its activation hook does."""

    name = "MRFI"

    def __init__(self) -> None:
        selector = _load("mrfi.selector", "MRFI", "mrfi")
        error_mode = _load("mrfi.error_mode", "MRFI", "mrfi")
        self.select = selector.RandomPositionByRate
        self.modify = error_mode.FloatRandomBitFlip

    def asked(self, rate: float) -> float:
        asked = _asked_one_flip_a_value(rate)
        if asked * WORD_BITS >= 1:
            raise Unavailable("refuses rates of 1/32 and more")
        return asked

    def expected(self, asked: float) -> float:
        return -math.expm1(-WORD_BITS * asked) / WORD_BITS

    def flip(self, values: Tensor, asked: float) -> None:
        chosen = torch.as_tensor(self.select(values.shape, rate=asked * WORD_BITS))
        chosen = chosen.to(values.device)
        flat = values.view(-1)
        flat[chosen] = self.modify(flat[chosen])


class PyTorchFI(Operator):
    """PyTorchFI's single bit flips, newly declared and then made by its hook.

    Its only bit flip is of the value rounded to 8-bit fixed point; places are drawn by NumPy.
    """

    name = "PyTorchFI"
    most_flips = 256

    def __init__(self) -> None:
        self.models = _load("pytorchfi.neuron_error_models", "PyTorchFI", "pytorchfi")
        self.random = np.random.default_rng(1)
        self.injectors: dict[int, Any] = {}

    def _injector(self, batch: int) -> Any:
        if batch not in self.injectors:
            injector = self.models.single_bit_flip_func(
                torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1)), batch, input_shape=[1, 256, 256]
            )
            injector.set_conv_max([1.0])
            self.injectors[batch] = injector
        return self.injectors[batch]

    def flip(self, values: Tensor, asked: float) -> None:
        images = values.view(-1, 1, 256, 256)
        injector = self._injector(len(images))
        places = self.random.integers(
            values.numel(), size=self.random.poisson(values.numel() * WORD_BITS * asked)
        )
        batch, pixel = places // SAMPLE, places % SAMPLE
        injector.declare_neuron_fi(
            batch=batch.tolist(),
            layer_num=[0] * len(places),
            dim1=[0] * len(places),
            dim2=(pixel // 256).tolist(),
            dim3=(pixel % 256).tolist(),
            function=injector.single_bit_flip_signed_across_batch,
        )
        injector.single_bit_flip_signed_across_batch(None, None, images)

    def count(self, before: Tensor, after: Tensor) -> int:
        """Changed values: a fault also rounds its value, which changes float32 bits at will."""
        return int((before != after).sum())


def _load(module: str, name: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == package:
            raise Unavailable(f"not installed (pip install {package})") from None
        raise Unavailable(f"cannot be imported: {error}") from None
    except Exception as error:
        raise Unavailable(f"cannot be imported: {type(error).__name__}: {error}") from None


OPERATORS: tuple[type[Operator], ...] = (
    NoisyStorePrepared,
    NoisyStoreApply,
    DenseFliptensors,
    SparseLastWins,
    SparseExact,
    Mrfi,
    PyTorchFI,
)


def available(
    kinds: tuple[type[Operator], ...] = OPERATORS,
) -> tuple[list[Operator], list[str]]:
    """The operators that can run here, and a line for each that cannot."""
    found, skipped = [], []
    for kind in kinds:
        try:
            found.append(kind())
        except Unavailable as reason:
            skipped.append(f"{kind.name}: {reason}")
    return found, skipped


def versions() -> dict[str, str]:
    """Installed versions of all that is compared."""
    found = {}
    for package in ("noisystore", "torch", "numpy", "onnxruntime", "mrfi", "pytorchfi"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def rounded(value: Any) -> Any:
    """A result with its numbers cut to five digits, for a small file."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value
