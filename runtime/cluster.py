# SPDX-License-Identifier: Apache-2.0
"""A sweep's points measured by the workers of a Dask cluster."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..ortops.errors import InputError
from .cluster_executor import ClusterExecutor
from .cluster_link import Link, connected, quiet
from .cluster_parcel import Parcel
from .evaluate import Evaluator
from .ort_session import Provider
from .point_task import SweepNoise
from .run_log import LOGGER

MIXED = ("each", "any")


@dataclass(frozen=True)
class Cluster:
    """Where the points of a sweep are measured, and how.

    Attributes
    ----------
    scheduler : Link, str or distributed.Client
        A client is taken as it is, open scheduler or not, and stays connected.
    mixed : "each", "any" or None
        Where workers are of several kinds (machine and execution provider), whose results are kept
        apart: every kind measures every point, or each point is measured once, by whoever is free.
        None: there is to be one kind.
    patience : float
        Seconds without a worker that is ready after which the sweep ends.

    Raises
    ------
    InputError
        A bad value, or as `Link`.
    """

    scheduler: Any
    mixed: str | None = None
    patience: float = 60.0

    def __post_init__(self) -> None:
        if isinstance(self.scheduler, str):
            object.__setattr__(self, "scheduler", Link(self.scheduler))
        if self.mixed not in (None, *MIXED):
            raise InputError(f"mixed: expected {' or '.join(MIXED)}, got {self.mixed!r}")
        if not self.patience > 0:
            raise InputError(f"patience: expected seconds, more than 0, got {self.patience!r}")

    @contextlib.contextmanager
    def executor(self, parcel: Parcel, say: Callable[[str], None]) -> Iterator[ClusterExecutor]:
        """Connect, and make the workers ready that are there.

        Parameters
        ----------
        parcel : Parcel
            What they need.
        say : callable
            Called with a line for the user now and then.

        Raises
        ------
        InputError
            No scheduler, an open one, no worker that is right, or several kinds of them.
        """
        with contextlib.ExitStack() as stack:
            if isinstance(self.scheduler, Link):
                where = self.scheduler.address
                client = stack.enter_context(connected(self.scheduler))
            else:
                client = self.scheduler
                if getattr(client, "asynchronous", None) is not False:
                    raise InputError(
                        "cluster: expected an address or a synchronous distributed.Client, got "
                        f"{type(client).__name__}"
                    )
                where = client.scheduler_info()["address"]
                stack.enter_context(quiet())
            executor = ClusterExecutor(client, where, parcel, self.mixed, self.patience, say)
            stack.callback(executor.stop)
            executor.start()
            yield executor


@contextlib.contextmanager
def cluster_executor(
    cluster: Any,
    evaluator: Evaluator,
    noise: SweepNoise,
    providers: Sequence[str | Provider] | str | None,
    threads: int | None,
    progress: bool | None,
) -> Iterator[ClusterExecutor]:
    """Connect to a cluster, and make its workers ready for a sweep.

    Parameters
    ----------
    cluster : Cluster, or what it takes as scheduler
    evaluator, noise, providers, threads
        See `Parcel`.
    progress : bool, optional
        Whether workers that come and go are named on standard error; None: on a terminal.

    Raises
    ------
    InputError
        `distributed` is not installed, or as `Cluster.executor` and `Parcel`.
    """
    if importlib.util.find_spec("distributed") is None:
        raise InputError("cluster: needs distributed: pip install noisystore[cluster]")
    if not isinstance(cluster, Cluster):
        cluster = Cluster(cluster)
    show = sys.stderr.isatty() if progress is None else progress

    def say(text: str) -> None:
        LOGGER.warning("%s", text)
        if show:
            print(f"\r{text}" if sys.stderr.isatty() else text, file=sys.stderr, flush=True)

    with cluster.executor(Parcel(evaluator, noise, providers, threads), say) as executor:
        yield executor
