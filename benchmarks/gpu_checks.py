# SPDX-License-Identifier: Apache-2.0
"""Bits of an implementation of the operator against the CPU library's and the known answers.

An implementation is a function (x, Case) -> y on NumPy arrays; gpu.py passes a device's, the tests
the CPU's own.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from noisystore import ortops
from noisystore.ortops.formats import ELEMENT_TYPES, STORAGE_FORMATS

ANSWERS = Path(__file__).parents[1] / "tests" / "data" / "known_answers.txt"
FLOATS = ("float32", "float16", "bfloat16", "float64")
_WORDS = {8: "uint8", 16: "float16", 32: "float32", 64: "float64"}

RATES = (0.0, 1e-9, 1e-6, 1e-4, 1e-3, 0.01, 1 / 33, 1 / 32, 0.1, 0.5, 1.0)
UNEQUAL = ((0.0, 1e-3), (0.02, 0.001), (0.3, 0.05), (1.0, 0.0))
#: Single elements, tails of groups, tiles and blocks, a block of 2^15 elements, many samples.
SHAPES = ((1, 1), (3, 7), (5, 1023), (2, 1024), (3, 4, 257), (2, 70001), (700, 9))


class Case(NamedTuple):
    """One call."""

    kind: str
    rate: Any
    storage_format: str = "native"
    bit_mask: int | None = None
    seed: int = 0
    site: int = 0
    sample_index: Any = 0
    scale: float = 1.0
    zero_point: int = 0
    rows_per_sample: int = 1
    in_place: bool = False

    def options(self) -> dict[str, Any]:
        """Give the arguments of `noisystore.ortops.apply` but x, the rate and out."""
        own = ("kind", "rate", "in_place")
        return {name: value for name, value in self._asdict().items() if name not in own}


Implementation = Callable[[npt.NDArray[Any], Case], npt.NDArray[Any]]


def on_the_cpu(x: npt.NDArray[Any], case: Case) -> npt.NDArray[Any]:
    """Give what the CPU library makes of x."""
    return ortops.apply(x, case.rate, **case.options())


def words(kind: str, shape: tuple[int, ...], seed: int) -> npt.NDArray[Any]:
    """Draw any bit patterns of a type, NaN and infinity among them, and ordinary numbers."""
    rng = np.random.default_rng(seed)
    dtype = np.dtype("uint16" if kind == "bfloat16" else kind)
    x = rng.integers(0, 256, (*shape, dtype.itemsize), dtype=np.uint8).view(dtype)[..., 0].copy()
    if dtype.kind == "f":
        ordinary = rng.random(shape) < 0.5
        x[ordinary] = (rng.standard_normal(int(ordinary.sum())) * 20).astype(dtype)
    return x


def cases(quick: bool) -> Iterator[tuple[Case, tuple[int, ...]]]:
    """Yield calls over types, formats, rates, shapes, masks and sample indices."""
    # Quick ones, too, have samples of several tiles, blocks larger than a tile, and more samples
    # than a launch lists.
    shapes = (SHAPES[0], SHAPES[2], SHAPES[5], SHAPES[6]) if quick else SHAPES
    rates = (0.0, 1e-5, 1e-3, 0.1, (0.02, 0.001)) if quick else (*RATES, *UNEQUAL)
    rng = np.random.default_rng(1)
    for kind in ELEMENT_TYPES:
        formats = ["native", *(STORAGE_FORMATS if kind in FLOATS else ())]
        for name, shape, rate in itertools.product(formats, shapes, rates):
            samples = shape[0]
            index: Any = int(rng.integers(0, 1 << 33))
            if rng.random() < 0.5:
                index = rng.integers(0, 1 << 33, samples)
            yield (
                Case(
                    kind,
                    rate,
                    name,
                    bit_mask=None if rng.random() < 0.6 else int(rng.integers(1, 1 << 62)) | 1,
                    seed=int(rng.integers(-(1 << 62), 1 << 62)),
                    site=int(rng.integers(0, 1 << 31)),
                    sample_index=index,
                    scale=0.37,
                    zero_point=3,
                    in_place=bool(rng.random() < 0.5),
                ),
                shape,
            )


def compare(implementation: Implementation, quick: bool) -> tuple[int, list[str]]:
    """Compare an implementation with the CPU library.

    Returns
    -------
    (int, list of str)
        Number of cases; the first differences, in words.
    """
    count, differences = 0, []
    for number, (case, shape) in enumerate(cases(quick)):
        x = words(case.kind, shape, number)
        got, expected = implementation(x, case), on_the_cpu(x, case)
        count += 1
        unsigned = f"uint{8 * x.dtype.itemsize}"
        wrong = np.flatnonzero(
            got.view(unsigned).reshape(-1) != expected.view(unsigned).reshape(-1)
        )
        if wrong.size and len(differences) < 10:
            differences.append(
                f"{case.kind} {list(shape)} as {case.storage_format}, rate {case.rate}: "
                f"{wrong.size} of {x.size} words differ, the first at {wrong[0]}"
            )
    return count, differences


def known_answers(implementation: Implementation) -> tuple[int, list[str]]:
    """Compare an implementation with the published answers; as `compare`."""
    count, differences = 0, []
    for line in ANSWERS.read_text().splitlines():
        row = line.split()
        if row[0] != "case":
            continue
        elements, bits, p01, p10, mask, seed, site, sample, _, digest = row[1:]
        kind = _WORDS[int(bits)]
        x = _input_words(int(elements), int(bits)).view(kind)
        case = Case(
            kind,
            (float(p01), float(p10)),
            bit_mask=int(mask, 16),
            seed=int(seed),
            site=int(site),
            sample_index=int(sample),
            rows_per_sample=-1,
        )
        count += 1
        if hashlib.sha256(implementation(x, case).tobytes()).hexdigest() != digest:
            differences.append(f"known answer {' '.join(row[1:9])}")
    return count, differences


def _input_words(elements: int, word_bits: int) -> npt.NDArray[Any]:
    state, found = 1, []
    for _ in range(elements):
        state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        found.append(state >> (64 - word_bits))
    return np.array(found, dtype=f"uint{word_bits}")
