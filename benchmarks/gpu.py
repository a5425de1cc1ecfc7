# SPDX-License-Identifier: Apache-2.0
"""The operator on a CUDA device: equal bits first, then its speed. One command on any CUDA machine.

It needs a NoisyStore library with CUDA kernels (built where nvcc is found) and a CUDA driver; its
parts `provider` and `networks` need onnxruntime-gpu too, or CUDA as a plugin, `networks` also onnx,
and PyTorch and torchvision for exporting the networks, unless --models names a folder that
`--export FOLDER` filled elsewhere. What is missing skips by name. Speeds stand beside their goals.
Exit status: 0, 1 where bits or logits differ or a part breaks off, 2 where nothing can be measured.

  python benchmarks/gpu.py                          everything (10 minutes)
  python benchmarks/gpu.py --quick --only bits      a first look (seconds)
  python benchmarks/gpu.py -o benchmarks/results/gpu.json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
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
from noisystore.runtime.texts import one_line

PARTS = ("bits", "provider", "bandwidth", "networks", "sanitizer")
RATES = (0.0, 1e-6, 1e-4, 1e-3, 1e-2, 1 / 32, 0.1, 0.5)
BATCHES = (1, 32, 256)
#: Samples and elements of the tensor that is timed, 256 MiB: beyond any second-level cache.
TIMED = (1024, 65536)
#: Most time, by rate: of the operator in place, in multiples of a device's copy of the tensor (at
#: 0.1 and 0.5 12% and 35% of a copy's bandwidth); and of a noisy network at batch 32 and 256, in
#: multiples of the plain one.
COPY_GOALS = {1e-6: 0.25, 1e-4: 0.25, 0.1: 1 / 0.12, 0.5: 1 / 0.35}
NETWORK_GOALS = {1e-6: 1.05, 1e-4: 1.05, 0.1: 1.3}
HERE = Path(__file__).parent
#: What compute-sanitizer says of devices and drivers that it does not know, or may not watch.
_UNKNOWN = re.compile(r"support|driver|permission", re.IGNORECASE)


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
        left_out = gpu_networks.export(args.export)
        for line in left_out:
            print(f"gpu.py: {line}", file=sys.stderr)
        return 2 if left_out else 0
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
        except Exception as error:  # the driver's, ONNX Runtime's: other parts go on
            traceback.print_exc()
            print(f"{name} broke off: {one_line(error)}")
            result[name] = {"error": one_line(error)}
        failed |= bool(result[name].get("differences")) or "error" in result[name]
        if args.output is not None:
            write_whole(args.output, (json.dumps(result, indent=1) + "\n").encode())
    return int(failed)


def _commit() -> str | None:
    git = shutil.which("git")
    if git is None:
        return None
    done = subprocess.run(
        [git, "-C", str(HERE), "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or None


def goal(what: str, wanted: float, got: float) -> dict[str, Any]:
    """Say whether a time, in multiples of another, is as short as it should be."""
    met = got <= wanted
    print(f"goal {'met' if met else 'MISSED'}: {what}: at most {wanted:.3g}, got {got:.3g}")
    return {"what": what, "wanted": wanted, "got": got, "met": met}


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
                raise CudaError("memory beside the tensor changed")
            return y
        except (CudaError, ortops.InputError) as error:
            raise CudaError(f"{case}, x {list(x.shape)}: {error}") from error
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
    rows: list[dict[str, Any]] = []
    samples, elements = TIMED
    size = 4 * samples * elements
    x, y = device.allocate(size), device.allocate(size)
    device.write(x, np.random.default_rng(0).standard_normal((samples, elements), np.float32))
    rounds = 3 if quick else 7

    def copies(number: int) -> None:
        for _ in range(number):
            device.copy(y, x, size)

    def time_of(run: Callable[[], None], repeats: int) -> float:
        return device.microseconds(run, repeats, rounds, busy=lambda: copies(4))

    until = time.monotonic() + 0.5
    while time.monotonic() < until:  # clocks rise
        device.microseconds(lambda: copies(1), 20, 1)
    copy = time_of(lambda: copies(1), 50)
    for name in ("native", "bfloat16", "float8e4m3fn", "int8"):
        for rate in RATES:
            run = ortops.prepared_apply_on_cuda(
                x, x, "float32", (samples, elements), rate, storage_format=name, scale=0.05
            )
            rows.append({"format": name, "rate": rate, "us": time_of(run, 20)})
    copy = min(copy, time_of(lambda: copies(1), 50))
    for row in rows:
        row["of_copy"] = row["us"] / copy
    device.free(x)
    device.free(y)
    print(f"float32, {size >> 20} MiB in place, in multiples of a copy ({copy:.1f} us)")
    formats = dict.fromkeys(row["format"] for row in rows)
    lines = [
        [name, *(f"{row['of_copy']:.3f}" for row in rows if row["format"] == name)]
        for name in formats
    ]
    print(table(["format", *(f"{rate:.3g}" for rate in RATES)], lines))
    goals = [
        goal(f"float32 in place, rate {row['rate']:g}", COPY_GOALS[row["rate"]], row["of_copy"])
        for row in rows
        if row["format"] == "native" and row["rate"] in COPY_GOALS
    ]
    return {"bytes": size, "copy_us": copy, "rows": rows, "goals": goals}


def networks(models: Path | None, quick: bool) -> dict[str, Any]:
    """Check whole networks on the provider, and time them noisy against plain."""
    try:
        import onnx  # noqa: F401  (of the check)

        gpu_networks.cuda()
    except (ImportError, ortops.InputError) as error:
        return _skipped(f"needs onnx, and onnxruntime-gpu: {error}")
    names = gpu_networks.NETWORKS[: 1 if quick else None]
    with tempfile.TemporaryDirectory(prefix="noisystore.") as made:
        folder = models or Path(made)
        left_out = gpu_networks.export(folder, names) if models is None else []
        there = [name for name in names if gpu_networks.is_in(folder, name)]
        if models is not None:
            left_out = [
                f"{name}: not in {folder}; --export makes it" for name in names if name not in there
            ]
        for line in left_out:
            print(f"left out: {line}")
        if not there:
            return _skipped("no network is left")
        try:
            return {"left_out": left_out, **_networks(folder, there, Path(made), quick)}
        except gpu_networks.NoProvider as error:
            return _skipped(str(error))


def _networks(folder: Path, names: list[str], profiles: Path, quick: bool) -> dict[str, Any]:
    exact = gpu_networks.cuda(gpu_networks.EXACT)
    differences: list[str] = []
    rows: list[dict[str, Any]] = []
    for name in names:
        path, shape = gpu_networks.path_of(folder, name, True), gpu_networks.SHAPES[name]
        differences += gpu_networks.check(path, shape, exact)
        runs_on = gpu_networks.providers_of_stores(path, shape, exact, profiles)
        if runs_on != {exact[0]}:
            differences.append(f"{name}: its NoisyStore nodes run on {sorted(runs_on)}")
        for batch in BATCHES[: 2 if quick else None]:
            for products, options in gpu_networks.PRODUCTS.items():
                found = {"network": name, "batch": batch, "products": products}
                try:
                    settings = gpu_networks.cuda(options)
                    times = gpu_networks.times(folder, name, batch, 5 if quick else 30, settings)
                except Exception as error:  # memory of small devices, in ONNX Runtime's classes
                    print(f"{name}, batch {batch}, {products}: not timed: {one_line(error)}")
                    rows.append({**found, "error": one_line(error)})
                else:
                    rows += [{**found, **row} for row in times]
    for line in differences:
        print(f"  {line}")
    print(f"sites' words and clean logits: {len(differences) or 'no'} differences")
    print("noisy / plain, data on the device, by bit error rate")
    timed = [row for row in rows if "ratio" in row]
    groups: dict[tuple[Any, ...], dict[float, float]] = {}
    for row in timed:
        key = row["network"], row["batch"], row["products"]
        groups.setdefault(key, {})[row["rate"]] = row["ratio"]
    lines = [
        [name, str(batch), products, *(f"{ratio:.3f}" for ratio in ratios.values())]
        for (name, batch, products), ratios in groups.items()
    ]
    heads = ["network", "batch", "products", *(f"{rate:g}" for rate in gpu_networks.RATES)]
    print(table(heads, lines))
    goals = [
        goal(
            f"{row['network']}, batch {row['batch']}, {row['products']}, rate {row['rate']:g}",
            NETWORK_GOALS[row["rate"]],
            row["ratio"],
        )
        for row in timed
        if row["batch"] > 1 and row["rate"] in NETWORK_GOALS
    ]
    return {"differences": differences, "rows": rows, "goals": goals}


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
        summary = [line for line in lines if "SUMMARY" in line]
        if not summary and _UNKNOWN.search(" ".join(lines[-1:])):
            said[kind] = f"skipped: does not run here: {' '.join(lines[-1:])}"
            print(f"{kind}: {said[kind]}")
            continue
        said[kind] = " ".join(summary or lines[-1:])
        print(f"{kind}: {said[kind]}")
        if done.returncode:
            differences.append(f"{kind}: {said[kind]}")
    return {"said": said, "differences": differences}


def _skipped(reason: str) -> dict[str, Any]:
    print(f"skipped: {reason}")
    return {"skipped": reason}


if __name__ == "__main__":
    sys.exit(main())
