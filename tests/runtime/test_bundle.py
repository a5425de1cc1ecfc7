# SPDX-License-Identifier: Apache-2.0
"""Bundles made, unpacked, installed without a registry, and verified, on this machine."""

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from conftest import build_model

from noisystore.ortops.errors import InputError
from noisystore.runtime import bundle_file, bundle_wheels
from noisystore.runtime.board import board_text, load_board
from noisystore.runtime.bundle import make_bundle
from noisystore.runtime.cli import main
from noisystore.runtime.verify import verify

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
NAMES = ("numpy", "scipy", "flatbuffers", "packaging", "protobuf")
NEEDED = [*NAMES, "tomli"] if sys.version_info < (3, 11) else NAMES


def host_board(path, text="", **changes):
    """Write a board's file for this machine, with the versions that are installed here."""
    pins = ", ".join(f'"{name}=={importlib.metadata.version(name)}"' for name in NEEDED)
    values = {
        "architecture": f'"{platform.machine()}"',
        "python": f'"{PYTHON}"',
        "version": f'"{importlib.metadata.version("onnxruntime")}"',
        "requirements": f"[{pins}]",
        "batch_size": "8",
        "threads": "1",
        **changes,
    }
    lines, skipping = [], False
    for line in board_text("x86-server").splitlines():
        key = line.partition(" = ")[0]
        if skipping:
            skipping = line != "]"
        elif key in values:
            lines.append(f"{key} = {values[key]}")
            skipping = line.endswith("[")
        elif key != "page":
            lines.append(line)
    path.write_text("\n".join(lines) + f"\n{text}")
    load_board(path)
    return path


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A model, its data and the board of this machine."""
    folder = tmp_path_factory.mktemp("bundle")
    build_model(folder / "m.onnx", noisy_weight=True)
    rng = np.random.default_rng(5)
    x = rng.integers(0, 256, (21, 1, 6, 6), dtype=np.uint8)
    np.savez(folder / "d.npz", x=x, y=rng.integers(0, 10, 21))
    host_board(folder / "host.toml")
    return folder


@pytest.fixture(scope="module")
def bundle(work):
    path = work / "b.zip"
    command = ["bundle", str(work / "m.onnx"), "--board", str(work / "host.toml")]
    assert main([*command, "--data", f"npz:{work / 'd.npz'}", "-o", str(path), "--json"]) == 0
    return path


@pytest.fixture
def folder(bundle, tmp_path):
    out = tmp_path / "bundle"
    out.mkdir()
    bundle_file.unpack(bundle, out)
    return out


def seal(folder):
    """Make the manifest fit what the folder holds, as an attacker or a bug would."""
    path = folder / bundle_file.MANIFEST
    manifest = json.loads(path.read_text())
    for name, identity in manifest["files"].items():
        data = (folder / name).read_bytes()
        identity.update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    path.write_text(json.dumps(manifest))


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


def test_it_verifies(bundle, folder, capsys):
    assert main(["verify", str(bundle), "--json"]) == 0
    out = json.loads(capsys.readouterr().out)
    assert out["equal"] is True
    assert out["logits_difference"] == 0
    assert out["accuracy"] == out["expected_accuracy"]
    assert out["agreement"] == 1
    assert out["milliseconds_per_image"] > 0
    assert [site["equal"] for site in out["sites"]] == [True] * 3
    assert all(site["flips"] > 0 and site["words"] > 1000 for site in out["sites"])
    assert main(["verify", str(folder)]) == 0
    text = capsys.readouterr().out
    assert "bits: 3 of 3 sites equal" in text
    assert text.rstrip().endswith("all as expected")


def changed_answers(folder, change):
    path = folder / "answers/answers.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def changed_array(folder, name, change):
    path = folder / "answers/answers.npz"
    with np.load(path) as archive:
        arrays = dict(archive)
    arrays[name] = change(arrays[name].copy())
    np.savez(path, **arrays)


def flip_a_word(words):
    words[1, 5] ^= 1 << 20
    return words


def another_count(record):
    record["network"][0]["sites"][1]["flips"][2] += 1


def other_places(record):
    record["network"][1]["sites"][0]["sha256"] = "0" * 64


@pytest.mark.parametrize(
    ("change", "site", "said"),
    [
        (
            lambda folder: changed_array(folder, "words.1.2", flip_a_word),
            2,
            "known words at 0.002/0.01: sample 0 of the batch, element 1036: expected 0x",
        ),
        (
            lambda folder: changed_answers(folder, another_count),
            1,
            "in the network at 0.001/0.001: sample 2: expected",
        ),
        (
            lambda folder: changed_answers(folder, other_places),
            0,
            "in the network at 0.05/0.05: other bits flip, as many as expected",
        ),
    ],
)
def test_other_bits_are_a_failure(folder, capsys, change, site, said):
    change(folder)
    seal(folder)
    assert main(["verify", str(folder)]) == 1
    captured = capsys.readouterr()
    assert "bits: 2 of 3 sites equal" in captured.out
    assert "NOT as expected" in captured.out
    (line,) = [line for line in captured.out.splitlines() if line.split()[:1] == [str(site)]]
    assert said in line


def test_other_logits_are_a_failure(folder):
    def moved(logits):
        logits[3, 2] += 1e-2
        return logits

    changed_array(folder, "logits", moved)
    seal(folder)
    verdict = verify(folder)
    assert verdict.bits_equal
    assert not verdict.equal
    assert verdict.logits_difference == pytest.approx(1e-2, rel=0.01)
    assert verdict.tolerance < 1e-2


def test_other_predictions_are_a_failure(folder):
    def some_changed(count):
        def change(predictions):
            predictions[:count] = (predictions[:count] + 1) % 10
            return predictions

        return change

    changed_array(folder, "predictions", some_changed(1))
    seal(folder)
    assert verify(folder).equal  # one image may tip
    changed_array(folder, "predictions", some_changed(3))
    seal(folder)
    verdict = verify(folder)
    assert not verdict.equal
    assert verdict.agreement == pytest.approx(1 - 3 / 21)


def test_images_that_end_in_nan_do_not_count(folder):
    def lost(count):
        def change(predictions):
            predictions[:count] = -1
            return predictions

        return change

    changed_array(folder, "predictions", lost(2))
    seal(folder)
    verdict = verify(folder)
    assert (verdict.equal, verdict.agreement, verdict.left_out) == (True, 1.0, 2)
    changed_array(folder, "predictions", lost(3))  # more than a tenth of 21
    seal(folder)
    assert not verify(folder).equal
    changed_array(folder, "predictions", lost(21))
    seal(folder)
    assert not verify(folder).equal


def test_a_library_with_other_noise_is_found(folder, work):
    """The model in the bundle stores site 0 under another number of rows per sample."""
    build_model(folder / "model/model.onnx", noisy_weight=True, last_rows=-1)
    seal(folder)
    verdict = verify(folder)
    assert [site.equal for site in verdict.sites] == [True, False, True]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: (f / "model/model.onnx").write_bytes(b"1"), "model/model.onnx: missing or"),
        (lambda f: (f / "manifest.json").unlink(), "expected an unpacked bundle"),
    ],
)
def test_damage_is_bad_input(folder, capsys, change, said):
    change(folder)
    assert main(["verify", str(folder)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert said in error


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("answers/answers.json", b"{}", "answers.json: damaged"),
        ("answers/answers.json", b'{"version": 9}', "expected version 1, got 9"),
        ("answers/answers.npz", b"PK", "answers.npz|NumPy archive"),
        ("board.toml", b"[board]\n", "board.toml"),
        ("data/data.txt", b"version 1\n", "data.txt"),
    ],
)
def test_damage_that_the_manifest_knows(folder, name, data, said, capsys):
    (folder / name).write_bytes(data)
    seal(folder)
    assert main(["verify", str(folder)]) == 2
    *_, error = capsys.readouterr().err.splitlines()
    assert re.search(said, error)
    assert error.startswith("noisystore: error: ")


def install(folder, *arguments, **environment):
    return subprocess.run(
        ["bash", folder / "install.sh", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHON": sys.executable, "PIP_NO_INDEX": "1", **environment},
    )


def test_installed_without_a_registry(folder, tmp_path):
    done = install(folder, tmp_path / "env with space", PYTHONPATH="/nowhere")
    assert done.returncode == 0, done.stderr
    assert "bits: 3 of 3 sites equal" in done.stdout
    program = tmp_path / "env with space/bin/noisystore"
    command = [program, "sweep", folder / "model/model.onnx", "--data", f"raw:{folder / 'data'}"]
    command += ["--board", folder / "board.toml", "--rates", "1e-3", "--trials", "2", "--json"]
    environment = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    swept = subprocess.run(
        [*command, "-o", tmp_path / "r.sqlite"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env=environment,
    )
    assert json.loads(swept.stdout)["rows"] == 2
    again = install(folder, tmp_path / "env with space")  # what it made, it may replace
    assert again.returncode == 0, again.stderr


def test_installed_where_the_environment_s_python_does_not_start(folder, tmp_path):
    """As under an emulator: the Python starts by way of a script, and a link to it does not."""
    launcher = tmp_path / "python-launcher"
    launcher.write_text(
        f'#!/bin/sh\nif [ "$1" = -m ] && [ "$2" = venv ]; then exit 1; fi\n'
        f'exec "{sys.executable}" -S "$@"\n'
    )
    launcher.chmod(0o755)
    done = install(folder, PYTHON=str(launcher))
    assert done.returncode == 0, done.stderr
    assert "all as expected" in done.stdout
    assert (folder / "noisystore-env/lib/onnxruntime").is_dir()


def refused(done, said, folder, environment="noisystore-env"):
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[-1]
    assert not (folder / environment).exists()


def test_the_installer_changes_nothing_where_something_is_wrong(folder, tmp_path):
    manifest = (folder / "manifest.json").read_text()
    refused(install(folder, PYTHON="python9"), "Python as python9: not found", folder)
    (folder / "manifest.json").write_text(manifest.replace(f'"{PYTHON}"', '"3.99"'))
    refused(install(folder), "wheels are for Python 3.99, this is", folder)
    (folder / "manifest.json").write_text(manifest.replace(platform.machine(), "riscv64"))
    refused(install(folder), "the bundle is for riscv64, this is", folder)
    (folder / "manifest.json").write_text(manifest.replace('"missing": ""', '"missing": "ort"'))
    refused(install(folder), "the wheel of ort (README.txt", folder)
    (folder / "manifest.json").write_text(manifest)
    (folder / "data/images.bin").write_bytes(b"")
    refused(install(folder), "data/images.bin: not as it was made", folder)
    (folder / "data/images.bin").unlink()
    refused(install(folder), "data/images.bin: No such file", folder)
    (folder / "manifest.json").unlink()
    refused(install(folder), "no unpacked bundle", folder)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "kept").write_text("")
    done = install(folder, mine)
    assert done.returncode == 2
    assert "is there already, and was not made by install.sh" in done.stderr
    assert (mine / "kept").exists()


def test_an_installation_that_fails_leaves_nothing(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    (wheel,) = [name for name in manifest["files"] if name.startswith("wheels/noisystore-")]
    (folder / wheel).write_bytes(b"no wheel")
    seal(folder)
    refused(install(folder), "the wheels do not install; nothing was left", folder)


@pytest.mark.long
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
@pytest.mark.skipif(sys.version_info < (3, 11), reason="needs wheels of newer Pythons")
def test_a_board_that_compiles_the_library(work, tmp_path):
    build = 'operator = "source"\ncuda = "13.0"\ncuda_architectures = ["90"]\n'
    build += 'requirements = ["cmake==4.4.5", "ninja==1.13.2"]'
    board = host_board(tmp_path / "cuda.toml")
    board.write_text(board.read_text().replace('operator = "wheel"', build))
    data = f"npz:{work / 'd.npz'}"
    make_bundle(work / "m.onnx", board, data, tmp_path / "b.zip")
    folder = tmp_path / "b"
    folder.mkdir()
    manifest = bundle_file.unpack(tmp_path / "b.zip", folder)
    (wheel,) = folder.glob("wheels/noisystore-*.whl")
    assert "noisystore/ortops/libnoisystore.so" not in zipfile.ZipFile(wheel).namelist()
    assert "lib/libnoisystore.so" not in manifest["files"]
    done = install(folder)
    assert done.returncode == 0, done.stderr
    assert "all as expected" in done.stdout
    said = subprocess.run(
        [folder / "noisystore-env/bin/noisystore", "--version"], capture_output=True, text=True
    )
    assert "CUDA code for 90" in said.stdout


@pytest.mark.skipif(
    shutil.which("aarch64-linux-gnu-g++") is None or platform.machine() == "aarch64",
    reason="needs aarch64-linux-gnu-g++ on another architecture",
)
def test_a_wheel_for_arm_is_compiled(tmp_path):
    wheel = bundle_wheels.own_wheel(load_board("raspberry-pi-5"), [], tmp_path)
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
