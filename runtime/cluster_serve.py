# SPDX-License-Identifier: Apache-2.0
"""One worker of a Dask cluster in this process, with all cores for one point at a time."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable
from typing import Any

from ..ortops.errors import InputError
from . import cluster_worker
from .cluster_link import Link, is_loopback, no_scheduler, quiet
from .point_pool import available_cores

#: Why a worker ends that has only lost its scheduler, as Dask says it.
_LOST = ("worker-handle-scheduler-connection-broken", "worker-heartbeat-missing")
_AGAIN = 1.0


def serve(
    link: Link,
    threads: int | None = None,
    name: str | None = None,
    port: int = 0,
    wait: float = 60.0,
    say: Callable[[str], None] = print,
) -> None:
    """Measure what a scheduler asks for, until a signal, or the scheduler, ends it.

    Parameters
    ----------
    link : Link
    threads : int, optional
        Of each operator; None: all cores that this process may use.
    name : str, optional
        Of the worker, in messages; None: its address.
    port : int
        Where it listens for other workers and the scheduler; 0: any.
    wait : float
        Seconds to look for a scheduler that is not there, at the start or later.
    say : callable
        Called with a line for the user.

    Raises
    ------
    InputError
        There is no scheduler for so long, it is open to others, TLS fails, or the port is in use.
    """
    import dask
    import distributed  # noqa: F401  (makes its loggers, which are silenced below)

    cluster_worker.own_threads = threads or available_cores()
    # No pages of its own: they would be open to all.
    with quiet(), dask.config.set({"distributed.worker.http.routes": []}):
        asyncio.run(_serve(link, name, port, wait, say))


async def _serve(
    link: Link, name: str | None, port: int, wait: float, say: Callable[[str], None]
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    while True:
        address = await _found(link, wait, stop, say)
        if address is None:
            return
        worker = _worker(link, address, name, port)
        try:
            await worker
        except (OSError, ValueError, RuntimeError, asyncio.TimeoutError) as error:
            cause = error.__cause__ or error
            raise InputError(f"worker: {' '.join(str(cause).split())}") from None
        threads = cluster_worker.own_threads
        say(f"worker {worker.name}: ready for {link.address}, {threads} threads a point")
        stopped = asyncio.ensure_future(stop.wait())
        await asyncio.wait(
            [stopped, asyncio.ensure_future(worker.finished())],
            return_when=asyncio.FIRST_COMPLETED,
        )
        stopped.cancel()
        if stop.is_set():
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(worker.close(timeout=2, executor_wait=False), 5)
            say(f"worker {worker.name}: stopped after {cluster_worker.measured} measurements")
            return
        lost = worker.reason in _LOST
        say(f"worker {worker.name}: {'lost the scheduler' if lost else 'the scheduler ended it'}")
        if not lost:
            return


def _worker(link: Link, address: str, name: str | None, port: int) -> Any:
    from distributed import Worker

    dask_worker: Any = Worker

    class Ending(dask_worker):
        """A worker that keeps the reason of its end."""

        reason = ""

        async def close(self, *args: Any, **options: Any) -> str | None:
            self.reason = self.reason or str(options.get("reason", ""))
            result: str | None = await super().close(*args, **options)
            return result

    return Ending(
        address,
        nthreads=1,
        name=name,
        security=link.security(),
        # No port that other machines see, where they do not see the scheduler either.
        host="127.0.0.1" if is_loopback(address) else None,
        port=port,
        dashboard=False,
        # Dask's limits pause a worker that has a large model.
        memory_limit=0,
    )


async def _found(
    link: Link, wait: float, stop: asyncio.Event, say: Callable[[str], None]
) -> str | None:
    """Wait for the scheduler, see that it is not open, and return its address for workers.

    One that is reached inside this machine may have an address of its own outside: only by that
    do other workers find this one. None: a signal came first.
    """
    from distributed.core import rpc

    security = link.security()
    options = {} if security is None else security.get_connection_args("worker")
    begin = time.monotonic()
    waiting = False
    while not stop.is_set():
        try:
            async with rpc(link.address, connection_args=options, timeout=5) as scheduler:
                own: str = (await asyncio.wait_for(scheduler.identity(), 5))["address"]
            link.check_open(own)
            return own if link.loopback else link.address
        except InputError:
            raise
        except (OSError, asyncio.TimeoutError) as error:
            if time.monotonic() > begin + wait:
                raise InputError(f"{no_scheduler(link, error)} (waited {wait:g} s)") from None
        if not waiting:
            say(f"waiting for a scheduler at {link.address}")
            waiting = True
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(stop.wait(), _AGAIN)
    return None
