# SPDX-License-Identifier: Apache-2.0
"""Where points are measured on one machine: in this process, or in several."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from pathlib import Path

import numpy as np

from ..ortops.errors import InputError
from .dataset import Dataset
from .evaluate import Evaluator
from .point_task import (
    EvaluatorSource,
    Executor,
    Kind,
    Outcome,
    Queue,
    SweepNoise,
    Task,
    kind_of,
    measure,
)

#: Seconds after which a sweep that is left to itself is spread over processes, and the least that
#: must then be left to do: a process takes a second or two to load ONNX Runtime and the model.
SPREAD_AFTER, SPREAD_FOR = 2.0, 10.0


class Here:
    """Measures in this process, one task after the other.

    Parameters
    ----------
    evaluator : Evaluator
    noise : SweepNoise
    """

    each = False

    def __init__(self, evaluator: Evaluator, noise: SweepNoise) -> None:
        self._evaluator, self._noise = evaluator, noise
        self.kinds: list[Kind] = [kind_of(evaluator.session)]

    def run(self, queue: Queue, tick: Callable[[int], None]) -> Generator[Outcome, None, None]:
        """See `Executor.run`."""
        while (task := queue.take()) is not None:
            yield measure(self._evaluator, self._noise, task, tick)


class Processes:
    """Measures in several processes of this machine, which share its cores.

    Parameters
    ----------
    source : EvaluatorSource
    noise : SweepNoise
    workers : int
    kind : (machine, provider)

    Raises
    ------
    InputError
        The metric cannot be sent to another process.
    """

    each = False

    def __init__(
        self, source: EvaluatorSource, noise: SweepNoise, workers: int, kind: Kind
    ) -> None:
        self._source, self._noise, self._workers = source, noise, workers
        self.kinds: list[Kind] = [kind]
        try:
            pickle.dumps(source.metric)
        except Exception:
            raise InputError(
                "metric: several workers take a function of a module, which other processes can "
                "import, not one that was made inside another: use workers=1"
            ) from None

    def run(self, queue: Queue, tick: Callable[[int], None]) -> Generator[Outcome, None, None]:
        """See `Executor.run`. Processes that are still at work when it is left are killed."""
        others = set(multiprocessing.active_children())
        # Not fork: ONNX Runtime's threads do not survive it.
        pool = ProcessPoolExecutor(
            max(1, min(self._workers, len(queue))),
            multiprocessing.get_context("spawn"),
            _start,
            (self._source, self._noise),
        )
        waiting: set[Future[Outcome]] = set()
        try:
            while True:
                while len(waiting) < 2 * self._workers and (task := queue.take()) is not None:
                    waiting.add(pool.submit(_measure, task))
                if not waiting:
                    return
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        except BrokenProcessPool:
            raise InputError(
                "workers: one of the processes died, for want of memory perhaps: use fewer "
                '--workers (in a script: is sweep() called under `if __name__ == "__main__"`?)'
            ) from None
        finally:
            for process in set(multiprocessing.active_children()) - others:
                process.kill()
            pool.shutdown(cancel_futures=True)


class Spread:
    """Measures in this process, and in several once it is seen that the sweep is a long one.

    Parameters
    ----------
    here : Here
    processes : Processes
    """

    each = False

    def __init__(self, here: Here, processes: Processes) -> None:
        self._here, self._processes = here, processes
        self.kinds = here.kinds

    def run(self, queue: Queue, tick: Callable[[int], None]) -> Generator[Outcome, None, None]:
        """See `Executor.run`."""
        start = time.perf_counter()
        for measured, outcome in enumerate(self._here.run(queue, tick), 1):
            yield outcome
            spent = time.perf_counter() - start
            if spent > SPREAD_AFTER and len(queue) * spent / measured > SPREAD_FOR:
                break
        if len(queue):
            yield from self._processes.run(queue, tick)


def local_executor(
    evaluator: Evaluator,
    noise: SweepNoise,
    data: Dataset | tuple[str, str],
    workers: int | str,
    threads: int | None,
) -> Executor:
    """Return what measures on this machine.

    Parameters
    ----------
    evaluator : Evaluator
    noise : SweepNoise
    data : Dataset, or (spec, split)
        What other processes make the evaluator's data set of.
    workers : int or "auto"
    threads : int or None
        Of each worker.

    Raises
    ------
    InputError
        A bad number of workers, or the metric cannot be sent to other processes.
    """
    if workers != "auto" and (not isinstance(workers, (int, np.integer)) or workers < 1):
        raise InputError(f'workers: expected a positive integer or "auto", got {workers!r}')
    session = evaluator.session
    here = Here(evaluator, noise)
    number, each = split_cores(None if workers == "auto" else int(workers), threads)
    auto = workers == "auto"
    if number == 1 or (auto and session.provider != "CPUExecutionProvider"):
        return here
    source = EvaluatorSource(
        model=str(session.path),
        model_sha256=session.model_sha256,
        data_sha256=evaluator.data.sha256,
        providers=session.maker.providers,
        threads=each,
        libraries=session.maker.libraries,
        data=data,
        images=len(evaluator),
        batch_size=evaluator.batch_size,
        metric=evaluator.metric,
    )
    processes = Processes(source, noise, number, kind_of(session))
    return Spread(here, processes) if auto else processes


def available_cores() -> int:
    """Return the number of processor cores that this process may use, a container's limit too."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):
        return cores


def split_cores(workers: int | None, threads: int | None) -> tuple[int, int]:
    """Return how many processes, and how many threads in each, use the cores best.

    Whatever is given stays. A process with one thread a core is the best split: see
    ``benchmarks/workers.py``.

    Parameters
    ----------
    workers, threads : int or None
    """
    cores = available_cores()
    if workers is None:
        workers = max(1, cores // (threads or 1))
    return workers, threads or max(1, cores // workers)


_evaluator: Evaluator
_noise: SweepNoise
_failed: InputError | None = None


def _start(source: EvaluatorSource, noise: SweepNoise) -> None:
    """Make a worker process ready; what fails is told by its first task."""
    global _evaluator, _noise, _failed
    # Ctrl-C is the parent's to handle; without a parent there is nothing to live for.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_die_with, args=(parent.sentinel,), daemon=True).start()
    try:
        _evaluator, _noise = source.open(), noise
    except InputError as error:
        _failed = error


def _die_with(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


def _measure(task: Task) -> Outcome:
    if _failed is not None:
        raise _failed
    return measure(_evaluator, _noise, task)
