# SPDX-License-Identifier: Apache-2.0
"""The operator on a CUDA device: equal bits first, then its speed. One command on any CUDA machine.

It needs a NoisyStore library with CUDA kernels (built where nvcc is found) and a CUDA driver; its
parts `provider` and `networks` need onnxruntime-gpu too, or CUDA as a plugin, and PyTorch for
exporting the networks, unless --models names a folder that `--export FOLDER` filled elsewhere. What
is missing skips by name. Exit status: 0, 1 where bits or logits differ, 2 where nothing can be
measured.

  python benchmarks/gpu.py                          everything (10 minutes)
  python benchmarks/gpu.py --quick --only bits      a first look (seconds)
  python benchmarks/gpu.py -o benchmarks/results/gpu.json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gpu_networks
import numpy as np
import numpy.typing as npt
from cuda_driver import CudaError, Device
from gpu_checks import Case, compare, known_answers

from noisystore import ortops
from noisystore.ortops.files import write_whole
from noisystore.runtime import bench_report
from noisystore.runtime.commands.common import check_output, table

PARTS = ("bits", "provider", "bandwidth", "networks", "sanitizer")
RATES = (0.0, 1e-6, 1e-4, 1e-3, 1e-2, 1 / 32, 0.1, 0.5)
BATCHES = (1, 32, 256)
#: Samples and elements of the tensor that is timed (quick or not): beyond the second-level cache,
#: and long enough for the host's part not to count.
TIMED = {True: (256, 65536), False: (1024, 65536)}
HERE = Path(__file__).parent


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few cases, rough figures")
    parser.add_argument("--only", choices=PARTS, action="append", help="a part; may be repeated")
    parser.add_argument("--models", type=Path, metavar="FOLDER", help="networks made by --export")
    parser.add_argument("--export", type=Path, metavar="FOLDER", help="only write the networks")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE.json", help="keep the figures")
    args = parser.parse_args()
    if args.export is not None:
        gpu_networks.export(args.export)
        return 0
    if args.models is not None and not args.models.is_dir():
        print(f"gpu.py: --models {args.models}: no such folder; --export makes it", file=sys.stderr)
        return 2
    try:
        if args.output is not None:
            check_output(args.output)
        if not ortops.cuda_architectures():
            raise CudaError("this NoisyStore library was built without CUDA; build it with nvcc")
        device = Device()
    except (CudaError, ortops.InputError) as error:
        print(f"gpu.py: {error}", file=sys.stderr)
        return 2
    result = {
        "benchmark": "gpu",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": _commit(),
        "gpu": device.name,
        "compute_capability": device.capability,
        "driver_cuda": device.cuda,
        "library_architectures": ortops.cuda_architectures(),
        "machine": bench_report.machine(),
    }
    print(f"{device.name}, compute capability {device.capability}, driver of CUDA {device.cuda}")
    parts: dict[str, Callable[[], Any]] = {
        "bits": lambda: bits(device, args.quick),
        "provider": provider,
        "bandwidth": lambda: bandwidth(device, args.quick),
        "networks": lambda: networks(args.models, args.quick),
        "sanitizer": sanitizer,
    }
    failed = False
    for name in args.only or PARTS:
        print(f"\n{name} ...", file=sys.stderr)
        try:
            result[name] = parts[name]()
        except (
            CudaError,
            ortops.InputError,
        ) as error:  # what other parts found is kept
            print(f"{name}: {error}")
            result[name] = {"differences": [str(error)]}
        failed |= bool(result[name].get("differences"))
    if args.output is not None:
        write_whole(args.output, (json.dumps(result, indent=1) + "\n").encode())
    return int(failed)


def _commit() -> str | None:
    done = subprocess.run(
        ["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or None


def on(device: Device) -> Callable[[npt.NDArray[Any], Case], npt.NDArray[Any]]:
    """Give the operator on a device as an implementation for gpu_checks.

    Tensors begin at any element, and what lies around them has to stay as it is. Where nothing
    lies behind them, tools that watch memory see what goes beyond.
    """

    def run(x: npt.NDArray[Any], case: Case) -> npt.NDArray[Any]:
        start = x.itemsize * (x.size % 3)
        size = start + x.nbytes + (0 if x.size % 2 else 64)
        inside = slice(start, start + x.nbytes)
        around = np.full(size, 0xA5, np.uint8)
        source = device.allocate(size)
        target = source if case.in_place else device.allocate(size)
        try:
            device.write(target, around)
            before = around.copy()
            before[inside] = x.reshape(-1).view(np.uint8)
            device.write(source, before)
            options = case.options()
            ortops.apply_on_cuda(
                source + start, target + start, case.kind, x.shape, case.rate, **options
            )
            after = device.read(target, around)
            y = after[inside].view(x.dtype).reshape(x.shape).copy()
            after[inside] = 0xA5
            if (after != 0xA5).any():
                raise CudaError(f"{case}: memory beside the tensor changed")
            return y
        finally:
            with contextlib.suppress(CudaError):  # what went wrong before is said
                for address in {source, target}:
                    device.free(address)

    return run


def bits(device: Device, quick: bool) -> dict[str, Any]:
    """Compare the published answers, and the CPU library, with the device."""
    answers, wrong = known_answers(on(device))
    cases, more = compare(on(device), quick)
    print(f"known answers: {answers - len(wrong)} of {answers} equal")
    print(f"against the CPU library: {cases} cases, {len(more) or 'no'} differences")
    for line in (*wrong[:10], *more):
        print(f"  {line}")
    return {"known_answers": answers, "cases": cases, "differences": [*wrong, *more]}


def provider() -> dict[str, Any]:
    """Run the parity cases of the tests on ONNX Runtime's CUDA provider."""
    script = HERE.parent / "tests" / "ortops" / "parity.py"
    try:
        name, _ = gpu_networks.cuda()
    except (ImportError, ortops.InputError) as error:
        return _skipped(f"needs onnxruntime-gpu: {error}")
    library = gpu_networks.plugin_of(name)
    done = subprocess.run(
        [sys.executable, str(script), name, *(["--plugin", library] if library else [])],
        capture_output=True,
        text=True,
        check=False,
    )
    said = (done.stdout or done.stderr).strip().splitlines() or [f"exit status {done.returncode}"]
    line = said[-1]
    print(line)
    if done.returncode == 2:
        return {"skipped": line}
    return {"said": line, "differences": [line] if done.returncode else []}


