# SPDX-License-Identifier: Apache-2.0
"""Sweeps with the cores split in several ways between processes and threads.

VGG-A with random weights and random images, unless a model and data are given. Whole sweeps, their
start included, in turn; medians of the ratios to one process with all the cores.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from noisystore.runtime import bench_report, sweep
from noisystore.runtime.commands.common import table
from noisystore.runtime.point_pool import available_cores

RATES = "1e-6:1e-1:1/decade"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a narrow network, few rounds")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--width", type=float, default=1.0, help="of VGG-A (default: 1)")
    parser.add_argument("--model", help="annotated ONNX file")
    parser.add_argument("--data", help="its data set, as `noisystore sweep` takes it")
    parser.add_argument("--images", type=int, default=500, help="of a point (default: 500)")
    parser.add_argument("--trials", type=int, default=10, help="of each rate (default: 10)")
    args = parser.parse_args()
    if (args.model is None) != (args.data is None):
        parser.error("expected --model and --data together")
    if args.model is not None:
        args.width = None
    with tempfile.TemporaryDirectory() as name:
        if args.model is None:
            args.width = 0.0625 if args.quick else args.width
            args.model, args.data = prepared(Path(name), args.width, args.images)
        result = measured(args)
    if args.json:
        print(json.dumps(result, indent=1))
        return
    print(f"{result['points']} points of {args.images} images, {result['cores']} cores")
    rows = [
        [f"{r['workers']} x {r['threads']}", f"{r['seconds']:.2f}", f"{r['ratio']:.3f}"]
        for r in result["rows"]
    ]
    print(table(["processes x threads", "s", "ratio"], rows))


def prepared(folder: Path, width: float, images: int) -> tuple[str, str]:
    """Write a model and data, and return them as `sweep` takes them."""
    import torch

    from noisystore.export import export_onnx, load_model

    torch.manual_seed(1)
    network, _ = load_model("vgg-a", width=width)
    export_onnx(network, torch.zeros(2, 3, 32, 32), folder / "vgg-a.onnx")
    x = np.random.default_rng(1).integers(0, 256, (images, 3, 32, 32), dtype=np.uint8)
    np.savez(folder / "images.npz", x=x, y=np.zeros(images, dtype=np.int64))
    return str(folder / "vgg-a.onnx"), f"npz:{folder / 'images.npz'}"


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """Run all splits in turn."""
    cores = available_cores()
    workers = [n for n in (1, 2, 4, 8, 16, 32, 64, 128) if n <= cores]
    splits: list[tuple[int | str, int | None]] = [(n, max(1, cores // n)) for n in workers]
    splits.append(("auto", None))
    trials = 2 if args.quick else args.trials
    times: dict[Any, list[float]] = {split: [] for split in splits}
    points = 0
    for _ in range(1 if args.quick else 5):
        for split in splits:
            print(f"{split[0]} x {split[1] or 'auto'} ...", file=sys.stderr)
            begin = time.perf_counter()
            found = sweep(
                args.model,
                args.data,
                RATES,
                trials=trials,
                images=args.images,
                workers=split[0],
                threads=split[1],
                progress=False,
            )
            times[split].append(time.perf_counter() - begin)
            points = found.rows
    base = times[splits[0]]
    rows = [
        {
            "workers": workers,
            "threads": threads or "auto",
            "seconds": median(spent),
            "ratio": median(a / b for a, b in zip(spent, base, strict=True)),
        }
        for (workers, threads), spent in times.items()
    ]
    return {
        "benchmark": "workers",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": bench_report.machine(),
        "cores": cores,
        "model": Path(args.model).name if args.width is None else f"VGG-A, width {args.width:g}",
        "points": points,
        "images": args.images,
        "rows": rows,
    }


if __name__ == "__main__":
    main()
