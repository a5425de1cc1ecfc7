# SPDX-License-Identifier: Apache-2.0
"""What several commands share: argument types, output, and checks made before long work."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...ortops.errors import InputError
from ...ortops.files import target_of
from ..texts import printable

if TYPE_CHECKING:
    from ..board import Board

#: Normalizations by name: mean and standard deviation of the channels, on x / 255.
NORMALIZATIONS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


def positive(text: str) -> int:
    """Argument type: an integer of 1 or more."""
    return _integer(text, 1)


def natural(text: str) -> int:
    """Argument type: an integer of 0 or more."""
    return _integer(text, 0)


def _integer(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"expected an integer of {least} or more, got {text!r}")
    return value


def seed(text: str) -> int:
    """Argument type: a seed of 64 bits, as SQLite stores it."""
    try:
        value = int(text, 0)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected an integer, got {text!r}") from None
    if not -(1 << 63) <= value < 1 << 63:
        raise argparse.ArgumentTypeError(f"expected an integer of 64 bits, got {text!r}")
    return value


def rate(text: str) -> float:
    """Argument type: a bit error rate in [0, 1]."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a rate from 0 to 1, got {text!r}")
    return value


def precision(text: str) -> float:
    """Argument type: a half width of intervals as a share, 15% or 0.15, from 0.1% to 100%."""
    number, percent, rest = text.strip().partition("%")
    try:
        value = float(number) / (100 if percent else 1)
    except ValueError:
        value = 0.0
    if rest or not 0.001 <= value <= 1:
        raise argparse.ArgumentTypeError(
            f"expected a share from 0.1% to 100%, such as 15% or 0.15, got {text!r}"
        )
    return value


def normalization(text: str) -> Any:
    """Argument type: the normalization of images."""
    if text == "none":
        return text
    if text in NORMALIZATIONS:
        return NORMALIZATIONS[text]
    mean, slash, std = text.partition("/")
    try:
        values = tuple(tuple(float(v) for v in part.split(",")) for part in (mean, std))
    except ValueError:
        values = ()
    if not slash or not values or len(values[0]) != len(values[1]):
        raise argparse.ArgumentTypeError(
            f"expected {', '.join(NORMALIZATIONS)}, none or M,M,M/S,S,S (mean and standard "
            f"deviation of each channel, on x / 255), got {text!r}"
        )
    return values


def add_normalization(parser: argparse.ArgumentParser) -> None:
    """Declare the option that names the normalization of uint8 images."""
    parser.add_argument(
        "--normalization",
        type=normalization,
        default=None,
        metavar="NORM",
        help="of uint8 images: cifar10, imagenet, none or M,M,M/S,S,S (default: the model's)",
    )


def bounded(low: float, high: float, name: str) -> Callable[[str], float]:
    """Argument type: a number between two others, both excluded."""

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = low
        if not low < value < high:
            raise argparse.ArgumentTypeError(
                f"{name}: expected a number between {low:g} and {high:g}, got {text!r}"
            )
        return value

    return convert


def add_fit_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `fit_results`."""
    parser.add_argument(
        "--axis",
        choices=("log10", "linear"),
        default="log10",
        help="axis on which the curve is logistic (default: %(default)s)",
    )
    parser.add_argument(
        "--confidence",
        type=bounded(0, 1, "confidence"),
        default=0.95,
        metavar="C",
        help="of the midpoints' intervals, at most 0.9999 (default: %(default)s)",
    )


def add_custom_ops(parser: argparse.ArgumentParser) -> None:
    """Declare the option that names libraries of the model's other custom operators."""
    parser.add_argument(
        "--custom-ops",
        action="append",
        default=[],
        metavar="LIB",
        help="library of other custom operators that the model uses; may be repeated "
        "(onnxruntime-extensions is found by itself)",
    )


def add_board(parser: argparse.ArgumentParser) -> None:
    """Declare the option that names a board whose settings are used."""
    parser.add_argument(
        "--board",
        metavar="NAME|FILE",
        help="execution providers, threads and batch size of a board (`noisystore board --list`); "
        "options of their own win",
    )


