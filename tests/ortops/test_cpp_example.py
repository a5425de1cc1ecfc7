# SPDX-License-Identifier: Apache-2.0
"""The C++ example, built and run: it prints what Python computes with the same model."""

import os
import pathlib
import re
import shutil
import subprocess

import numpy as np
import onnxruntime
import pytest

from noisystore import ortops

ROOT = pathlib.Path(__file__).parents[2]
MODEL = ROOT / "tests/data/conv_relu.onnx"
HEADER = "onnxruntime_cxx_api.h"


def header_folder() -> pathlib.Path:
    folders = [
        os.environ.get("ORT_INCLUDE"),
        "/usr/include/onnxruntime",
        ROOT / "build/onnxruntime-headers",  # .ci/check_ort_abi keeps its download there
    ]
    for folder in filter(None, folders):
        if (pathlib.Path(folder) / HEADER).is_file():
            return pathlib.Path(folder)
    pytest.skip("needs onnxruntime_c_api.h: set ORT_INCLUDE")


def runtime_library() -> pathlib.Path:
    """Return the shared library that the onnxruntime wheel brings."""
    capi = pathlib.Path(onnxruntime.__file__).parent / "capi"
    for library in sorted(capi.glob("libonnxruntime.so.*")):
        return library
    pytest.skip("needs libonnxruntime.so: this onnxruntime wheel has none")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    include, library = header_folder(), runtime_library()
    text = (include / "onnxruntime_c_api.h").read_text()
    (release,) = re.findall(r"^#define ORT_API_VERSION (\d+)", text, re.MULTILINE)
    if int(onnxruntime.__version__.split(".")[1]) < int(release):
        pytest.skip(f"needs onnxruntime 1.{release}, as the header is of that release")
    if not shutil.which("cmake") or not (shutil.which("c++") or os.environ.get("CXX")):
        pytest.skip("needs cmake and a C++ compiler")
    folder = tmp_path_factory.mktemp("cpp")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):  # what it links with, its SONAME
        (folder / name).symlink_to(library)
    for command in (
        [
            *("cmake", "-S", ROOT / "examples/cpp", "-B", folder / "build"),
            f"-DORT_INCLUDE={include}",
            f"-DORT_LIB={folder / 'libonnxruntime.so'}",
            "-DCMAKE_CXX_FLAGS=-Werror",
        ],
        ["cmake", "--build", folder / "build"],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "build/count_flips"


def run(program: pathlib.Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(program), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(("rate", "seed"), [(0.0, 0), (1e-3, 0), (0.2, -5)])
def test_the_program_prints_what_python_computes(program, rate, seed):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    ortops.register(options)
    session = onnxruntime.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])
    x = (np.arange(3 * 16 * 16) % 251).astype(np.float32) / np.float32(251) - np.float32(0.5)
    feeds = {"x": x.reshape(1, 3, 16, 16)}
    (clean,) = session.run(None, feeds)
    feeds["noise.bit_error_rate"] = np.full((2, 2), rate)
    feeds["noise.seed"] = np.array([seed])
    (noisy,) = session.run(None, feeds)
    differ = np.count_nonzero(clean.view(np.uint32) != noisy.view(np.uint32))
    assert (differ > 0) == (rate > 0)

    done = run(program, MODEL, ortops.library_path(), rate, seed)

    assert done.returncode == 0, done.stderr
    *pairs, count = done.stdout.splitlines()
    # Nine digits tell every float32 apart, so equal text is equal bits.
    printed = np.array([pair.split() for pair in pairs], dtype=np.float32)
    np.testing.assert_array_equal(printed[:, 0], clean[0])
    np.testing.assert_array_equal(printed[:, 1], noisy[0])
    assert count == f"{differ} of {noisy.size} outputs differ"


def test_the_program_says_what_is_wrong(program):
    assert run(program).returncode == 2
    for arguments, expected in (
        ((MODEL, ortops.library_path(), 1.5), "bit_error_rate"),
        ((MODEL, "missing.so", 0.1), "missing.so"),
        (("missing.onnx", ortops.library_path(), 0.1), "missing.onnx"),
    ):
        done = run(program, *arguments)
        assert done.returncode == 2
        assert expected in done.stderr
