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

from noisystore import ortops
from noisystore.ortops.errors import InputError
from noisystore.ortops.library import library_path
from noisystore.runtime import NoisySession, Results, ort_plugins
from noisystore.runtime.ort_session import board_providers, named_providers

PLUGIN = os.environ.get("NOISYSTORE_TEST_PLUGIN", "")
NAMES = ("CUDAExecutionProvider", "CudaPluginExecutionProvider")
OTHER = "SomeExecutionProvider"

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
    assert ort_plugins.load("CPUExecutionProvider")
    assert not ort_plugins.load(OTHER)
    options = onnxruntime.SessionOptions()
    assert not ort_plugins.configure(options, [("CPUExecutionProvider", {})])
    with pytest.raises(InputError, match=rf"expected one of .*CPU.*, got {OTHER}"):
        named_providers([OTHER])


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
    assert f"execution provider {OTHER}: the library of onnxruntime_ep_test does not load" in said
    assert onnxruntime.__version__ in said
    assert "CreateEpFactories" in said
    assert not results.exists()
    assert OTHER not in ort_plugins.available()


@takes_plugins
def test_a_package_without_its_library(importable):
    package = importable / "onnxruntime_ep_test"
    package.mkdir()
    (package / "__init__.py").write_text(
        f"def get_ep_name(): return {OTHER!r}\n"
        "def get_library_path(): raise RuntimeError('expected one library, found 0')\n"
    )
    with pytest.raises(InputError, match=r"onnxruntime_ep_test does not load .* found 0"):
        named_providers(OTHER)


def test_packages_of_another_form_are_left_alone(importable):
    (importable / "onnxruntime_ep_other.py").write_text("")
    with pytest.raises(InputError, match=f"expected one of .*, got {OTHER}"):
        named_providers(OTHER)


def program(*arguments, folder=None, code=0, devices=2):
    """Run the program, in a process of its own: libraries are registered once and for all."""
    paths = [str(folder), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "NOISYSTORE_EMULATED_DEVICES": str(devices),
    }
    run = subprocess.run(
        [*PROGRAM, *map(str, arguments)], capture_output=True, text=True, env=environment
    )
    assert run.returncode == code, run.stderr
    return run


def swept(model_path, small_npz, path, folder, *more, **options):
    run = program("sweep", model_path, "--data", f"npz:{small_npz}", "--rates", "1e-3,1e-1",
                  "--trials", 2, "-o", path, *more, folder=folder, **options)  # fmt: skip
    if run.returncode:
        return run.stderr.splitlines()[-1]
    names = ("p01", "p10", "noise_seed", "n_run", "correct", "top5", "correct_bits", "agree_bits")
    with Results(path, readonly=True) as results:
        rows = results.rows()
    assert len({row["provider"] for row in rows}) == 1
    return rows[0]["provider"], [tuple(row[name] for name in names) for row in rows]


@needs_a_plugin
@pytest.mark.parametrize("name", NAMES)
def test_a_sweep_on_a_plugin(name, tmp_path, model_path, small_npz):
    assert ortops.cuda_architectures()  # else the sites would run on the CPU
    folder = write_package(tmp_path, name)
    cpu, expected = swept(model_path, small_npz, tmp_path / "cpu.sqlite", folder)
    assert cpu == "CPUExecutionProvider"
    assert len(expected) == 4
    for more in (("cuda",), (NAMES[0],), ("cuda", "--workers", 2)):
        path = tmp_path / f"{len(more)}{more[0]}.sqlite"
        provider, points = swept(model_path, small_npz, path, folder, "--provider", *more)
        assert provider == name
        assert points == expected


@needs_a_plugin
def test_a_plugin_without_a_device(tmp_path, model_path, small_npz):
    folder = write_package(tmp_path, NAMES[0])
    said = swept(model_path, small_npz, tmp_path / "r.sqlite", folder, "--provider", "cuda",
                 code=2, devices=0)  # fmt: skip
    assert said.startswith(f"noisystore: error: execution provider {NAMES[0]}: onnxruntime_ep_test")
    assert "finds no device here" in said
    assert not (tmp_path / "r.sqlite").exists()


@needs_a_plugin
def test_a_board_s_options_and_devices(tmp_path, model_path):
    folder = write_package(tmp_path, NAMES[1])
    script = tmp_path / "script.py"
    script.write_text("""
import json, sys
import numpy as np
from noisystore.ortops.errors import InputError
from noisystore.runtime import NoisySession
from noisystore.runtime.board import load_board
from noisystore.runtime.ort_session import board_providers

x = np.random.default_rng(0).normal(size=(3, 1, 6, 6)).astype(np.float32)
noise = dict(bit_error_rate=0.1, seed=3, sample_index=range(3))
expected = NoisySession(sys.argv[1]).run(x, **noise)
said = []
board = load_board("cuda-server")
for device in (None, "0", "1", "2"):
    cuda, cpu = board_providers(board)
    providers = [(cuda[0], {**cuda[1], **({} if device is None else {"device_id": device})}), cpu]
    try:
        session = NoisySession(sys.argv[1], providers)
    except InputError as error:
        said.append(str(error))
    else:
        options = session._session.get_provider_options()[cuda[0]]
        said.append([options, np.array_equal(session.run(x, **noise), expected, equal_nan=True)])
print(json.dumps(said))
""")
    environment = {**os.environ, "NOISYSTORE_EMULATED_DEVICES": "2"}
    environment["PYTHONPATH"] = f"{folder}{os.pathsep}{environment.get('PYTHONPATH', '')}"
    run = subprocess.run([sys.executable, script, model_path], capture_output=True, text=True,
                         env=environment)  # fmt: skip
    assert run.returncode == 0, run.stderr
    default, first, second, none = json.loads(run.stdout)
    assert default == first == [{"device_id": "0", "use_tf32": "0"}, True]
    assert second == [{"device_id": "1", "use_tf32": "0"}, True]
    assert none.endswith(f"provider {NAMES[1]}: expected device_id to be one of 0, 1, got 2")


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
