# SPDX-License-Identifier: Apache-2.0
"""A whole network, noisy against clean, in ONNX Runtime and in PyTorch.

VGG-A with random weights, float32, noise after every activation function. Each runtime is compared
with itself only: noisy minus clean. Measurements in turn, medians.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peer_operators import (
    DenseFliptensors,
    Mrfi,
    Operator,
    SparseExact,
    SparseLastWins,
    Unavailable,
    available,
    rounded,
    versions,
)
from torch import Tensor, nn

from noisystore.export import export_onnx, instrument, load_model, noise
from noisystore.runtime import bench, bench_model, bench_report
from noisystore.runtime.commands.common import table

PEERS: tuple[type[Operator], ...] = (DenseFliptensors, SparseLastWins, SparseExact, Mrfi)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a narrow network, few rounds")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--threads", type=int, default=1, help="of both runtimes (default: 1)")
    args = parser.parse_args()
    # MRFI warns in every call of matched rates above 3e-3, which would count as its time.
    logging.disable(logging.WARNING)
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    model, _ = load_model("vgg-a", width=0.0625 if args.quick else 1.0)
    batch = 10 if args.quick else 100
    peers, skipped = available(PEERS)
    result: dict[str, Any] = {
        "benchmark": "end_to_end",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": bench_report.machine(),
        "versions": versions(),
        "skipped": skipped,
        "model": "VGG-A, random weights" + (", width 0.0625" if args.quick else ""),
        "batch": batch,
        "threads": args.threads,
    }
    print("ONNX Runtime ...", file=sys.stderr)
    result["onnxruntime"] = in_onnxruntime(model, batch, args.threads, args.quick)
    print("PyTorch ...", file=sys.stderr)
    result["torch"] = in_torch(model, peers, batch, args.quick)
    print("import ...", file=sys.stderr)
    result["import_seconds"] = bench.import_seconds(quick=args.quick)
    result["machine"]["load_after"] = bench_report.machine()["load"]
    print(json.dumps(rounded(result), indent=1) if args.json else text(result))


def in_onnxruntime(model: nn.Module, batch: int, threads: int, quick: bool) -> dict[str, Any]:
    """Noisy and unannotated export timed in turn, and the harness."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        noisy, plain, data = folder / "noisy.onnx", folder / "plain.onnx", folder / "images.npz"
        example = torch.zeros(2, 3, 32, 32)
        export_onnx(model, example, noisy)
        with open(os.devnull, "w") as silent, contextlib.redirect_stdout(silent):
            torch.onnx.export(
                model,
                (example,),
                plain,
                dynamo=True,
                verbose=False,
                dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            )
        images = np.random.default_rng(1).integers(0, 256, (5 * batch, 3, 32, 32), dtype=np.uint8)
        np.savez(data, x=images, y=np.zeros(len(images), dtype=np.int64))
        found = bench_model.bench_model(
            str(noisy),
            f"npz:{data}",
            clean=str(plain),
            batch=batch,
            threads=threads,
            quick=quick,
        )["model"]
    clean = found["clean_ms"]
    return {
        "clean_ms": clean,
        "zero_ms": found["zero_ms"],
        "layout_share": found["zero_ms"] / clean - 1,
        "rows": [
            {
                "operator": "NoisyStore",
                "rate": row["rate"],
                "ms": row["ms"],
                "clean_ms": clean,
                "ratio": row["ratio_clean"],
                "added_ms": row["ms"] - clean,
            }
            for row in found["rows"]
        ],
        "harness": found["harness"],
    }


def in_torch(model: nn.Module, peers: list[Operator], batch: int, quick: bool) -> dict[str, Any]:
    """The same network with hooks that make noise in place, and with NoisyStore's torch op."""
    x = torch.randn(batch, 3, 32, 32)
    noisy = instrument(model, args=x)
    slow: list[Operator] = [peer for peer in peers if isinstance(peer, DenseFliptensors)]
    fast = [peer for peer in peers if peer not in slow]
    own: dict[Any, list[Callable[[], Any]]] = {
        ("NoisyStore", rate): [
            functools.partial(noisystore_run, noisy, x, rate, seed) for seed in range(3)
        ]
        for rate in bench_model.MODEL_RATES
    }
    rows = beside_clean(model, x, own | hooked_runs(model, x, fast), 2 if quick else 11)
    return {"rows": rows + beside_clean(model, x, hooked_runs(model, x, slow), 1 if quick else 3)}


