# SPDX-License-Identifier: Apache-2.0
"""`noisystore board`: what board this is, and which configuration fits it."""

from __future__ import annotations

import argparse
import shlex
from typing import TYPE_CHECKING, Any

from .common import check_output, print_json, progress, table

if TYPE_CHECKING:
    from ..board_system import System

HELP = "detect the board, propose, write, list and check configurations"
DESCRIPTION = """\
Print what this system is and which board configuration fits it best, and why. With -o a
configuration of its own is written: the proposed one with this system's versions of Python, glibc,
CUDA and ONNX Runtime, and without execution providers that are missing here. --list names the
configurations that come with NoisyStore, --show checks one, or a file of yours, and prints it."""
EXAMPLE = "noisystore board -o my-board.toml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="list the configurations")
    what.add_argument(
        "--show", metavar="NAME|FILE.toml", help="check a configuration and print its text"
    )
    what.add_argument("-o", "--output", metavar="FILE.toml", help="write one for this system")


def run(args: argparse.Namespace) -> int:
    """Detect and propose, or list, or show."""
    if args.list:
        return _list(args.json)
    if args.show is not None:
        return _show(args.show, args.json)
    from ..board import load_board
    from ..board_choice import adapted, board_toml, closest_board
    from ..board_system import detect

    if args.output is not None:
        output = check_output(args.output)
        if output.suffix != ".toml":
            from ...ortops.errors import InputError

            raise InputError(f"-o {args.output}: expected a file name that ends in .toml")
    system = detect()
    name, reasons = closest_board(system)
    if args.output is not None:
        from ...ortops.files import write_whole

        made = adapted(load_board(name), system, output.stem)
        write_whole(output, board_toml(made).encode())
        progress(f"wrote {args.output}")
    if args.json:
        print_json({"system": vars(system), "board": name, "reasons": reasons})
    else:
        print(text(system, name, reasons, args.output))
    return 0


def text(system: System, name: str, reasons: list[str], output: str | None) -> str:
    """Say what was detected and proposed, for people."""
    gpu = ", ".join(system.gpus) or ("" if not system.driver else "NVIDIA")
    jetson = f"{system.jetpack or 'unknown'}, Linux for Tegra {system.l4t or 'unknown'}"
    rows = [
        ("board", system.model),
        ("processor", f"{system.cpu or 'unknown'} ({system.architecture}), {system.cores} cores"),
        ("features", " ".join(system.features)),
        ("memory", f"{system.memory_bytes / 2**30:.1f} GiB" if system.memory_bytes else ""),
        ("system", f"{system.os or 'unknown'}, glibc {system.glibc or 'unknown'}"),
        ("Python", system.python),
        ("JetPack", jetson if system.jetpack or system.l4t else ""),
        ("GPU", f"{gpu}, driver {system.driver or 'unknown'}" if gpu else ""),
        ("CUDA", system.cuda),
        ("runtime", f"{system.onnxruntime}: {', '.join(system.providers)}"),
    ]
    lines = [f"{label:<14}{value}" for label, value in rows if value and value != ": "]
    lines += ["", f"{'configuration':<14}{name}"]
    lines += [f"{'' if i else 'because':<14}{reason}" for i, reason in enumerate(reasons)]
    following = "board -o my-board.toml"
    if output is not None:
        board = shlex.quote(output)
        following = f"sweep MODEL.onnx --data DATA --board {board} -o results.sqlite"
    lines += ["", f"next: noisystore {following}"]
    return "\n".join(lines)


def _list(as_json: bool) -> int:
    from ..board import board_names, load_board

    boards = [load_board(name) for name in board_names()]
    if as_json:
        print_json([_plain(board) for board in boards])
        return 0
    head = ["name", "system", "Python", "ONNX Runtime", "operator", "CUDA", "8 bits"]
    rows = [
        [
            board.name,
            board.system,
            board.python,
            f"{board.ort_package} {board.ort_version}",
            board.operator,
            board.cuda or "-",
            board.activation_type,
        ]
        for board in boards
    ]
    print(table(head, rows))
    return 0


def _show(name: str, as_json: bool) -> int:
    from ..board import board_text, called, parse_board

    content = board_text(name)
    board = parse_board(content, called(name))
    if as_json:
        print_json(_plain(board))
    else:
        print(content, end="" if content.endswith("\n") else "\n")
    return 0


def _plain(board: Any) -> dict[str, Any]:
    return {key: list(v) if isinstance(v, tuple) else v for key, v in vars(board).items()}
