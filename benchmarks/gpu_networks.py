# SPDX-License-Identifier: Apache-2.0
"""Whole networks on ONNX Runtime's CUDA provider: their sites' words, logits, and time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from noisystore import ortops
from noisystore.ortops.noise_inputs import (
    NOISE_INPUTS,
    mask_table,
    rate_table,
    sample_index_array,
    seed_array,
)
from noisystore.runtime import ort_plugins
from noisystore.runtime.ort_session import Provider, named_providers

NETWORKS = ("vgg-a", "vgg-e", "torchvision:resnet50")
SHAPES = {"vgg-a": (3, 32, 32), "vgg-e": (3, 32, 32), "torchvision:resnet50": (3, 224, 224)}
RATES = (0.0, 1e-6, 1e-4, 1e-2, 0.1)
#: TF32 rounds products to 10 bits; the usual search for algorithms takes other ones in the session
#: that is compared with.
EXACT = {"use_tf32": "0", "cudnn_conv_algo_search": "DEFAULT"}
#: What is timed: the provider as it is without options, and with products in float32.
PRODUCTS: dict[str, dict[str, str]] = {"default (TF32)": {}, "float32": {"use_tf32": "0"}}
CPU: Provider = ("CPUExecutionProvider", {})


class NoProvider(Exception):
    """An execution provider that does not start."""


def cuda(options: Mapping[str, str] = MappingProxyType({})) -> Provider:
    """Find ONNX Runtime's CUDA provider, built in or a plugin's; raise InputError without one."""
    return named_providers([("cuda", options)])[0]


def plugin_of(name: str) -> str | None:
    """Give the library of a plugin's provider; None if it is built in."""
    import onnxruntime

    devices = getattr(onnxruntime, "get_ep_devices", list)()
    return next((d.ep_metadata.get("library_path") for d in devices if d.ep_name == name), None)


def export(folder: Path, networks: tuple[str, ...] = NETWORKS) -> list[str]:
    """Write networks with random weights, noisy and plain; return which not, and why.

    Needs PyTorch, and torchvision for its networks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    left_out = []
    for name in networks:
        try:
            import torch

            from noisystore.export import export_onnx, load_model

            torch.manual_seed(0)
            model, _ = load_model(name)
        except (ImportError, ortops.InputError) as error:
            left_out.append(f"{name}: {error}")
            continue
        example = (torch.zeros(2, *SHAPES[name]),)
        for sites in ("activation", "none"):
            export_onnx(model, example, path_of(folder, name, sites == "activation"), sites=sites)
    return left_out


def is_in(folder: Path, name: str) -> bool:
    """Say whether a network's files are in a folder."""
    return all(path_of(folder, name, noisy).is_file() for noisy in (True, False))


def path_of(folder: Path, name: str, noisy: bool) -> Path:
    """Give the path of a network's file."""
    return folder / f"{name.replace(':', '-')}-{'noisy' if noisy else 'plain'}.onnx"


