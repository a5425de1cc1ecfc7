# SPDX-License-Identifier: Apache-2.0
"""Times of queries of a results file with a million points.

    python benchmarks/results_queries.py [--points 1000000] [--images 1000] [--json]

The file is made up: sweeps of simulated networks, 1,000 points each (100 rates, 10 trials), with
the bits of every image. The times of queries are of a connection opened for them, in a file that
the system has in its memory. `docs/results.md` cites the numbers.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from noisystore.runtime.metrics import Scores
from noisystore.runtime.midpoint_groups import fit_results
from noisystore.runtime.rates import noise_seed
from noisystore.runtime.results import Point, Results, pack_bits
from noisystore.runtime.results_summary import summarize

RATES = np.geomspace(1e-8, 1e-1, 100)
TRIALS = 10
MODELS, CLEAN, CLASSES = 10, 0.85, 10


def fill(path: Path, points: int, images: int) -> None:
    """Write sweeps of networks whose accuracy falls along a logistic curve."""
    rng = np.random.default_rng(0)
    environment = dict(
        library_version="0", onnxruntime_version="0", threads=1, cpu="simulated", host="simulated"
    )
    with Results(path) as results:
        runs = [results.add_run(environment) for _ in range(4)]
        for sweep in range(-(-points // (len(RATES) * TRIALS))):
            clean = rng.random(images) < CLEAN
            logit = (np.log10(RATES) - rng.uniform(-6, -4)) / 0.3
            accuracy = (CLEAN - 1 / CLASSES) / (1 + np.exp(logit)) + 1 / CLASSES
            right = rng.random((TRIALS, len(RATES), images), dtype=np.float32) < accuracy[:, None]
            with results.transaction():
                number = results.add_sweep(*describe(sweep, images, clean))
                for trial in range(TRIALS):
                    for i, rate in enumerate(RATES.tolist()):
                        correct = int(np.count_nonzero(right[trial, i]))
                        bits = pack_bits(right[trial, i])
                        seed = noise_seed(sweep, trial, rate, rate)
                        counts = (images, images, correct, images, correct)
                        point = Point(rate, rate, trial, seed, *counts, None, 1.5, 1.4, bits, bits)
                        results.add_point(number, runs[sweep % 4], point)


def describe(
    sweep: int, images: int, clean: np.ndarray[Any, np.dtype[np.bool_]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return identity and description of one of the sweeps."""
    model = f"model-{sweep % MODELS}.onnx"
    identity = dict(
        model_sha256=hashlib.sha256(model.encode()).hexdigest(),
        data_sha256=hashlib.sha256(b"").hexdigest(),
        images=images,
        seed=sweep,
        batch_size=100,
        bit_mask="0xffffffffffffffff",
        metric="",
        provider="CPUExecutionProvider",
        machine="x86_64",
        noise_model="1",
    )
    description = dict(
        model=model,
        sites='{"number": 8, "kinds": ["activation"]}',
        storage_format="float32",
        data="simulated/test",
        mask_name="all",
        classes=CLASSES,
        chance_accuracy=1 / CLASSES,
        clean_accuracy=float(clean.mean()),
        clean_top5=1.0,
        clean_metric=None,
        clean_scores=Scores(correct=clean).to_bytes(),
    )
    return identity, description


def queries(path: Path) -> dict[str, Callable[[Results], Any]]:
    """Return the queries that people make of a file, by what they ask."""
    with Results(path, readonly=True) as results:
        last = results.sweeps()[-1]
    key, number, model = last["key"], last["id"], last["model"]
    rate = float(RATES[50])
    mean = (
        "SELECT p01, p10, AVG(1.0 * correct / images), COUNT(*) FROM points "
        "WHERE correct IS NOT NULL GROUP BY p01, p10"
    )
    one = ("p01", "trial", "accuracy")
    return {
        "number of points": len,
        "one sweep: rows": lambda r: r.rows(sweep=key),
        "one sweep: arrays": lambda r: r.to_arrays(sweep=key),
        "one sweep: what is measured (resume)": lambda r: r.measured(number),
        "one sweep: midpoint (fit)": lambda r: fit_results(r.rows(sweep=key)),
        "mean accuracy of each rate, all points": lambda r: r.select(mean),
        "all points at one rate: arrays": lambda r: r.to_arrays(p01=rate),
        "one model in ten: arrays": lambda r: r.to_arrays(model=model),
        "what is in the file": summarize,
        "all points: 3 columns as arrays": lambda r: r.to_arrays(columns=one),
        "all points: all numbers as arrays": lambda r: r.to_arrays(),
        "all points: pandas table": lambda r: r.to_frame(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3, help="the median is printed")
    parser.add_argument("--quick", action="store_true", help="10,000 points of 100 images")
    parser.add_argument("--file", type=Path, help="keep the file here; used if it is there")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.quick:
        args.points, args.images, args.repeats = 10_000, 100, 1
    with tempfile.TemporaryDirectory() as folder:
        path = args.file or Path(folder) / "r.sqlite"
        start = time.perf_counter()
        if not path.exists():
            fill(path, args.points, args.images)
        result: dict[str, Any] = {"fill": time.perf_counter() - start}
        result["bytes"] = path.stat().st_size
        seconds: dict[str, float] = {}
        for name, query in queries(path).items():
            times = []
            for _ in range(args.repeats):
                start = time.perf_counter()
                with Results(path, readonly=True) as results:
                    query(results)
                    result["points"] = len(results)
                times.append(time.perf_counter() - start)
            seconds[name] = statistics.median(times)
        result["seconds"] = seconds
    if args.json:
        print(json.dumps(result, indent=2))
        return 0
    size = f"{result['bytes'] / 1e6:.0f} MB"
    print(f"{result['points']:,} points, {size}, made in {result['fill']:.0f} s")
    for name, value in seconds.items():
        print(f"{name:42}{value:8.3f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
