# SPDX-License-Identifier: Apache-2.0
"""Bundles as they are made: what is in them, where their wheels come from, bad input."""

import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import signal
import subprocess
from dataclasses import replace

import pytest
from bundles import NEEDED, host_board
from conftest import PROGRAM

from noisystore.ortops.errors import InputError
from noisystore.runtime import bundle_wheels
from noisystore.runtime.board import load_board
from noisystore.runtime.bundle import make_bundle
from noisystore.runtime.cli import main


@pytest.fixture
def work(bundle_work):
    return bundle_work


@pytest.fixture
def folder(bundle_folder):
    return bundle_folder


def test_what_is_in_it(bundle, work, folder):
    names = set(json.loads((folder / "manifest.json").read_text())["files"])
    assert {"install.sh", "board.toml", "LICENSE", "LICENSES.txt", "README.txt"} <= names
    assert {"model/model.onnx", "data/images.bin", "lib/libnoisystore.so"} <= names
    assert {"cpp/CMakeLists.txt", "cpp/sweep.cc", "cpp/README.md"} <= names
    wheels = {name.split("/")[1].split("-")[0] for name in names if name.startswith("wheels/")}
    assert wheels == {*NEEDED, "noisystore", "onnxruntime", "pip"}
    assert (folder / "model/model.onnx").read_bytes() == (work / "m.onnx").read_bytes()
    said = (folder / "LICENSES.txt").read_text()
    for name in (*NEEDED, "onnxruntime"):
        assert f"\n{name} {importlib.metadata.version(name)}: " in said


def test_the_same_input_gives_the_same_bytes(bundle, work):
    again = make_bundle(
        work / "m.onnx", work / "host.toml", f"npz:{work / 'd.npz'}", work / "again.zip"
    )
    assert (work / "again.zip").read_bytes() == bundle.read_bytes()
    assert again.sha256 == hashlib.sha256(bundle.read_bytes()).hexdigest()


@pytest.mark.skipif(
    shutil.which("aarch64-linux-gnu-g++") is None or platform.machine() == "aarch64",
    reason="needs aarch64-linux-gnu-g++ on another architecture",
)
def test_a_wheel_for_arm_is_compiled(tmp_path, monkeypatch):
    wheel = bundle_wheels.own_wheel(load_board("raspberry-pi-5"), [], tmp_path)
    before = wheel.read_bytes()
    monkeypatch.setenv("CXXFLAGS", "-g")
    (tmp_path / "again").mkdir()
    again = bundle_wheels.own_wheel(load_board("raspberry-pi-5"), [], tmp_path / "again")
    assert again.read_bytes() == before
    assert wheel.name.endswith("-py3-none-linux_aarch64.whl")
    library = bundle_wheels.library_of(wheel)
    assert library[:4] == b"\x7fELF"
    assert int.from_bytes(library[18:20], "little") == 183  # EM_AARCH64
    # A wheel that is given wins.
    shutil.copy(wheel, tmp_path / "noisystore-given.whl")
    version = importlib.metadata.version("noisystore")
    given = tmp_path / "given" / f"noisystore-{version}-py3-none-manylinux_2_24_aarch64.whl"
    given.parent.mkdir()
    shutil.copy(wheel, given)
    assert bundle_wheels.own_wheel(load_board("raspberry-pi-5"), [given.parent], tmp_path) == given


