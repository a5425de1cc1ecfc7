# SPDX-License-Identifier: Apache-2.0
"""The wheels of a bundle: NoisyStore for the board's processor, and what running it needs."""

from __future__ import annotations

import base64
import email.parser
import hashlib
import importlib.metadata
import importlib.util
import io
import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..ortops.errors import InputError
from ..ortops.library import cuda_architectures
from .board import Board

#: Installs the wheels on boards whose Python has no pip.
INSTALLER = "pip==25.3"
#: NVIDIA's package of the CUDA runtime that a library for another architecture is linked with.
_CUDA_RUNTIME = "nvidia-cuda-runtime"

_LIBRARY = "noisystore/ortops/libnoisystore.so"
_GPU_CODE = b".nv_fatbin"  # a section's name
_EPOCH = (1980, 1, 1, 0, 0, 0)
_LEFT_OUT = ("INSTALLER", "REQUESTED", "RECORD", "direct_url.json")


class NotThere(InputError):
    """A wheel is neither in the folders nor in a registry."""


def runtime_wheels(board: Board, folders: Sequence[Path], work: Path) -> tuple[list[Path], str]:
    """Get the wheels that a board needs besides NoisyStore's, by pip.

    Parameters
    ----------
    board : Board
    folders : sequence of path
        Where wheels are looked for before the registry; vendors' wheels have to be here, or in the
        board's own index.
    work : path
        Folder for them.

    Returns
    -------
    (list of path, str)
        The wheels; and the pin of an ONNX Runtime that only its vendor has, whose index cannot be
        reached from here: the board has to bring it. Empty: none.

    Raises
    ------
    InputError
        One is not to be had.
    """
    pins = [*board.requirements, INSTALLER]
    if board.operator == "source":
        pins += board.build_requirements
    runtime = f"{board.ort_package}=={board.ort_version}"
    found = _download(board, pins, folders, work)
    index = ["--extra-index-url", board.ort_index] if board.ort_index else []
    try:
        return [*_download(board, [runtime], folders, work, index), *found], ""
    except NotThere:
        if not board.ort_index:
            raise
        return found, runtime


