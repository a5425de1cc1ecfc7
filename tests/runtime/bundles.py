# SPDX-License-Identifier: Apache-2.0
"""Boards of this machine, and changes to unpacked bundles that their manifest knows."""

import hashlib
import importlib.metadata
import json
import platform
import sys

from noisystore.runtime import bundle_file
from noisystore.runtime.board import board_text, load_board

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


def seal(folder):
    """Make the manifest fit what the folder holds, as an attacker or a bug would."""
    path = folder / bundle_file.MANIFEST
    manifest = json.loads(path.read_text())
    for name, identity in manifest["files"].items():
        data = (folder / name).read_bytes()
        identity.update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    path.write_text(json.dumps(manifest))