def use_board(args: argparse.Namespace, batch_size: int = 100) -> Board | None:
    """Fill in what a board says where no option does, and return the board.

    Sets ``threads``, ``batch_size`` and ``provider`` of `args`; says so where this machine is of
    another architecture than the board.

    Raises
    ------
    InputError
        No such board, or a bad file.
    """
    board = None
    if args.board is not None:
        import platform

        from ..board import load_board
        from ..ort_session import board_providers

        board = load_board(args.board)
        args.threads = args.threads or board.threads
        args.batch_size = args.batch_size or board.batch_size
        args.provider = board_providers(board, args.provider)
        if board.architecture != platform.machine():
            progress(
                f"note: {board.name} is {board.architecture}, this machine {platform.machine()}: "
                "it runs here with that board's settings"
            )
    args.batch_size = args.batch_size or batch_size
    return board


def check_output(path: str | os.PathLike[str]) -> Path:
    """Check, before long work, that a file can be written at `path`.

    Raises
    ------
    InputError
        The folder is missing or not writable, or `path` is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"output {path}: expected a file name, got a folder")
    target_of(path)
    if not path.parent.is_dir():
        raise InputError(f"output {path}: the folder {path.parent} does not exist: create it first")
    if not os.access(path.parent, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise InputError(f"output {path}: no permission to write there: choose another -o")
    return path


def check_apart(output: Path, model: str, name: str) -> None:
    """Check that a file to be written is not one that is read.

    Raises
    ------
    InputError
        It is.
    """
    if output.resolve() == Path(model).resolve():
        raise InputError(f"{name} {output}: expected another file than {model}, which is read")


def check_written(written: Mapping[str, str | os.PathLike[str] | None], *read: str | None) -> None:
    """Check, before long work, that all files to be written can be, and that none is read.

    Parameters
    ----------
    written : mapping from an option's name to a path, or None
    read : str or None
        What the user named as input: paths, data sets (``npz:FILE``, ``images:DIR``, ``raw:DIR``),
        networks (``FILE.py:function``).

    Raises
    ------
    InputError
        As `check_output` and `check_apart`, or two are one file.
    """
    paths = {name: Path(path) for name, path in written.items() if path is not None}
    for name, path in paths.items():
        check_output(path)
        for given in read:
            if given is not None and _reads(given, path.resolve()):
                check_apart(path, str(path), name)
    if len({path.resolve() for path in paths.values()}) < len(paths):
        raise InputError(f"{', '.join(paths)}: expected different files, got the same")


def _reads(given: str, path: Path) -> bool:
    """Whether the file at a resolved path is one of those that an input stands for."""
    kind, _, rest = given.partition(":")
    place = Path(rest).expanduser().resolve()
    if kind == "npz":
        return path == place
    if kind == "raw":
        return path.parent == place and path.name in ("data.txt", "images.bin", "labels.bin")
    if kind == "images":  # in a folder a class: a new file beside these is none of them
        return path.exists() and path.parent.parent == place
    if ".py:" in given:
        given = given.rpartition(":")[0]
    return path == Path(given).resolve()


def check_plot(path: str | None) -> None:
    """Check, before long work, that a plot can be drawn and written at `path` (None: no plot)."""
    if path is None:
        return
    from ..plot import check_format, check_matplotlib

    check_output(path)
    check_format(path)
    check_matplotlib()


def require(modules: Sequence[str], extra: str) -> None:
    """Raise InputError that names the extra to install unless all modules are there."""
    for name in modules:
        if importlib.util.find_spec(name) is None:
            raise InputError(
                f"this command needs {name}, which is not installed: "
                f"pip install noisystore[{extra}]"
            )


def print_json(value: Any) -> None:
    """Print a result as JSON on standard output."""
    print(json.dumps(value, indent=2, allow_nan=False))


def progress(text: str) -> None:
    """Print a line of progress on standard error, and log it."""
    from ..run_log import LOGGER

    LOGGER.info("%s", text)
    print("\n".join(map(printable, text.split("\n"))), file=sys.stderr, flush=True)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: 1 point, 2,000 points."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out text in columns; columns of numbers are set to the right.

    What a terminal would obey is a question mark: cells may come from files.
    """
    head, rows = list(map(printable, head)), [list(map(printable, row)) for row in rows]
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    right = [all(_is_number(row[i]) for row in rows) for i in range(len(head))]
    lines = []
    for row in (head, *rows):
        cells = [
            cell.rjust(width) if flush else cell.ljust(width)
            for cell, width, flush in zip(row, widths, right, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "").replace(" x", ""))
    except ValueError:
        return text in ("", "-")
    return True
