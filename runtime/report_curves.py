# SPDX-License-Identifier: Apache-2.0
"""The curves of results files as a page shows them: each rate's mean, its interval, the fit."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import numpy.typing as npt

from ..ortops.errors import InputError
from ..ortops.formats import WORD_FORMATS
from .midpoint import Fit, check_options
from .midpoint_groups import CURVE, directions_of, fit_curve
from .results import Results, unpack_bits
from .results_columns import RUN, SWEEP
from .results_reader import Block
from .rram_rates import accuracy_interval
from .texts import one_line, printable

#: What curves can differ in, and its name for people. Pages compare along one of these.
DIMENSIONS = {
    "network": "network",
    "format": "storage format",
    "mask": "noisy bits",
    "noisy": "noisy sites",
    "board": "board",
    "data": "data",
    "directions": "p01 : p10",
    "settings": "settings",
    "file": "file",
}

_COLUMNS = (*SWEEP, *RUN, "p01", "p10", "trial", "correct", "agreement", "measured", "run_seconds")
#: More predictions of one curve are counted, but not read one by one.
MOST_PREDICTIONS = 100_000_000

Known = dict[tuple[Any, ...], "Curve"]


@dataclass(frozen=True)
class Curve:
    """Points that share one curve.

    Attributes
    ----------
    names : dict of str to str
        A value of each of `DIMENSIONS`, fit to be shown.
    keys : dict
        The sweep's columns that all points share, as `Results.rows` has them.
    seeds : list of int
    points : int
        Measured points.
    rate : array [R]
        Distinct bit error rates above 0, ascending: the larger of p01 and p10.
    accuracy : array [R]
        Mean over trials.
    interval : array [R, 2]
        95% of the mean (`rram_rates.accuracy_interval`).
    trials : list [R] of list of int
        Right predictions of each trial; empty where there are none to count.
    measure : "accuracy" or "agreement"
        With the labels, or with the clean network.
    clean_accuracy, chance_accuracy : float or None
    fit : Fit or None
    reason : str
        Why there is no fit or no midpoint, or what its interval leaves out; empty: nothing.
    runs : Counter
        From (cpu, host, library version, ONNX Runtime version, threads) to points.
    measured : (str, str)
        First and last time, UTC, ISO 8601.
    run_seconds : float
        Inside ONNX Runtime.
    """

    names: dict[str, str]
    keys: dict[str, Any]
    seeds: list[int]
    points: int
    rate: npt.NDArray[np.float64]
    accuracy: npt.NDArray[np.float64]
    interval: npt.NDArray[np.float64]
    trials: list[list[int]]
    measure: str
    clean_accuracy: float | None
    chance_accuracy: float | None
    fit: Fit | None
    reason: str
    runs: Counter[tuple[Any, ...]]
    measured: tuple[str, str]
    run_seconds: float


def read_curves(
    path: str | os.PathLike[str],
    *,
    axis: str = "log10",
    confidence: float = 0.95,
    known: Known | None = None,
) -> list[Curve]:
    """Return the curves of a results file in the order of its rows: by model, then mask.

    Parameters
    ----------
    path : path
        Opened read-only.
    axis, confidence
        Of the fits, as `fit_midpoint` takes them.
    known : dict, optional
        Curves of earlier calls with the same options; one that has no new points is not fitted
        again. Updated, and rid of what is outdated.

    Returns
    -------
    list of Curve
        Empty where nothing is measured at a rate above 0.

    Raises
    ------
    InputError
        A bad option, or the file cannot be read or is damaged.
    """
    check_options(axis, confidence)
    known = {} if known is None else known
    curves, used = [], set()
    with Results(path, readonly=True) as results:
        grouped: dict[tuple[Any, ...], list[tuple[Block, npt.NDArray[np.bool_]]]] = {}
        for block in results.blocks(_COLUMNS):
            key = tuple(block.shared[name] for name in CURVE)
            for directions, inside in _directions(block):
                grouped.setdefault((*key, directions), []).append((block, inside))
        for key, parts in grouped.items():
            size = sum(int(inside.sum()) for _, inside in parts)
            place = (os.fspath(path), size, *key)
            if place not in known:
                known[place] = _Maker(results, Path(path), key[-1], parts).curve(axis, confidence)
            curves.append(known[place])
            used.add(place)
    for place in [place for place in known if place[0] == os.fspath(path) and place not in used]:
        del known[place]
    return curves


def _directions(block: Block) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    """Yield p01:p10 and which points have it; a rate of 0 belongs to no curve."""
    texts = np.array(list(map(directions_of, block.own["p01"], block.own["p10"])))
    for text in filter(None, dict.fromkeys(texts.tolist())):
        yield text, texts == text


class _Maker:
    """Makes one curve of its points in one results file."""

    def __init__(
        self,
        results: Results,
        path: Path,
        directions: str,
        parts: Sequence[tuple[Block, npt.NDArray[np.bool_]]],
    ) -> None:
        self._results, self._path, self._parts = results, path, parts
        self._shared = parts[0][0].shared
        self._directions = directions
        self._labelled = None not in self._column("correct")
        self._right = self._column("correct" if self._labelled else "agreement")
        self._counted = None not in self._right
        self._clean_accuracy = self._shared["clean_accuracy"] if self._labelled else 1.0
        self._note = ""

    def _column(self, name: str) -> list[Any]:
        return [
            value
            for block, inside in self._parts
            for value, wanted in zip(block.column(name), inside, strict=True)
            if wanted
        ]

    def curve(self, axis: str, confidence: float) -> Curve:
        shared = self._shared
        images = shared["images"]
        rate = np.maximum(self._column("p01"), self._column("p10"))
        distinct, at = np.unique(rate, return_inverse=True)
        trials: list[list[int]] = [[] for _ in distinct]
        if self._counted:
            for place, right in zip(at, self._right, strict=True):
                trials[place].append(right)
        fit, reason = self._fit(rate, axis, confidence)
        means = [sum(t) / len(t) / images if t else np.nan for t in trials]
        intervals = [
            accuracy_interval(t, [images] * len(t)) if t else (np.nan, np.nan) for t in trials
        ]
        measured = self._column("measured")
        classes = shared["classes"]
        return Curve(
            names=self._names(),
            keys={name: shared[name] for name in (*CURVE, "sites")},
            seeds=sorted({block.shared["seed"] for block, _ in self._parts}),
            points=len(rate),
            rate=distinct,
            accuracy=np.array(means),
            interval=np.array(intervals).reshape(-1, 2),
            trials=trials,
            measure="accuracy" if self._labelled else "agreement",
            clean_accuracy=self._clean_accuracy if self._counted else None,
            chance_accuracy=1 / classes if classes else None,
            fit=fit,
            reason=reason,
            runs=Counter(zip(*(self._column(name) for name in _RUN), strict=True)),
            measured=(min(measured), max(measured)),
            run_seconds=float(sum(self._column("run_seconds"))),
        )

    def _fit(
        self, rate: npt.NDArray[np.float64], axis: str, confidence: float
    ) -> tuple[Fit | None, str]:
        clean_bits = None
        if self._labelled:
            clean_bits = self._results.clean_bits(self._shared["sweep"])
        bits = self._bits()
        try:
            _, fit = fit_curve(
                self._shared,
                rate,
                self._column("trial"),
                self._right,
                labelled=self._labelled,
                bits=bits,
                clean_bits=clean_bits,
                axis=axis,
                confidence=confidence,
            )
        except InputError as error:
            return None, one_line(error).removeprefix("points: ")
        if fit.midpoint is None:
            side = "highest" if fit.bound == "above" else "lowest"
            note = f"the midpoint lies {fit.bound} the {side} rate, {fit.limit:.3g}"
            return fit, "; ".join(filter(None, (note, self._note)))
        return fit, self._note

    def _bits(self) -> npt.NDArray[np.bool_] | None:
        images = self._shared["images"]
        if len(self._right) * images > MOST_PREDICTIONS:
            self._note = "too many predictions to read: the interval is for other noise only"
            return None
        name = "correct_bits" if self._labelled else "agree_bits"
        blobs: list[bytes | None] = []
        for block, inside in self._parts:
            # One block a sweep, in the order of the points that were read before.
            (bits,) = self._results.blocks([name], sweep=block.shared["sweep"], limit=block.size)
            blobs += [blob for blob, wanted in zip(bits.own[name], inside, strict=True) if wanted]
        if any(blob is None for blob in blobs):
            return None
        rows = np.stack([unpack_bits(blob, images) for blob in blobs if blob is not None])
        # A sweep that runs just now may have put points between; then these are not theirs.
        return rows if np.array_equal(rows.sum(axis=1), self._right) else None

    def _names(self) -> dict[str, str]:
        shared = self._shared
        provider = shared["provider"].replace("ExecutionProvider", "")
        cpus = " + ".join(sorted(set(self._column("cpu")) - {""}))
        where = f"{shared['machine']}, {provider}"
        names = {
            "network": network_of(shared["model"]),
            "format": shared["storage_format"],
            "mask": shared["mask"],
            "noisy": shared["noisy"] or "all sites",
            "board": f"{cpus} ({where})" if cpus else where,
            "data": shared["data"],
            "directions": self._directions,
            "settings": ", ".join(
                filter(
                    None,
                    (
                        f"{shared['images']:,} images, batch size {shared['batch_size']}",
                        f"noise model {shared['noise_model']}",
                        shared["metric_name"],
                    ),
                )
            ),
            "file": self._path.name,
        }
        return {name: printable(text) for name, text in names.items()}


_RUN = ("cpu", "host", "library_version", "onnxruntime_version", "threads")
_FORMAT_IN_NAME = re.compile(
    rf"[-_. ]+(?:{'|'.join(sorted(WORD_FORMATS, key=len, reverse=True))})(?=[-_. ]|$)"
)


def network_of(model: str) -> str:
    """Return a model's file name without its ending and without the name of a number format.

    So that files that hold one network in several formats stand side by side.

    Examples
    --------
    >>> network_of("vgg-a-bfloat16.onnx")
    'vgg-a'
    """
    name = PurePath(model).name
    stem = name.removesuffix(".onnx") or name
    return _FORMAT_IN_NAME.sub("", stem) or stem
