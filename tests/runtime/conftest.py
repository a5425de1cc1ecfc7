# SPDX-License-Identifier: Apache-2.0
"""Small annotated models and data sets, and ways to run the command line."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from noisystore.ortops import noise_inputs
from noisystore.runtime.cli import main
from noisystore.runtime.dataset import Dataset

# Makes the helpers beside the tests importable.
sys.path.insert(0, str(Path(__file__).parent))

# Programs that tests interrupt inherit it: a shell's background jobs ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

CLASSES = 10
PROGRAM = [sys.executable, "-m", "noisystore.runtime.cli"]


def _record(site: int, name: str, elements: int, rows_per_sample: int) -> dict[str, Any]:
    return {
        "site": site,
        "name": name,
        "kind": "weight" if rows_per_sample == 0 else "activation",
        "storage_format": "native",
        "elements": elements,
        "bits_per_word": 32,
        "rows_per_sample": rows_per_sample,
        "op": "Relu",
    }


def build_model(
    path: Path,
    *,
    batch: int | str = "N",
    last_rows: int = 1,
    noisy_weight: bool = False,
    metadata: dict[str, str | None] | None = None,
    without_input: str | None = None,
    two_outputs: bool = False,
    with_shapes: bool = True,
    seed: int = 0,
) -> Path:
    """Write x [N, 1, 6, 6] -> Conv, Relu, site 0 -> Gemm, Relu, site 1 -> Gemm -> logits [N, 10].

    `last_rows` is rows_per_sample of site 1; `noisy_weight` adds site 2 on the last weight;
    `with_shapes` states the shapes of the stored tensors, as exporters do.
    """
    rng = np.random.default_rng(seed)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        values = rng.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape).astype(np.float32)
        return numpy_helper.from_array(values, name)

    def store(x: str, site: int, rows: int = 1) -> onnx.NodeProto:
        return helper.make_node(
            "NoisyStore",
            [x, *noise_inputs.NOISE_INPUTS],
            [f"{x}.read"],
            domain="noisystore",
            site=site,
            rows_per_sample=rows,
        )

    count = 3 if noisy_weight else 2
    records = [_record(0, "conv", 8 * 16, 1), _record(1, "hidden", 24, last_rows)]
    records += [_record(2, "w2", CLASSES * 24, 0)] if noisy_weight else []
    initializers = [weight("w0", 8, 1, 3, 3), weight("w1", 24, 128), weight("w2", CLASSES, 24)]
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        store("r", 0),
        helper.make_node("Flatten", ["r.read"], ["f"]),
        helper.make_node("Gemm", ["f", "w1"], ["g"], transB=1),
        helper.make_node("Relu", ["g"], ["h"]),
        store("h", 1, last_rows),
    ]
    if noisy_weight:
        nodes.append(store("w2", 2, 0))
    last = "w2.read" if noisy_weight else "w2"
    nodes.append(helper.make_node("Gemm", ["h.read", last], ["logits"], transB=1))
    noise = {
        noise_inputs.BIT_ERROR_RATE: (np.zeros((count, 2)), [count, 2]),
        noise_inputs.BIT_MASK: (np.full(count, noise_inputs.ALL_BITS, np.uint64), [count]),
        noise_inputs.SEED: (np.zeros(1, np.int64), [1]),
        noise_inputs.SAMPLE_INDEX: (np.zeros(1, np.int64), ["noise_samples"]),
    }
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 1, 6, 6])]
    for name, (default, shape) in noise.items():
        initializers.append(numpy_helper.from_array(default, name))
        if name != without_input:
            kind = helper.np_dtype_to_tensor_dtype(default.dtype)
            inputs.append(helper.make_tensor_value_info(name, kind, shape))
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, CLASSES])]
    if two_outputs:
        outputs.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, [batch, 24]))
    shapes = {"r": [batch, 8, 4, 4], "h": [batch, 24]} if with_shapes else {}
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    ]
    graph = helper.make_graph(nodes, "small", inputs, outputs, initializers, value_info=values)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("noisystore", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    texts: dict[str, str | None] = {
        noise_inputs.SITES_KEY: json.dumps(records),
        noise_inputs.NOISE_MODEL_KEY: noise_inputs.NOISE_MODEL,
        **(metadata or {}),
    }
    helper.set_model_props(model, {key: text for key, text in texts.items() if text is not None})
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Path]:
    return build_model


@pytest.fixture(scope="session")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model(tmp_path_factory.mktemp("model") / "small.onnx")


@pytest.fixture(scope="session")
def small_data(model_path: Path) -> Dataset:
    """157 images whose labels are the model's own predictions, but for every eighth."""
    from noisystore.runtime import NoisySession

    images = np.random.default_rng(1).normal(size=(157, 1, 6, 6)).astype(np.float32)
    labels = NoisySession(model_path, threads=1).run(images).argmax(1)
    labels[::8] = (labels[::8] + 1) % CLASSES
    return Dataset("small/test", images, labels)


