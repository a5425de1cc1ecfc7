# SPDX-License-Identifier: Apache-2.0
"""edge_configs/install.sh: says all that is missing and does nothing; builds where all is there."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "edge_configs" / "install.sh"


def install(*arguments, **environment):
    return subprocess.run(
        ["bash", SCRIPT, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def test_everything_that_is_missing_is_said_at_once(tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "dirname", "grep", "realpath", "sed"):
        (tools / name).symlink_to(shutil.which(name))
    folder = tmp_path / "venv"
    done = install(
        folder,
        PATH=str(tools),
        PYTHON="python9",
        CXX="no-c++",
        ONNXRUNTIME=str(tmp_path / "no.whl"),
    )
    assert done.returncode == 2
    assert done.stdout == ""
    first, *problems = done.stderr.splitlines()
    assert first == "install.sh: nothing was done; it needs"
    expected = ["Python 3.10", "make or ninja", "a C++ compiler", "the wheel ONNXRUNTIME="]
    if not Path("/usr/local/cuda/bin/nvcc").exists():
        expected.insert(3, "nvcc")
    assert [line.strip()[: len(e)] for line, e in zip(problems, expected, strict=True)] == expected
    assert not folder.exists()


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
def test_a_missing_driver_is_said(tmp_path):
    done = install(tmp_path / "venv")
    if done.returncode == 0:
        pytest.skip("there is a CUDA device")
    assert done.returncode == 2
    assert "a CUDA driver and device: not found (or name --architectures" in done.stderr
    assert not (tmp_path / "venv").exists()


@pytest.mark.long
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
def test_a_board_s_build(tmp_path):
    done = install("--architectures", "87", tmp_path / "venv")
    assert done.returncode == 0, done.stderr
    assert "CUDA code for 87\n" in done.stdout
    assert not (tmp_path / "venv" / "noisystore-build").exists()
