# SPDX-License-Identifier: Apache-2.0
"""Which configuration fits a system, and a configuration of its own for that system."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

from ..ortops.errors import InputError
from .board import OLDEST_GLIBC, OLDEST_ORT, Board, load_board, newer, parse_board
from .board_schema import KEYS, OPTIONS_TABLE, TABLES
from .board_system import System

#: Compute capabilities of the chips of Jetsons.
CAPABILITIES = {"tegra194": "72", "tegra234": "87", "tegra264": "110"}

_OLDEST_DRIVER = 580  # of CUDA 13
_PI_5 = "bcm2712"


def closest_board(system: System) -> tuple[str, list[str]]:
    """Return the name of the shipped configuration that fits a system best, and why.

    Parameters
    ----------
    system : System
        As `board_system.detect` returns it.

    Returns
    -------
    name : str
    reasons : list of str
        Sentences for people: what decided, then what does not fit.

    Raises
    ------
    InputError
        NoisyStore runs on no such processor.
    """
    if system.architecture == "x86_64":
        name, reasons = _on_x86(system)
    elif system.architecture == "aarch64":
        name, reasons = _on_arm(system)
    else:
        raise InputError(
            f"this system: expected x86_64 or aarch64 with 64-bit Python, got "
            f"{system.architecture or 'no known processor'}; NoisyStore runs on no other"
        )
    return name, [*reasons, *_misfits(system, load_board(name))]


def _on_x86(system: System) -> tuple[str, list[str]]:
    if not system.driver:
        return "x86-server", ["x86-64, and no NVIDIA driver"]
    what = f"NVIDIA driver {system.driver}" + "".join(f", {gpu}" for gpu in system.gpus[:1])
    if int(system.driver.split(".")[0]) < _OLDEST_DRIVER:
        return "x86-server", [
            f"x86-64, {what}: ONNX Runtime's CUDA 13 needs driver {_OLDEST_DRIVER} or newer; "
            "with one, take cuda-server"
        ]
    return "cuda-server", [f"x86-64, {what}"]


def _on_arm(system: System) -> tuple[str, list[str]]:
    if system.l4t or system.jetpack or system.soc in CAPABILITIES:
        return _on_jetson(system)
    if system.soc == _PI_5:
        return "raspberry-pi-5", [f"{system.model or 'a Raspberry Pi'} (chip {_PI_5})"]
    reasons = [f"64-bit Arm ({system.model or system.cpu or 'unknown'}), and no board known better"]
    if system.driver:
        reasons.append(
            f"NVIDIA driver {system.driver}: there is no configuration for Arm servers with CUDA, "
            "this one uses the processor"
        )
    return "arm-generic", reasons


def _on_jetson(system: System) -> tuple[str, list[str]]:
    reasons = [system.model] if system.model else []
    release = int(system.jetpack.partition(".")[0] or 0)
    if release:
        reasons.append(
            f"JetPack {system.jetpack}" + (f" (Linux for Tegra {system.l4t})" if system.l4t else "")
        )
    if system.soc in CAPABILITIES:
        reasons.append(f"chip {system.soc}: compute capability {CAPABILITIES[system.soc]}")
    if release >= 7 or (not release and system.soc == "tegra264"):
        if system.soc and system.soc != "tegra264":
            reasons.append(
                f"JetPack {release} on {system.soc}: unknown whether the vendor's ONNX Runtime has "
                "code for this chip"
            )
        return "jetson-thor", reasons
    if release and release < 6:
        reasons.append(f"JetPack {system.jetpack} is too old: Python 3.10 came with JetPack 6")
    return "jetson-orin", reasons


def _misfits(system: System, board: Board) -> list[str]:
    """Sentences about what is otherwise here than in the configuration."""
    found = []
    if system.glibc and newer(OLDEST_GLIBC, system.glibc):
        found.append(f"glibc {system.glibc} is too old: wheels need {OLDEST_GLIBC} or newer")
    if system.python and system.python != board.python:
        found.append(
            f"Python {system.python} here, {board.python} in the configuration"
            + (", for which the vendor has its ONNX Runtime" if board.ort_index else "")
        )
    if "asimd" in system.features and "asimddp" not in system.features:
        found.append("no dot products (asimddp): integer kernels are slower here")
    missing = _missing_providers(system, board)
    if missing:
        found.append(f"the installed {system.onnxruntime} has no {', '.join(missing)}")
    return found


def adapted(board: Board, system: System, name: str) -> Board:
    """Return a configuration made of a shipped one, with what was detected.

    Taken over are: Python and the installed ONNX Runtime's version (not where a vendor has that for
    one Python only), glibc, cores as threads where the board names threads, CUDA's toolkit and
    compute capability. Providers that the installed ONNX Runtime lacks are left out.

    Parameters
    ----------
    board : Board
        As `closest_board` proposes it.
    system : System
    name : str
        Of the new configuration.

    Raises
    ------
    InputError
        No configuration can run on this system, or the name is none.
    """
    if system.jetpack and int(system.jetpack.partition(".")[0]) < 6:
        raise InputError(
            f"JetPack {system.jetpack}: expected JetPack 6 or newer, with Python 3.10: no "
            "configuration can run here; install a newer JetPack"
        )
    changes: dict[str, Any] = {"name": name}
    if board.threads is not None and system.cores:
        changes["threads"] = system.cores
    installed = re.fullmatch(rf"{board.ort_package} ([0-9]+\.[0-9]+\.[0-9]+)", system.onnxruntime)
    if installed and not board.ort_index and not newer(OLDEST_ORT, installed[1]):
        changes["ort_version"] = installed[1]
    changes["description"] = _text(system.model or system.cpu) or board.description
    changes["system"] = _text(system.os) or board.system
    if system.glibc:
        changes["glibc"] = system.glibc
    if system.python and not board.ort_index:
        changes["python"] = system.python
        if system.python == "3.10" and board.python != "3.10":
            changes |= _for_python_3_10(board)
    if board.cuda and series_of(system.cuda) == series_of(board.cuda):
        changes["cuda"] = system.cuda
    if board.cuda and system.soc in CAPABILITIES:
        changes["cuda_architectures"] = (CAPABILITIES[system.soc],)
    missing = _missing_providers(system, board)
    changes["providers"] = tuple(p for p in board.providers if p not in missing)
    changes["provider_options"] = {
        p: options for p, options in board.provider_options.items() if p not in missing
    }
    made = replace(board, **changes)
    return parse_board(board_toml(made), f"board {name}")


def _for_python_3_10(board: Board) -> dict[str, Any]:
    """Wheels for Python 3.10, whose newest ONNX Runtime is 1.23."""
    if board.ort_package != "onnxruntime":
        raise InputError(
            f"board {board.name}: expected Python 3.11 or newer, got 3.10, for which "
            f"{board.ort_package} {board.ort_version} has no wheel; install a newer Python"
        )
    return {"ort_version": "1.23.2", "requirements": load_board("jetson-orin").requirements}


def _missing_providers(system: System, board: Board) -> list[str]:
    # Of another package nothing is known: this one is yet to be installed.
    if system.onnxruntime.split(" ")[0] != board.ort_package:
        return []
    return [p for p in board.providers if p not in system.providers]


def series_of(version: str) -> str:
    """Return the first number of a version."""
    return version.partition(".")[0]


def _text(text: str) -> str:
    """Return the part of a text that a configuration may hold."""
    return " ".join(re.sub(r"[^A-Za-z0-9 .,:()/_=+*|%@~#-]", " ", text).split())[:300]


def board_toml(board: Board) -> str:
    """Return the text of a configuration's file, each key with its meaning."""
    lines = ["# SPDX-License-Identifier: Apache-2.0", "# docs/boards.md has the keys."]
    for table in TABLES:
        lines += ["", f"[{table}]"]
        for key in (key for key in KEYS if key.table == table):
            value = getattr(board, key.attribute)
            value = list(value) if isinstance(value, tuple) else value
            if value != key.default:
                lines += [f"# {key.meaning}", f"{key.key} = {_value(value)}"]
        if table == "onnxruntime":
            for provider, options in board.provider_options.items():
                lines += ["", f"[{OPTIONS_TABLE}.{provider}]"]
                lines += [f"{option} = {_value(value)}" for option, value in options.items()]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    # Texts of a configuration are plain ASCII: JSON and TOML write these alike.
    if isinstance(value, list) and len(value) > 1:
        return "".join(["[\n", *(f"  {json.dumps(item)},\n" for item in value), "]"])
    return json.dumps(value)