@pytest.fixture(scope="session")
def small_npz(small_data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "small.npz"
    np.savez(path, x=small_data.images, y=small_data.labels)
    return path


@pytest.fixture(scope="session")
def one_torch_thread():
    """Two PyTorch threads on cores that are busy with other tests wait for each other."""
    if importlib.util.find_spec("torch") is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def ok(capsys):
    """Run a command in this process and return its JSON."""

    def call(*arguments):
        status = main([*map(str, arguments), "--json"])
        captured = capsys.readouterr()
        assert status == 0, captured.err
        return json.loads(captured.out)

    return call


@pytest.fixture
def error(capsys):
    """Run a command that must fail as bad input does: one line, no traceback, nothing printed."""

    def call(*arguments):
        status = main([*map(str, arguments)])
        captured = capsys.readouterr()
        lines = [line for line in captured.err.splitlines() if "points" not in line.split(" ")[1:2]]
        assert status == 2
        assert captured.out == ""
        assert lines[-1].startswith("noisystore: error: ")
        assert "Traceback" not in captured.err
        return lines[-1]

    return call


@pytest.fixture(scope="session")
def model(tmp_path_factory, one_torch_thread):
    """A very narrow VGG-A trained for a moment on the digits, and exported."""
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    folder = tmp_path_factory.mktemp("model")
    weights, path = folder / "w.safetensors", folder / "model.onnx"
    assert (
        main(
            [
                "train",
                "vgg-a",
                "--data",
                "digits",
                "--width",
                "0.0625",
                "--epochs",
                "2",
                "-o",
                str(weights),
            ]
        )
        == 0
    )
    assert (
        main(["export", "vgg-a", "--width", "0.0625", "--weights", str(weights), "-o", str(path)])
        == 0
    )
    return path


@pytest.fixture(scope="session")
def run_program() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line in a process of its own."""

    def run(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        words = [*PROGRAM, *map(str, arguments)]
        return subprocess.run(words, text=True, timeout=120, check=False, **options)

    return run


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    """A Dask scheduler and the workers a and b."""
    from clusters import Machines

    with Machines(tmp_path_factory.mktemp("cluster")) as started:
        for name in ("a", "b"):
            started.worker(name)
        yield started.joined("a", "b")


@pytest.fixture(scope="session")
def bundle_work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, m.onnx, its data, d.npz, and the board of this machine, host.toml."""
    from bundles import host_board

    folder = tmp_path_factory.mktemp("bundle")
    build_model(folder / "m.onnx", noisy_weight=True)
    rng = np.random.default_rng(5)
    x = rng.integers(0, 256, (21, 1, 6, 6), dtype=np.uint8)
    np.savez(folder / "d.npz", x=x, y=rng.integers(0, 10, 21))
    host_board(folder / "host.toml")
    return folder


@pytest.fixture(scope="session")
def bundle(bundle_work: Path) -> Path:
    """A bundle for this machine."""
    path = bundle_work / "b.zip"
    command = ["bundle", str(bundle_work / "m.onnx"), "--board", str(bundle_work / "host.toml")]
    command += ["--data", f"npz:{bundle_work / 'd.npz'}", "-o", str(path)]
    assert main(command) == 0
    return path


@pytest.fixture
def bundle_folder(bundle: Path, tmp_path: Path) -> Path:
    """The bundle, unpacked for one test."""
    from noisystore.runtime import bundle_file

    folder = tmp_path / "bundle"
    folder.mkdir()
    bundle_file.unpack(bundle, folder)
    return folder
