# SPDX-License-Identifier: Apache-2.0
"""The points of one sweep: which are wanted, what they cost, and how they are kept."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing

import numpy as np

from ..ortops.errors import InputError
from .evaluate import COUNTED_FLIPS, Evaluator, expected_flips
from .interrupt import Interrupted, terminable
from .metrics import Scores
from .midpoint import check_clean
from .point_task import Executor, Kind, Outcome, SweepNoise, Task
from .progress import Progress
from .results import Point, Results
from .sweep_record import SweepLabels, SweepRecord, point_key


class SweepPoints:
    """The points of one model, data set, mask, seed and choice of sites, in the results.

    Parameters
    ----------
    evaluator : Evaluator
    store : Results
    noise : SweepNoise
    labels : SweepLabels
    elsewhere : sequence of (machine, provider)
        Further kinds whose stored points count, where a point may be measured anywhere.

    Attributes
    ----------
    measured, skipped : int
        Points measured, and samples of them that were not run, so far.
    run_seconds, prepare_seconds : float
        Spent inside ONNX Runtime, and on the noise of parameters, by all workers so far.
    inferences : int
        Samples run so far.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        store: Results,
        noise: SweepNoise,
        labels: SweepLabels,
        elsewhere: Sequence[Kind] = (),
    ) -> None:
        self._evaluator, self._store = evaluator, store
        self._noise, self._labels, self._elsewhere = noise, labels, elsewhere
        self._records: dict[Kind, SweepRecord] = {}
        self.measured = self.inferences = 0
        self.run_seconds = self.prepare_seconds = 0.0

    @property
    def keys(self) -> list[str]:
        """Keys of the sweeps in the results: one a kind of machine."""
        return [record.key for record in self._records.values()]

    @property
    def skipped(self) -> int:
        """Samples of the points measured now that were not run."""
        return sum(record.skipped for record in self._records.values())

    def measure(
        self,
        wanted: list[tuple[float, float, int]],
        executor: Executor,
        show: bool | None,
        say: Sequence[str] = (),
    ) -> None:
        """Measure and store the wanted points (p01, p10, trial) that are not stored yet.

        Parameters
        ----------
        wanted : list of (p01, p10, trial)
        executor : Executor
        show : bool, optional
            See `Progress`.
        say : sequence of str
            Lines to be said first, if anything is measured.

        Raises
        ------
        InputError
            As `Executor.run`, or the results cannot be written.
        Interrupted
            By a signal.
        """
        tasks = self._missing(wanted, executor)
        costs = {task.point: self._cost(task) for task in tasks}
        stored, everything = self._progress(wanted, tasks, executor)
        work = sum(costs[task.point] for task in tasks)
        bar = Progress(work, everything, show if tasks else False, stored=stored)
        classes = self._evaluator.session.classes
        earlier = [r.clean for r in self._records.values() if r.clean is not None]
        notes = [*say, *(note for clean in earlier for note in _doubt(clean, classes))]

        def begin(task: Task) -> bool:
            bar.start(_label(task))
            if not self._stored(task):
                return True
            bar.finish(costs[task.point], _label(task))
            return False

        queue = _Queue(tasks, begin)
        try:
            with terminable(), closing(executor.run(queue, bar.tick)) as outcomes:
                bar.say(*dict.fromkeys(notes if tasks else ()))
                for outcome in outcomes:
                    record = self._record(outcome.kind)
                    if outcome.task.point is not None and record.clean is None:
                        queue.want_clean(outcome.kind)
                    points = record.add(outcome)
                    self.measured += len(points)
                    self._count(outcome)
                    label = _label(outcome.task)
                    if points:
                        label += f"  {_result(points[-1])}"
                    if outcome.task.point is None:
                        bar.say(*_doubt(outcome.scores, outcome.classes))
                    cost = costs.get(outcome.task.point, 0.0)
                    bar.finish(cost, label, points=int(outcome.task.point is not None))
        except KeyboardInterrupt as error:
            number = error.signal if isinstance(error, Interrupted) else signal.SIGINT
            raise Interrupted(self._stopped(wanted, executor), number) from None
        except InputError as error:
            if self._store.path is None or not (self.measured or "results file" in str(error)):
                raise
            raise InputError(f"{error} ({self.measured} points stored by this run)") from None
        finally:
            bar.close()

    def _missing(self, wanted: list[tuple[float, float, int]], executor: Executor) -> list[Task]:
        """Return what is still to be measured, the clean networks first."""
        kinds = dict.fromkeys([*executor.kinds, *self._elsewhere])
        done = {kind: self._record(kind).measured() for kind in kinds}
        anywhere = set().union(*done.values())
        tasks = []
        for point in wanted:
            key = point_key(point)
            if executor.each:
                tasks += [Task(point, kind) for kind in executor.kinds if key not in done[kind]]
            elif key not in anywhere:
                tasks.append(Task(point))
        working = {task.kind for task in tasks}
        clean = [
            Task(None, kind)
            for kind in executor.kinds
            if self._record(kind).clean is None and working & {kind, None}
        ]
        return clean + tasks

    def _record(self, kind: Kind) -> SweepRecord:
        if kind not in self._records:
            self._records[kind] = SweepRecord(
                self._evaluator, self._noise, self._labels, kind, self._store
            )
        return self._records[kind]

    def _stored(self, task: Task) -> bool:
        """Return whether another process has stored a point meanwhile."""
        if task.point is None:
            return False
        kinds = self._records if task.kind is None else [task.kind]
        return any(self._records[kind].has(task.point) for kind in kinds)

    def _count(self, outcome: Outcome) -> None:
        images = len(self._evaluator) if outcome.samples is None else len(outcome.samples)
        self.inferences += images
        self.run_seconds += outcome.run_seconds
        self.prepare_seconds += outcome.prepare_seconds

    def _stopped(self, wanted: list[tuple[float, float, int]], executor: Executor) -> str:
        number, everything = self._progress(wanted, self._missing(wanted, executor), executor)
        stored = f"{number} of {everything} points"
        if self._store.path is None:
            return f"interrupted after {stored}, which were in memory only"
        return (
            f"interrupted: {stored} are in {self._store.path}; the same command goes on from there"
        )

    def _progress(
        self, wanted: list[tuple[float, float, int]], missing: list[Task], executor: Executor
    ) -> tuple[int, int]:
        """Return how many points are stored, and how many are wanted."""
        everything = len(wanted) * (len(executor.kinds) if executor.each else 1)
        return everything - sum(task.point is not None for task in missing), everything

    def _cost(self, task: Task) -> float:
        """Return the number of samples that a task is expected to run."""
        images = len(self._evaluator)
        if task.point is None or not self._noise.skip_clean:
            return float(images)
        rates = self._noise.sites.table(task.point[:2])
        flips = expected_flips(self._evaluator.session.sites, rates, self._noise.bit_mask)
        if flips > COUNTED_FLIPS:
            return float(images)
        return max(1.0, images * -float(np.expm1(-flips)))


