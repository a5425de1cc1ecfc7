# SPDX-License-Identifier: Apache-2.0
"""The keys of a board's TOML file: their tables, kinds of values, and what they mean."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

#: What a missing key's default is where the key must be there.
REQUIRED = object()

#: Table of provider options; below it stands one table a provider.
OPTIONS_TABLE = "onnxruntime.options"

# Values get into shell scripts, file names and printed lines: every kind lists what it allows.
_VERSION = r"[0-9]{1,4}(\.[0-9]{1,4}){2}"
_SERIES = r"[0-9]{1,3}\.[0-9]{1,4}"
_NAME = r"[A-Za-z0-9]+([._-][A-Za-z0-9]+)*"
_TEXT = r"[A-Za-z0-9 .,:()/_=+*|%@~#-]{1,300}"
_URL = r"https?://[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*(:[0-9]{1,5})?(/[A-Za-z0-9._~+-]*)*"
_PIN = rf"{_NAME}==[0-9][A-Za-z0-9]*([.+_-][A-Za-z0-9]+)*"


@dataclass(frozen=True)
class Kind:
    """A kind of value.

    Attributes
    ----------
    expected : str
        For error messages and the page of keys.
    fits : callable
        Whether a value of TOML is of this kind.
    item : Kind or None
        Of a list: the kind of its items, which are all different.
    """

    expected: str
    fits: Callable[[Any], bool]
    item: Kind | None = None


def text(pattern: str, expected: str, longest: int = 300) -> Kind:
    """Kind of a text that a pattern describes as a whole."""
    match = re.compile(pattern).fullmatch
    return Kind(expected, lambda v: isinstance(v, str) and len(v) <= longest and bool(match(v)))


def one_of(*values: str) -> Kind:
    """Kind of a text that is one of some words."""
    words = " or ".join(f'"{value}"' for value in values)
    return Kind(words, lambda v: isinstance(v, str) and v in values)


def several(kind: Kind) -> Kind:
    """Kind of a list, possibly empty, of different values of a kind."""

    def fits(value: Any) -> bool:
        if not isinstance(value, list) or not all(kind.fits(item) for item in value):
            return False
        return len(set(value)) == len(value)

    return Kind(f"a list, each item {kind.expected}", fits, kind)


def whole(least: int, most: int) -> Kind:
    """Kind of a whole number of some range."""
    # True is an int to Python.
    return Kind(
        f"a whole number from {least:,} to {most:,}",
        lambda v: isinstance(v, int) and not isinstance(v, bool) and least <= v <= most,
    )


PROVIDER = text(
    r"[A-Z][A-Za-z0-9]{0,40}ExecutionProvider", "a full name such as CPUExecutionProvider"
)
OPTION_NAME = text(r"[a-z][a-z0-9_]{0,60}", "lower-case letters, digits and _")
OPTION_VALUE = text(
    r"[A-Za-z0-9._/:,-]{1,200}", 'a text such as "0", of letters, digits and ._/:,-'
)

_LINE = text(_TEXT, "a line of letters, digits, spaces and .,:()/_=+*|%@~#-")
_LINES = several(_LINE)
_PINS = several(text(_PIN, 'an exact pin such as "numpy==2.2.6"', 120))


@dataclass(frozen=True)
class Key:
    """One key of the file.

    Attributes
    ----------
    table, key : str
        As in ``[table]`` and ``key = ...``.
    attribute : str
        Of `Board`.
    kind : Kind
    meaning : str
        One sentence, for people.
    default : object
        Where the key may be missing.
    """

    table: str
    key: str
    attribute: str
    kind: Kind
    meaning: str
    default: Any = field(default=REQUIRED)

    @property
    def name(self) -> str:
        """The key with its table: ``board.name``."""
        return f"{self.table}.{self.key}"


KEYS = (
    Key(
        "board",
        "name",
        "name",
        text(_NAME, "letters and digits, with single - . _ between them, at most 40", 40),
        "name of the board; also used in file names",
    ),
    Key("board", "description", "description", _LINE, "what the board is"),
    Key(
        "board",
        "architecture",
        "architecture",
        one_of("x86_64", "aarch64"),
        "of the processor, as `uname -m` says",
    ),
    Key("board", "system", "system", _LINE, "image of the operating system"),
    Key("board", "glibc", "glibc", text(r"2\.[0-9]{1,3}", 'as in "2.36"'), "its C library, glibc"),
    Key(
        "board",
        "python",
        "python",
        text(r"3\.[1-9][0-9]", '"3.10" or newer'),
        "Python that runs NoisyStore",
    ),
    Key(
        "board",
        "page",
        "page",
        text(rf"({_NAME}(/{_NAME})*)?", 'a file of docs/ such as "boards/mine.md", or ""', 80),
        "page of docs/ about the board",
        "",
    ),
    Key(
        "build",
        "toolchain",
        "toolchain",
        text(_NAME, '"native", or a file of ortops/toolchains without .cmake', 80),
        "what compiles the operator library",
        "native",
    ),
    Key(
        "build",
        "operator",
        "operator",
        one_of("wheel", "source"),
        "a wheel that was built elsewhere, or sources that the board builds",
    ),
    Key(
        "build",
        "requirements",
        "build_requirements",
        _PINS,
        'wheels that a build on the board needs (operator = "source")',
        [],
    ),
    Key(
        "build",
        "cuda",
        "cuda",
        text(rf"({_SERIES})?", 'as in "12.6", or "" for none'),
        "version of the CUDA toolkit",
        "",
    ),
    Key(
        "build",
        "cuda_architectures",
        "cuda_architectures",
        several(text(r"[1-9][0-9]{1,2}[af]?", 'a compute capability such as "87"')),
        "what the CUDA kernels are compiled for",
        [],
    ),
    Key(
        "onnxruntime",
        "package",
        "ort_package",
        one_of("onnxruntime", "onnxruntime-gpu"),
        "Python package of ONNX Runtime",
    ),
    Key(
        "onnxruntime",
        "version",
        "ort_version",
        text(_VERSION, 'as in "1.32.0"'),
        "version that is installed",
    ),
    Key(
        "onnxruntime",
        "newest",
        "ort_newest",
        text(rf"({_SERIES})?", 'as in "1.23", or "" for any'),
        "newest series that the board can run",
        "",
    ),
    Key(
        "onnxruntime",
        "index",
        "ort_index",
        text(rf"({_URL})?", 'an address http(s)://..., or "" for the usual registry', 200),
        "package index of the vendor that has this ONNX Runtime",
        "",
    ),
    Key(
        "onnxruntime",
        "requirements",
        "requirements",
        _PINS,
        "all other wheels that running needs, with what these need themselves",
    ),
    Key(
        "onnxruntime",
        "providers",
        "providers",
        several(PROVIDER),
        "execution providers, best first",
    ),
    Key(
        "run",
        "threads",
        "threads",
        whole(1, 1024),
        "threads inside one operator; without the key ONNX Runtime chooses",
        None,
    ),
    Key("run", "batch_size", "batch_size", whole(1, 1_000_000), "images a run"),
    Key(
        "run",
        "activation_type",
        "activation_type",
        one_of("uint8", "int8"),
        "8-bit activations that are fast there (`quantize --activation-type`)",
    ),
    Key(
        "power",
        "modes",
        "power_modes",
        _LINES,
        "commands that fix clocks and power before measuring",
        [],
    ),
    Key("power", "hints", "hints", _LINES, "what else to know before measuring", []),
)

#: Tables of the file, without those of provider options.
TABLES = tuple(dict.fromkeys(key.table for key in KEYS))
