# SPDX-License-Identifier: Apache-2.0
"""Which values a clean network reads from its sites: the smallest and largest, over data."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..ortops import noise_inputs
from ..ortops.errors import InputError
from .dataset import Dataset
from .evaluate import Evaluator
from .probe_graphs import shown_graph, shown_stores
from .session import NoisySession
from .sites import Site
from .texts import one_line

#: Most images of a batch, and bytes that their sites read: all are in memory at once.
_IMAGES, _BYTES = 100, 256 << 20
#: NumPy has no arrays of bfloat16, and integers have a range already.
_FLOATS = frozenset({"", "float16", "float32", "float64"})


def clean_ranges(
    session: NoisySession,
    data: Dataset,
    *,
    sites: Collection[int] | None = None,
    batch_size: int | None = None,
    tick: Callable[[int], None] | None = None,
) -> dict[int, tuple[float, float]]:
    """Find the range of what is read from each site while no bit flips.

    It is that of the values after storing: a narrow storage format may round one up. Weights and
    biases, integers, bfloat16 tensors and stores in subgraphs have no range here.

    Parameters
    ----------
    session : NoisySession
    data : Dataset
        Images; labels are not looked at.
    sites : collection of int, optional
        Only these; None: all.
    batch_size : int, optional
        Images a run; None: as many as keep the shown values of a batch within 256 MB, at most
        100. A model with a fixed batch size keeps its own.
    tick : callable, optional
        Called after each batch with its number of images.

    Returns
    -------
    dict from site to (low, high)
        Exact; infinities and NaN do not count. A site without any finite value is left out.

    Raises
    ------
    InputError
        The images do not fit the model, or ONNX Runtime fails.
    """
    chosen = {
        site.site: site
        for site in session.sites
        if site.rows_per_sample != 0
        and site.element_type in _FLOATS
        and (sites is None or site.site in sites)
    }
    # Only what is read becomes an output, so that stores still write in place.
    stores = [replace(s, stored=s.read) for s in shown_stores(session.path) if s.site in chosen]
    if not stores:
        return {}
    images = replace(data, labels=None)
    evaluator = Evaluator(session, images, batch_size or _batch_size(list(chosen.values())))
    shown = session.maker.from_bytes(shown_graph(session.path, stores))
    names = [store.read for store in stores]
    ranges: dict[int, tuple[float, float]] = {}
    for _, x, index, rows in evaluator.batches():
        feeds = {
            session.input_name: x,
            **session.noise_feed(0.0, None, 0),
            noise_inputs.SAMPLE_INDEX: index,
        }
        for store, values in zip(stores, _run(session, shown, names, feeds), strict=True):
            found = _finite_range(values)
            if found is not None:
                low, high = ranges.get(store.site, found)
                ranges[store.site] = min(low, found[0]), max(high, found[1])
        if tick is not None:
            tick(rows)
    return dict(sorted(ranges.items()))


def _batch_size(sites: list[Site]) -> int:
    each = sum(site.elements * site.bits_per_word // 8 for site in sites)
    return max(1, min(_IMAGES, _BYTES // max(each, 1)))


def _run(session: NoisySession, shown: Any, names: list[str], feeds: dict[str, Any]) -> list[Any]:
    try:
        found: list[Any] = shown.run(names, feeds)
    except Exception as error:  # ONNX Runtime's own classes
        raise InputError(f"model {session.path}: ONNX Runtime: {one_line(error)}") from None
    return found


def _finite_range(values: npt.NDArray[Any]) -> tuple[float, float] | None:
    if values.dtype.kind != "f" or not values.size:
        return None
    low, high = float(values.min()), float(values.max())
    if not np.isfinite((low, high)).all():
        values = values[np.isfinite(values)]
        if not values.size:
            return None
        low, high = float(values.min()), float(values.max())
    return low, high
