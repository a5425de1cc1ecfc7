# SPDX-License-Identifier: Apache-2.0
"""Bundles: all that an offline board needs to run an annotated model and to check what it gives."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from ..ortops import noise_inputs
from ..ortops.errors import InputError
from ..ortops.formats import WORD_FORMATS
from ..ortops.ort_options import EXTENSION_DOMAINS
from . import bundle_file, bundle_wheels
from .answers import make_answers
from .board import Board, board_text, load_board
from .dataset import load
from .dataset_raw import write_raw
from .interrupt import terminable
from .model_file import check_model_path, weight_file
from .onnx_file import external_files, imported_domains
from .session import NoisySession
from .texts import printable

#: Images of a bundle, where there are so many.
IMAGES = 256

_STANDARD_DOMAINS = frozenset(
    {"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc", noise_inputs.DOMAIN}
)


@dataclass(frozen=True)
class BundleSummary:
    """What was written.

    Attributes
    ----------
    path : pathlib.Path
    sha256 : str
        Of the archive.
    bytes : int
    files : int
    clean_accuracy : float or None
    board : str
    missing : str
        ONNX Runtime's package and version, where its wheel has to be got on the board; or empty.
    """

    path: Path
    sha256: str
    bytes: int
    files: int
    clean_accuracy: float | None
    board: str
    missing: str


def make_bundle(
    model: str | os.PathLike[str],
    board: str | os.PathLike[str],
    data: str,
    output: str | os.PathLike[str],
    *,
    images: int | None = None,
    wheels: Sequence[str | os.PathLike[str]] = (),
    progress: Callable[[str], None] = lambda line: None,
) -> BundleSummary:
    """Write a bundle: model, wheels, data slice, expected answers, installer, C++ example.

    The same input gives the same bytes.

    Parameters
    ----------
    model : path of an annotated ONNX file
    board : str or path
        Name or TOML file of a board (`noisystore.runtime.board.load_board`).
    data : str
        See `noisystore.runtime.dataset.load`.
    output : path
        Of the zip file.
    images : int, optional
        The first so many; None: 256, or all if there are fewer.
    wheels : sequence of path
        Folders with wheels that are not in the registry: of NoisyStore for this board, or of a
        vendor.
    progress : callable
        Is told what is being done.

    Returns
    -------
    BundleSummary

    Raises
    ------
    InputError
        Bad input of any kind; or a wheel is not to be had, or a library cannot be compiled.
    """
    path = check_model_path(model)
    target = load_board(board)
    folders = [_folder(folder) for folder in wheels]
    _check_domains(path)
    weights = external_files(path)
    for name in weights:
        if name == "model.onnx":
            raise InputError(
                f"model {path}: its weight file has the name model.onnx, which the model has in a "
                "bundle: save the model again with another name of that file"
            )
    inputs = [weight_file(path, name) for name in weights]
    inputs += [Path(part) for part in (str(board), data.partition(":")[2]) if part]
    for given in (path, *inputs):
        if Path(output).resolve() == given.resolve():
            raise InputError(f"output {output}: expected another file than {given}, which is read")
    # One thread: more of them may sum in another order from one run to the next.
    session = NoisySession(path, threads=1)
    slice_ = _slice(session, data, images)
    with terminable(), tempfile.TemporaryDirectory(prefix="noisystore-") as name:
        work = Path(name)
        progress(f"running {path.name} on {len(slice_)} images for the expected answers ...")
        answers = make_answers(session, slice_, target.batch_size)
        progress(f"NoisyStore's wheel for {target.architecture} ...")
        own = bundle_wheels.own_wheel(target, folders, work)
        progress(f"wheels of ONNX Runtime and others for {target.name} ...")
        (work / "wheels").mkdir()
        others, missing = bundle_wheels.runtime_wheels(target, folders, work / "wheels")
        files: dict[str, bundle_file.Content] = {
            "model/model.onnx": path,
            **{f"model/{name}": weight_file(path, name) for name in weights},
            **{f"wheels/{wheel.name}": wheel for wheel in [own, *others]},
            **{f"answers/{name}": content for name, content in answers.files().items()},
            **{
                f"data/{name}": content
                for name, content in write_raw(
                    slice_, session.normalization, answers.batch_size
                ).items()
            },
            **_programs(),
            "board.toml": board_text(board).encode(),
            "LICENSES.txt": bundle_wheels.licences([own, *others]).encode(),
            "README.txt": _readme(target, session, len(slice_), missing).encode(),
        }
        if target.operator == "wheel":
            files["lib/libnoisystore.so"] = bundle_wheels.library_of(own)
        progress("writing ...")
        sha256, size = bundle_file.write_bundle(
            output, _description(target, session, slice_.name, missing), files
        )
    return BundleSummary(
        Path(output), sha256, size, len(files) + 1, answers.clean_accuracy, target.name, missing
    )


def _folder(folder: str | os.PathLike[str]) -> Path:
    if not Path(folder).is_dir():
        raise InputError(f"wheels {os.fspath(folder)}: expected a folder")
    return Path(folder)


def _check_domains(path: Path) -> None:
    foreign = imported_domains(path) - _STANDARD_DOMAINS
    if foreign:
        hint = (
            " (bundles take the model that was annotated without preprocessing)"
            if foreign & EXTENSION_DOMAINS
            else ""
        )
        raise InputError(
            f"model {path}: expected operators of ONNX Runtime and NoisyStore alone, got some of "
            f"{', '.join(sorted(foreign))}, whose library a bundle cannot hold{hint}"
        )


def _slice(session: NoisySession, data: str, images: int | None) -> Any:
    dataset = load(data, size=session.image_size)
    chosen = dataset.head(min(IMAGES, len(dataset)) if images is None else images)
    # A data set of its own, whose checksum is that of what it holds.
    return type(chosen)(printable(chosen.name), chosen.images, chosen.labels, chosen.classes)


def _programs() -> dict[str, bundle_file.Content]:
    """Return the installer, the C++ example and the licence, which the package holds."""
    configs = resources.files("noisystore.edge_configs")
    example = resources.files("noisystore.cpp")
    files: dict[str, bundle_file.Content] = {
        "install.sh": configs.joinpath("bundle_install.sh").read_bytes(),
        "cuda_build.sh": configs.joinpath("cuda_build.sh").read_bytes(),
        "LICENSE": _licence().encode(),
    }
    for entry in example.iterdir():
        if entry.is_file() and entry.name.endswith((".cc", ".h", ".txt", ".md")):
            files[f"cpp/{entry.name}"] = entry.read_bytes()
    return files


def _licence() -> str:
    package = metadata.distribution("noisystore")
    text = package.read_text("licenses/LICENSE") or package.read_text("LICENSE")
    if text is None:
        raise InputError("noisystore's licence is not installed: install the package again")
    return text


def _description(board: Board, session: NoisySession, data: str, missing: str) -> dict[str, Any]:
    return {
        "noisystore": metadata.version("noisystore"),
        "noise_model": noise_inputs.NOISE_MODEL,
        "board": board.name,
        "architecture": board.architecture,
        "python": board.python,
        "operator": board.operator,
        "cuda_architectures": list(board.cuda_architectures),
        "missing": missing,
        "model_sha256": session.model_sha256,
        "data": data,
    }


def _readme(board: Board, session: NoisySession, images: int, missing: str) -> str:
    formats = [WORD_FORMATS.get(site.word_format or "") for site in session.sites]
    integers = all(word is not None and word.is_integer for word in formats)
    rates = "1e-5:1e-1:4/decade" if integers else "1e-8:1e-3:4/decade"
    name = printable(session.path.name)
    lines = [
        f"NoisyStore bundle of {name} for {board.name}: {board.description}",
        f"Made for {board.system}, {board.architecture}, Python {board.python}.",
        "",
        "    bash install.sh            makes the environment noisystore-env, runs the check",
        "    noisystore-env/bin/noisystore verify .          the check again",
        "    noisystore-env/bin/noisystore sweep model/model.onnx --data raw:data \\",
        f"        --board board.toml --rates {rates} --trials 3 -o results.sqlite",
        "    noisystore-env/bin/noisystore fit results.sqlite",
        "    noisystore-env/bin/noisystore bench --board board.toml --model model/model.onnx \\",
        "        --data raw:data -o bench.json",
        "",
        f"No Internet is needed. {images} images are in data/, the expected answers in answers/,",
        "a program without Python in cpp/ (see cpp/README.md), checksums in manifest.json.",
    ]
    if missing:
        lines += [
            "",
            f"The wheel of {missing} is not in here. Get it from {board.ort_index}, and give it:",
            "    ONNXRUNTIME=onnxruntime_gpu-....whl bash install.sh",
        ]
    if board.operator == "source":
        lines += [
            "",
            f"install.sh compiles the library with this board's nvcc (CUDA {board.cuda}).",
        ]
    if board.power_modes or board.hints:
        lines += ["", "Before measuring:", *(f"    {line}" for line in board.power_modes)]
        lines += [f"    {line}" for line in board.hints]
    return "\n".join(lines) + "\n"
