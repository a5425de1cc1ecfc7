# SPDX-License-Identifier: Apache-2.0
"""Midpoints of a results file: its rows sorted into groups that share one curve."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

import numpy as np
import numpy.typing as npt

from ..ortops.errors import InputError
from .midpoint import Fit, Points, check_options, fit_midpoint
from .results import Results, unpack_bits

#: Columns that the points of a curve share: a sweep's identity without its seed, because other
#: seeds are further trials of the same curve. Batch size, provider and machine stay, because one
#: seed gives the same flips on all of them, no new trials.
CURVE = (
    "model",
    "model_sha256",
    "storage_format",
    "data",
    "data_sha256",
    "images",
    "mask",
    "bit_mask",
    "noisy",
    "provider",
    "machine",
    "batch_size",
    "noise_model",
    "classes",
    "metric_name",
)
_READ = (
    *(*CURVE, "seed", "clean_accuracy", "p01", "p10", "trial", "correct", "agreement"),
    *("correct_bits", "agree_bits", "clean_bits"),
)
#: What tells curves of one label apart, and its words. Of these, all that differ are named;
_APART = {
    "model_sha256": "model SHA-256 {:.8}",
    "data": "{}",
    "images": "{} images",
    "provider": "{}",
    "machine": "{}",
}
#: of these, no more than it takes.
_APART_AT_NEED = {
    "data_sha256": "data SHA-256 {:.8}",
    "batch_size": "batch size {}",
    "metric_name": "metric {}",
    "bit_mask": "bits {}",
    "noise_model": "noise model {}",
    "classes": "{} classes",
    "name": "{}",
    "file": "{}",
}


@dataclass(frozen=True)
class Group:
    """One curve of a results file and its fit.

    Attributes
    ----------
    keys : dict
        What the points share: model, format, mask, noisy (the sites that have the rates, and the
        rates of others; empty: all sites), provider, images, trials (the largest number
        at one rate), metric ("accuracy", or "agreement" with the clean predictions where the data
        has no labels), directions ("1:1" where p01 = p10) and the rest of their identity.
    points : Points
    fit : Fit
    file : str
        The results file, where there are several.
    """

    keys: dict[str, Any]
    points: Points
    fit: Fit
    file: str = ""

    @property
    def label(self) -> str:
        """Name of the curve in a figure or a table (beside others: `labels_of`)."""
        mask = self.keys["mask"]
        parts = [
            self.keys["model"],
            "" if self.keys["format"] == "native" else self.keys["format"],
            self.keys["noisy"],
            "" if mask == "all" else f"mask {mask}",
            "" if self.keys["directions"] == "1:1" else f"p01:p10 {self.keys['directions']}",
        ]
        return ", ".join(part for part in parts if part)

    def as_dict(self) -> dict[str, Any]:
        """Keys and fit as plain values for JSON."""
        return {**self.keys, **self.fit.as_dict()}


def fit_results(
    source: Results | str | os.PathLike[str] | Iterable[dict[str, Any]],
    *,
    axis: str = "log10",
    confidence: float = 0.95,
    warn: Callable[[str], Any] = warnings.warn,
) -> list[Group]:
    """Fit the midpoint of every curve in a results file that can be fitted.

    Parameters
    ----------
    source : Results, path, or rows as `Results.rows` returns them
    axis : {"log10", "linear"}
    confidence : float
    warn : callable
        Told of each curve that cannot be fitted, where others can.

    Returns
    -------
    list of Group
        In the order of the rows: by model, then mask.

    Raises
    ------
    InputError
        A bad option, the file cannot be read or is empty, or no curve can be fitted (see
        `fit_midpoint`): all are named.
    """
    check_options(axis, confidence)
    return _told(*_fit_all(source, axis, confidence), warn)


def fit_files(
    paths: Sequence[str | os.PathLike[str]],
    *,
    axis: str = "log10",
    confidence: float = 0.95,
    warn: Callable[[str], Any] = warnings.warn,
) -> list[Group]:
    """Fit the midpoint of every curve in results files that can be fitted.

    Parameters
    ----------
    paths : sequence of path
    axis, confidence, warn
        As `fit_results` takes them; an empty file counts as a curve that cannot be fitted.

    Returns
    -------
    list of Group
        File by file.

    Raises
    ------
    InputError
        A bad option, a file cannot be read, or no curve of any file can be fitted: all are named.
    """
    check_options(axis, confidence)
    if len(paths) == 1:
        return fit_results(paths[0], axis=axis, confidence=confidence, warn=warn)
    groups, failed = [], []
    for path in paths:
        file = os.fspath(path)
        found, errors = _fit_all(file, axis, confidence)
        groups += [replace(group, file=file) for group in found]
        failed += [f"{file}: {error}" for error in errors]
    return _told(groups, failed, warn)


def labels_of(groups: Sequence[Group]) -> list[str]:
    """Return the labels of curves; those of one label also name in what they differ."""
    labels = [group.label for group in groups]
    for label in {label for label in labels if labels.count(label) > 1}:
        places = [i for i, other in enumerate(labels) if other == label]
        keys = [_apart_keys(groups[i]) for i in places]
        named = [label] * len(places)
        for name, words in (_APART | _APART_AT_NEED).items():
            differ = len({key[name] for key in keys}) > 1
            if differ and (name in _APART or len(set(named)) < len(named)):
                named = [
                    f"{said}, {words.format(key[name])}" if key[name] else said
                    for said, key in zip(named, keys, strict=True)
                ]
        for i, said in zip(places, named, strict=True):
            labels[i] = said
    return labels


def _apart_keys(group: Group) -> dict[str, str]:
    keys = {**group.keys, "images": group.fit.images}
    keys["provider"] = keys["provider"].replace("ExecutionProvider", "")
    keys["name"], keys["file"] = PurePath(group.file).name, group.file
    return {name: str(keys[name]) for name in _APART | _APART_AT_NEED}


def _told(groups: list[Group], failed: Sequence[str], warn: Callable[[str], Any]) -> list[Group]:
    """Return the curves that were fitted, and name those that were not."""
    if not groups:
        raise InputError("; ".join(failed))
    for error in failed:
        warn(f"not fitted: {error}")
    return groups


def _fit_all(
    source: Results | str | os.PathLike[str] | Iterable[dict[str, Any]],
    axis: str,
    confidence: float,
) -> tuple[list[Group], list[str]]:
    groups, failed = [], []
    for rows in _curves(source):
        try:
            groups.append(_fit_group(rows, axis, confidence))
        except InputError as error:
            failed.append(str(error))
    if not groups and not failed:
        failed = [
            "results: expected measured points, got none at a rate above 0: run a sweep first"
        ]
    return groups, failed


def directions_of(p01: float, p10: float) -> str:
    """Return p01:p10 with the larger as 1; empty without noise, which belongs to no curve.

    As text, which rounds: or rates of one direction would seem to be of several.
    """
    top = max(p01, p10)
    return f"{p01 / top:.6g}:{p10 / top:.6g}" if top > 0 else ""


def fit_curve(
    shared: Mapping[str, Any],
    rate: npt.NDArray[np.float64],
    trial: Sequence[int],
    right: Sequence[int | None],
    *,
    labelled: bool,
    bits: npt.NDArray[np.bool_] | None,
    clean_bits: npt.NDArray[np.bool_] | None,
    axis: str,
    confidence: float,
) -> tuple[Points, Fit]:
    """Fit the points of one curve of a results file.

    Parameters
    ----------
    shared : mapping
        Columns that all points have alike: images, classes, clean_accuracy.
    rate : array [P]
        The larger of p01 and p10.
    trial, right : sequence [P]
        `right` counts the predictions that agree with the labels, or with the clean network.
    labelled : bool
        Which of these two.
    bits, clean_bits : array [P, images], array [images]; or None
        Which predictions are right, and with the labels those of the clean network.
    axis, confidence
        As `fit_midpoint` takes them.

    Returns
    -------
    (Points, Fit)

    Raises
    ------
    InputError
        There are no predictions to count, or `fit_midpoint` cannot fit them.
    """
    if None in right:
        raise InputError(
            "expected class predictions, got a metric only: there is no accuracy to fit"
        )
    if not shared["classes"]:
        raise InputError("expected a number of classes, got none")
    images = shared["images"]
    points = Points(
        rate=rate,
        trial=np.array(trial),
        correct=np.array(right),
        images=np.full(len(rate), images),
        bits=bits,
        clean_bits=clean_bits if labelled else np.ones(images, dtype=bool),
    )
    fit = fit_midpoint(
        points,
        clean_accuracy=shared["clean_accuracy"] if labelled else 1.0,
        classes=shared["classes"],
        axis=axis,
        confidence=confidence,
    )
    return points, fit


def _curves(
    source: Results | str | os.PathLike[str] | Iterable[dict[str, Any]],
) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of each curve; of a file, those of few curves are in memory at a time."""
    with ExitStack() as stack:
        if isinstance(source, (str, os.PathLike)):
            source = stack.enter_context(Results(source, readonly=True))
        if not isinstance(source, Results):
            yield from _grouped(source)
            return
        sweeps: dict[tuple[Any, ...], list[str]] = {}
        for shared in source.sweep_rows():
            sweeps.setdefault(tuple(shared[name] for name in CURVE), []).append(shared["sweep"])
        for keys in sweeps.values():
            parts = (source.rows(columns=_READ, sweep=key) for key in keys)
            yield from _grouped(row for part in parts for row in part)


