# SPDX-License-Identifier: Apache-2.0
"""Execution providers from packages of their own, ONNX Runtime's plugins.

What needs a plugin with a device takes $NOISYSTORE_TEST_PLUGIN, a library with CUDA's provider;
.ci/check_emulated_cuda gives that of tests/emulator.
"""

import json
import os
import subprocess
import sys

import onnxruntime
import pytest
from conftest import PROGRAM

from noisystore.ortops.errors import InputError
from noisystore.ortops.library import library_path
from noisystore.runtime import NoisySession, Results, ort_plugins
from noisystore.runtime.ort_session import board_providers, named_providers

PLUGIN = os.environ.get("NOISYSTORE_TEST_PLUGIN", "")
NAMES = ("CUDAExecutionProvider", "CudaPluginExecutionProvider")
OTHER = "SomeExecutionProvider"
SERVER = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}  # of the board cuda-server

takes_plugins = pytest.mark.skipif(
    not hasattr(onnxruntime, "register_execution_provider_library"),
    reason=f"ONNX Runtime {onnxruntime.__version__} takes no plugins",
)
needs_a_plugin = pytest.mark.skipif(not PLUGIN, reason="NOISYSTORE_TEST_PLUGIN names no library")


def write_package(folder, *names, library=PLUGIN, module="onnxruntime_ep_test"):
    """Write a package as those that bring plugins are; give the folder to import it from."""
    (folder / module).mkdir()
    (folder / module / "__init__.py").write_text(
        f"def get_ep_names(): return {list(names)!r}\n"
        f"def get_library_path(): return {str(library)!r}\n"
    )
    return folder


@pytest.fixture
def importable(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("onnxruntime_ep_")]:
        del sys.modules[name]


def test_without_plugins():
    assert ort_plugins.available() == onnxruntime.get_available_providers()
    assert ort_plugins.find([OTHER, "CPUExecutionProvider"]) == "CPUExecutionProvider"
    assert ort_plugins.find([OTHER]) is None
    options = onnxruntime.SessionOptions()
    assert not ort_plugins.configure(options, [("CPUExecutionProvider", {})])
    with pytest.raises(InputError, match=rf"expected one of .*CPU.*, got {OTHER}"):
        named_providers([OTHER])


@pytest.mark.parametrize("name", [NAMES[0], "TensorrtExecutionProvider", "CPUExecutionProvider"])
@pytest.mark.parametrize("problem", [None, OSError("no CUDA")])
def test_cuda_from_python_packages_is_loaded_once(name, problem, monkeypatch, capsys):
    calls = []

    def preload_dlls():
        calls.append(name)
        print("Failed to load libcublasLt.so.13")
        if problem is not None:
            raise problem

    monkeypatch.setattr(onnxruntime, "preload_dlls", preload_dlls, raising=False)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [name])
    ort_plugins._load_nvidia.cache_clear()
    for _ in range(2):
        assert ort_plugins.find([name]) == name
    ort_plugins._load_nvidia.cache_clear()
    assert calls == ([] if name.startswith("CPU") else [name])
    assert capsys.readouterr() == ("", "")


@takes_plugins
@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise OSError('libcublas.so.13:\\nno such file')", "libcublas.so.13: no such file"),
        ("import no_such_module", "No module named"),
    ],
)
def test_a_package_that_does_not_import(importable, code, reason, model_path, small_npz, error):
    (importable / "onnxruntime_ep_bad").mkdir()
    (importable / "onnxruntime_ep_bad" / "__init__.py").write_text(code)
    results = importable / "r.sqlite"
    said = error("sweep", model_path, "--data", f"npz:{small_npz}", "--provider", OTHER,
                 "--rates", "1e-3", "-o", results)  # fmt: skip
    assert "package onnxruntime_ep_bad: does not load" in said
    assert reason in said
    assert not results.exists()
    assert NoisySession(model_path).provider == "CPUExecutionProvider"  # nobody asked for it


@takes_plugins
def test_a_package_whose_library_does_not_load(importable, model_path, small_npz, error):
    write_package(importable, OTHER, library=library_path())  # without a plugin's functions
    results = importable / "r.sqlite"
    said = error("sweep", model_path, "--data", f"npz:{small_npz}", "--provider", OTHER,
                 "--rates", "1e-3", "-o", results)  # fmt: skip
    assert f"execution provider {OTHER}: onnxruntime_ep_test: its library does not load" in said
    assert onnxruntime.__version__ in said
    assert "CreateEpFactories" in said
    assert not results.exists()
    assert OTHER not in ort_plugins.available()


