# SPDX-License-Identifier: Apache-2.0
"""Energy of a model's runs, as images cost it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from .energy import Energy, Meter, find_meters
from .ort_plugins import NVIDIA


class Run(NamedTuple):
    """What is called over and over: a graph at a bit error rate (None: without sites)."""

    graph: str
    rate: float | None
    call: Callable[[], Any]


def bench_energy(
    runs: Sequence[Run],
    images: int,
    provider: str,
    quick: bool = False,
    root: str = "/",
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure the energy of runs with the machine's own meters.

    Parameters
    ----------
    runs : sequence of Run
        Each is called for a second (`quick`) or five.
    images : int
        Of one call.
    provider : str
        Execution provider: on a GPU, its energy counts.
    quick : bool
    root : str
        Where ``sys/`` lies.
    progress : callable
        Is told what is being done.

    Returns
    -------
    dict
        ``reason``: why there is no figure, or why one meter is missing, or empty; ``counted``:
        names of the meters that make the sums; ``idle_watts``: mean power before; ``rows``: a list
        of graph, rate, images, seconds, joules_per_image, watts (mean), net_joules_per_image
        (idle power subtracted) and meters (mean watts of each, also of those not counted).
    """
    meters = find_meters(root, gpu=provider.startswith(NVIDIA))
    result: dict[str, Any] = {
        "reason": meters.missing,
        "counted": list(meters.counted),
        "idle_watts": None,
        "rows": [],
    }
    if not meters.found:
        return result
    progress("energy ...")
    for run in runs:
        run.call()
    with Energy(meters.found) as idle:
        time.sleep(1.0 if quick else 2.0)
    measured = [(run, *_measure(run, meters.found, 1.0 if quick else 5.0)) for run in runs]
    for spent in (idle, *(one for _, _, one in measured)):
        reason = spent.failure or ("" if spent.total > 0 else "the meters stand still")
        if reason:
            return {**result, "reason": reason, "counted": []}
    result["idle_watts"] = watts = idle.total / idle.seconds
    result["rows"] = [
        {
            "graph": run.graph,
            "rate": run.rate,
            "images": calls * images,
            "seconds": spent.seconds,
            "joules_per_image": spent.total / (calls * images),
            "watts": spent.total / spent.seconds,
            "net_joules_per_image": (spent.total - watts * spent.seconds) / (calls * images),
            "meters": {name: joules / spent.seconds for name, joules in spent.joules.items()},
        }
        for run, calls, spent in measured
    ]
    return result


def _measure(run: Run, meters: Sequence[Meter], seconds: float) -> tuple[int, Energy]:
    calls = 0
    with Energy(meters) as spent:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            run.call()
            calls += 1
    return calls, spent
