# SPDX-License-Identifier: Apache-2.0
"""Speed, memory, start-up time and energy of an annotated model in ONNX Runtime."""

from __future__ import annotations

import functools
import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy.typing as npt

from ..ortops.errors import InputError
from .bench import CLEAN, NOISY, interleaved
from .bench_energy import Run, bench_energy
from .bench_process import memory, start_up
from .dataset import Dataset, load, prepare
from .model_file import check_model_path, model_sha256
from .ort_session import Provider, SessionMaker
from .session import NoisySession
from .texts import one_line

MODEL_RATES = (1e-6, 1e-4, 1e-2, 0.1)
HARNESS_RATES = (1e-5, 1e-4, 1e-3, 1e-2)
ENERGY_RATES = (0.0, 1e-4)

#: A batch [N, ...], as the network takes it.
Images = npt.NDArray[Any]
Clean = Callable[[Images], Any]


def bench_model(
    model: str,
    data: str,
    *,
    clean: str | None = None,
    batch: int = 100,
    threads: int | None = None,
    providers: Sequence[str | Provider] | str | None = None,
    custom_op_libraries: Sequence[str | os.PathLike[str]] = (),
    quick: bool = False,
    root: str = "/",
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure an annotated model in ONNX Runtime.

    Parameters
    ----------
    model, data : str
        An annotated graph and a data set.
    clean : str, optional
        The same network without sites; it is timed in turn with the others.
    batch : int
        Images a run; a model that fixes the number keeps its own.
    threads, providers, custom_op_libraries
        As `NoisySession` takes them.
    quick : bool
        Fewer rounds.
    root : str
        Where ``sys/`` lies, which has the energy meters.
    progress : callable
        Is told what is being done.

    Returns
    -------
    dict
        ``model``: what was run and how; ``zero_ms`` (all rates 0), ``clean_ms`` (None without
        `clean`), ``prepare_ms`` (applying the noise of weights and biases once, apart from the
        runs; None without such sites), ``rows``: a list of rate, ms, ratio (to all rates 0) and
        ratio_clean; ``harness``: seconds of a sweep over the seconds of its ONNX Runtime runs.

        ``throughput``: a list of graph (``noisy``, ``without sites``), rate (None without sites),
        batch, ms and images_per_second. ``start_up`` and ``memory``: see `bench_process`.
        ``energy``: see `bench_energy`.

    Raises
    ------
    InputError
        A file is missing, or model and data do not fit together.
    """
    progress("model in ONNX Runtime ...")
    session = NoisySession(model, providers, threads, custom_op_libraries)
    images = load(data, size=session.image_size)
    batch = session.batch or min(batch, len(images))
    x = prepare(images.images[:batch], session.normalization, session.input_dtype)
    session.check_shape(x.shape)
    one = x if session.batch else x[:1]
    without = None if clean is None else _clean_run(clean, session, x)
    rounds = 3 if quick else 9
    medians = _medians(session, without, x, rounds, 0.0)
    by_batch = {batch: medians}
    if len(one) != batch:
        progress("one image at a time ...")
        # Short runs are repeated, but for those that prepare weights each time.
        seconds = 0.0 if session.prepared_sites else 0.05
        by_batch[1] = _medians(session, without, one, rounds, seconds)
    rows = [
        {
            "rate": rate,
            "ms": medians[rate] * 1e3,
            "ratio": medians[rate] / medians[0.0],
            "ratio_clean": medians[rate] / medians[CLEAN] if without is not None else None,
        }
        for rate in MODEL_RATES
    ]
    result: dict[str, Any] = {
        "model": {
            "model": model,
            "name": session.path.name,
            "sha256": session.model_sha256,
            "clean_sha256": None if clean is None else model_sha256(clean),
            "sites": len(session.sites),
            "formats": sorted({site.word_format or "native" for site in session.sites}),
            "data": images.name,
            "image": list(x.shape[1:]),
            "provider": session.arithmetic,
            "batch": batch,
            "threads": threads,
            "zero_ms": medians[0.0] * 1e3,
            "clean_ms": medians[CLEAN] * 1e3 if without is not None else None,
            "prepare_ms": _prepare_ms(session, one),
            "rows": rows,
        },
        "throughput": _throughput(by_batch),
    }
    progress("harness ...")
    result["model"]["harness"] = _harness(session, images, batch, quick)
    progress("start-up and memory ...")
    result["start_up"] = start_up(session, one, quick=quick)
    result["memory"] = memory(session, x, MODEL_RATES[-1])
    result["energy"] = bench_energy(
        _energy_runs(session, without, x), batch, session.provider, quick, root, progress
    )
    return result


def _medians(
    session: NoisySession,
    clean: Clean | None,
    x: Images,
    rounds: int,
    seconds: float,
) -> dict[Any, float]:
    excluded = 0.0

    def run(rate: float, seed: int) -> None:
        """Run once; where a trial's session is new, once more, and do not count the first."""
        nonlocal excluded
        start, before = time.perf_counter(), session.prepare_seconds
        session.run(x, rate, seed=seed)
        prepared = session.prepare_seconds - before
        if prepared:
            excluded += time.perf_counter() - start - prepared
            session.run(x, rate, seed=seed)

    work: dict[Any, list[Callable[[], Any]]] = {
        rate: [functools.partial(run, rate, seed) for seed in range(3)]
        for rate in (0.0, *MODEL_RATES)
    }
    if clean is not None:
        work[CLEAN] = [functools.partial(clean, x)] * 3
    return interleaved(
        work,
        rounds=rounds,
        seconds=seconds,
        clock=lambda: time.perf_counter() - session.prepare_seconds - excluded,
    )


def _throughput(by_batch: dict[int, dict[Any, float]]) -> list[dict[str, Any]]:
    return [
        {
            "graph": CLEAN if kind == CLEAN else NOISY,
            "rate": None if kind == CLEAN else kind,
            "batch": batch,
            "ms": seconds * 1e3,
            "images_per_second": batch / seconds,
        }
        for batch, medians in by_batch.items()
        for kind, seconds in medians.items()
    ]


def _clean_run(path: str, noisy: NoisySession, x: Images) -> Clean:
    """Return what runs the network without sites, with the settings of the other."""
    maker = SessionMaker(
        check_model_path(path), noisy.maker.providers, noisy.threads, noisy.maker.libraries
    )
    try:
        session = maker.from_file()
    except InputError as error:
        raise InputError(f"clean {error}") from None
    name = session.get_inputs()[0].name

    def run(images: Images) -> Any:
        return session.run(None, {name: images})

    try:
        run(x)
    except Exception as error:
        raise InputError(f"clean model {path}: {one_line(error)}") from None
    return run


def _prepare_ms(session: NoisySession, x: Images) -> float | None:
    """Median time of applying the noise of weights and biases at the highest timed rate."""
    if not session.prepared_sites:
        return None
    spent = []
    for seed in range(5):
        before = session.prepare_seconds
        session.run(x, MODEL_RATES[-1], seed=seed)
        spent.append(session.prepare_seconds - before)
    return statistics.median(spent) * 1e3


def _harness(session: NoisySession, data: Dataset, batch: int, quick: bool) -> dict[str, float]:
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


def _energy_runs(session: NoisySession, clean: Clean | None, x: Images) -> list[Run]:
    # One seed: with another, noisy weights would be prepared again in every run.
    runs = [Run(NOISY, rate, functools.partial(session.run, x, rate)) for rate in ENERGY_RATES]
    return runs if clean is None else [Run(CLEAN, None, functools.partial(clean, x)), *runs]
