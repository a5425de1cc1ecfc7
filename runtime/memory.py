# SPDX-License-Identifier: Apache-2.0
"""Memory of this process: how far it grows while something runs."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from types import TracebackType


class PeakMemory(contextlib.AbstractContextManager["PeakMemory"]):
    """Looks at the resident memory of this process from entry to exit.

    Linux keeps the largest resident set (VmHWM); it is set back at entry where the system permits.
    Where it does not, a new largest set still tells how far the process grew.

    Attributes
    ----------
    growth : int or None
        Bytes by which the largest resident set while inside exceeds the resident set at entry;
        None where the system does not tell.
    peak : int or None
        Largest resident set of the process up to the exit, in bytes.
    """

    def __init__(self, root: str = "/") -> None:
        self._process = Path(root) / "proc/self"
        self.growth: int | None = None
        self.peak: int | None = None
        self._highest = self._start = 0
        self._set_back = False

    def __enter__(self) -> PeakMemory:
        self._highest = self._read("VmHWM") or 0
        self._start = self._read("VmRSS") or 0
        try:
            (self._process / "clear_refs").write_text("5")
            self._set_back = True
        except OSError:
            self._set_back = False
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        inside = self._read("VmHWM")
        if inside is None:
            self.peak = _largest_resident_set()
            return
        self.peak = max(inside, self._highest)
        if self._start and (self._set_back or inside > self._highest):
            self.growth = max(inside - self._start, 0)

    def _read(self, key: str) -> int | None:
        try:
            for line in (self._process / "status").read_text().splitlines():
                if line.startswith(f"{key}:"):
                    return int(line.split()[1]) * 1024
        except (OSError, ValueError, IndexError):
            pass
        return None


def _largest_resident_set() -> int | None:
    try:
        import resource
    except ImportError:
        return None
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024
