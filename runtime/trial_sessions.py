# SPDX-License-Identifier: Apache-2.0
"""The sessions of a model with noisy weights: the clean one, and that of the trial at hand."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import ortops
from ..ortops.errors import InputError
from ..ortops.formats import ELEMENT_TYPES, WordFormat, check_storage_format
from .ort_session import SessionMaker, can_be_filled, ort_value
from .stored_parameters import Parameter, StoredParameters, read_stored_parameters

_BY_CODE = {kind.code: kind for kind in ELEMENT_TYPES.values()}

# With more flips expected than this, none at all happens once in 10^27 trials: not looked for.
_COUNTED_FLIPS = 64.0

#: What flips in one parameter: its rates and its noisy bits; None: nothing.
_Noise = tuple[float, float, int] | None


class TrialSessions:
    """Sessions in which stored weights and biases are constants, made anew for a trial.

    The bits are those of the stores in the annotated graph. Convolutions keep constant weights,
    which ONNX Runtime rearranges and fuses. At most two sessions live: the clean one, and that of
    the last trial in which a parameter flips.

    Parameters
    ----------
    stored : StoredParameters
    maker : SessionMaker
        Of the same file.

    Attributes
    ----------
    sites : tuple of int
        Sites of the parameters.
    seconds : float
        Spent on preparing sessions of trials.

    Raises
    ------
    InputError
        A parameter cannot be stored in its format, or ONNX Runtime does not load the model.
    """

    def __init__(self, stored: StoredParameters, maker: SessionMaker) -> None:
        self._stored, self._maker = stored, maker
        self.sites = tuple(parameter.site for parameter in stored.parameters)
        self.seconds = 0.0
        self._formats = [_word_format(p, maker.path) for p in stored.parameters]
        # Rounded to their formats.
        self._clean_values = [
            _write(p, (0.0, 0.0, 0), 0, maker.path) if p.storage_format != "native" else p.values
            for p in stored.parameters
        ]
        self._clean = self._make(self._clean_values)
        self._noisy: tuple[Any, dict[str, Any]] | None = None
        self._key: Any = None
        self._asked: Any = None
        self._answer: Any = self.clean

    @property
    def clean(self) -> Any:
        """The session in which no parameter flips."""
        return self._clean[0]

    def session(
        self,
        rates: npt.NDArray[np.float64],
        masks: npt.NDArray[np.uint64],
        seed: npt.NDArray[np.int64],
    ) -> Any:
        """Return the session of one trial.

        Parameters
        ----------
        rates : array of float64 [sites, 2]
        masks : array of uint64 [sites]
        seed : array of int64 [1]

        Returns
        -------
        onnxruntime.InferenceSession
            Valid until the next call.
        """
        asked = rates.tobytes(), masks.tobytes(), int(seed[0])
        if asked != self._asked:
            start = time.perf_counter()
            self._answer = self._prepared(rates, masks, int(seed[0]))
            self._asked = asked
            self.seconds += time.perf_counter() - start
        return self._answer

    def _prepared(
        self, rates: npt.NDArray[np.float64], masks: npt.NDArray[np.uint64], seed: int
    ) -> Any:
        parameters = self._stored.parameters
        noise = [
            _noise(
                p,
                word,
                (float(rates[p.site, 0]), float(rates[p.site, 1]), int(masks[p.site])),
                seed,
            )
            for p, word in zip(parameters, self._formats, strict=True)
        ]
        if not any(noise):
            return self.clean
        key = (seed, noise)
        if self._noisy is None or key != self._key:
            # The old one goes first, so that no third session is ever in memory.
            self._noisy = self._key = self._asked = None
            self._answer = self.clean
            self._noisy = self._make(
                [
                    clean if flips is None else _write(p, flips, seed, self._maker.path)
                    for p, clean, flips in zip(parameters, self._clean_values, noise, strict=True)
                ]
            )
            self._key = key
        return self._noisy[0]

    def _make(self, arrays: list[npt.NDArray[Any]]) -> tuple[Any, dict[str, Any]]:
        """Return a session and the values that it reads in place, which must outlive it."""
        parameters = self._stored.parameters
        values = {p.name: ort_value(p, array) for p, array in zip(parameters, arrays, strict=True)}
        return self._maker.with_values(self._stored, values), values


def trial_sessions(maker: SessionMaker) -> TrialSessions | None:
    """Return the sessions of a model with stored parameters; None: its graph is run as it is.

    That is so where it has none, or where they are out of reach: not constant, in a subgraph, or
    beyond what the installed ONNX Runtime takes. Their stores then run with the graph.

    Parameters
    ----------
    maker : SessionMaker

    Raises
    ------
    InputError
        As `TrialSessions`, or the file is no ONNX model.
    """
    stored = read_stored_parameters(maker.path)
    if stored is None or not can_be_filled(stored):
        return None
    return TrialSessions(stored, maker)


def _word_format(parameter: Parameter, path: Path) -> WordFormat:
    try:
        return check_storage_format(parameter.storage_format, _BY_CODE[parameter.element_type])
    except InputError as error:
        raise InputError(f"model {path}: site {parameter.site}: {error}") from None


def _noise(
    parameter: Parameter, word: WordFormat, noise: tuple[float, float, int], seed: int
) -> _Noise:
    """Return the noise of one parameter in a trial; None where no bit flips."""
    p01, p10, mask = noise
    mask &= (1 << word.noisy_bits) - 1
    rate = max(p01, p10)
    expected = parameter.values.size * mask.bit_count() * rate
    if expected == 0:
        return None
    if expected < _COUNTED_FLIPS:
        flips = ortops.count_flips(
            (parameter.values.size,),
            word.word_bits,
            (p01, p10),
            bit_mask=mask,
            seed=seed,
            site=parameter.site,
            rows_per_sample=0,
        )
        if not flips.any():
            return None
    return p01, p10, mask


def _write(
    parameter: Parameter, noise: tuple[float, float, int], seed: int, path: Path
) -> npt.NDArray[Any]:
    """Write a parameter to the noisy memory and read it back."""
    p01, p10, mask = noise
    try:
        return ortops.apply(
            parameter.values,
            (p01, p10),
            bit_mask=mask,
            seed=seed,
            site=parameter.site,
            storage_format=parameter.storage_format,
            scale=parameter.scale,
            zero_point=parameter.zero_point,
            rows_per_sample=0,
        )
    except InputError as error:
        raise InputError(f"model {path}: site {parameter.site}: {error}") from None
