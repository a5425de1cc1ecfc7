# SPDX-License-Identifier: Apache-2.0
"""Points measured by the workers of a Dask scheduler: sent ahead, fetched, and sent again."""

from __future__ import annotations

import asyncio
import contextlib
import queue as queues
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING

from ..ortops.errors import InputError
from . import cluster_worker
from .cluster_parcel import Parcel
from .cluster_roster import Answer, Roster, cancel, follow, gone, within
from .point_task import Kind, Outcome, Queue, Task

if TYPE_CHECKING:
    from distributed import Client, Future

#: Tasks that are sent ahead of each worker's results: it never waits for the client.
_AHEAD = 2
#: Seconds between two looks at who is there.
_LOOK = 1.0
#: Times that all workers die under a task before it is measured alone, and as often again then.
_STRIKES = 3


class ClusterExecutor:
    """Measures on the workers of a scheduler; see `noisystore.runtime.point_task.Executor`.

    Every worker is made ready by a task of its own, which brings model and data there once, and
    offers the scheduler a resource; the points ask for that resource, so that no other worker ever
    gets one. What a lost worker was to measure goes to others.

    Parameters
    ----------
    client : distributed.Client
    where : str
        The scheduler's address, for messages.
    parcel, mixed, patience, say
        See `Cluster`.
    """

    def __init__(
        self,
        client: Client,
        where: str,
        parcel: Parcel,
        mixed: str | None,
        patience: float,
        say: Callable[[str], None],
    ) -> None:
        self._client, self._where, self.mixed = client, where, mixed
        self._patience, self._token = patience, uuid.uuid4().hex[:12]
        self.each = mixed == "each"
        self.kinds: list[Kind] = []
        self._answers: queues.Queue[Answer] = queues.Queue()
        self._parcel = parcel.sent(client, self._token)
        self._roster = Roster(
            client, where, self._token, self._parcel.prepare, self._answers.put, say
        )
        self._flying: dict[Future, Task] = {}
        self._held: dict[Kind | None, deque[Task]] = {}
        self._suspects: deque[Task] = deque()
        self._killers: list[Task] = []
        self._sent = 0
        self._alone_since: float | None = None
        self._looked = 0.0
        self._asleep: set[Kind | None] = set()
        self._strikes: Counter[Task] = Counter()

    def start(self) -> None:
        """Make the workers ready that are there now, and see of what kinds they are.

        Raises
        ------
        InputError
            See `Cluster.executor`.
        """
        begin = time.monotonic()
        while not self._roster.ready() or self._roster.asked:
            if self._roster.ready() and time.monotonic() - begin > self._patience:
                break  # Others are busy with something else.
            self._look()
            if self._roster.refusals and not (self._roster.ready() or self._roster.asked):
                raise InputError(f"cluster {self._where}: {'; '.join(self._roster.refusals[:3])}")
            self._check_patience()
            for answer in self._landed():
                self._roster.told(answer)
        self.kinds = sorted({m.kind for m in self._roster.ready() if m.kind is not None})
        if len(self.kinds) > 1 and self.mixed is None:
            names = ", ".join(" ".join(kind) for kind in self.kinds)
            raise InputError(
                f"cluster {self._where}: its workers are of several kinds ({names}), whose results "
                "are kept apart: choose --mixed each (every kind measures every point) or --mixed "
                "any (each point is measured once)"
            )
        self._roster.accepted = self._accepted

    def run(self, queue: Queue, tick: Callable[[int], None]) -> Generator[Outcome, None, None]:
        """See `Executor.run`. Points that are still measured when it is left are cancelled.

        Raises
        ------
        InputError
            A point failed on a worker or ended all workers that tried it, the scheduler is gone,
            or there was no worker for too long.
        """
        try:
            while True:
                self._look()
                self._send(queue)
                if not (self._flying or self._suspects or any(self._held.values()) or len(queue)):
                    break
                self._check_patience()
                yield from self._outcomes()
        finally:
            self._cancel()
        if self._killers:
            raise InputError(
                f"cluster {self._where}: every worker that tried it died, for want of memory "
                f"perhaps: {_name(self._killers[0])}, one of {len(self._killers)} such"
            )

    def stop(self) -> None:
        """Let workers and scheduler forget the sweep."""
        self._cancel()
        with contextlib.suppress(Exception):
            self._parcel.release()
        ready = [member.address for member in self._roster.ready()]
        if ready:
            with contextlib.suppress(Exception):
                work = self._client.run(
                    cluster_worker.forget,
                    self._token,
                    workers=ready,
                    on_error="ignore",
                    asynchronous=True,
                )
                within(self._client, work, 5)

    def _accepted(self, kind: Kind) -> str:
        if kind in self.kinds or self.mixed == "any":
            return ""
        names = ", ".join(" ".join(known) for known in self.kinds)
        return f"this sweep began with workers of the kind {names}, this is {' '.join(kind)}"

    def _look(self) -> None:
        if time.monotonic() - self._looked >= _LOOK:
            self._roster.look()
            self._looked = time.monotonic()

    def _lane(self, task: Task) -> Kind | None:
        """Return the kind of workers that a task is for; None: any."""
        if task.kind is None and self.mixed != "any":
            return self.kinds[0]
        return task.kind

    def _send(self, queue: Queue) -> None:
        self._wake()
        busy = Counter(self._lane(task) for task in self._flying.values())
        lanes: list[Kind | None] = [None] if self.mixed == "any" else [*self.kinds]
        room = {
            lane: _AHEAD * len(self._roster.ready(lane)) - busy[lane]
            for lane in {*lanes, *self._held, *self.kinds}
        }
        for lane, held in self._held.items():
            while held and room[lane] > 0:
                self._launch(lane, held.popleft())
                room[lane] -= 1
        while any(room[lane] > 0 for lane in lanes):
            task = queue.take()
            if task is None:
                break
            lane = self._lane(task)
            if room.get(lane, 0) > 0:
                self._launch(lane, task)
                room[lane] -= 1
            else:
                self._hold(task)
        if self._suspects and not self._flying and not any(self._held.values()):
            # One alone, so that only the guilty one is blamed for the next death of a worker.
            task = self._suspects.popleft()
            self._launch(self._lane(task), task, alone=True)

    def _launch(self, lane: Kind | None, task: Task, alone: bool = False) -> None:
        self._sent += 1
        future = self._client.submit(
            cluster_worker.measure_task,
            self._token,
            task,
            key=f"noisystore_{'alone' if alone else 'point'}-{self._token}-{self._sent}",
            resources={cluster_worker.resource(self._token, lane): 1},
        )
        self._flying[future] = task
        follow(
            self._client, self._client.gather(future, asynchronous=True), future, self._answers.put
        )

    def _wake(self) -> None:
        """Send again what lanes were doing that had lost all their workers and have some again.

        The scheduler would not: it looks at such tasks when a worker comes, not when one offers a
        resource.
        """
        lanes = {self._lane(task) for task in self._flying.values()}
        asleep = {lane for lane in lanes if not self._roster.ready(lane)}
        woken = (self._asleep & lanes) - asleep
        lost = [f for f, task in self._flying.items() if self._lane(task) in woken]
        for future in lost:
            self._strike(future)
        cancel(self._client, lost)
        self._asleep = asleep

    def _strike(self, future: Future) -> None:
        """Have a task measured again whose workers have all died; blame it at last."""
        task, alone = self._flying.pop(future), _is_alone(future)
        self._strikes[task] += 1
        if alone and self._strikes[task] > 2 * _STRIKES:
            self._killers.append(task)
        elif alone or self._strikes[task] >= _STRIKES:
            self._suspects.append(task)
        else:
            self._hold(task)

    def _hold(self, task: Task) -> None:
        self._held.setdefault(self._lane(task), deque()).append(task)

    def _landed(self) -> list[Answer]:
        """Return what has been answered; wait a moment for the first."""
        landed = []
        with contextlib.suppress(queues.Empty):
            landed.append(self._answers.get(timeout=_LOOK / 2))
            while True:
                landed.append(self._answers.get_nowait())
        return landed

    def _outcomes(self) -> Iterator[Outcome]:
        for answer in self._landed():
            task = self._flying.pop(answer.ticket, None)
            if task is None:
                self._roster.told(answer)
                continue
            answer.ticket.release()
            if answer.error is None:
                yield answer.value
            else:
                self._failed(task, answer)

    def _failed(self, task: Task, answer: Answer) -> None:
        """Deal with a task that failed: raise, or have it measured again."""
        from distributed import KilledWorker

        error = answer.error
        if isinstance(error, asyncio.CancelledError):
            raise gone(self._where)
        if isinstance(error, cluster_worker.NotReady):
            self._roster.again(str(error))
            self._hold(task)
        elif isinstance(error, KilledWorker):
            (self._killers if _is_alone(answer.ticket) else self._suspects).append(task)
        elif isinstance(error, InputError):
            raise error
        else:
            text = " ".join(str(error).split())
            raise InputError(f"cluster {self._where}: {type(error).__name__}: {text}")

    def _check_patience(self) -> None:
        """Raise InputError if there is work but was no worker for it for too long."""
        waiting = {self._lane(task) for task in self._flying.values()}
        waiting |= {lane for lane, held in self._held.items() if held}
        idle = not waiting or not any(self._roster.ready(lane) for lane in waiting)
        if self._roster.coming or not idle or (not waiting and self._roster.ready()):
            self._alone_since = None
            return
        now = time.monotonic()
        if self._alone_since is None:
            self._alone_since = now
        if now - self._alone_since >= self._patience:
            silent = [f"worker {one}: registered, but no answer" for one in self._roster.silent]
            others = "".join(f"; {reason}" for reason in (*self._roster.refusals[:3], *silent[:3]))
            raise InputError(
                f"cluster {self._where}: no worker was ready for {self._patience:g} s: start some "
                f"(`noisystore worker {self._where}`), then run the same command{others}"
            )

    def _cancel(self) -> None:
        futures = [*self._flying, *self._roster.futures()]
        self._flying.clear()
        cancel(self._client, futures)


def _is_alone(future: Future) -> bool:
    return str(future.key).startswith("noisystore_alone")


def _name(task: Task) -> str:
    if task.point is None:
        return "the clean network"
    p01, p10, trial = task.point
    return f"rates {p01:g}/{p10:g} trial {trial}"
