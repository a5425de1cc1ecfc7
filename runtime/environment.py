# SPDX-License-Identifier: Apache-2.0
"""Where a measurement is made: versions and machine, for the provenance of results."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from .board_system import gpus
from .ort_plugins import NVIDIA
from .session import NoisySession


def environment(session: NoisySession) -> dict[str, Any]:
    """Return the columns of a results file's table ``runs`` for this machine and session."""
    import onnxruntime

    from .. import ortops

    return {
        "library_version": str(ortops.library_version()),
        "onnxruntime_version": onnxruntime.__version__,
        "threads": session.threads or 0,
        "cpu": _processors(session.provider),
        "host": platform.node(),
    }


def _processors(provider: str) -> str:
    models = sorted(set(gpus(Path("/")))) if provider.startswith(NVIDIA) else []
    return " + ".join([cpu_name(), *([" or ".join(models)] if models else [])])


def cpu_name() -> str:
    """Return the processor's name, or its architecture where the system does not tell."""
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.lower().startswith(("model name", "hardware")):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
