# SPDX-License-Identifier: Apache-2.0
"""From an annotated graph and data to accuracies at bit error rates and midpoint noise levels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .results import Results
from .session import NoisySession

# At once, not when first used: importing the module would put it in the function's place.
from .sweep import sweep

if TYPE_CHECKING:
    from .midpoint import fit_midpoint

__all__ = ["NoisySession", "Results", "fit_midpoint", "sweep"]


def __getattr__(name: str) -> Any:
    # Boards start slowly: SciPy is imported by what needs it, as is ONNX Runtime.
    if name != "fit_midpoint":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .midpoint import fit_midpoint

    return fit_midpoint


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