def bandwidth(device: Device, quick: bool) -> dict[str, Any]:
    """Time the operator in place against a copy of the tensor from device to device."""
    rows = []
    samples, elements = TIMED[quick]
    size = 4 * samples * elements
    x, y = device.allocate(size), device.allocate(size)
    device.write(x, np.random.default_rng(0).standard_normal((samples, elements), np.float32))
    copy = device.microseconds(lambda: device.copy(y, x, size), 50)
    for name in ("native", "bfloat16", "float8e4m3fn", "int8"):
        for rate in RATES:
            run = ortops.prepared_apply_on_cuda(
                x, x, "float32", (samples, elements), rate, storage_format=name, scale=0.05
            )
            spent = device.microseconds(run, 20)
            rows.append({"format": name, "rate": rate, "us": spent, "of_copy": spent / copy})
    device.free(x)
    device.free(y)
    print(f"float32, {size >> 20} MiB in place, in multiples of a copy ({copy:.1f} us)")
    formats = dict.fromkeys(row["format"] for row in rows)
    lines = [
        [name, *(f"{row['of_copy']:.3f}" for row in rows if row["format"] == name)]
        for name in formats
    ]
    print(table(["format", *(f"{rate:.3g}" for rate in RATES)], lines))
    return {"bytes": size, "copy_us": copy, "rows": rows}


def networks(models: Path | None, quick: bool) -> dict[str, Any]:
    """Check whole networks on the provider, and time them noisy against plain."""
    try:
        cuda = gpu_networks.cuda()
    except (ImportError, ortops.InputError) as error:
        return _skipped(f"needs onnxruntime-gpu: {error}")
    names = gpu_networks.NETWORKS[: 1 if quick else None]
    with tempfile.TemporaryDirectory(prefix="noisystore.") as made:
        folder = models or Path(made)
        try:
            if models is None:
                gpu_networks.export(folder, names)
        except ImportError as error:
            return _skipped(f"{error}; or name a folder of networks with --models")
        differences: list[str] = []
        rows: list[dict[str, Any]] = []
        try:
            gpu_networks.session(str(gpu_networks.path_of(folder, names[0], True)), cuda)
        except gpu_networks.NoProvider as error:
            return _skipped(str(error))
        for name in names:
            path, shape = gpu_networks.path_of(folder, name, True), gpu_networks.SHAPES[name]
            differences += gpu_networks.check(path, shape, cuda)
            runs_on = gpu_networks.providers_of_stores(path, shape, cuda, Path(made))
            if runs_on != {cuda[0]}:
                differences.append(f"{name}: its NoisyStore nodes run on {sorted(runs_on)}")
            for batch in BATCHES[: 2 if quick else None]:
                for row in gpu_networks.times(folder, name, batch, 5 if quick else 30, cuda):
                    rows.append({"network": name, "batch": batch, **row})
    for line in differences:
        print(f"  {line}")
    print(f"sites' words and clean logits: {len(differences) or 'no'} differences")
    print("noisy / plain, data on the device, by bit error rate")
    groups = dict.fromkeys((row["network"], row["batch"]) for row in rows)
    lines = [
        [name, str(batch)]
        + [f"{r['ratio']:.3f}" for r in rows if (r["network"], r["batch"]) == (name, batch)]
        for name, batch in groups
    ]
    print(table(["network", "batch", *(f"{rate:g}" for rate in gpu_networks.RATES)], lines))
    return {"differences": differences, "rows": rows}


def sanitizer() -> dict[str, Any]:
    """Run the first part again under the tools of compute-sanitizer."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        return _skipped("needs compute-sanitizer (a CUDA toolkit)")
    command = [sys.executable, str(Path(__file__)), "--quick", "--only", "bits"]
    said: dict[str, str] = {}
    differences = []
    for kind in ("memcheck", "racecheck", "synccheck"):
        done = subprocess.run(
            [tool, "--tool", kind, "--error-exitcode=9", *command],
            capture_output=True,
            text=True,
            check=False,
        )
        lines = (done.stdout + done.stderr).strip().splitlines()
        summary = [line for line in lines if "SUMMARY" in line] or lines[-1:]
        said[kind] = " ".join(summary)
        print(f"{kind}: {said[kind]}")
        if done.returncode:
            differences.append(f"{kind}: {said[kind]}")
    return {"said": said, "differences": differences}


def _skipped(reason: str) -> dict[str, Any]:
    print(f"skipped: {reason}")
    return {"skipped": reason}


if __name__ == "__main__":
    sys.exit(main())