@takes_plugins
def test_a_package_without_its_library(importable):
    package = importable / "onnxruntime_ep_test"
    package.mkdir()
    (package / "__init__.py").write_text(
        f"def get_ep_names(): return [{OTHER!r}]\n"
        "def get_library_path(): raise RuntimeError('expected one library, found 0')\n"
    )
    with pytest.raises(InputError, match=r"onnxruntime_ep_test: does not load: .* found 0"):
        named_providers(OTHER)


@takes_plugins
def test_a_broken_package_is_named_unless_another_one_does(importable, model_path):
    (importable / "onnxruntime_ep_a.py").write_text("")  # has another form
    with pytest.raises(InputError, match=f"expected one of .*, got {OTHER}"):
        named_providers(OTHER)
    (importable / "onnxruntime_ep_b.py").write_text("raise OSError('no library')")
    with pytest.raises(InputError, match="onnxruntime_ep_b: does not load: no library"):
        named_providers(OTHER)  # it may have been meant
    write_package(importable, OTHER, library=library_path())
    for _ in range(2):
        with pytest.raises(InputError, match="onnxruntime_ep_test: its library does not load"):
            named_providers(OTHER)


def program(*command, folder, **variables):
    """Run a program in a process of its own: libraries stay registered. Give also its launches."""
    report = folder / "launches"
    report.unlink(missing_ok=True)
    paths = [str(folder), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "NOISYSTORE_EMULATED_DEVICES": "2",
        "NOISYSTORE_EMULATOR_REPORT": str(report),
        **variables,
    }
    run = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment)
    return run, report.read_text() if report.exists() else ""


def sweep(model_path, small_npz, path, *more):
    return [*PROGRAM, "sweep", model_path, "--data", f"npz:{small_npz}", "--rates", "1e-3,1e-1",
            "--trials", 2, "-o", path, *more]  # fmt: skip


def points(path):
    names = ("p01", "p10", "noise_seed", "n_run", "correct", "top5", "correct_bits", "agree_bits")
    with Results(path, readonly=True) as results:
        rows = results.rows()
    assert len({row["provider"] for row in rows}) == 1
    return rows[0]["provider"], [tuple(row[name] for name in names) for row in rows]


@needs_a_plugin
@pytest.mark.parametrize("name", NAMES)
def test_a_sweep_on_a_plugin(name, tmp_path, model_path, small_npz):
    write_package(tmp_path, OTHER, name)
    broken = tmp_path / "onnxruntime_ep_broken.py"
    broken.write_text("raise OSError('no library')")
    run, launches = program(*sweep(model_path, small_npz, tmp_path / "cpu"), folder=tmp_path)
    cpu, expected = points(tmp_path / "cpu")
    assert cpu == "CPUExecutionProvider", run.stderr
    assert len(expected) == 4
    assert not launches
    for more in (("cuda",), *((full,) for full in NAMES), ("cuda", "--workers", 2)):
        path = tmp_path / "-".join(map(str, more))
        run, launches = program(
            *sweep(model_path, small_npz, path, "--provider", *more), folder=tmp_path
        )
        assert run.returncode == 0, run.stderr
        assert points(path) == (name, expected)
        if "--workers" not in more:  # those say nothing at their ends
            assert "launches on device 0 of" in launches  # not on the CPU


@needs_a_plugin
@pytest.mark.parametrize(
    ("variable", "value", "reasons"),
    [
        ("NOISYSTORE_EMULATED_DEVICES", "0", ["onnxruntime_ep_test finds no device here"]),
        (
            "NOISYSTORE_PLUGIN_FAILS",
            "no cuDNN",
            ["does not start here", "the CPU does", "no cuDNN"],
        ),
    ],
)
def test_a_plugin_that_does_not_start(variable, value, reasons, tmp_path, model_path, small_npz):
    write_package(tmp_path, NAMES[0])
    command = sweep(model_path, small_npz, tmp_path / "r", "--provider", "cuda")
    run, launches = program(*command, folder=tmp_path, **{variable: value})
    assert run.returncode == 2
    said = run.stderr.splitlines()[-1]
    assert said.startswith(f"noisystore: error: execution provider {NAMES[0]}")
    assert all(reason in said for reason in reasons)
    assert not (tmp_path / "r").exists()
    assert not launches


def run_script(folder, text, *arguments, **variables):
    """Run a Python program; give what it prints, as JSON, and the launches."""
    (folder / "script.py").write_text(text)
    run, launches = program(sys.executable, folder / "script.py", *arguments, folder=folder,
                            **variables)  # fmt: skip
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout), launches


