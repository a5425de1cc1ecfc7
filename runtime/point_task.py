# SPDX-License-Identifier: Apache-2.0
"""One measurement of a sweep, as a value that can be sent to another process, and its outcome."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ..ortops.errors import InputError
from .dataset import Dataset, load
from .environment import environment
from .evaluate import Evaluator
from .metrics import Metric, Scores
from .noisy_sites import NoisySites
from .ort_session import Provider
from .rates import noise_seed
from .session import NoisySession

#: Machine (x86_64, aarch64...) and execution provider: results of other kinds are other sweeps.
Kind = tuple[str, str]


@dataclass(frozen=True)
class Task:
    """What is to be measured.

    Attributes
    ----------
    point : (p01, p10, trial), or None
        None: the clean network.
    kind : (machine, provider), or None
        Where; None: anywhere.
    """

    point: tuple[float, float, int] | None
    kind: Kind | None = None


@dataclass(frozen=True)
class SweepNoise:
    """How the points of one sweep get their noise.

    Attributes
    ----------
    sites : NoisySites
        Which sites have a point's rates.
    bit_mask : int, list of int [sites], or None
    seed : int
        The user's.
    skip_clean : bool
        Do not run samples in which no bit flips.
    """

    sites: NoisySites
    bit_mask: int | list[int] | None
    seed: int
    skip_clean: bool


@dataclass(frozen=True)
class Outcome:
    """What a measurement gave. It needs no other: the clean network may come later than points.

    Attributes
    ----------
    task : Task
    samples : array of int64 [n], or None
        The samples that were run, ascending; None: all. The others have the clean scores.
    scores : Scores
        Of the samples that were run.
    classes : int or None
        Number of logits.
    seconds, run_seconds, prepare_seconds : float
        Spent in all; of these inside ONNX Runtime's ``run``, and on the noise of parameters.
    kind : (machine, provider)
    environment : dict
        Columns of the table ``runs``: where it was measured.
    """

    task: Task
    samples: npt.NDArray[np.int64] | None
    scores: Scores
    classes: int | None
    seconds: float
    run_seconds: float
    prepare_seconds: float
    kind: Kind
    environment: dict[str, Any]


class Queue(Protocol):
    """Tasks that are still to be taken. The consumer of outcomes may add to it at any time."""

    def take(self) -> Task | None:
        """Return the next task; None: there is none now."""
        ...

    def __len__(self) -> int:
        """Return the number of tasks left, at most."""
        ...


class Executor(Protocol):
    """Measures tasks somewhere.

    Attributes
    ----------
    kinds : list of (machine, provider)
        That there are. An outcome of yet another kind may come where a task names none.
    each : bool
        Every kind is to measure every point; else each point is measured once, anywhere.
    """

    kinds: list[Kind]
    each: bool

    def run(self, queue: Queue, tick: Callable[[int], None]) -> Generator[Outcome, None, None]:
        """Measure all tasks of the queue; yield their outcomes in any order.

        It ends when an outcome of each task was yielded and the queue is empty. Left before, it
        stops what it does.

        Parameters
        ----------
        queue : Queue
        tick : callable
            Told of samples that were run inside a task, where that is known.

        Raises
        ------
        InputError
            A measurement failed, or there is nobody to make it.
        """
        ...


@dataclass(frozen=True)
class EvaluatorSource:
    """What another process on this machine makes the same evaluator of.

    Attributes
    ----------
    model : str
        Path of the ONNX file.
    model_sha256, data_sha256 : str
        What is to be found there.
    providers, threads, libraries
        As `NoisySession` takes them.
    data : Dataset, or (spec, split)
        As `noisystore.runtime.dataset.load` takes them.
    images : int
    batch_size : int
    metric : callable or None
    """

    model: str
    model_sha256: str
    data_sha256: str
    providers: list[Provider]
    threads: int | None
    libraries: tuple[str, ...]
    data: Dataset | tuple[str, str]
    images: int
    batch_size: int
    metric: Metric | None

    def open(self) -> Evaluator:
        """Make the evaluator.

        Raises
        ------
        InputError
            As `NoisySession` and `load`, or the model or the data set has changed.
        """
        session = NoisySession(self.model, self.providers, self.threads, self.libraries)
        data = self.data
        if not isinstance(data, Dataset):
            data = load(*data, size=session.image_size)
        for name, wanted, got in (
            (f"model {self.model}", self.model_sha256, session.model_sha256),
            (f"data set {data.name}", self.data_sha256, data.sha256),
        ):
            if wanted != got:
                raise InputError(
                    f"{name}: changed while the sweep runs: expected SHA-256 {wanted[:12]}..., got "
                    f"{got[:12]}...: run the command again"
                )
        return Evaluator(session, data.head(self.images), self.batch_size, self.metric)


def kind_of(session: NoisySession) -> Kind:
    """Return the machine and the execution provider that a session runs on.

    With options of the provider that round: their results are others.
    """
    return platform.machine(), session.arithmetic


def measure(
    evaluator: Evaluator,
    noise: SweepNoise,
    task: Task,
    tick: Callable[[int], None] | None = None,
) -> Outcome:
    """Measure the clean network or one point.

    Parameters
    ----------
    evaluator : Evaluator
    noise : SweepNoise
    task : Task
        Its kind is not looked at.
    tick : callable, optional
        See `Evaluator.run`.

    Raises
    ------
    InputError
        As `Evaluator.run`.
    """
    session = evaluator.session
    start = time.perf_counter()
    before = session.run_seconds, session.prepare_seconds
    samples = None
    if task.point is None:
        scores = evaluator.run(0.0, noise.bit_mask, tick=tick)
    else:
        p01, p10, trial = task.point
        flips = (
            noise.sites.table((p01, p10)),
            noise.bit_mask,
            noise_seed(noise.seed, trial, p01, p10),
        )
        samples = evaluator.affected(*flips) if noise.skip_clean else None
        scores = Scores()
        if samples is None or len(samples):
            scores = evaluator.run(*flips, samples=samples, tick=tick)
    return Outcome(
        task=task,
        samples=samples,
        scores=scores,
        classes=evaluator.classes,
        seconds=time.perf_counter() - start,
        run_seconds=session.run_seconds - before[0],
        prepare_seconds=session.prepare_seconds - before[1],
        kind=kind_of(session),
        environment=environment(session),
    )
