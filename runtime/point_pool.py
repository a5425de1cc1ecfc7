# SPDX-License-Identifier: Apache-2.0
"""Where points are measured on one machine: in this process, or in several."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import connection, resource_tracker
from pathlib import Path

import numpy as np

from ..ortops.errors import InputError
from .dataset import Dataset
from .evaluate import Evaluator
from .interrupt import uninterrupted
from .metrics import Metric
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
        if not _can_be_sent(source.metric):
            raise InputError(
                "metric: several workers take a function of a module, which other processes can "
                "import, not one of a notebook or made inside another: use workers=1"
            )

    def run(self, queue: Queue, tick: Callable[[int], None]) -> Generator[Outcome, None, None]:
        """See `Executor.run`. Processes that are still at work when it is left are killed."""
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
                    # A process that is started by half would say so.
                    with uninterrupted(), _signals_blocked():
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
            # Those of this pool: another thread may sweep, too.
            for process in list((pool._processes or {}).values()):
                process.kill()
            pool.shutdown(cancel_futures=True)


class Spread:
    """Measures in this process, and in several once it is seen that the sweep is a long one.

    Parameters
    ----------
    here : Here
    processes : callable
        From the most processes that there may be to `Processes`.
    """

    each = False

    def __init__(self, here: Here, processes: Callable[[int], Processes]) -> None:
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
            fit = processes_that_fit()
            executor = self._processes(fit) if fit > 1 else self._here
            yield from executor.run(queue, tick)


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
    auto = workers == "auto"
    number, each = split_cores(None if auto else int(workers), threads)
    if number == 1:
        return here
    if auto and (session.provider != "CPUExecutionProvider" or not _can_be_sent(evaluator.metric)):
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

    def processes(most: int) -> Processes:
        few, each = split_cores(min(number, most), threads)
        return Processes(replace(source, threads=each), noise, few, kind_of(session))

    return Spread(here, processes) if auto else processes(number)


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


def processes_that_fit() -> int:
    """Return how many processes as large as this one the free memory holds."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        free = 1024 * _entry(Path("/proc/meminfo"), "MemAvailable:")
    except (OSError, ValueError):
        return sys.maxsize
    group = Path("/sys/fs/cgroup")
    try:
        most, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        # Cached files make way.
        free = min(free, most - used + _entry(group / "memory.stat", "inactive_file"))
    except (OSError, ValueError):  # No container, or one without a limit.
        pass
    return max(0, free) // (pages * os.sysconf("SC_PAGE_SIZE"))


def _entry(path: Path, name: str) -> int:
    """Return a number of a file of lines "name number ...". ValueError: there is none."""
    for line in path.read_text().splitlines():
        if line.startswith(f"{name} "):
            return int(line.split()[1])
    raise ValueError(name)


def _can_be_sent(metric: Metric | None) -> bool:
    """Return whether another process can be given a metric."""
    if getattr(metric, "__module__", "") == "__main__" and not hasattr(
        sys.modules["__main__"], "__file__"
    ):
        return False  # Of a notebook: it can be pickled, but found by no other process.
    try:
        pickle.dumps(metric)
    except Exception:
        return False
    return True


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Let processes that start now never have Ctrl-C and SIGTERM, which are their parent's."""
    resource_tracker.ensure_running()  # It would unblock them.
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


_evaluator: Evaluator
_noise: SweepNoise
_failed: InputError | None = None


def _start(source: EvaluatorSource, noise: SweepNoise) -> None:
    """Make a worker process ready; what fails is told by its first task."""
    global _evaluator, _noise, _failed
    # Without a parent there is nothing to live for.
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
