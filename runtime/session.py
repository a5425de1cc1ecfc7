# SPDX-License-Identifier: Apache-2.0
"""One annotated model in ONNX Runtime, run again and again at different bit error rates."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..ortops import noise_inputs
from ..ortops.errors import InputError
from .image_file import check_image_file
from .model_file import check_model_path, model_sha256
from .onnx_file import read_stores
from .ort_session import (
    Provider,
    SessionMaker,
    arithmetic_of,
    custom_libraries,
    named_providers,
)
from .sites import (
    Site,
    confirm_sites,
    one_line,
    read_normalization,
    read_sites,
    site_masks,
    typed_sites,
)
from .trial_sessions import trial_sessions

__all__ = ["NoisySession", "Site"]

_NUMPY_TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(bool)": "bool",
    "tensor(string)": "object",
    **{f"tensor({kind})": kind for kind in ("uint8", "uint16", "uint32", "uint64")},
    **{f"tensor({kind})": kind for kind in ("int8", "int16", "int32", "int64")},
}
_NOISE_TYPES = {
    noise_inputs.BIT_ERROR_RATE: "tensor(double)",
    noise_inputs.BIT_MASK: "tensor(uint64)",
    noise_inputs.SEED: "tensor(int64)",
    noise_inputs.SAMPLE_INDEX: "tensor(int64)",
}


class NoisySession:
    """An annotated model that runs at any bit error rate without being loaded again.

    Parameters
    ----------
    path : path of an annotated ONNX file
    providers : sequence of str or (str, mapping), optional
        Execution providers, best first, as ONNX Runtime names them, or ``cpu``, ``cuda``, alone or
        with options. None: the CPU.
    threads : int, optional
        Threads inside one operator; None: ONNX Runtime's choice.
    custom_op_libraries : sequence of path
        Libraries of the model's other custom operators. That of onnxruntime-extensions is found
        where it is installed.

    Attributes
    ----------
    path : pathlib.Path
    maker : SessionMaker
        Makes other sessions of the same file, with the same settings.
    sites : list of Site
        Ordered by their number.
    sizes_confirmed : bool
        Whether the graph itself states the tensor sizes that `sites` give. Where it does not, no
        sample may be taken for clean without being run.
    input_name : str
        Name of the first data input.
    input_names : tuple of str
        Names of all data inputs.
    input_shape : tuple of int or None
        Shape of the first data input; None where it is free.
    input_dtype : numpy.dtype
    batch : int or None
        Batch size that the file fixes; None: any.
    output_names : tuple of str
    classes : int or None
        Number of logits, where the model fixes it.
    normalization : dict or None
        ``{"mean": [...], "std": [...]}``, one value a channel, to be applied to x / 255.
    takes_files : bool
        The input is the bytes of one image file, which the model itself decodes.
    provider : str
        Execution provider that runs the model.
    threads : int or None
    run_seconds : float
        Time spent inside ONNX Runtime's ``run`` so far, in seconds.
    prepare_seconds : float
        Time spent on applying the noise of weights and biases so far, in seconds.
    prepared_sites : tuple of int
        Sites whose noise is applied in this way.
    inferences : int
        Samples run so far.

    Raises
    ------
    InputError
        The file is missing or no ONNX model, has no sites, is of another noise model, lacks a
        noise input, or its metadata contradict its graph; or a provider or a library of custom
        operators is unknown or does not start.

    Notes
    -----
    Weights and biases are written once in a trial. Their noise is applied to the initializers
    before the trial's first run, in a session of its own, and has the bits that the graph's own
    stores give: they stay constants, and cost nothing in a run. As long as seed, rates and masks
    give the same flips in them, that session is used again.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        providers: Sequence[str | Provider] | str | None = None,
        threads: int | None = None,
        custom_op_libraries: Sequence[str | os.PathLike[str]] = (),
    ) -> None:
        self.path = check_model_path(path)
        if threads is not None and (not isinstance(threads, (int, np.integer)) or threads < 1):
            raise InputError(f"threads: expected a positive integer, got {threads!r}")
        self.threads = threads
        named = named_providers(providers)
        libraries = custom_libraries(self.path, custom_op_libraries)
        self.maker = maker = SessionMaker(self.path, named, threads, libraries)
        self._trials = trial_sessions(maker)
        self._session = maker.from_file() if self._trials is None else self._trials.clean
        self.provider: str = self._session.get_providers()[0]
        self.arithmetic = arithmetic_of(self.provider, named)
        self.run_seconds = 0.0
        self.inferences = 0
        self._sha256 = ""
        try:
            self._describe()
        except UnicodeDecodeError:
            raise InputError(
                f"model {self.path}: expected names in UTF-8, got a damaged file"
            ) from None

    def _describe(self) -> None:
        """Read sites, inputs and outputs off the file and its session."""
        metadata = dict(self._session.get_modelmeta().custom_metadata_map)
        sites, stores = read_sites(metadata, self.path), read_stores(self.path)
        self.sizes_confirmed = confirm_sites(sites, stores, self.path)
        self.sites = typed_sites(sites, stores)
        self.takes_files = noise_inputs.PREPROCESS_KEY in metadata
        self.normalization = read_normalization(metadata, self.path)
        self._check_noise_inputs()
        inputs = [i for i in self._session.get_inputs() if i.name not in _NOISE_TYPES]
        if not inputs:
            raise InputError(f"model {self.path}: expected a data input, got none")
        self.input_names = tuple(i.name for i in inputs)
        self._shapes = {i.name: _shape(i.shape) for i in inputs}
        self._types = {i.name: _numpy_type(i.type, i.name, self.path) for i in inputs}
        self.input_name = self.input_names[0]
        self.input_shape = self._shapes[self.input_name]
        self.input_dtype = self._types[self.input_name]
        self.batch = self.input_shape[0] if self.input_shape else None
        outputs = self._session.get_outputs()
        if not outputs:
            raise InputError(f"model {self.path}: expected an output, got a model without any")
        self.output_names = tuple(o.name for o in outputs)
        first = _shape(outputs[0].shape)
        self.classes = first[1] if len(first) == 2 and (first[1] or 0) > 1 else None

    @property
    def prepare_seconds(self) -> float:
        """Time spent on applying the noise of weights and biases so far, in seconds."""
        return 0.0 if self._trials is None else self._trials.seconds

    @property
    def prepared_sites(self) -> tuple[int, ...]:
        """Sites whose noise is applied before a trial's runs."""
        return () if self._trials is None else self._trials.sites

    @property
    def model_sha256(self) -> str:
        """SHA-256 of the file and its external weights."""
        if not self._sha256:
            self._sha256 = model_sha256(self.path)
        return self._sha256

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Height and width of the images, where the model fixes them."""
        if len(self.input_shape) != 4 or self.input_shape[2] is None or self.input_shape[3] is None:
            return None
        return self.input_shape[2], self.input_shape[3]

    @property
    def storage_format(self) -> str:
        """The storage format of all sites, or ``mixed``."""
        formats = {site.storage_format for site in self.sites}
        return formats.pop() if len(formats) == 1 else "mixed"

    def run(
        self,
        x: npt.NDArray[Any] | Mapping[str, npt.NDArray[Any]],
        bit_error_rate: Any = 0.0,
        bit_mask: Any = None,
        seed: int = 0,
        sample_index: Any = 0,
    ) -> Any:
        """Run the model on one batch with every site writing into noisy memory.

        Parameters
        ----------
        x : array [N, ...] of `input_dtype`, or a mapping from input name to array
            Input as the network takes it (already normalised).
        bit_error_rate : float, (p01, p10), or array_like [sites, 2]
            Probabilities that a stored 0 reads as 1 and a stored 1 as 0 (paper, eq. 3).
        bit_mask : int, str, array_like of int or str [sites], or None
            Bits that may flip, as numbers or by name (`noisystore.ortops.bit_mask`: each site's
            format gives a name its bits); None: all.
        seed : int
            Of this trial; 64 bits.
        sample_index : int or array_like of int [N]
            Data-set index of the first sample (the others follow), or of each sample.

        Returns
        -------
        array, or list of arrays where the model has several outputs
            The first output is the logits, [N, classes].

        Raises
        ------
        InputError
            Wrong shape or type of x, or of a noise argument.
        """
        feeds = self._check_input(x)
        rows = next(iter(feeds.values())).shape[0]
        if self.takes_files:
            check_image_file(feeds[self.input_name])
            rows = 1
        index = noise_inputs.sample_index_array(sample_index)
        if index.size not in (1, rows):
            raise InputError(
                f"sample index: expected one integer or {rows} (one a sample), got {index.size}"
            )
        feeds.update(self.noise_feed(bit_error_rate, bit_mask, seed))
        outputs = self.run_feed(feeds, index, rows)
        return outputs[0] if len(outputs) == 1 else outputs

    def noise_feed(
        self, bit_error_rate: Any, bit_mask: Any, seed: int
    ) -> dict[str, npt.NDArray[Any]]:
        """Check the noise arguments of `run` and return the arrays of noise inputs 1 to 3.

        Raises
        ------
        InputError
            One of them is bad.
        """
        return {
            noise_inputs.BIT_ERROR_RATE: noise_inputs.rate_table(bit_error_rate, len(self.sites)),
            noise_inputs.BIT_MASK: site_masks(bit_mask, self.sites),
            noise_inputs.SEED: noise_inputs.seed_array(seed),
        }

    def run_feed(
        self, feeds: dict[str, npt.NDArray[Any]], index: npt.NDArray[np.int64], rows: int
    ) -> list[npt.NDArray[Any]]:
        """Run checked feeds.

        Parameters
        ----------
        feeds : dict of arrays
            Data, and what `noise_feed` returns; the sample index is added to it.
        index : array of int64 [1] or [rows]
            Sample index of the first row's sample, or of each.
        rows : int
            Samples to count as run.

        Returns
        -------
        list of arrays
            One an output.

        Raises
        ------
        InputError
            ONNX Runtime fails, or a parameter's noise cannot be applied.
        """
        feeds[noise_inputs.SAMPLE_INDEX] = index
        session = self._session
        if self._trials is not None:
            session = self._trials.session(
                feeds[noise_inputs.BIT_ERROR_RATE],
                feeds[noise_inputs.BIT_MASK],
                feeds[noise_inputs.SEED],
            )
        start = time.perf_counter()
        try:
            outputs = session.run(None, feeds)
        except Exception as error:
            raise InputError(f"model {self.path}: ONNX Runtime: {one_line(error)}") from None
        finally:
            self.run_seconds += time.perf_counter() - start
        self.inferences += rows
        return outputs

    def check_shape(self, shape: Sequence[int], name: str | None = None) -> None:
        """Raise InputError unless an input of `shape`, batch axis included, fits the model."""
        name = name or self.input_name
        expected = self._shapes[name]
        if self.takes_files and len(shape) != len(expected):
            raise InputError(
                f"model {self.path}: takes the bytes of one image file; for data sets use the "
                "model that was annotated without preprocessing"
            )
        if len(shape) != len(expected) or any(
            want is not None and want != got for want, got in zip(expected, shape, strict=True)
        ):
            names = ", ".join("N" if d is None else str(d) for d in expected)
            raise InputError(
                f"input {name} of {self.path}: expected shape [{names}], got {list(shape)}"
            )

    def _check_input(self, x: Any) -> dict[str, npt.NDArray[Any]]:
        if not isinstance(x, Mapping):
            x = {self.input_name: x}
        if set(x) != set(self.input_names):
            raise InputError(
                f"model {self.path}: expected the inputs {list(self.input_names)}, got {list(x)}"
            )
        feeds = {}
        for name, value in x.items():
            if not isinstance(value, np.ndarray) or value.dtype != self._types[name]:
                got = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
                raise InputError(
                    f"input {name} of {self.path}: expected an array of {self._types[name]}, "
                    f"got {got}"
                )
            self.check_shape(value.shape, name)
            if value.ndim == 0 or value.shape[0] == 0:
                raise InputError(f"input {name} of {self.path}: expected a batch, got no sample")
            feeds[name] = value
        return feeds

    def _check_noise_inputs(self) -> None:
        everything = self._session.get_inputs() + self._session.get_overridable_initializers()
        found = {i.name: i for i in everything}
        for name, kind in _NOISE_TYPES.items():
            if name not in found:
                raise InputError(
                    f"model {self.path}: expected the overridable input {name}, got none: "
                    "export the model again"
                )
            if found[name].type != kind:
                raise InputError(
                    f"model {self.path}: input {name}: expected {kind}, got {found[name].type}"
                )
        sites = len(self.sites)
        for name, shape in (
            (noise_inputs.BIT_ERROR_RATE, [sites, 2]),
            (noise_inputs.BIT_MASK, [sites]),
        ):
            if list(found[name].shape) != shape:
                raise InputError(
                    f"model {self.path}: input {name}: expected shape {shape} for {sites} sites, "
                    f"got {list(found[name].shape)}"
                )


def _shape(shape: Sequence[Any]) -> tuple[int | None, ...]:
    return tuple(d if isinstance(d, int) and d >= 0 else None for d in shape)


def _numpy_type(kind: str, name: str, path: Path) -> np.dtype[Any]:
    if kind not in _NUMPY_TYPES:
        raise InputError(
            f"input {name} of {path}: expected one of {list(_NUMPY_TYPES)}, got {kind}"
        )
    return np.dtype(_NUMPY_TYPES[kind])
