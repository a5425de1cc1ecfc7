# SPDX-License-Identifier: Apache-2.0
"""Sweeps that take no time."""

from typing import Any

from noisystore.runtime import sweep


def run(model: Any, data: Any, rates: Any = "1e-5,1e-3", **options: Any) -> Any:
    """Measure two trials a rate."""
    options = {"trials": 2, "batch_size": 50, "threads": 1, "progress": False, **options}
    return sweep(model, data, rates, **options)
