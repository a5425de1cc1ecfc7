# SPDX-License-Identifier: Apache-2.0
"""Timings of the operator alone and inside ONNX Runtime, as ratios within one run."""

from __future__ import annotations

import ctypes
import functools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..ortops.errors import InputError

ELEMENTS = 1 << 16
OPERATOR_RATES = (0.0, 1e-6, 1e-4, 1e-3, 1e-2, 1 / 32, 0.1, 0.5)
MODEL_RATES = (1e-6, 1e-4, 1e-2, 0.1)
HARNESS_RATES = (1e-5, 1e-4, 1e-3, 1e-2)

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


def bench_model(
    model: str,
    data: str,
    *,
    clean: str | None = None,
    batch: int = 100,
    threads: int | None = None,
    custom_op_libraries: Sequence[str | os.PathLike[str]] = (),
    quick: bool = False,
) -> dict[str, Any]:
    """Time an annotated model in ONNX Runtime, noisy against all rates 0, and the harness.

    Parameters
    ----------
    model, data : str
        An annotated graph and a data set.
    clean : str, optional
        The same network without sites; it is timed in turn with the others.
    batch : int
    threads : int, optional
    custom_op_libraries : sequence of path
        As `NoisySession` takes them.
    quick : bool
        Fewer rounds.

    Returns
    -------
    dict
        ``zero_ms`` (all rates 0), ``clean_ms`` (None without `clean`), ``prepare_ms`` (applying
        the noise of weights and biases once, apart from the runs; None without such sites) and
        ``rows``: a list of rate, ms, ratio (to all rates 0) and ratio_clean; ``harness``: seconds
        of a sweep over the seconds of its ONNX Runtime runs.

    Raises
    ------
    InputError
        A file is missing, or model and data do not fit together.
    """
    from .dataset import load, prepare
    from .session import NoisySession

    session = NoisySession(model, threads=threads, custom_op_libraries=custom_op_libraries)
    images = load(data, size=session.image_size)
    batch = session.batch or min(batch, len(images))
    x = prepare(images.images[:batch], session.normalization, session.input_dtype)
    session.check_shape(x.shape)
    work: dict[Any, list[Callable[[], Any]]] = {
        rate: [functools.partial(session.run, x, rate, seed=seed) for seed in range(3)]
        for rate in (0.0, *MODEL_RATES)
    }
    if clean is not None:
        work["clean"] = [_clean_run(clean, x, threads)] * 3
    medians = interleaved(
        work,
        rounds=3 if quick else 9,
        seconds=0.0,
        clock=lambda: time.perf_counter() - session.prepare_seconds,
    )
    rows = [
        {
            "rate": rate,
            "ms": medians[rate] * 1e3,
            "ratio": medians[rate] / medians[0.0],
            "ratio_clean": medians[rate] / medians["clean"] if clean is not None else None,
        }
        for rate in MODEL_RATES
    ]
    return {
        "model": model,
        "batch": batch,
        "threads": threads,
        "zero_ms": medians[0.0] * 1e3,
        "clean_ms": medians["clean"] * 1e3 if clean is not None else None,
        "prepare_ms": _prepare_ms(session, x[:1] if session.batch is None else x),
        "rows": rows,
        "harness": _harness(session, images, batch, quick),
    }


def _clean_run(path: str, x: Any, threads: int | None) -> Callable[[], Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        feeds = {session.get_inputs()[0].name: x}
        session.run(None, feeds)
    except Exception as error:
        raise InputError(f"clean model {path}: {' '.join(str(error).split())[:200]}") from None
    return functools.partial(session.run, None, feeds)


def _prepare_ms(session: Any, x: Any) -> float | None:
    """Median time of applying the noise of weights and biases at the highest timed rate."""
    if not session.prepared_sites:
        return None
    spent = []
    for seed in range(5):
        before = session.prepare_seconds
        session.run(x, MODEL_RATES[-1], seed=seed)
        spent.append(session.prepare_seconds - before)
    return statistics.median(spent) * 1e3


def _harness(session: Any, data: Any, batch: int, quick: bool) -> dict[str, float]:
    """Time of a whole sweep over that of its ONNX Runtime runs."""
    from .sweep import sweep

    images = min(len(data), (2 if quick else 5) * batch)
    summary = sweep(
        session,
        data,
        list(HARNESS_RATES),
        trials=1 if quick else 2,
        images=images,
        batch_size=batch,
        progress=False,
    )
    return {
        "seconds": summary.seconds,
        "run_seconds": summary.run_seconds,
        "prepare_seconds": summary.prepare_seconds,
        "ratio": summary.seconds / summary.run_seconds,
    }


def import_seconds(*, quick: bool = False) -> dict[str, float]:
    """Median seconds of imports in fresh processes, Python's start aside.

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


def _seconds_in_a_process(statement: str, rounds: int) -> float:
    code = (
        f"import time; start = time.perf_counter(); {statement}; print(time.perf_counter() - start)"
    )
    command = [sys.executable, "-c", code]
    times = [
        float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        for _ in range(rounds)
    ]
    return statistics.median(times)


def machine() -> dict[str, Any]:
    """What the timings were taken on."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    from ..ortops import instruction_set
    from .environment import cpu_name

    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "instruction_set": instruction_set(),
        "load": load,
    }
