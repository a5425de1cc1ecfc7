# SPDX-License-Identifier: Apache-2.0
"""From an annotated graph and data to accuracies at bit error rates and midpoint noise levels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .noisy_sites import site_rates
from .results import Results

# `sensitivity` and `sweep` at once, not when first used: importing their modules would put these
# in the functions' places.
from .sensitivity import sensitivity
from .session import NoisySession
from .sweep import sweep

if TYPE_CHECKING:
    from .midpoint import Points, fit_midpoint
    from .midpoint_finder import find_midpoint
    from .midpoint_groups import fit_results
    from .protection import protect
    from .report import write_report
    from .results_export import export_points
    from .results_merge import merge_results
    from .rram import Condition, LogNormal, cheapest_threshold, equal_error_threshold
    from .rram_csv import read_samples
    from .rram_writes import write_check_correct

__all__ = [
    "Condition",
    "LogNormal",
    "NoisySession",
    "Points",
    "Results",
    "cheapest_threshold",
    "equal_error_threshold",
    "export_points",
    "find_midpoint",
    "fit_midpoint",
    "fit_results",
    "merge_results",
    "protect",
    "read_samples",
    "sensitivity",
    "site_rates",
    "sweep",
    "write_check_correct",
    "write_report",
]

# Boards start slowly: SciPy is imported by what needs it, as is ONNX Runtime.
_LATER = {
    "Condition": "rram",
    "LogNormal": "rram",
    "Points": "midpoint",
    "cheapest_threshold": "rram",
    "equal_error_threshold": "rram",
    "export_points": "results_export",
    "find_midpoint": "midpoint_finder",
    "fit_midpoint": "midpoint",
    "fit_results": "midpoint_groups",
    "merge_results": "results_merge",
    "protect": "protection",
    "read_samples": "rram_csv",
    "write_check_correct": "rram_writes",
    "write_report": "report",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_LATER[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
