# SPDX-License-Identifier: Apache-2.0
"""Compare NoisyStore in this ONNX Runtime with `ortops.apply` and the NumPy oracle, bit for bit.

`python tests/ortops/parity.py [PROVIDER [--only-sites | --plugin LIBRARY]]` needs noisystore, NumPy
and ONNX Runtime, nothing else; .ci/check_ort_versions runs it against several versions,
benchmarks/gpu.py on a device and .ci/check_emulated_cuda on an emulated one, with --only-sites: all
other nodes stay on the CPU. LIBRARY is a plugin of ONNX Runtime that has the provider.
The models are those of tests/data/make_models.py. With a runtime that is too old, checks that the
error says so. Prints one line; exits with 1 on a difference.
"""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime

from noisystore import ortops
from noisystore.ortops import reference
from noisystore.ortops.formats import ELEMENT_TYPES, STORAGE_FORMATS
from noisystore.ortops.noise_inputs import (
    ALL_BITS,
    NOISE_INPUTS,
    mask_table,
    rate_table,
    sample_index_array,
    seed_array,
)

DATA = pathlib.Path(__file__).parent.parent / "data"
OLDEST = (1, 17)
THREADS = (1, 2)
FLOATS = ("float16", "bfloat16", "float32", "float64")
ONLY_SITES = ("session.layer_assignment_settings", "cpu(=host)")  # the mark of make_models.py
providers = ["CPUExecutionProvider"]
session_config: list[tuple[str, str]] = []
plugged: list[Any] = []  # devices of a plugin
# Else the algorithms of two sessions differ, by what was faster at their start.
EQUAL_CONVOLUTIONS = {
    name: {"cudnn_conv_algo_search": "DEFAULT", "use_tf32": "0"}
    for name in ("CUDAExecutionProvider", "CudaPluginExecutionProvider")
}
Array = npt.NDArray[Any]


class NoProvider(Exception):
    """The execution provider is not there, or has no device."""


class Noise(NamedTuple):
    """One setting of the four noise inputs."""

    rate: Any
    mask: Any = None
    seed: int = 0
    sample_index: Any = 0

    def feeds(self, sites: int) -> dict[str, Array]:
        arrays = (
            rate_table(self.rate, sites),
            mask_table(self.mask, sites),
            seed_array(self.seed),
            sample_index_array(self.sample_index),
        )
        return dict(zip(NOISE_INPUTS, arrays, strict=True))


SCATTERED = (4294967295, 7, 0, 7)  # four samples
LOW, HIGH = -(1 << 63), (1 << 63) - 1
NOISES = (
    Noise(0),
    Noise(0.0, seed=1, sample_index=SCATTERED),
    Noise(1e-9, seed=2),
    Noise(1e-4, seed=3, sample_index=9999),
    Noise(1e-3, seed=-1, sample_index=SCATTERED),
    Noise(1e-3, seed=HIGH, sample_index=4294967294),  # the index wraps
    Noise(0.01, 0x7C, 5, SCATTERED),
    Noise(0.01, [ALL_BITS, 0x81], LOW, 12),
    Noise(0.031, 1, 7),
    Noise(0.03125, None, 8, SCATTERED),
    Noise(0.2, 0x5555555555555555, 9),
    Noise(0.5, [0, ALL_BITS], 10, SCATTERED),
    Noise(1.0, None, 11),
    Noise(1.0, 0x18, 11, SCATTERED),
    Noise((0, 0.002), None, 12, SCATTERED),
    Noise((0.002, 0), None, 12),
    Noise((0.02, 0.001), 0xF0F0F0F0F0F0F0F0, 13, SCATTERED),
    Noise((0.2, 1e-6), None, 14),
    Noise((0.05, 0.3), [0x3F, 0xFE], 15, SCATTERED),
    Noise((1, 0), None, 16),
    Noise((0, 1), None, 16, SCATTERED),
    Noise([[0.3, 0.1], [1e-3, 0.01]], [ALL_BITS, 0x7F], 17, SCATTERED),
    Noise([[0, 0], [0.04, 0.04]], None, 18),
)
# Enough work for the session's threads; too much for the oracle.
LARGE_NOISES = (
    Noise(1e-3, seed=20, sample_index=SCATTERED),
    Noise(0.01, 0x7F, 21),
    Noise(0.1, None, 22, SCATTERED),
    Noise((0.02, 0.004), None, 23, SCATTERED),
    Noise([[0.5, 0.25], [0.03, 0.03]], None, 24),
)


