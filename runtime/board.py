# SPDX-License-Identifier: Apache-2.0
"""Configurations of boards: one TOML file each, checked as a whole when it is read."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from ..ortops.errors import InputError
from .board_schema import (
    KEYS,
    OPTION_NAME,
    OPTION_VALUE,
    OPTIONS_TABLE,
    PROVIDER,
    REQUIRED,
    TABLES,
    Kind,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_CONFIGS = "noisystore.edge_configs"
_MOST_BYTES = 65536
#: What the wheels of the operator library and the oldest ONNX Runtime with its interface need.
OLDEST_GLIBC, OLDEST_ORT = "2.34", "1.17"


@dataclass(frozen=True)
class Board:
    """One board: what runs there, how it gets there, and how to run it.

    Attributes
    ----------
    name, description : str
    architecture : str
        ``x86_64`` or ``aarch64``.
    system, glibc, python : str
        Image of the operating system, and its versions as in ``2.36`` and ``3.11``.
    operator : str
        ``wheel``: the operator library comes in a wheel built elsewhere; ``source``: the board
        builds it.
    ort_package, ort_version : str
        ONNX Runtime's Python package and its exact version.
    requirements : tuple of str
        Exact pins of all other wheels that running needs.
    providers : tuple of str
        ONNX Runtime's execution providers, best first.
    batch_size : int
        Images a run.
    activation_type : str
        8-bit activations that are fast there: ``uint8`` or ``int8``.
    toolchain : str
        ``native``, or the name of a file of ``ortops/toolchains``.
    cuda : str
        Version of the CUDA toolkit, or empty.
    cuda_architectures : tuple of str
        Compute capabilities such as ``87``.
    ort_newest : str
        Newest series of ONNX Runtime that the board can run, or empty.
    ort_index : str
        Address of a vendor's package index, or empty: the usual registry.
    build_requirements : tuple of str
        Exact pins of the wheels that a build on the board needs.
    provider_options : mapping
        Options of providers: name of provider, name of option, value.
    threads : int or None
        Inside one operator; None: ONNX Runtime's choice.
    power_modes, hints : tuple of str
        Commands that fix clocks and power, and sentences, for people.
    page : str
        Page of ``docs/``, or empty.
    """

    name: str
    description: str
    architecture: str
    system: str
    glibc: str
    python: str
    operator: str
    ort_package: str
    ort_version: str
    requirements: tuple[str, ...]
    providers: tuple[str, ...]
    batch_size: int
    activation_type: str
    toolchain: str = "native"
    cuda: str = ""
    cuda_architectures: tuple[str, ...] = ()
    ort_newest: str = ""
    ort_index: str = ""
    build_requirements: tuple[str, ...] = ()
    provider_options: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    threads: int | None = None
    power_modes: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()
    page: str = ""


def board_names() -> tuple[str, ...]:
    """Return the names of the configurations that NoisyStore ships, sorted."""
    names = [entry.name for entry in resources.files(_CONFIGS).iterdir()]
    return tuple(sorted(name[: -len(".toml")] for name in names if name.endswith(".toml")))


def board_text(name_or_path: str | os.PathLike[str]) -> str:
    """Return the text of a board's TOML file, unchecked.

    Parameters
    ----------
    name_or_path : str or path-like
        A name of `board_names`, or a path: what ends in ``.toml`` or has a slash.

    Raises
    ------
    InputError
        There is no such board, or the file cannot be read, is too large or is no UTF-8 text.
    """
    name = os.fspath(name_or_path)
    where = called(name)
    try:
        if _is_path(name):
            with open(name, "rb") as file:
                data = file.read(_MOST_BYTES + 1)
        elif name in board_names():
            data = resources.files(_CONFIGS).joinpath(f"{name}.toml").read_bytes()
        else:
            raise InputError(
                f"{where}: expected one of {', '.join(board_names())}, or a file *.toml"
                f"{_close(name, board_names())}"
            )
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{where}: expected a readable TOML file: {reason}") from None
    if len(data) > _MOST_BYTES:
        raise InputError(f"{where}: expected at most {_MOST_BYTES:,} bytes of TOML, got more")
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{where}: expected UTF-8 text, got the byte 0x{data[error.start]:02x} at {error.start}"
        ) from None
    if "\0" in text:
        raise InputError(f"{where}: expected text, got a zero byte at {text.index(chr(0))}")
    return text


def load_board(name_or_path: str | os.PathLike[str]) -> Board:
    """Read and check a board's configuration.

    Parameters
    ----------
    name_or_path : str or path-like
        As `board_text`.

    Raises
    ------
    InputError
        As `board_text`; or it is no TOML, a key is missing, unknown or has another value than
        its kind allows, or two keys contradict each other.

    Examples
    --------
    >>> from noisystore.runtime.board import load_board
    >>> load_board("raspberry-pi-5").python
    '3.11'
    """
    return parse_board(board_text(name_or_path), called(os.fspath(name_or_path)))


def parse_board(text: str, where: str) -> Board:
    """Check the text of a board's TOML file; `where` names it in errors.

    Raises
    ------
    InputError
        As `load_board`.
    """
    try:
        content = tomllib.loads(text)
    except RecursionError:
        raise InputError(f"{where}: expected TOML, got brackets nested too deep") from None
    except ValueError as error:
        raise InputError(f"{where}: expected TOML: {' '.join(str(error).split())}") from None
    content, options = _without_options(content, where)
    _check_names(content, where)
    values: dict[str, Any] = {"provider_options": options}
    for key in KEYS:
        value = content.get(key.table, {}).get(key.key, key.default)
        if value is REQUIRED:
            raise InputError(f"{where}: {key.name}: missing; expected {key.kind.expected}")
        if value is not key.default:
            _check(key.kind, value, where, key.name)
        values[key.attribute] = tuple(value) if isinstance(value, list) else value
    board = Board(**values)
    for name, expected, got in _contradictions(board):
        raise InputError(f"{where}: {name}: expected {expected}, got {got}")
    return board


def newer(version: str, other: str) -> bool:
    """Return whether a version is of a newer series than another: ``1.24.1`` than ``1.23``."""
    a, b = (tuple(int(part) for part in v.split(".")[:2]) for v in (version, other))
    return a > b


def _without_options(
    content: dict[str, Any], where: str
) -> tuple[dict[str, Any], dict[str, dict[str, str]]]:
    runtime = content.get("onnxruntime")
    if not isinstance(runtime, dict) or "options" not in runtime:
        return content, {}
    runtime = dict(runtime)
    tables = runtime.pop("options")
    _check_table(tables, where, OPTIONS_TABLE)
    for provider, options in tables.items():
        _check(PROVIDER, provider, where, f"a table of {OPTIONS_TABLE}")
        name = f"{OPTIONS_TABLE}.{provider}"
        _check_table(options, where, name)
        for option, value in options.items():
            _check(OPTION_NAME, option, where, f"an option of {name}")
            _check(OPTION_VALUE, value, where, f"{name}.{option}")
    return {**content, "onnxruntime": runtime}, tables


def _check_names(content: dict[str, Any], where: str) -> None:
    for table, values in content.items():
        if table not in TABLES:
            known = ", ".join(TABLES)
            raise InputError(
                f"{where}: {_shown(table)}: expected one of the tables {known}"
                f"{_close(table, TABLES)}"
            )
        _check_table(values, where, table)
        keys = [key.key for key in KEYS if key.table == table]
        for key in values:
            if key not in keys:
                raise InputError(
                    f"{where}: {table}: expected the keys {', '.join(keys)}, got {_shown(key)}"
                    f"{_close(key, keys)}"
                )


def _contradictions(board: Board) -> Iterable[tuple[str, str, str]]:
    """Yield key, expected and got of values that do not fit other values."""
    cuda = "CUDAExecutionProvider"
    providers = ", ".join(board.providers) or "none"
    names = {pin.partition("==")[0].lower().replace("_", "-") for pin in board.requirements}
    needed = ["numpy", "scipy", *(["tomli"] if board.python == "3.10" else [])]
    # Before another it would take all nodes.
    if board.providers[-1:] != ("CPUExecutionProvider",):
        yield "onnxruntime.providers", "CPUExecutionProvider as the last", providers
    if cuda in board.providers and not board.cuda_architectures:
        yield "build.cuda_architectures", f"some for {cuda}", "none"
    if cuda in board.providers and board.ort_package != "onnxruntime-gpu":
        yield "onnxruntime.package", f'"onnxruntime-gpu" for {cuda}', f'"{board.ort_package}"'
    if bool(board.cuda) != bool(board.cuda_architectures):
        yield (
            "build.cuda",
            "a version if and only if there are cuda_architectures",
            f'"{board.cuda}" with {len(board.cuda_architectures)} of them',
        )
    for provider in board.provider_options:
        if provider not in board.providers:
            yield f"{OPTIONS_TABLE}.{provider}", "one of onnxruntime.providers", providers
    if board.ort_newest and newer(board.ort_version, board.ort_newest):
        yield "onnxruntime.version", f"at most newest = {board.ort_newest}", board.ort_version
    if newer(OLDEST_ORT, board.ort_version):
        yield "onnxruntime.version", f"{OLDEST_ORT} or newer", board.ort_version
    if board.operator == "wheel" and newer(OLDEST_GLIBC, board.glibc):
        yield "board.glibc", f"{OLDEST_GLIBC} or newer for a wheel", board.glibc
    if board.operator == "source" and board.toolchain != "native":
        yield "build.toolchain", '"native" where the board builds', f'"{board.toolchain}"'
    if board.operator == "source" and not board.build_requirements:
        yield "build.requirements", 'scikit-build-core and others for operator = "source"', "none"
    if board.toolchain != "native" and not board.toolchain.startswith(f"{board.architecture}-"):
        yield "build.toolchain", f"one for {board.architecture}", f'"{board.toolchain}"'
    for name in needed:
        if name not in names:
            yield "onnxruntime.requirements", f"a pin of {name}", ", ".join(sorted(names)) or "none"
    if names & {"onnxruntime", "onnxruntime-gpu"}:
        yield (
            "onnxruntime.requirements",
            "ONNX Runtime in package and version only",
            "a pin of it, too",
        )


def _check(kind: Kind, value: Any, where: str, name: str) -> None:
    if kind.fits(value):
        return
    if kind.item is not None and isinstance(value, list):
        for item in value:
            _check(kind.item, item, where, name)
        twice = next(item for i, item in enumerate(value) if item in value[:i])
        raise InputError(f"{where}: {name}: expected each item once, got {_shown(twice)} twice")
    raise InputError(f"{where}: {name}: expected {kind.expected}, got {_shown(value)}")


def _check_table(value: Any, where: str, name: str) -> None:
    if not isinstance(value, dict):
        raise InputError(f"{where}: {name}: expected a table [{name}], got {_shown(value)}")


def _is_path(name: str) -> bool:
    return name.endswith(".toml") or "/" in name or os.sep in name


def called(name: str) -> str:
    """Return what errors call a board or file: its name as it is where that is plain."""
    return (
        f"board {name if name.isprintable() and name.strip() and len(name) < 200 else _shown(name)}"
    )


def _shown(value: Any) -> str:
    """One short line of any value of TOML."""
    if isinstance(value, (dict, list)):  # which may be too deep to print
        return "a table" if isinstance(value, dict) else "a list"
    if isinstance(value, int) and value.bit_length() > 200:
        return "a very large number"  # which Python may refuse to print
    text = ascii(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _close(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), 1)
    return f" (did you mean {close[0]}?)" if close else ""
