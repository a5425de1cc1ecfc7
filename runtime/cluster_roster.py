# SPDX-License-Identifier: Apache-2.0
"""The workers of a cluster, as one sweep sees them: asked for versions, made ready, or refused."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from ..ortops.errors import InputError
from . import cluster_worker
from .point_task import Kind

if TYPE_CHECKING:
    from distributed import Client, Future

#: After as many workers have died while they loaded the model, a sweep without any gives up.
_DEATHS = 4
_SECONDS = 15.0

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Answer:
    """What has become of something that was asked of a worker.

    Attributes
    ----------
    ticket : object
        What tells it from others: the Future of a task.
    value : object
        The result.
    error : BaseException or None
        What was raised instead.
    """

    ticket: Any
    value: Any
    error: BaseException | None


@dataclass
class Member:
    """One worker.

    Attributes
    ----------
    address, name : str
    ticket : Future, object or None
        Of what it was asked last; None: it has answered everything.
    kind : (machine, provider), or None
        Not None: it is ready.
    refused : str
        Why it gets no points; empty: it does.
    greeted : bool
        Its versions are right.
    stock : frozenset of str
        SHA-256 of models and data that it has.
    """

    address: str
    name: str
    ticket: Any = None
    kind: Kind | None = None
    refused: str = ""
    greeted: bool = False
    stock: frozenset[str] = frozenset()


class Roster:
    """Keeps track of a scheduler's workers, late ones too.

    Parameters
    ----------
    client : distributed.Client
    where : str
        The scheduler's address, for messages.
    token : str
        Of the sweep.
    prepare : callable
        (address, key, stock) -> Future of `cluster_worker.prepare` on the worker with this
        address, which has what is in stock.
    tell : callable
        Called with each `Answer`, in another thread.
    say : callable
        Called with a line for the user.

    Attributes
    ----------
    accepted : callable
        Kind -> reason to refuse it, or empty.
    """

    def __init__(
        self,
        client: Client,
        where: str,
        token: str,
        prepare: Callable[[str, str, frozenset[str]], Future],
        tell: Callable[[Answer], None],
        say: Callable[[str], None],
    ) -> None:
        self._client, self._where, self._token = client, where, token
        self._prepare, self._tell, self._say = prepare, tell, say
        self._members: dict[str, Member] = {}
        self._asked = self._deaths = 0
        self._wanted = cluster_worker.versions()
        self.accepted: Callable[[Kind], str] = lambda kind: ""

    def look(self) -> None:
        """Ask the scheduler for its workers: greet the new ones, strike off those that are gone.

        Raises
        ------
        InputError
            The scheduler is gone, or worker after worker dies while it loads the model.
        """
        try:
            found = within(
                self._client,
                self._client.run_on_scheduler(cluster_worker.workers_of, asynchronous=True),
            )
        except asyncio.TimeoutError:
            return  # It is busy.
        except (OSError, RuntimeError) as error:
            raise gone(self._where) from error
        except ImportError as error:
            raise InputError(
                f"cluster: expected NoisyStore where the scheduler runs, too: {error}"
            ) from None
        for identity in set(self._members) - set(found):
            self._lose(self._members.pop(identity))
        for identity, (address, name) in found.items():
            member = self._members.setdefault(identity, Member(address, name))
            if member.ticket is None and not member.greeted and not member.refused:
                self._ask(member)

    def told(self, answer: Answer) -> None:
        """Take an answer, if it is one that was waited for.

        Raises
        ------
        InputError
            The scheduler is gone.
        """
        found = [i for i, m in self._members.items() if m.ticket is answer.ticket]
        if not found:
            return
        member = self._members[found[0]]
        member.ticket = None
        if isinstance(answer.error, asyncio.CancelledError):
            raise gone(self._where)
        if isinstance(answer.error, OSError):
            # The next look finds out whether it is there, and asks again.
            self._members[found[0]] = Member(member.address, member.name)
        elif isinstance(answer.error, cluster_worker.NotReady) and member.stock:
            member.stock = frozenset()  # What it had is gone: it gets all.
            self._ask(member)
        elif answer.error is not None:
            self._refuse(member, _reason(answer.error, member.greeted))
        elif member.greeted:
            self._admit(member, answer.value)
        else:
            self._compare(member, answer.value)

    def _compare(self, member: Member, versions: dict[str, str]) -> None:
        for name, wanted in self._wanted.items():
            if versions.get(name) != wanted:
                self._refuse(member, f"expected {name} {wanted}, got {versions.get(name)}")
                return
        member.greeted = True
        member.stock = frozenset(versions.get("stock", "").split())
        self._ask(member)

    def _admit(self, member: Member, kind: Kind) -> None:
        refused = self.accepted(kind)
        if refused:
            self._refuse(member, refused)
        else:
            member.kind = kind

    def again(self, address: str) -> None:
        """Make a worker ready once more: it has forgotten the sweep."""
        for member in self._members.values():
            if member.address == address and member.kind is not None:
                member.kind = None
                self._ask(member)

    def ready(self, kind: Kind | None = None) -> list[Member]:
        """Return the workers that get points, of one kind or all."""
        members = [m for m in self._members.values() if m.kind is not None and not m.refused]
        return [m for m in members if kind in (None, m.kind)]

    @property
    def asked(self) -> bool:
        """Whether a worker has not answered yet."""
        return any(member.ticket is not None for member in self._members.values())

    @property
    def coming(self) -> bool:
        """Whether a worker loads model and data."""
        return any(m.ticket is not None and m.greeted for m in self._members.values())

    @property
    def refusals(self) -> list[str]:
        """Why workers that are there are not used, one line each."""
        return [f"worker {m.name}: {m.refused}" for m in self._members.values() if m.refused]

    @property
    def silent(self) -> list[str]:
        """Which workers have registered, but never answered."""
        members = [m for m in self._members.values() if not m.greeted and not m.refused]
        return [m.name if m.name == m.address else f"{m.name} ({m.address})" for m in members]

    def futures(self) -> list[Future]:
        """Return the tasks that make workers ready now."""
        return [m.ticket for m in self._members.values() if m.ticket is not None and m.greeted]

    def _ask(self, member: Member) -> None:
        self._asked += 1
        if member.greeted:
            key = f"noisystore_prepare-{self._token}-{self._asked}"
            member.ticket = self._prepare(member.address, key, member.stock)
            work = self._client.gather(member.ticket, asynchronous=True)
        else:
            # No task: one that a worker cannot unpickle would end it.
            member.ticket = object()
            work = self._versions(member.address)
        follow(self._client, work, member.ticket, self._tell)

    async def _versions(self, address: str) -> dict[str, str]:
        call = self._client.run(cluster_worker.greeting, workers=[address], asynchronous=True)
        versions: dict[str, str] = (await call)[address]
        return versions

    def _refuse(self, member: Member, reason: str) -> None:
        member.refused = reason.removeprefix(f"worker {member.name}: ")
        self._say(f"worker {member.name} is not used: {member.refused}")

    def _lose(self, member: Member) -> None:
        if member.ticket is not None and member.greeted:
            cancel(self._client, [member.ticket])
        if member.kind is not None and not member.refused:
            self._say(f"worker {member.name} is gone: others measure its points again")
        if member.greeted and member.kind is None and not member.refused:
            self._deaths += 1
        if self._deaths >= _DEATHS and not self.ready():
            raise InputError(
                f"cluster: {self._deaths} workers died while they loaded model and data, the last "
                f"was {member.name}: have they enough memory?"
            )


def follow(
    client: Client,
    work: Coroutine[Any, Any, Any],
    ticket: Any,
    tell: Callable[[Answer], None],
) -> None:
    """Start a client's coroutine, and tell its result.

    Parameters
    ----------
    client : distributed.Client
    work : coroutine
        ``gather`` of a task waits until that is done, however often that takes.
    ticket : object
        For the answer.
    tell : callable
        Called once with the `Answer`, in another thread.
    """

    def told(done: concurrent.futures.Future[Any]) -> None:
        try:
            tell(Answer(ticket, done.result(), None))
        except (concurrent.futures.CancelledError, asyncio.CancelledError):
            tell(Answer(ticket, None, asyncio.CancelledError()))
        except Exception as error:
            tell(Answer(ticket, None, error))

    loop: Any = client.loop
    asyncio.run_coroutine_threadsafe(work, loop.asyncio_loop).add_done_callback(told)


def within(
    client: Client, work: Coroutine[Any, Any, _Result], seconds: float = _SECONDS
) -> _Result:
    """Wait for a client's coroutine, but not for ever.

    Raises
    ------
    asyncio.TimeoutError
        It took longer, and was cancelled.
    """

    async def limited() -> _Result:
        return await asyncio.wait_for(work, seconds)

    loop: Any = client.loop
    return asyncio.run_coroutine_threadsafe(limited(), loop.asyncio_loop).result()


def cancel(client: Client, futures: list[Future]) -> None:
    """Let a scheduler drop tasks; if it is gone, they are, too."""
    if futures:
        with contextlib.suppress(Exception):
            within(client, client.cancel(futures, force=True, asynchronous=True), 5)


def gone(where: str) -> InputError:
    """Return the error that says that the scheduler is gone."""
    return InputError(
        f"cluster {where}: the scheduler is gone, or has dropped the sweep: the same command goes "
        "on from what is stored, as soon as there is one"
    )


def _reason(error: BaseException, greeted: bool) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, InputError):
        return text
    if not greeted:
        return f"expected the same NoisyStore as here: {text}"
    return f"{type(error).__name__}: {text}"