def _download(
    board: Board, pins: Sequence[str], folders: Sequence[Path], work: Path, more: Sequence[str] = ()
) -> list[Path]:
    if importlib.util.find_spec("pip") is None:
        raise InputError(
            "wheels: pip is missing from this Python, and gets them: python -m ensurepip"
        )
    tag = board.python.replace(".", "")
    newest = int(board.glibc.partition(".")[2])
    platforms = [f"manylinux_2_{minor}_{board.architecture}" for minor in range(newest, 4, -1)]
    platforms += [f"manylinux2014_{board.architecture}", f"linux_{board.architecture}"]
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(work), "--python-version", board.python]
    command += ["--implementation", "cp", "--abi", f"cp{tag}", "--abi", "abi3", "--abi", "none"]
    command += [word for name in platforms for word in ("--platform", name)]
    command += [word for folder in folders for word in ("--find-links", str(folder))]
    before = set(work.glob("*.whl"))
    done = subprocess.run([*command, *more, *pins], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = " ".join((lines[-1] if lines else done.stderr[-300:]).split())[:300]
        raise NotThere(
            f"wheels for {board.name}, Python {board.python}: pip: {reason}: give a folder that "
            "holds the missing wheel: --wheels FOLDER"
        )
    return sorted(set(work.glob("*.whl")) - before)


def own_wheel(board: Board, folders: Sequence[Path], work: Path) -> Path:
    """Return a wheel of this version of NoisyStore for a board.

    It is taken from `folders`, or made of the installed package: with its own library; for another
    architecture or other CUDA devices with one compiled from the package's sources; or without one
    for a board that compiles it.

    Parameters
    ----------
    board : Board
    folders : sequence of path
    work : path
        Folder for what is made.

    Raises
    ------
    InputError
        Neither is possible; the line says what to install.
    """
    version = importlib.metadata.version("noisystore")
    for folder in folders:
        for path in sorted(
            folder.glob(f"noisystore-{version}-py3-none-*_{board.architecture}.whl")
        ):
            # A library without GPU code would run on the processor, and nobody would be told.
            wants_cuda = board.cuda_architectures and board.operator == "wheel"
            if not wants_cuda or _GPU_CODE in library_of(path):
                return path
    package = importlib.metadata.distribution("noisystore")
    files = {
        str(file): Path(str(package.locate_file(file)))
        for file in package.files or ()
        if ".." not in file.parts and "__pycache__" not in file.parts and file.suffix != ".pyc"
    }
    if _LIBRARY not in files:
        raise InputError(
            "noisystore is installed in editable mode, of which no wheel can be made: install it "
            "with `pip install .`, or give a folder with its wheel: --wheels FOLDER"
        )
    if board.operator == "source":
        del files[_LIBRARY]
    elif _needs_other_code(board):
        files[_LIBRARY] = _compiled(board, files[_LIBRARY].parent, folders, work)
    if _LIBRARY in files:
        _check_glibc(files[_LIBRARY], board)
    name = f"noisystore-{version}-py3-none-linux_{board.architecture}.whl"
    (work / name).write_bytes(_packed(files, f"py3-none-linux_{board.architecture}", version))
    return work / name


def _check_glibc(library: Path, board: Board) -> None:
    """Check that a library needs no newer C library than the board has."""
    # Names of needed versions lie in the file as text.
    needed = max(map(int, re.findall(rb"\0GLIBC_2\.([0-9]+)", library.read_bytes())), default=0)
    if needed > int(board.glibc.partition(".")[2]):
        raise InputError(
            f"operator library for {board.name}: expected one for glibc {board.glibc}, got one "
            f"that needs 2.{needed}: make the bundle on an older system, or give its wheel: "
            "--wheels FOLDER"
        )


def _needs_other_code(board: Board) -> bool:
    if board.architecture != platform.machine():
        return True
    return not set(board.cuda_architectures).issubset(cuda_architectures())


def _packed(files: dict[str, Path], tag: str, version: str) -> bytes:
    """Return a wheel of installed files, whose record is made anew."""
    info = f"noisystore-{version}.dist-info"
    content = {
        name: path.read_bytes()
        for name, path in files.items()
        if not (name.startswith(info) and name.rpartition("/")[2] in _LEFT_OUT)
    }
    content[f"{info}/WHEEL"] = (
        f"Wheel-Version: 1.0\nGenerator: noisystore {version}\nRoot-Is-Purelib: false\nTag: {tag}\n"
    ).encode()
    lines = []
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(content):
            digest = base64.urlsafe_b64encode(hashlib.sha256(content[name]).digest()).rstrip(b"=")
            lines.append(f"{name},sha256={digest.decode()},{len(content[name])}\n")
            archive.writestr(_member(name), content[name])
        record = f"{info}/RECORD"
        archive.writestr(_member(record), "".join([*lines, f"{record},,\n"]))
    return out.getvalue()


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.create_system, info.external_attr = 3, 0o100644 << 16
    return info


def _compiled(board: Board, sources: Path, folders: Sequence[Path], work: Path) -> Path:
    """Compile the operator library for a board from the package's own sources."""
    what = f"operator library for {board.name} ({board.architecture})"
    instead = "; or give a folder with its wheel (in a checkout: make wheels): --wheels FOLDER"
    scripts = Path(sys.executable).parent
    cmake = shutil.which("cmake") or shutil.which("cmake", path=str(scripts))
    if cmake is None:
        raise InputError(f"{what}: cmake is missing (pip install cmake){instead}")
    options = []
    if board.architecture != platform.machine():
        if board.toolchain == "native":
            raise InputError(
                f"{what}: this machine is {platform.machine()}, and the board's file names no "
                f"toolchain: make the bundle on such a board{instead}"
            )
        compiler = f"{board.toolchain}-g++"
        if shutil.which(compiler) is None:
            raise InputError(
                f"{what}: {compiler} is missing (Debian, Ubuntu: apt install g++-{board.toolchain})"
                f"{instead}"
            )
        options.append(f"-DCMAKE_TOOLCHAIN_FILE={sources}/toolchains/{board.toolchain}.cmake")
    if not board.cuda_architectures:
        options.append("-DNOISYSTORE_CUDA=OFF")
    else:
        if shutil.which("nvcc") is None:
            raise InputError(f"{what}: nvcc of CUDA {board.cuda} is missing{instead}")
        wanted = ";".join(board.cuda_architectures)
        options += ["-DNOISYSTORE_CUDA=ON", f"-DNOISYSTORE_CUDA_ARCHITECTURES={wanted}"]
        if board.architecture != platform.machine():
            (wheel,) = _download(board, [f"{_CUDA_RUNTIME}=={board.cuda}.*"], folders, work)
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(work / "cuda")
            wheel.unlink()
            (runtime,) = (work / "cuda/nvidia").glob("cu*")
            options.append(f"-DNOISYSTORE_CUDA_RUNTIME={runtime}")
    build = work / "library"
    # Flags of the caller's would change the bytes of a bundle.
    settings = {key: os.environ[key] for key in os.environ if not key.endswith("FLAGS")}
    for command in (
        [cmake, "-S", str(sources), "-B", str(build), *options],
        [cmake, "--build", str(build), "--target", "noisystore", "-j", "2"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=settings)
        if done.returncode != 0:
            reason = " ".join((done.stderr or done.stdout)[-400:].split())
            raise InputError(f"{what}: {reason}{instead}")
    return build / "libnoisystore.so"


def library_of(wheel: Path) -> bytes:
    """Return the operator library that a wheel of NoisyStore holds.

    Raises
    ------
    InputError
        It is damaged, or holds none.
    """
    with _opened(wheel) as archive:
        if _LIBRARY not in archive.namelist():
            raise InputError(f"wheel {wheel}: expected a wheel of NoisyStore, with its library")
        return archive.read(_LIBRARY)


def _opened(wheel: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(wheel)
    except (OSError, zipfile.BadZipFile):
        raise InputError(f"wheel {wheel}: expected a wheel, got a damaged file") from None


def licences(wheels: Sequence[Path]) -> str:
    """Return a list of what wheels say of their licences, and where the texts lie in them."""
    lines = [
        "Licences of what this bundle holds. The texts lie in the wheels, which are zip files.",
        "NoisyStore, its library and the files in cpp/: Apache-2.0 (LICENSE).",
        "The model and the images have the licences of those who made them.",
        "",
    ]
    for wheel in wheels:
        with _opened(wheel) as archive:
            names = archive.namelist()
            paths = [n for n in names if n.endswith(".dist-info/METADATA") and n.count("/") == 1]
            text = (
                archive.read(paths[0]).decode(errors="replace") if paths else f"Name: {wheel.name}"
            )
        said: Any = email.parser.HeaderParser().parsestr(text)
        licence = said.get("License-Expression") or _classified(said) or _short(said.get("License"))
        texts = [n for n in names if _is_licence(n)]
        lines.append(f"{said.get('Name')} {said.get('Version')}: {licence}")
        lines += [f"    {wheel.name}: {name}" for name in texts]
    return "\n".join(lines) + "\n"


def _classified(said: Any) -> str:
    found = [value for value in said.get_all("Classifier") or () if value.startswith("License ::")]
    return ", ".join(value.rpartition(" :: ")[2] for value in found)


def _short(text: str | None) -> str:
    return " ".join((text or "see its home page").split())[:80]


def _is_licence(name: str) -> bool:
    last = name.rpartition("/")[2].lower()
    return (".dist-info/" in name or name.count("/") == 1) and any(
        word in last for word in ("licen", "copying", "notice", "author")
    )