_DEVICES = """
import json, sys
import numpy as np
from noisystore.ortops.errors import InputError
from noisystore.runtime import NoisySession
from noisystore.runtime.board import load_board
from noisystore.runtime.ort_session import board_providers

x = np.random.default_rng(0).normal(size=(3, 1, 6, 6)).astype(np.float32)
noise = dict(bit_error_rate=0.1, seed=3, sample_index=range(3))
cuda, cpu = board_providers(load_board("cuda-server"), *sys.argv[3:]), "CPUExecutionProvider"
name, options = cuda[0]
if sys.argv[2]:
    options = {**options, "device_id": sys.argv[2]}
try:
    session = NoisySession(sys.argv[1], [(name, options), cpu])
except InputError as error:
    said = str(error)
else:
    expected = NoisySession(sys.argv[1]).run(x, **noise)
    said = [options, np.array_equal(session.run(x, **noise), expected, equal_nan=True)]
print(json.dumps(said))
"""


@needs_a_plugin
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("asked", [(), ("cuda",), NAMES[:1], NAMES[1:]])
def test_a_board_s_options(name, asked, tmp_path, model_path):
    write_package(tmp_path, name)
    said, launches = run_script(tmp_path, _DEVICES, model_path, "", *asked)
    assert said == [SERVER, True]
    assert "on device 0 of" in launches


@needs_a_plugin
def test_one_of_several_devices(tmp_path, model_path):
    write_package(tmp_path, NAMES[1])
    for device in "01":
        said, launches = run_script(tmp_path, _DEVICES, model_path, device)
        assert said == [{**SERVER, "device_id": device}, True]
        assert f"on device {device} of" in launches
        assert f"on device {1 - int(device)} of" not in launches
    said, launches = run_script(tmp_path, _DEVICES, model_path, "2")
    assert said.endswith(f"provider {NAMES[1]}: expected device_id to be one of 0, 1, got 2")
    assert not launches


_OTHERS = """
import json, os, sys, threading
import onnxruntime
from noisystore.ortops.errors import InputError
from noisystore.runtime import NoisySession

model, library = sys.argv[1:]
said = []
def make(*providers):
    try:
        said.append(NoisySession(model, list(providers)).provider)
    except InputError as error:
        said.append(str(error))
threads = [threading.Thread(target=make, args=("cuda",)) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
make("cuda", "AzureExecutionProvider", "cpu")  # that one is built in
make("cpu", "cuda")
make("cuda", "cuda")
print(json.dumps(said))
"""


@needs_a_plugin
def test_threads_and_other_providers(tmp_path, model_path):
    if "AzureExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("needs a second built-in provider")
    write_package(tmp_path, NAMES[0])
    said, _ = run_script(tmp_path, _OTHERS, model_path, PLUGIN)
    assert said[:10] == [NAMES[0]] * 9 + ["CPUExecutionProvider"]
    assert "does not start here" in said[10]
    assert "already been registered" in said[10]


@needs_a_plugin
def test_a_library_that_the_program_registers(tmp_path, model_path):
    said, launches = run_script(
        tmp_path,
        "import onnxruntime, sys\n"
        f"onnxruntime.register_execution_provider_library({NAMES[1]!r}, {PLUGIN!r})\n" + _DEVICES,
        model_path,
        "1",
        "cuda",
    )
    assert said == [{**SERVER, "device_id": "1"}, True]
    assert "on device 1 of" in launches


@needs_a_plugin
def test_a_library_without_a_device_can_be_tried_again(tmp_path):
    write_package(tmp_path, NAMES[0])
    text = """
import json
from noisystore.ortops.errors import InputError
from noisystore.runtime import ort_plugins
said = []
for _ in range(2):
    try:
        ort_plugins.find(["CUDAExecutionProvider"])
    except InputError as error:
        said.append(str(error))
print(json.dumps(said))
"""
    said, _ = run_script(tmp_path, text, NOISYSTORE_EMULATED_DEVICES="0")
    assert len(said) == 2
    assert "finds no device here" in said[0]
    assert said[0] == said[1]


@pytest.mark.skipif(bool(PLUGIN), reason="NOISYSTORE_TEST_PLUGIN is CUDA's provider")
def test_a_board_whose_provider_nobody_brings():
    from noisystore.runtime.board import load_board

    if NAMES[0] in onnxruntime.get_available_providers():
        pytest.skip("needs an ONNX Runtime without CUDA")
    board = load_board("cuda-server")
    with pytest.raises(InputError, match="board cuda-server: expected an ONNX Runtime with CUDA"):
        board_providers(board)
    assert board_providers(board, "cpu") == [("CPUExecutionProvider", {})]
    assert board_providers(board, "cuda") == [(NAMES[0], board.provider_options[NAMES[0]])]