def session(name: str, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # overridable initializers warn
    options.intra_op_num_threads = threads
    for key, value in session_config:
        options.add_session_config_entry(key, value)
    ortops.register(options)
    settings = [(provider, EQUAL_CONVOLUTIONS.get(provider, {})) for provider in providers]
    if plugged:
        options.add_provider_for_devices(plugged[-1:], settings.pop(0)[1])
        settings = []
    model = str(DATA / f"{name}.onnx")
    made = onnxruntime.InferenceSession(model, options, providers=settings)
    if made.get_providers()[0] != providers[0]:  # ONNX Runtime falls back, with a warning
        raise NoProvider(f"{providers[0]} does not start here")
    return made


def bits(x: Array) -> Array:
    """Return the stored words; floats that are equal may differ in them."""
    return np.ascontiguousarray(x).view(f"uint{8 * x.dtype.itemsize}")


class Comparison:
    """Counts the cases and keeps the first differences."""

    def __init__(self) -> None:
        self.cases = self.outputs = 0  # all; those in which ONNX Runtime has a part
        self.differences: list[str] = []

    def equal(self, what: str, got: Array, expected: Array, output: bool = True) -> None:
        self.cases += 1
        self.outputs += output
        if got.shape != expected.shape or got.dtype != expected.dtype:
            self.differences.append(
                f"{what}: expected {expected.dtype} {expected.shape}, got {got.dtype} {got.shape}"
            )
            return
        wrong = np.count_nonzero(bits(got) != bits(expected))
        if wrong:
            self.differences.append(f"{what}: {wrong} of {got.size} elements differ")

    def apply(self, what: str, x: Array, noise: Noise, site: int, **options: Any) -> Array:
        """Return what the site makes of x: the library and, for small x, the oracle agree on it."""
        arguments = {
            "bit_mask": noise.mask,
            "seed": noise.seed,
            "site": site,
            "sample_index": noise.sample_index,
            **options,
        }
        y = ortops.apply(x, noise.rate, **arguments)
        in_place = x.copy()
        ortops.apply(in_place, noise.rate, out=in_place, **arguments)
        self.equal(f"{what} site {site}, apply in place", in_place, y, output=False)
        if x.size <= 1024:
            oracle = reference.apply(x, noise.rate, **arguments)
            self.equal(f"{what} site {site}, apply and oracle", y, oracle, output=False)
        return y


def words(kind: str, shape: tuple[int, ...]) -> Array:
    """Return any bit patterns of a type, NaN and infinity among them."""
    rng = np.random.default_rng(len(kind) + shape[-1])
    dtype = np.dtype("uint16" if kind == "bfloat16" else kind)
    x = rng.integers(0, 256, (*shape, dtype.itemsize), dtype=np.uint8).view(dtype)[..., 0]
    if kind == "bfloat16":  # passes through float32, which keeps no NaN's payload
        x &= np.uint16(0xBFFF)
    return np.ascontiguousarray(x)


def widened(bfloat16: Array) -> Array:
    """Return bfloat16 words as float32 with one kind of NaN."""
    return one_nan((bfloat16.astype(np.uint32) << np.uint32(16)).view(np.float32))


def one_nan(x: Array) -> Array:
    """Return float32 with one kind of NaN: what becomes of others differs between machines."""
    return np.where(np.isnan(x), np.float32(np.nan), x)


def two_sites(comparison: Comparison, what: str, x: Array, noise: Noise, kind: str) -> Array:
    """Return what a graph `type_*` makes of x [N, 4, C]."""
    transposed = np.ascontiguousarray(x.transpose(0, 2, 1))
    first = comparison.apply(what, transposed, noise, 0)
    u = np.ascontiguousarray(first.transpose(0, 2, 1))
    own = kind if kind in STORAGE_FORMATS else "native"
    return np.concatenate([u, comparison.apply(what, u, noise, 1, storage_format=own)], axis=1)


def check_element_type(comparison: Comparison, kind: str) -> None:
    sessions = {threads: session(f"type_{kind}", threads) for threads in THREADS}
    for columns, noises in ((13, NOISES), (3001, LARGE_NOISES)):
        x = words(kind, (4, 4, columns))
        for noise in noises:
            what = f"{kind}[4, 4, {columns}] {noise}"
            y = two_sites(comparison, what, x, noise, kind)
            feed, expected = (widened(x), widened(y)) if kind == "bfloat16" else (x, y)
            for threads, runner in sessions.items():
                (got,) = runner.run(None, {"x": feed, **noise.feeds(2)})
                if kind == "bfloat16":
                    got = one_nan(got)
                comparison.equal(f"{what}, {threads} threads", got, expected)
    clean = sessions[1].run(None, {"x": feed})[0]
    comparison.equal(f"{kind}, default noise", clean, np.concatenate([feed, feed], axis=1))


def check_storage_formats(comparison: Comparison) -> None:
    """Every float type in every other format."""
    one_table = [n for n in NOISES if not isinstance(n.mask, list) and np.ndim(n.rate) < 2]
    for kind in FLOATS:
        sessions = {threads: session(f"formats_{kind}", threads) for threads in THREADS}
        formats = [name for name in STORAGE_FORMATS if name != kind]
        for columns, chosen in ((256, one_table), (5001, LARGE_NOISES[:4])):
            x = words(kind, (4, columns))
            for noise in chosen:
                what = f"{kind}[4, {columns}] {noise}"
                feed = widened(x) if kind == "bfloat16" else x
                outputs = [
                    runner.run(None, {"x": feed, **noise.feeds(len(formats))})
                    for runner in sessions.values()
                ]
                for site, form in enumerate(formats):
                    options = {"storage_format": form, "scale": 0.75, "zero_point": 6}
                    y = comparison.apply(f"{what} as {form}", x, noise, site, **options)
                    expected = widened(y) if kind == "bfloat16" else y
                    for threads, got in zip(THREADS, outputs, strict=True):
                        got = one_nan(got[site]) if kind == "bfloat16" else got[site]
                        comparison.equal(f"{what} as {form}, {threads} threads", got, expected)


def check_rows(comparison: Comparison) -> None:
    """Sites of two rows a sample, of all rows sample 0, and of all rows one sample."""
    x = words("float32", (8, 5))
    for threads in THREADS:
        runner = session("rows_per_sample", threads)
        for noise in NOISES:
            if isinstance(noise.mask, list) or np.ndim(noise.rate) == 2:
                continue  # tables of two sites
            outputs = runner.run(None, {"x": x, **noise.feeds(3)})
            read = x
            for site, rows in enumerate((2, 0, -1)):
                what = f"rows_per_sample={rows} {noise}, {threads} threads"
                fed = np.ascontiguousarray(read[:, ::-1])
                expected = comparison.apply(what, fed, noise, site, rows_per_sample=rows)
                comparison.equal(what, outputs[site], expected)
                read = outputs[site]


def check_convolutions(comparison: Comparison) -> None:
    """A net whose sites lie between convolutions, with and without in-place use."""
    x = np.random.default_rng(0).normal(size=(4, 3, 16, 16)).astype(np.float32)
    for threads in THREADS:
        plain, probed = session("conv_relu", threads), session("conv_relu_probed", threads)
        for noise in NOISES:
            what = f"conv_relu {noise}, {threads} threads"
            feeds = {"x": x, **noise.feeds(2)}
            y, *probes = probed.run(None, feeds)
            for site, (stored, read) in enumerate(zip(probes[::2], probes[1::2], strict=True)):
                comparison.equal(what, read, comparison.apply(what, stored, noise, site))
            comparison.equal(f"{what}, in place", plain.run(None, feeds)[0], y)


def check(comparison: Comparison) -> None:
    for kind in ELEMENT_TYPES:
        check_element_type(comparison, kind)
    check_storage_formats(comparison)
    check_rows(comparison)
    check_convolutions(comparison)


def release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


def refusal() -> Iterator[str]:
    """Yield what is wrong with the refusal of a runtime that is too old."""
    expected = f"needs ONNX Runtime 1.17 or newer; this is {onnxruntime.__version__}"
    try:
        ortops.register(onnxruntime.SessionOptions())
    except ortops.InputError as error:
        if expected not in str(error):
            yield f"expected the error to say {expected!r}, got {str(error)!r}"
    else:
        yield f"expected an error that says {expected!r}, got none"


def plug(provider: str, library: str) -> None:
    """Let the sites run on the last device of a plugin."""
    if provider not in EQUAL_CONVOLUTIONS:  # else the sites would run on the CPU
        raise NoProvider(f"expected one of {', '.join(EQUAL_CONVOLUTIONS)}, got {provider}")
    if not hasattr(onnxruntime, "register_execution_provider_library"):
        raise NoProvider(f"onnxruntime {onnxruntime.__version__} takes no plugins")
    # A relative path would be one from ONNX Runtime's own folder.
    try:
        onnxruntime.register_execution_provider_library(provider, os.path.abspath(library))
    except Exception as error:  # ONNX Runtime's own classes
        raise NoProvider(f"{library} does not load: {error}") from None
    plugged.extend(d for d in onnxruntime.get_ep_devices() if d.ep_name == provider)
    if not plugged:
        raise NoProvider(f"{library} has no device of {provider}")


def main(provider: str | None = None, where: str = "", library: str = "") -> int:
    name = f"onnxruntime {onnxruntime.__version__}"
    if (where, bool(library)) not in (("", False), ("--only-sites", False), ("--plugin", True)):
        raise NoProvider(
            "expected --only-sites, --plugin LIBRARY or nothing behind the provider, "
            f"got {where} {library}"
        )
    if where == "--only-sites":
        session_config.append(ONLY_SITES)
    if provider is not None:
        if library:
            plug(provider, library)
        elif provider not in onnxruntime.get_available_providers():
            raise NoProvider(f"{name}: {provider} is not available")
        elif hasattr(onnxruntime, "preload_dlls"):  # CUDA from Python packages
            with contextlib.redirect_stdout(io.StringIO()):
                onnxruntime.preload_dlls()
        if "cuda" in provider.lower() and not ortops.cuda_architectures():  # sites: on the CPU
            raise NoProvider("this NoisyStore library was built without CUDA; build it with nvcc")
        providers.insert(0, provider)
        name += f", {provider}"
    if release(onnxruntime.__version__) < OLDEST:
        differences = list(refusal())
        passed = f"{name}: refused, and the error says which version is needed"
    else:
        comparison = Comparison()
        check(comparison)
        differences = comparison.differences
        passed = f"{name}: {comparison.cases} cases equal, {comparison.outputs} of them outputs"
    if differences:
        print(f"{name}: {len(differences)} differences, the first of them:")
        print("\n".join(f"  {line}" for line in differences[:5]))
        return 1
    print(passed)
    return 0


if __name__ == "__main__":
    try:
        status = main(*sys.argv[1:4])
    except NoProvider as error:
        print(error, file=sys.stderr)
        status = 2
    sys.exit(status)
