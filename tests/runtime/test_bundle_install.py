# SPDX-License-Identifier: Apache-2.0
"""A bundle's install.sh: without a registry, and changing nothing where something is wrong."""

import json
import os
import platform
import shutil
import subprocess
import sys
import zipfile

import pytest
from bundles import PYTHON, host_board, seal

from noisystore.runtime import bundle_file
from noisystore.runtime.bundle import make_bundle


@pytest.fixture
def folder(bundle_folder):
    return bundle_folder


def install(folder, *arguments, cwd=None, **environment):
    return subprocess.run(
        ["bash", folder / "install.sh", *arguments],
        cwd=cwd,
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
    (folder / "wheels/planted-1.0-py3-none-any.whl").write_bytes(b"not in the manifest")
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
    for damaged in (
        "[]",
        "{",
        manifest.replace('"operator"', '"x"'),
        manifest.replace("wheel", "a b"),
    ):
        (folder / "manifest.json").write_text(damaged)
        done = install(folder)
        refused(done, "manifest.json: no unpacked bundle", folder)
        assert len(done.stderr.splitlines()) == 1
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
    refused(install(folder), "the wheels do not install; nothing was changed", folder)


def test_a_working_environment_survives_a_run_that_fails(folder):
    assert install(folder).returncode == 0
    (wheel,) = folder.glob("wheels/noisystore-*.whl")
    wheel.write_bytes(b"no wheel")
    seal(folder)
    done = install(folder)
    assert done.returncode == 2
    assert "nothing was changed" in done.stderr
    program = folder / "noisystore-env/bin/noisystore"
    assert subprocess.run([program, "--version"], check=False).returncode == 0
    assert not (folder / "noisystore-env.old").exists()


def test_nothing_of_the_caller_s_gets_in(folder, tmp_path):
    """Modules in the caller's folder, pip's settings, and folders that only look like ours."""
    here = tmp_path / "here"
    here.mkdir()
    for name in ("json", "hashlib", "venv", "pip", "noisystore"):
        (here / f"{name}.py").write_text("raise SystemExit('imported from the caller')")
    settings = {"PIP_TARGET": str(tmp_path / "elsewhere"), "PIP_REQUIRE_HASHES": "1"}
    done = install(folder, cwd=here, CDPATH=str(tmp_path), **settings)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "elsewhere").exists()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / ".noisystore").touch()
    (mine / "thesis.tex").touch()
    assert install(folder, mine).returncode == 2
    assert (mine / "thesis.tex").exists()


@pytest.mark.parametrize("name", ["$(touch PWNED)", "`touch PWNED`", 'a"b', "a;b", "a:b", "a\nb"])
def test_paths_that_scripts_would_run_are_refused(folder, tmp_path, name):
    done = install(folder, tmp_path / name, cwd=tmp_path)
    assert done.returncode == 2
    assert "install.sh: expected paths without" in done.stderr
    assert not (tmp_path / "PWNED").exists()
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("option", ["--help", "-x"])
def test_options_are_no_folders(folder, tmp_path, option):
    done = install(folder, option, cwd=tmp_path)
    assert done.returncode == 2
    assert f"expected a folder, got the option {option}" in done.stderr


def test_names_in_a_manifest_stay_inside(folder):
    path = folder / "manifest.json"
    whole = path.read_text()
    for name in ("../../dev/zero", "/etc/passwd", "a\\u001b[31mb", "a//b"):
        path.write_text(whole.replace('"LICENSE"', f'"{name}"'))
        done = install(folder)
        refused(done, "manifest.json: no unpacked bundle (damaged)", folder)
        assert len(done.stderr.splitlines()) == 1
    os.unlink(folder / "LICENSE")
    os.mkfifo(folder / "LICENSE")
    path.write_text(whole)
    refused(install(folder), "LICENSE: no file", folder)


@pytest.mark.long
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
@pytest.mark.skipif(sys.version_info < (3, 11), reason="needs wheels of newer Pythons")
def test_a_board_that_compiles_the_library(bundle_work, tmp_path):
    work = bundle_work
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