class _Queue:
    """Tasks in order; those that need not be done any more are passed over."""

    def __init__(self, tasks: list[Task], begin: Callable[[Task], bool]) -> None:
        self._tasks, self._begin = deque(tasks), begin
        self._clean = {task.kind for task in tasks if task.point is None}

    def take(self) -> Task | None:
        while self._tasks:
            task = self._tasks.popleft()
            if self._begin(task):
                return task
        return None

    def want_clean(self, kind: Kind) -> None:
        """Add the clean network of a kind that came late, once."""
        if kind not in self._clean:
            self._clean.add(kind)
            self._tasks.appendleft(Task(None, kind))

    def __len__(self) -> int:
        return len(self._tasks)


def _label(task: Task) -> str:
    if task.point is None:
        return "clean network"
    p01, p10, trial = task.point
    rate = f"{p01:.3g}" if p01 == p10 else f"{p01:.3g}/{p10:.3g}"
    return f"{rate} trial {trial}"


def _result(point: Point) -> str:
    value = point.agreement if point.correct is None else point.correct
    name = "agreement" if point.correct is None else "accuracy"
    text = f"metric {point.metric:.4g}" if value is None else f"{name} {value / point.images:.4f}"
    return f"{text}  {1 - point.n_run / point.images:.0%} of samples skipped"


def _doubt(clean: Scores, classes: int | None) -> list[str]:
    """Return a warning where a network hardly does more than guess."""
    if clean.correct is None or classes is None:
        return []
    accuracy, images, chance = float(clean.correct.mean()), len(clean.correct), 1 / classes
    try:
        check_clean(accuracy, chance, images)
    except InputError:
        return [
            f"warning: clean accuracy {accuracy:.4f} is not clearly above chance ({chance:.4g}), "
            f"of {images:,} images: is the model trained, and are images normalized as in training?"
        ]
    return []
