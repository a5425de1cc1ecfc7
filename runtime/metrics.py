# SPDX-License-Identifier: Apache-2.0
"""What is recorded of each sample: prediction, top-1, top-5 and the user's own metric."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from ..ortops.errors import InputError
from .npz import read_arrays

#: A user's metric: (outputs [N, ...], labels [N] or None) -> one number a sample, [N].
Metric = Callable[[npt.NDArray[Any], "npt.NDArray[np.int64] | None"], npt.ArrayLike]

_TYPES = {"predictions": "int32", "correct": "bool", "top5": "bool", "metric": "float64"}


@dataclass
class Scores:
    """One entry a sample, [N]; None where it does not apply.

    Attributes
    ----------
    predictions : array of int32, or None
        Class with the largest logit.
    correct, top5 : array of bool, or None
        Whether the label is the prediction, or among the five largest logits.
    metric : array of float64, or None
        The user's metric; NaN, where it gave NaN.
    """

    predictions: npt.NDArray[np.int32] | None = None
    correct: npt.NDArray[np.bool_] | None = None
    top5: npt.NDArray[np.bool_] | None = None
    metric: npt.NDArray[np.float64] | None = None

    def replaced(self, samples: npt.NDArray[np.int64], by: Scores) -> Scores:
        """Return a copy in which `samples` have the scores `by`, in that order."""
        copy = Scores()
        for field in fields(self):
            old = getattr(self, field.name)
            if old is not None:
                new = old.copy()
                new[samples] = getattr(by, field.name)
                setattr(copy, field.name, new)
        return copy

    def to_bytes(self) -> bytes:
        """Return the scores as the bytes of a NumPy archive."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self)}
        file = io.BytesIO()
        np.savez_compressed(file, **{k: v for k, v in arrays.items() if v is not None})
        return file.getvalue()

    @classmethod
    def from_bytes(cls, blob: bytes, samples: int) -> Scores:
        """Return the scores that `to_bytes` wrote.

        Parameters
        ----------
        blob : bytes
        samples : int
            Number of samples they are of.

        Raises
        ------
        InputError
            The bytes are damaged.
        """
        arrays = read_arrays(io.BytesIO(blob), _TYPES, 8 * samples)
        for name, array in arrays.items():
            if array.dtype != _TYPES[name] or array.shape != (samples,):
                raise InputError(
                    f"array {name}: expected {_TYPES[name]} [{samples}], got {array.dtype} "
                    f"{list(array.shape)}"
                )
        return cls(**arrays)

    @classmethod
    def joined(cls, parts: list[Scores]) -> Scores:
        """Return the scores of consecutive batches as one."""
        joined = cls()
        for field in fields(cls):
            arrays = [getattr(part, field.name) for part in parts]
            if arrays and arrays[0] is not None:
                setattr(joined, field.name, np.concatenate(arrays))
        return joined


def score(
    outputs: npt.NDArray[Any],
    labels: npt.NDArray[np.int64] | None,
    metric: Metric | None = None,
) -> Scores:
    """Score one batch.

    Parameters
    ----------
    outputs : array [N, K], or [N, K, 1, ...]
        Logits; with `metric`, any shape [N, ...].
    labels : array [N] of int64, or None
    metric : callable, optional

    Raises
    ------
    InputError
        The outputs are no logits and there is no metric, or the metric does not return [N].
    """
    scores = Scores()
    logits = as_logits(outputs)
    if logits is not None:
        scores.predictions = predict(logits)
        if labels is not None:
            scores.correct = scores.predictions == labels
            scores.top5 = top_k(logits, labels, 5)
    elif metric is None:
        raise InputError(
            f"outputs: expected logits [N, classes] with 2 classes or more, got "
            f"{list(outputs.shape)}: give a metric of your own"
        )
    if metric is not None:
        values = np.asarray(metric(outputs, labels), dtype=np.float64)
        if values.shape != outputs.shape[:1]:
            raise InputError(
                f"metric: expected one number a sample, [{outputs.shape[0]}], got shape "
                f"{list(values.shape)}"
            )
        scores.metric = values
    return scores


def as_logits(outputs: npt.NDArray[Any]) -> npt.NDArray[Any] | None:
    """Return outputs as logits [N, K], K >= 2, or None where they are something else."""
    if outputs.ndim < 2 or outputs.shape[1] < 2 or any(d != 1 for d in outputs.shape[2:]):
        return None
    return outputs.reshape(outputs.shape[:2])


def predict(logits: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    """Return the arg-max [N] of logits [N, K]; NaN counts as the largest, the first of equals wins.

    So a ruined network falls to chance accuracy and not to 0.
    """
    return np.argmax(logits, axis=1).astype(np.int32)


def top_k(logits: npt.NDArray[Any], labels: npt.NDArray[np.int64], k: int) -> npt.NDArray[np.bool_]:
    """Return whether each label is among the k largest logits, ordered as by `predict`.

    Parameters
    ----------
    logits : array [N, K]
    labels : array [N] of int64, from 0 to K - 1
    k : int

    Returns
    -------
    array [N] of bool
    """
    if k >= logits.shape[1]:
        return np.ones(len(labels), dtype=bool)
    own = logits[np.arange(len(labels)), labels][:, None]
    first = np.arange(logits.shape[1]) < labels[:, None]
    ahead = (logits > own) | ((logits == own) & first)
    if logits.dtype.kind == "f":
        lost, own_lost = np.isnan(logits), np.isnan(own)
        if lost.any():
            ahead |= lost & (~own_lost | first)
    return np.asarray(np.count_nonzero(ahead, axis=1) < k)