def session(model: str | bytes, provider: Provider, profile: Path | None = None) -> Any:
    """Make a session that runs on one provider."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    ortops.register(options)
    settings = [] if ort_plugins.configure(options, [provider]) else [provider]
    # With its fallback ONNX Runtime goes over to the CPU after some errors in a run.
    made = onnxruntime.InferenceSession(model, options, providers=settings, enable_fallback=0)
    if made.get_providers()[0] != provider[0]:  # ONNX Runtime falls back, with a warning
        raise NoProvider(
            f"{provider[0]} does not start here: its libraries, or a device, are missing"
        )
    return made


def noise(sites: int, rate: Any, seed: int = 1) -> dict[str, npt.NDArray[Any]]:
    """Give the arrays of the noise inputs."""
    arrays = (rate_table(rate, sites), mask_table(None, sites), seed_array(seed))
    return dict(zip(NOISE_INPUTS, (*arrays, sample_index_array(7)), strict=True))


def check(path: Path, shape: tuple[int, ...], provider: Provider) -> list[str]:
    """Say what is wrong with a network's sites on a provider.

    Each site must make of the words that it is fed there what the CPU library makes of them; clean
    logits must be those of the CPU within 1e-4 of the largest.
    """
    import onnx

    model = onnx.load(path)
    stores = [node for node in model.graph.node if node.op_type == "NoisyStore"]
    names = [name for node in stores for name in (node.input[0], node.output[0])]
    present = {value.name for value in model.graph.output}
    probed = [name for name in dict.fromkeys(names) if name not in present]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in probed)
    x = np.random.default_rng(0).standard_normal((4, *shape)).astype(np.float32)
    wrong = []
    runner = session(model.SerializeToString(), provider)
    for rate in (1e-5, 1e-3, 0.1):
        feeds = {runner.get_inputs()[0].name: x, **noise(len(stores), rate)}
        values = zip(runner.get_outputs(), runner.run(None, feeds), strict=True)
        outputs = {output.name: value for output, value in values}
        for node in stores:
            options = {a.name: a.i for a in node.attribute if a.name in ("site", "rows_per_sample")}
            fed, got = outputs[node.input[0]], outputs[node.output[0]]
            expected = ortops.apply(fed, rate, seed=1, sample_index=7, **options)
            if got.tobytes() != expected.tobytes():
                wrong.append(f"{path.name}: site {options['site']}, rate {rate}: other words")
    clean = {runner.get_inputs()[0].name: x, **noise(len(stores), 0.0)}
    there, here = (session(str(path), p).run(None, clean)[0] for p in (provider, CPU))
    largest = float(np.abs(there - here).max() / np.abs(here).max())
    if not largest <= 1e-4:
        wrong.append(f"{path.name}: clean logits differ by {largest:.1e} of the largest")
    return wrong


def providers_of_stores(
    path: Path, shape: tuple[int, ...], provider: Provider, folder: Path
) -> set[str]:
    """Give the execution providers that run the NoisyStore nodes, as ONNX Runtime profiles them."""
    import json

    runner = session(str(path), provider, folder / "profile")
    x = np.zeros((1, *shape), np.float32)
    runner.run(None, {runner.get_inputs()[0].name: x})
    events = json.loads(Path(runner.end_profiling()).read_text())
    arguments = [event.get("args", {}) for event in events]
    return {
        a["provider"] for a in arguments if a.get("op_name") == "NoisyStore" and "provider" in a
    }


def times(
    folder: Path, name: str, batch: int, rounds: int, provider: Provider
) -> list[dict[str, Any]]:
    """Time a network noisy against plain, in turn, with its data bound to the device.

    Returns
    -------
    list of dict
        One a rate: rate, ms, ratio (median of noisy over median of plain).
    """
    import onnxruntime

    kind = "cpu" if provider is CPU else "cuda"
    x = np.random.default_rng(0).standard_normal((batch, *SHAPES[name])).astype(np.float32)
    on_device = onnxruntime.OrtValue.ortvalue_from_numpy(x, kind, 0)
    plain = session(str(path_of(folder, name, False)), provider)
    noisy = session(str(path_of(folder, name, True)), provider)
    inputs = noisy.get_overridable_initializers()
    sites = next(i.shape[0] for i in inputs if i.name == NOISE_INPUTS[0])
    bindings = {}
    for rate in (None, *RATES):
        runner = plain if rate is None else noisy
        binding = runner.io_binding()
        binding.bind_ortvalue_input(runner.get_inputs()[0].name, on_device)
        for key, array in noise(sites, rate).items() if rate is not None else ():
            # Of overridable inputs `bind_cpu_input` knows nothing.
            value = onnxruntime.OrtValue.ortvalue_from_numpy(array)
            binding.bind_ortvalue_input(key, value)
        binding.bind_output(runner.get_outputs()[0].name, kind, 0)
        bindings[rate] = runner, binding
    spent: dict[float | None, list[float]] = {rate: [] for rate in bindings}
    for number in range(rounds + 2):
        for rate, (runner, binding) in bindings.items():
            start = time.perf_counter()
            runner.run_with_iobinding(binding)
            binding.synchronize_outputs()
            if number >= 2:  # the first ones choose algorithms and allocate
                spent[rate].append(time.perf_counter() - start)
    medians = {rate: statistics.median(values) for rate, values in spent.items()}
    return [
        {"rate": rate, "ms": medians[rate] * 1e3, "ratio": medians[rate] / medians[None]}
        for rate in RATES
    ]
