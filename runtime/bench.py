# SPDX-License-Identifier: Apache-2.0
"""Timings of the operator alone, and how timings are taken: in turn, as medians."""

from __future__ import annotations

import ctypes
import functools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

ELEMENTS = 1 << 16
OPERATOR_RATES = (0.0, 1e-6, 1e-4, 1e-3, 1e-2, 1 / 32, 0.1, 0.5)

#: What runs of a model: the annotated graph, or the same network without sites.
NOISY, CLEAN = "noisy", "without sites"

#: Seeds that a timed loop goes through, so that branch predictors cannot learn one pattern.
_SEEDS = 32


def bench_operator(*, quick: bool = False, elements: int = ELEMENTS) -> dict[str, Any]:
    """Time the operator on float32 in place on one thread, against memcpy of the same tensor.

    Both are called through ctypes with prepared arguments; the cost of a foreign call with the same
    arguments that does nothing is measured and subtracted from each. Measurements alternate, and
    medians are reported. The plan of the noise model is computed in every call, and counts.

    Parameters
    ----------
    quick : bool
        Fewer rounds.
    elements : int
        Of the tensor.

    Returns
    -------
    dict
        ``call_ns``, ``memcpy_us`` and ``rows``: a list of rate, us, ratio (to memcpy), flips
        (expected a call), ns_per_flip (None below one flip a call).
    """
    from .. import ortops

    # One sample: axis 0 runs over the batch.
    values = np.random.default_rng(1).standard_normal((1, elements)).astype(np.float32)
    copy = np.empty_like(values)
    memmove = functools.partial(ctypes.memmove, copy.ctypes.data, values.ctypes.data)
    work: dict[Any, list[Callable[[], Any]]] = {
        "empty memcpy": [functools.partial(memmove, 0)] * _SEEDS,
        "memcpy": [functools.partial(memmove, values.nbytes)] * _SEEDS,
    }
    for rate in OPERATOR_RATES:
        work[rate] = [
            ortops.prepared_apply(values, rate, seed=seed, out=values) for seed in range(_SEEDS)
        ]
    work["empty call"] = [ortops.empty_call(run) for run in work[OPERATOR_RATES[0]]]
    medians = interleaved(work, rounds=9 if quick else 41, seconds=2e-3 if quick else 4e-3)
    call = medians["empty call"]
    memcpy = medians["memcpy"] - medians["empty memcpy"]
    rows = []
    for rate in OPERATOR_RATES:
        spent = max(medians[rate] - call, 0.0)
        flips = elements * 32 * rate
        rows.append(
            {
                "rate": rate,
                "us": spent * 1e6,
                "ratio": spent / memcpy,
                "flips": flips,
                "ns_per_flip": spent * 1e9 / flips if flips >= 1 else None,
            }
        )
    return {
        "elements": elements,
        "dtype": "float32",
        "call_ns": call * 1e9,
        "memcpy_us": memcpy * 1e6,
        "rows": rows,
    }


def interleaved(
    work: dict[Any, list[Callable[[], Any]]],
    *,
    rounds: int,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Any, float]:
    """Median seconds of one call of each kind, measured in turn so that load hits all alike.

    Parameters
    ----------
    work : dict of lists of callables
        Each kind's calls are made one after the other, over and over.
    rounds : int
    seconds : float
        Least time of one measurement of one kind.
    clock : callable
        Seconds that count.

    Returns
    -------
    dict of float
    """
    loops = {}
    for kind, calls in work.items():
        _timed(calls, 1, clock)
        loops[kind] = max(1, round(seconds / max(_timed(calls, 1, clock), 1e-9)))
    samples: dict[Any, list[float]] = {kind: [] for kind in work}
    for _ in range(rounds):
        for kind, calls in work.items():
            samples[kind].append(_timed(calls, loops[kind], clock) / (loops[kind] * len(calls)))
    return {kind: statistics.median(values) for kind, values in samples.items()}


def _timed(calls: Sequence[Callable[[], Any]], loops: int, clock: Callable[[], float]) -> float:
    start = clock()
    for _ in range(loops):
        for call in calls:
            call()
    return clock() - start


def import_seconds(*, quick: bool = False) -> dict[str, float | None]:
    """Median seconds of imports in fresh processes, Python's start aside.

    None where this Python starts no other programs, as under an emulator.

    Returns
    -------
    dict
        ``package``: ``import noisystore.runtime``, whose names load at their first use;
        ``all``: all its public names and ONNX Runtime.
    """
    statements = {
        "package": "import noisystore.runtime",
        "all": "from noisystore.runtime import *; import onnxruntime",
    }
    return {
        name: _seconds_in_a_process(text, 3 if quick else 7) for name, text in statements.items()
    }


def _seconds_in_a_process(statement: str, rounds: int) -> float | None:
    code = (
        f"import time; start = time.perf_counter(); {statement}; print(time.perf_counter() - start)"
    )
    command = [sys.executable, "-c", code]
    try:
        times = [
            float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            for _ in range(rounds)
        ]
    except OSError:
        return None
    return statistics.median(times)
