# SPDX-License-Identifier: Apache-2.0
"""How many rows of a tensor's axis 0 belong to one sample: measured in ONNX Runtime."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..ortops.errors import InputError
from .onnx_feeds import Feeds
from .onnx_files import Source
from .onnx_sessions import open_session
from .onnx_types import Stored

_BATCH = 3
_CHANGED = 1
_ATTEMPTS = 3
#: Types that ONNX Runtime gives as NumPy's.
_READABLE = frozenset(
    f"tensor({kind}{bits})"
    for kind, widths in {
        "float": ("", "16"),
        "double": ("",),
        "int": ("8", "16", "32", "64"),
        "uint": ("8", "16", "32", "64"),
        "bool": ("",),
        "string": ("",),
    }.items()
    for bits in widths
)

Arrays = dict[str, npt.NDArray[Any]]


def measure_rows(
    source: Source,
    stored: Sequence[Stored],
    example: Mapping[str, npt.NDArray[Any]],
    libraries: Sequence[Any],
    notes: list[str],
) -> list[int]:
    """Find rows_per_sample of tensors by running the clean model.

    Where the batch is free, the number of rows must be the same multiple of two batch sizes, and
    changing one sample of a batch may change only its rows. Where other axes of the inputs are
    free, it must be the same at another length of theirs. Where the file fixes a batch of one,
    the whole tensor is that sample. A model whose first output mixes samples has no rows of a
    sample at all, for the batch is its sample.

    Parameters
    ----------
    source : Source
    stored : sequence of Stored
        Of the main graph; shapes and sizes that were unknown are filled in.
    example : mapping from input name to array
        Values to run on; drawn where it is empty.
    libraries : sequence of path-like
        Of custom operators.
    notes : list of str
        A line is added where the model cannot be run, and shapes must do; where it runs at one
        length of its free axes only; and where it mixes samples.

    Returns
    -------
    list of int
        -1 where a tensor has no batch axis in front, or that is not certain.

    Raises
    ------
    InputError
        The example does not fit the model, or a library does not load.
    """
    feeds = Feeds(source.model, example)
    names = list(dict.fromkeys(tensor.name for tensor in stored))
    try:
        session = open_session(source, names, libraries)
        found = _Measurement(session, feeds, names).run(stored, notes)
    except InputError:
        raise
    except Exception as error:  # whatever ONNX Runtime refuses, shapes must do
        lines = [line for line in str(error).splitlines() if line.strip()]
        reason = (lines[0] if lines else type(error).__name__)[:200]
        notes.append(f"rows per sample are taken from shapes: the model does not run ({reason})")
        return [_rows_by_shape(tensor, feeds) for tensor in stored]
    return found


class _Measurement:
    def __init__(self, session: Any, feeds: Feeds, names: Sequence[str]) -> None:
        self.session = session
        self.feeds = feeds
        self.varying: set[str] = set()  # whose length depends on the values
        self.output = _readable_output(session)
        self.names = list(dict.fromkeys([*names, *([self.output] if self.output else [])]))

    def run(self, stored: Sequence[Stored], notes: list[str]) -> list[int]:
        size = self.feeds.fixed_batch or _BATCH
        base, first = self._first_run(size)
        others = []
        smaller = size if self.feeds.fixed_batch else _BATCH - 1
        other = None
        if self.feeds.fixed_batch is None and self.feeds.batched:
            other = self._outputs(self.feeds.draw(smaller))
            others.append(other)
        if self.feeds.free_axes and self.feeds.batched:
            others += self._stretched(smaller, notes)
        rows = {n: self._rows(first[n], [o[n] for o in others], size, smaller) for n in first}
        if size > 1:
            mixed = self._mixed(rows, base, first)
            if self.output in mixed and rows[self.output] == 1:
                notes.append("the model mixes the samples of a batch: the batch is its sample")
                mixed = {*rows}
            rows.update(dict.fromkeys(mixed, -1))
        for tensor in stored:
            if tensor.name not in self.varying:
                self._fill(tensor, rows[tensor.name], first, other, size)
        return [rows[tensor.name] for tensor in stored]

    def _stretched(self, batch: int, notes: list[str]) -> list[Arrays]:
        """Run at another length of the free axes."""
        tried = False
        for feed in self.feeds.stretched(self.feeds.draw(batch)):
            tried = True
            with contextlib.suppress(Exception):  # whatever ONNX Runtime refuses
                return [self._outputs(feed)]
        if tried:
            notes.append(
                "rows per sample were measured at one length of the inputs' free axes: the model "
                "does not run at others that were tried"
            )
        return []

    def _first_run(self, size: int) -> tuple[Arrays, Arrays]:
        """Run on the first kind of drawn values that the model takes."""
        while True:
            feed = self.feeds.draw(size)
            try:
                outputs = self._outputs(feed)
            except Exception:
                if not self.feeds.next_kind():
                    raise
                continue
            for name in self.feeds.tied:
                self.feeds.untie(name)
                try:
                    feed = self.feeds.draw(size)
                    outputs = self._outputs(feed)
                except Exception:  # the two do have one length
                    self.feeds.tie(name)
                    feed = self.feeds.draw(size)
                    outputs = self._outputs(feed)
            return feed, outputs

    def _outputs(self, feed: Arrays) -> Arrays:
        values = dict(zip(self.names, self.session.run(self.names, feed), strict=True))
        # ONNX Runtime 1.23 gives an input's own memory, which goes with the feed.
        return {n: value.copy() if n in feed else value for n, value in values.items()}

    def _rows(
        self,
        first: npt.NDArray[Any],
        others: Sequence[npt.NDArray[Any]],
        size: int,
        smaller: int,
    ) -> int:
        """Rows of a sample: the same multiple of the batch in every run, else -1."""
        if not first.ndim or not first.size or not self.feeds.batched:
            return -1
        rows, rest = divmod(first.shape[0], size)
        if not rows or rest:
            return -1
        same = all(o.ndim == first.ndim and o.shape[0] == rows * smaller for o in others)
        return rows if same else -1

    def _mixed(self, rows: dict[str, int], base: Arrays, first: Arrays) -> set[str]:
        """Tensors where changing one sample changes another's rows, or how many there are.

        Where the file fixes the batch and some inputs do not follow it, tensors that are not seen
        to follow it as well.
        """
        pending = {name for name, count in rows.items() if count > 0}
        mixed = set()
        for _ in range(_ATTEMPTS):
            if not pending:
                break
            changed = self._outputs(self.feeds.vary(base, _CHANGED))
            for name in list(pending):
                if first[name].shape != changed[name].shape:
                    rows[name] = -1
                    self.varying.add(name)
                    pending.discard(name)
                    continue
                moved = _changed_rows(first[name], changed[name])
                own = np.zeros_like(moved)
                own[_CHANGED * rows[name] : (_CHANGED + 1) * rows[name]] = True
                if (moved & ~own).any():
                    mixed.add(name)
                if moved.any():
                    pending.discard(name)
        if self.feeds.fixed_batch is None or self.feeds.all_batched:
            return mixed
        return mixed | pending - {self.output}

    def _fill(
        self, tensor: Stored, rows: int, first: Arrays, other: Arrays | None, size: int
    ) -> None:
        """Note the sizes that the run showed and the file fixes."""
        if self.feeds.free_axes:
            return
        shape = first[tensor.name].shape
        total = first[tensor.name].size
        known: tuple[Any, ...] = shape
        if other is not None:
            small = other[tensor.name].shape
            if len(small) == len(shape):
                known = tuple(a if a == b else None for a, b in zip(shape, small, strict=True))
            else:
                known = (None,) * len(shape)
        given = tensor.type.shape
        if given is None or len(given) != len(known):
            given = (None,) * len(known)
        tensor.type.shape = tuple(
            a if isinstance(a, int) or b is None else b for a, b in zip(given, known, strict=True)
        )
        grows = None in known or (self.feeds.fixed_batch is not None and rows > 0)
        tensor.sample = total // size if grows and total % size == 0 else total


def _readable_output(session: Any) -> str | None:
    """Name of the first output, which samples must not mix in; None where it is no such array."""
    first = session.get_outputs()[0]
    return first.name if first.type in _READABLE else None


def _changed_rows(before: npt.NDArray[Any], after: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Rows that differ by more than the rounding of a differently blocked product."""
    if before.dtype.kind in "OSU":  # text
        return np.asarray((before != after).reshape(len(before), -1).any(axis=1))
    a = before.reshape(len(before), -1).astype(np.float64)
    b = after.reshape(len(after), -1).astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    span = np.abs(np.nan_to_num(a, nan=0.0, posinf=0.0, neginf=0.0)).max(initial=0.0)
    with np.errstate(invalid="ignore"):
        return (~same & ~(np.abs(a - b) <= 1e-6 * span)).any(axis=1)


def _rows_by_shape(tensor: Stored, feeds: Feeds) -> int:
    shape = tensor.type.shape
    if not shape or not feeds.batched:
        return -1
    if feeds.fixed_batch is None:
        return 1 if shape[0] and shape[0] == feeds.batch_symbol else -1
    if not isinstance(shape[0], int):
        return -1
    if feeds.fixed_batch == 1:
        return shape[0] or -1
    return 1 if shape[0] == feeds.fixed_batch else -1
