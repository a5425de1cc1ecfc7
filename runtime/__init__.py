# SPDX-License-Identifier: Apache-2.0
"""From an annotated graph and data to accuracies at bit error rates and midpoint noise levels."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .midpoint import fit_midpoint
    from .results import Results
    from .session import NoisySession
    from .sweep import sweep

__all__ = ["NoisySession", "Results", "fit_midpoint", "sweep"]

_HOMES = {
    "NoisySession": "session",
    "Results": "results",
    "fit_midpoint": "midpoint",
    "sweep": "sweep",
}


def __getattr__(name: str) -> Any:
    # Boards start slowly: SciPy and ONNX Runtime are imported by what needs them.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
