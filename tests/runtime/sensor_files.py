# SPDX-License-Identifier: Apache-2.0
"""Lays published listings of meters out as files, and changes them as a kernel does."""

from __future__ import annotations

import os
from pathlib import Path

LISTINGS = Path(__file__).parents[1] / "data" / "sensors"


def lay_out(name: str, root: Path) -> Path:
    """Make the files of the listing `name` below `root`."""
    for line in (LISTINGS / f"{name}.txt").read_text().splitlines():
        path, _, content = line.rpartition(":")
        file = root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{content}\n")
    return root


def put(path: Path, value: object) -> None:
    """Change a file at once: a reader sees the old or the new value, never half of it."""
    path.with_suffix(".new").write_text(f"{value}\n")
    os.replace(path.with_suffix(".new"), path)