def _grouped(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    grouped: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        if max(row["p01"], row["p10"]) > 0:
            key = (*(row[name] for name in CURVE), directions_of(row["p01"], row["p10"]))
            grouped.setdefault(key, []).append(row)
    yield from grouped.values()


def _fit_group(rows: list[dict[str, Any]], axis: str, confidence: float) -> Group:
    first = rows[0]
    labelled = all(row["correct"] is not None for row in rows)
    count, bits = ("correct", "correct_bits") if labelled else ("agreement", "agree_bits")
    rate = np.array([max(row["p01"], row["p10"]) for row in rows])
    unpacked, clean_bits = _unpacked(rows, bits), _clean_bits(first)
    try:
        points, fit = fit_curve(
            first,
            rate,
            [row["trial"] for row in rows],
            [row[count] for row in rows],
            labelled=labelled,
            bits=unpacked,
            clean_bits=clean_bits,
            axis=axis,
            confidence=confidence,
        )
    except InputError as error:
        raise InputError(f"{first['model']} (mask {first['mask']}): {error}") from None
    keys = {name: first[name] for name in CURVE if name not in ("storage_format", "images")}
    keys["format"] = first["storage_format"]
    keys["directions"] = directions_of(first["p01"], first["p10"])
    keys["metric"] = "accuracy" if labelled else "agreement"
    keys["trials"] = int(np.unique(rate, return_counts=True)[1].max())
    keys["seeds"] = sorted({row["seed"] for row in rows})
    return Group(keys, points, fit)


def _unpacked(rows: list[dict[str, Any]], name: str) -> npt.NDArray[np.bool_] | None:
    if any(row[name] is None for row in rows):
        return None
    return np.stack([unpack_bits(row[name], row["images"]) for row in rows])


def _clean_bits(row: dict[str, Any]) -> npt.NDArray[np.bool_] | None:
    blob = row.get("clean_bits")
    return None if blob is None else unpack_bits(blob, row["images"])
