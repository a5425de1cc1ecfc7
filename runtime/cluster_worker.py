# SPDX-License-Identifier: Apache-2.0
"""What the workers of a cluster run: they say who they are, make themselves ready, and measure."""

from __future__ import annotations

import pickle
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy.typing as npt

from ..ortops import noise_inputs
from ..ortops.errors import InputError
from .cluster_stock import Content, Stock, read_arrays, write_arrays, write_files
from .dataset import Dataset
from .evaluate import Evaluator
from .point_task import EvaluatorSource, Kind, Outcome, SweepNoise, Task, kind_of, measure

#: Sweeps that one worker is ready for at the same time: each keeps a model and a data set.
KEPT = 3

#: Threads of each operator, where the worker itself says so (`noisystore worker --threads`).
own_threads: int | None = None

#: Tasks that this process has measured.
measured = 0

#: Threads of this process that make it ready, or measure, now.
at_work: set[int] = set()

_Result = TypeVar("_Result")


class NotReady(Exception):
    """The process has forgotten the sweep, or never knew it; says its worker's address."""


@dataclass(frozen=True)
class Package:
    """What a worker needs for a sweep beside the bytes of model and data.

    Attributes
    ----------
    source : EvaluatorSource
        Its model is a name among the model's files; its data set is not looked at.
    noise : SweepNoise
    data_name : str
    data_classes : tuple of str, or None
    arrays_sha256 : str
        Of the images and labels that are sent, as `Dataset.sha256` makes it.
    """

    source: EvaluatorSource
    noise: SweepNoise
    data_name: str
    data_classes: tuple[str, ...] | None
    arrays_sha256: str


@dataclass
class _Ready:
    evaluator: Evaluator
    noise: SweepNoise
    folder: Path
    lock: threading.Lock


_ready: OrderedDict[str, _Ready] = OrderedDict()
_stock = Stock()
_lock = threading.Lock()


def versions() -> dict[str, str]:
    """Return what has to be equal everywhere for rows to be comparable."""
    from .. import ortops
    from .cli import package_version

    return {
        "noisystore": package_version(),
        "operator library": str(ortops.library_version()),
        "noise model": noise_inputs.NOISE_MODEL,
    }


def greeting() -> dict[str, str]:
    """Return `versions`, and as ``stock`` the SHA-256 of models and data that are here already."""
    return {**versions(), "stock": " ".join(_stock.names())}


def resource(token: str, kind: Kind | None) -> str:
    """Return the name of what a worker offers that is ready for a sweep; None: of any kind."""
    return f"noisystore-{token}-{'any' if kind is None else '-'.join(kind)}"


def workers_of(dask_scheduler: Any) -> dict[str, tuple[str, str]]:
    """Return address and name of each worker of a scheduler, by identity; runs there.

    A worker that starts anew may have the address of the one before.
    """
    return {
        str(worker.server_id): (address, str(worker.name))
        for address, worker in dask_scheduler.workers.items()
    }


def prepare(
    token: str,
    package: bytes,
    model: Content | None,
    data: Content | None,
) -> Kind:
    """Make this worker ready for a sweep, and offer that to the scheduler.

    Parameters
    ----------
    token : str
        Of the sweep.
    package : bytes
        A pickled `Package`: not unpickled before this worker's versions are known to be right.
    model : mapping from file name to array of uint8
        The ONNX file, and its weight files as they lie beside it. None: this worker has them.
    data : mapping with ``images`` and, perhaps, ``labels``
        None: this worker has them.

    Returns
    -------
    (machine, provider)

    Raises
    ------
    InputError
        Model or data arrived damaged, or do not run here; or a library is missing here.
    NotReady
        Model or data are not here.
    """
    from distributed import get_worker
    from distributed.utils import sync

    worker = get_worker()

    def stocked(
        sha256: str, content: Content | None, write: Callable[[Content, Path], None]
    ) -> Path:
        if content is not None:
            return _stock.put(sha256, content, write, worker.local_directory)
        folder = _stock.find(sha256)
        if folder is None:
            raise NotReady(worker.address)
        return folder

    def ready() -> Kind:
        work: Package = pickle.loads(package)
        folder = stocked(work.source.model_sha256, model, write_files)
        arrays = stocked(work.arrays_sha256, data, write_arrays)
        try:
            source = replace(
                work.source,
                model=str(folder / work.source.model),
                threads=own_threads or work.source.threads or worker.state.nthreads,
                data=_dataset(work, read_arrays(arrays)),
            )
            evaluator = source.open()
        except (InputError, OSError, ValueError):
            if model is None or data is None:  # Perhaps what was kept has been damaged.
                raise NotReady(worker.address) from None
            raise
        _keep(token, _Ready(evaluator, work.noise, folder, threading.Lock()))
        return kind_of(evaluator.session)

    kind = _named(worker.name, ready)
    # One point at a time, whatever the worker's number of threads: each has all of them.
    offers = {resource(token, None): 1.0, resource(token, kind): 1.0}
    sync(worker.loop, worker.set_resources, **offers)
    return kind


def measure_task(token: str, task: Task) -> Outcome:
    """Measure one task of a sweep for which this worker is ready.

    Raises
    ------
    InputError
        As `measure`, with the worker's name.
    NotReady
        It is not.
    """
    from distributed import get_worker

    with _lock:
        ready = _ready.get(token)
        if ready is None:
            raise NotReady(get_worker().address)
        _ready.move_to_end(token)

    def work() -> Outcome:
        global measured
        with ready.lock:
            try:
                outcome = measure(ready.evaluator, ready.noise, task)
            except InputError:
                if _ready.get(token) is not ready:  # Its files went away meanwhile.
                    raise NotReady(get_worker().address) from None
                raise
            measured += 1
            return outcome

    return _named(get_worker().name, work)


def forget(token: str) -> None:
    """Let go of a sweep; its model and data stay on the disk for another one."""
    with _lock:
        _ready.pop(token, None)


def _named(worker: Any, work: Callable[[], _Result]) -> _Result:
    """Do work; what fails is one line with the worker's name."""
    thread = threading.get_ident()
    at_work.add(thread)
    try:
        return work()
    except NotReady:
        raise
    except InputError as error:
        raise InputError(f"worker {worker}: {error}") from None
    except Exception as error:
        text = " ".join(str(error).split())
        raise InputError(f"worker {worker}: {type(error).__name__}: {text}") from None
    finally:
        at_work.discard(thread)


def _dataset(work: Package, data: Mapping[str, npt.NDArray[Any]]) -> Dataset:
    images = data.get("images")
    if images is None:
        raise InputError(f"data set {work.data_name}: arrived without images")
    arrived = Dataset(work.data_name, images, data.get("labels"), work.data_classes)
    if arrived.sha256 != work.arrays_sha256:
        raise InputError(
            f"data set {work.data_name}: arrived damaged: expected SHA-256 "
            f"{work.arrays_sha256[:12]}..., got {arrived.sha256[:12]}..."
        )
    return replace(arrived, parent_sha256=work.source.data_sha256)


def _keep(token: str, ready: _Ready) -> None:
    with _lock:
        _ready.pop(token, None)
        _ready[token] = ready
        while len(_ready) > KEPT:
            _ready.popitem(last=False)
        _stock.tidy({other.folder for other in _ready.values()})
