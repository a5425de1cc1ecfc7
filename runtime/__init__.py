# SPDX-License-Identifier: Apache-2.0
"""From an annotated graph and data to accuracies at bit error rates and midpoint noise levels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .noisy_sites import site_rates
from .results import Results
from .session import NoisySession

# At once, not when first used: importing the module would put it in the function's place.
from .sweep import sweep

if TYPE_CHECKING:
    from .midpoint import Points, fit_midpoint
    from .midpoint_groups import fit_results

__all__ = [
    "NoisySession",
    "Points",
    "Results",
    "fit_midpoint",
    "fit_results",
    "site_rates",
    "sweep",
]


def __getattr__(name: str) -> Any:
    # Boards start slowly: SciPy is imported by what needs it, as is ONNX Runtime.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import midpoint, midpoint_groups

    return getattr(midpoint_groups if name == "fit_results" else midpoint, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