def test_what_is_missing_for_another_board(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    other = "raspberry-pi-5" if platform.machine() != "aarch64" else "x86-server"
    with pytest.raises(InputError) as error:
        bundle_wheels.own_wheel(load_board(other), [], tmp_path)
    assert "--wheels FOLDER" in str(error.value)
    assert "is missing" in str(error.value) or "names no toolchain" in str(error.value)


def test_a_vendor_s_wheel_may_be_missing(folder, tmp_path, monkeypatch):
    """Without a registry all comes from a folder; what a vendor alone has is said, not refused."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    text = host_board(tmp_path / "usual.toml").read_text()
    usual = load_board(tmp_path / "usual.toml")
    (tmp_path / "vendor.toml").write_text(
        text.replace("\nproviders", '\nindex = "https://vendor.example/simple"\nproviders', 1)
    )
    vendor = load_board(tmp_path / "vendor.toml")
    (tmp_path / "one").mkdir()
    found, missing = bundle_wheels.runtime_wheels(usual, [folder / "wheels"], tmp_path / "one")
    assert {wheel.name.split("-")[0] for wheel in found} == {*NEEDED, "onnxruntime", "pip"}
    assert missing == ""
    next(folder.glob("wheels/onnxruntime-*.whl")).unlink()
    (tmp_path / "two").mkdir()
    found, missing = bundle_wheels.runtime_wheels(vendor, [folder / "wheels"], tmp_path / "two")
    assert {wheel.name.split("-")[0] for wheel in found} == {*NEEDED, "pip"}
    assert missing == f"onnxruntime=={usual.ort_version}"
    (tmp_path / "three").mkdir()
    with pytest.raises(InputError, match=r"pip: .*onnxruntime==.*--wheels FOLDER"):
        bundle_wheels.runtime_wheels(usual, [folder / "wheels"], tmp_path / "three")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--board", "toaster"], "toaster"),
        (["--images", "22"], "expected a number from 1 to 21"),
        (["--wheels", "nowhere"], "wheels nowhere: expected a folder"),
        (["--data", "npz:nowhere.npz"], "nowhere.npz"),
    ],
)
def test_bad_input_writes_nothing(work, tmp_path, capsys, arguments, said):
    command = ["bundle", str(work / "m.onnx"), "--board", str(work / "host.toml")]
    command += ["--data", f"npz:{work / 'd.npz'}", "-o", str(tmp_path / "b.zip"), *arguments]
    assert main(command) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_what_is_read_is_not_overwritten(work, error, tmp_path):
    board, data = tmp_path / "b.toml", tmp_path / "d.npz"
    board.write_bytes((work / "host.toml").read_bytes())
    data.write_bytes((work / "d.npz").read_bytes())
    command = ["bundle", work / "m.onnx", "--board", board, "--data", f"npz:{data}", "-o"]
    for path in (board, data):
        before = path.read_bytes()
        assert "which is read" in error(*command, path)
        assert path.read_bytes() == before


def test_a_library_for_newer_systems_is_refused(tmp_path):
    board = replace(load_board(host_board(tmp_path / "b.toml")), glibc="2.2")
    with pytest.raises(InputError, match=r"expected one for glibc 2\.2, got one that needs 2\."):
        bundle_wheels.own_wheel(board, [], tmp_path)


def test_a_wheel_that_is_none(tmp_path):
    version = importlib.metadata.version("noisystore")
    wheel = tmp_path / f"noisystore-{version}-py3-none-any.whl"
    wheel.write_bytes(b"junk")
    with pytest.raises(InputError, match="expected a wheel, got a damaged file"):
        bundle_wheels.licences([wheel])
    with pytest.raises(InputError, match="expected a wheel, got a damaged file"):
        bundle_wheels.library_of(wheel)


def test_a_python_without_pip(tmp_path, monkeypatch):

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    board = load_board(host_board(tmp_path / "b.toml"))
    with pytest.raises(InputError, match="pip is missing from this Python"):
        bundle_wheels.runtime_wheels(board, [], tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_leaves_nothing(work, tmp_path, number):
    folder = tmp_path / "tmp"
    folder.mkdir()
    command = [*PROGRAM, "bundle", work / "m.onnx", "--board", work / "host.toml"]
    command += ["--data", f"npz:{work / 'd.npz'}", "-o", tmp_path / "b.zip"]
    process = subprocess.Popen(
        list(map(str, command)),
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    assert "running m.onnx" in process.stderr.readline()
    process.send_signal(number)
    said = process.stderr.read()
    assert process.wait() == 128 + number
    assert "Traceback" not in said
    assert "interrupted: nothing was written" in said
    assert list(folder.glob("noisystore-*")) == []
    assert not (tmp_path / "b.zip").exists()
