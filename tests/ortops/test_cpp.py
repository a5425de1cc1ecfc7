# SPDX-License-Identifier: Apache-2.0
"""Builds the library as a C++ project of its own and runs its tests."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def tool(name):
    beside = pathlib.Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"needs {name}")
    return found


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_cpp_tests_pass(tmp_path):
    cmake = tool("cmake")
    run(cmake, "-S", str(ROOT / "ortops"), "-B", str(tmp_path), "-DNOISYSTORE_TESTS=ON",
        "-DNOISYSTORE_WERROR=ON", "-DNOISYSTORE_CUDA=OFF")  # fmt: skip
    run(cmake, "--build", str(tmp_path), "-j", str(os.cpu_count()))
    answers = ROOT / "tests" / "data" / "known_answers.txt"
    out = run(str(tmp_path / "tests" / "noisystore_tests"), str(answers))
    passed, failed = map(int, re.search(r"(\d+) passed, (\d+) failed", out).groups())
    assert passed > 10_000
    assert failed == 0


def test_add_subdirectory(tmp_path):
    """A C++ project adds the folder, links the target and calls the operator."""
    cmake = tool("cmake")
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.18)\nproject(user CXX)\n"
        f"add_subdirectory({ROOT / 'ortops'} noisystore)\n"
        "add_executable(user user.cc)\ntarget_link_libraries(user noisystore::noisystore)\n"
    )
    (tmp_path / "user.cc").write_text(
        '#include <cstdio>\n#include <noisystore.h>\nint main() {\n'
        '  std::printf("%s %d\\n", noisystore_version(), noisystore_noise_model());\n}\n'
    )  # fmt: skip
    run(cmake, "-S", str(tmp_path), "-B", str(tmp_path / "build"), "-DNOISYSTORE_CUDA=OFF")
    run(cmake, "--build", str(tmp_path / "build"))
    version = (ROOT / "ortops" / "VERSION").read_text().strip()
    assert run(str(tmp_path / "build" / "user")).split() == [version, "1"]


def test_exported_symbols():
    """Nothing but the C face leaves the library."""
    from noisystore.ortops import library_path

    out = run(tool("nm"), "-D", "--defined-only", library_path())
    names = {line.split()[-1] for line in out.splitlines()}
    allowed = {
        "RegisterCustomOps", "noisystore_apply", "noisystore_count_flips", "noisystore_samples",
        "noisystore_version", "noisystore_noise_model", "noisystore_instruction_set",
        "noisystore_apply_cuda", "noisystore_cuda_architectures",
    }  # fmt: skip
    weak_runtime = {name for name in names if name.startswith("_Z")}
    assert allowed <= names
    assert names - allowed - weak_runtime == set()