def hooked_runs(
    model: nn.Module, x: Tensor, peers: list[Operator]
) -> dict[Any, list[Callable[[], Any]]]:
    runs: dict[Any, list[Callable[[], Any]]] = {}
    for rate, peer in itertools.product(bench_model.MODEL_RATES, peers):
        with contextlib.suppress(Unavailable):
            asked = peer.asked(rate)
            runs[peer.name, rate] = [functools.partial(hooked_run, model, x, peer, asked)]
    return runs


def beside_clean(
    model: nn.Module, x: Tensor, runs: dict[Any, list[Callable[[], Any]]], rounds: int
) -> list[dict[str, Any]]:
    """Time runs in turn with the clean model."""
    clean_runs: dict[Any, list[Callable[[], Any]]] = {
        "clean": [functools.partial(clean_run, model, x)]
    }
    medians = bench.interleaved(clean_runs | runs, rounds=rounds, seconds=0.0)
    clean = medians.pop("clean")
    return [
        {
            "operator": name,
            "rate": rate,
            "ms": seconds * 1e3,
            "clean_ms": clean * 1e3,
            "ratio": seconds / clean,
            "added_ms": (seconds - clean) * 1e3,
        }
        for (name, rate), seconds in medians.items()
    ]


@torch.inference_mode()
def clean_run(model: nn.Module, x: Tensor) -> None:
    model(x)


@torch.inference_mode()
def noisystore_run(model: nn.Module, x: Tensor, rate: float, seed: int) -> None:
    with noise(model, bit_error_rate=rate, seed=seed):
        model(x)


@torch.inference_mode()
def hooked_run(model: nn.Module, x: Tensor, peer: Operator, asked: float) -> None:
    with hooks(model, peer, asked):
        model(x)


@contextlib.contextmanager
def hooks(model: nn.Module, peer: Operator, asked: float) -> Iterator[None]:
    """Let a peer flip bits of every activation function's output, in place."""

    def flip(module: nn.Module, inputs: Any, output: Tensor) -> None:
        peer.flip(output, asked)

    handles = [m.register_forward_hook(flip) for m in model.modules() if isinstance(m, nn.ReLU)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def text(result: dict[str, Any]) -> str:
    """The figures as tables."""
    machine, ort, in_pytorch = result["machine"], result["onnxruntime"], result["torch"]
    rows = [
        [
            runtime,
            row["operator"],
            f"{row['rate']:g}",
            f"{row['ms']:.1f}",
            f"{row['clean_ms']:.1f}",
            f"{row['ratio']:.3f}",
            f"{row['added_ms']:.1f}",
        ]
        for runtime, part in (("ONNX Runtime", ort), ("PyTorch", in_pytorch))
        for row in sorted(part["rows"], key=lambda row: row["rate"])
    ]
    harness, seconds = ort["harness"], result["import_seconds"]
    lines = [
        f"{machine['cpu']}, {machine['instruction_set']}, load {machine['load']:.1f} before and "
        f"{machine['load_after']:.1f} after; "
        + ", ".join(f"{name} {version}" for name, version in result["versions"].items()),
        *(f"skipped: {line}" for line in result["skipped"]),
        "",
        f"{result['model']}, batch {result['batch']}, threads {result['threads']}",
        table(
            [
                "runtime",
                "operator",
                "rate",
                "ms",
                "clean, ms",
                "noisy / clean",
                "noisy - clean, ms",
            ],
            rows,
        ),
        "",
        f"annotated graph at rate 0 / unannotated graph: {1 + ort['layout_share']:.3f} (ONNX "
        "Runtime's changes of layout around each site)",
        f"harness: a sweep takes {harness['ratio']:.3f} x the time of its ONNX Runtime runs",
        f"import noisystore.runtime: {seconds['package']:.3f} s; with all that it holds and ONNX "
        f"Runtime: {seconds['all']:.3f} s",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
