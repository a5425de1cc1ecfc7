# SPDX-License-Identifier: Apache-2.0
"""Storage formats of a float32 tensor, in multiples of memcpy of the same tensor.

One thread, out of place, as memcpy is; one process, measurements in turn, medians. int4 and the
like convert as int8 and the like do.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from noisystore import ortops
from noisystore.ortops.formats import STORAGE_FORMATS
from noisystore.runtime import bench, bench_report
from noisystore.runtime.commands.common import table

RATES = (0.0, 1e-6, 1e-4, 1e-2)
#: A tensor in the second-level cache, and one after a first layer of VGG, batch 100.
SHAPES = ((1, 65536), (100, 64 * 32 * 32))
SEEDS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds, rough figures")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    args = parser.parse_args()
    result: dict[str, Any] = {
        "benchmark": "formats",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": bench_report.machine(),
        "rows": [row for shape in SHAPES for row in measure(shape, args.quick)],
    }
    result["machine"]["load_after"] = bench_report.machine()["load"]
    print(json.dumps(result, indent=1) if args.json else text(result))


def aligned(shape: tuple[int, ...], offset: int) -> npt.NDArray[np.float32]:
    """An array at `offset` bytes in a page: memcpy is slow between some pairs of places."""
    size = int(np.prod(shape)) * 4
    memory = np.zeros(size + 8192, np.uint8)
    start = -memory.ctypes.data % 4096 + offset
    return memory[start : start + size].view(np.float32).reshape(shape)


def measure(shape: tuple[int, ...], quick: bool) -> list[dict[str, Any]]:
    """Times of one call for each format and rate."""
    x, y = aligned(shape, 0), aligned(shape, 2048)
    x[:] = np.random.default_rng(1).standard_normal(shape)
    memmove = functools.partial(ctypes.memmove, y.ctypes.data, x.ctypes.data)
    work: dict[Any, list[Callable[[], Any]]] = {
        "memcpy": [functools.partial(memmove, x.nbytes)],
        "empty memcpy": [functools.partial(memmove, 0)],
    }
    for name in ("native", *STORAGE_FORMATS):
        for rate in RATES:
            work[name, rate] = [
                ortops.prepared_apply(x, rate, seed=seed, out=y, storage_format=name, scale=0.03)
                for seed in range(SEEDS if x.size < 1 << 20 else 1)
            ]
    work["empty call"] = [ortops.empty_call(work["native", RATES[0]][0])]
    print(f"{list(shape)} ...", file=sys.stderr)
    medians = bench.interleaved(
        work,
        rounds=5 if quick else 15,
        seconds=1e-3 if quick else 4e-3,
        clock=time.thread_time,  # all of the work is on this thread
    )
    memcpy = medians["memcpy"] - medians["empty memcpy"]
    rows = []
    for name in ("native", *STORAGE_FORMATS):
        for rate in RATES:
            seconds = medians[name, rate] - medians["empty call"]
            rows.append(
                {
                    "format": name,
                    "elements": x.size,
                    "rate": rate,
                    "ns_per_element": seconds * 1e9 / x.size,
                    "memcpy_ns_per_element": memcpy * 1e9 / x.size,
                    "ratio": seconds / memcpy,
                }
            )
    return rows


def text(result: dict[str, Any]) -> str:
    """The ratios as tables."""
    machine = result["machine"]
    lines = [
        f"{machine['cpu']}, {machine['instruction_set']}, load {machine['load']:.1f} before and "
        f"{machine['load_after']:.1f} after; times in multiples of memcpy"
    ]
    for elements in sorted({row["elements"] for row in result["rows"]}):
        rows = [row for row in result["rows"] if row["elements"] == elements]
        cells = [
            [name, *(f"{row['ratio']:.2f}" for row in rows if row["format"] == name)]
            for name in ("native", *STORAGE_FORMATS)
        ]
        lines += [
            "",
            f"{elements} elements, memcpy {rows[0]['memcpy_ns_per_element']:.3f} ns/element",
            table(["format", *(f"{rate:g}" for rate in RATES)], cells),
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
