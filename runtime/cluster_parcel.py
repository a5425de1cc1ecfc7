# SPDX-License-Identifier: Apache-2.0
"""What is sent to every worker of a cluster once: a model with its weight files, and images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..ortops import ort_options
from ..ortops.errors import InputError
from . import cluster_worker
from .cluster_stock import Content
from .evaluate import Evaluator
from .model_file import weight_file
from .onnx_file import external_files
from .ort_session import Provider
from .point_task import EvaluatorSource, SweepNoise

if TYPE_CHECKING:
    from distributed import Client, Future


class Parcel:
    """Model, data and noise of a sweep, as workers get them.

    Parameters
    ----------
    evaluator : Evaluator
        Of the same model and data, here.
    noise : SweepNoise
    providers, threads
        As the workers' `NoisySession` takes them; threads None: as many as the worker has.

    Raises
    ------
    InputError
        The metric cannot be sent, or a file cannot be read.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        noise: SweepNoise,
        providers: Sequence[str | Provider] | str | None,
        threads: int | None,
    ) -> None:
        import cloudpickle

        session, data = evaluator.session, evaluator.data
        source = EvaluatorSource(
            # Not its own name: the same bytes may have another one in another sweep.
            model=f"{session.model_sha256[:12]}.onnx",
            model_sha256=session.model_sha256,
            data_sha256=data.sha256,
            providers=_named(providers),
            threads=threads,
            # A worker finds that of onnxruntime-extensions itself, which lies elsewhere there.
            libraries=tuple(
                library
                for library in session.maker.libraries
                if library != ort_options.extensions_library()
            ),
            data=("", ""),
            images=len(data),
            batch_size=evaluator.batch_size,
            metric=evaluator.metric,
        )
        self._path, self._name = session.path, source.model
        self._data = data
        arrays = replace(data, parent_sha256="").sha256
        package = cluster_worker.Package(source, noise, data.name, data.classes, arrays)
        try:
            self._package: bytes = cloudpickle.dumps(package)
        except Exception as error:
            raise InputError(
                f"metric: expected one that can be sent to workers: {' '.join(str(error).split())}"
            ) from None
        self._keys = session.model_sha256, arrays

    def sent(self, client: Client, token: str) -> SentParcel:
        """Return what makes the workers of a client ready for the sweep with this token."""
        return SentParcel(client, token, self._package, self._keys, self._parts())

    def _parts(self) -> tuple[Callable[[], Content], ...]:
        arrays = {"images": self._data.images, "labels": self._data.labels}
        return (
            lambda: _model_files(self._path, self._name),
            lambda: {name: array for name, array in arrays.items() if array is not None},
        )


class SentParcel:
    """Model and data at a scheduler, as tasks: if workers that have them die, others make them.

    They are sent when the first worker comes that has none of a former sweep.

    Parameters
    ----------
    client : distributed.Client
    token : str
        Of the sweep.
    package : bytes
        See `cluster_worker.prepare`.
    hashes : (str, str)
        SHA-256 of the model and of the data's arrays.
    parts : (callable, callable)
        Return the model's files and the data's arrays.
    """

    def __init__(
        self,
        client: Client,
        token: str,
        package: bytes,
        hashes: tuple[str, str],
        parts: tuple[Callable[[], Content], ...],
    ) -> None:
        self._client, self._token, self._package = client, token, package
        self._hashes, self._parts = hashes, parts
        self._blobs: dict[int, Future] = {}

    def prepare(self, address: str, key: str, stock: frozenset[str]) -> Future:
        """Make the worker with this address ready, by a task with this key.

        Parameters
        ----------
        address, key : str
        stock : frozenset of str
            SHA-256 of what the worker has.

        Raises
        ------
        InputError
            A file of the model cannot be read.
        """
        needed = [
            None if sha256 in stock else self._blob(number)
            for number, sha256 in enumerate(self._hashes)
        ]
        return self._client.submit(
            cluster_worker.prepare,
            self._token,
            self._package,
            *needed,
            key=key,
            workers=[address],
            allow_other_workers=False,
        )

    def _blob(self, number: int) -> Future:
        if number not in self._blobs:
            name = ("model", "data")[number]
            # `dict` is a task that a worker of any version can do.
            self._blobs[number] = self._client.submit(
                dict, self._parts[number](), key=f"noisystore_{name}-{self._hashes[number]}"
            )
        return self._blobs[number]

    def release(self) -> None:
        """Let the scheduler forget them, unless other sweeps need them."""
        for blob in self._blobs.values():
            blob.release()


def _model_files(path: Path, name: str) -> dict[str, npt.NDArray[np.uint8]]:
    """Return the bytes of an ONNX file, under another name, and of its weight files, by name."""
    files = {name: path}
    files.update({name: weight_file(path, name) for name in external_files(path)})
    try:
        return {name: np.fromfile(file, np.uint8) for name, file in files.items()}
    except OSError as error:
        raise InputError(f"model file {path}: {error.strerror}") from None


def _named(providers: Sequence[str | Provider] | str | None) -> list[Provider]:
    """Return execution providers with their options; whether they exist, the workers know."""
    given = [providers or "cpu"] if isinstance(providers, (str, type(None))) else providers
    return [(name, {}) if isinstance(name, str) else name for name in given]
