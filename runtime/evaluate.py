# SPDX-License-Identifier: Apache-2.0
"""One data set through one model at one noise setting, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ..ortops import noise_inputs
from ..ortops.errors import InputError
from .dataset import Dataset, check_label_range, prepare
from .metrics import Metric, Scores, as_logits, score
from .session import NoisySession
from .sites import Site, site_masks

#: Prepared images stay in memory between trials up to this size.
PREPARED_BYTES = 2 << 30

#: Above this many expected flips a sample nearly none is without a flip: counting is for nothing.
COUNTED_FLIPS = 8.0


class Evaluator:
    """A data set and a model, ready to be measured at any bit error rate.

    Parameters
    ----------
    session : NoisySession
    data : Dataset
    batch_size : int
        Samples a run; a model with a fixed batch size keeps its own.
    metric : callable, optional
        See `noisystore.runtime.metrics.Metric`.

    Attributes
    ----------
    batch_size : int
    classes : int or None
        Number of logits; known after the first run, None where the outputs are no logits.

    Raises
    ------
    InputError
        The images do not fit the model, or it takes several inputs.
    """

    def __init__(
        self,
        session: NoisySession,
        data: Dataset,
        batch_size: int = 100,
        metric: Metric | None = None,
    ) -> None:
        if not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
            raise InputError(f"batch size: expected a positive integer, got {batch_size!r}")
        if len(session.input_names) > 1:
            raise InputError(
                f"model {session.path}: expected one data input, got {list(session.input_names)}"
            )
        self.session, self.data, self.metric = session, data, metric
        self.batch_size = session.batch or min(int(batch_size), len(data))
        session.check_shape((self.batch_size, *data.images.shape[1:]))
        self.classes: int | None = None
        if session.classes is not None:
            self._check_label_range(session.classes)
        self._kept = data.images.size * session.input_dtype.itemsize <= PREPARED_BYTES

    def __len__(self) -> int:
        return len(self.data)

    def run(
        self,
        bit_error_rate: Any = 0.0,
        bit_mask: Any = None,
        seed: int = 0,
        samples: npt.NDArray[np.int64] | None = None,
        tick: Callable[[int], None] | None = None,
    ) -> Scores:
        """Run all samples, or some, and return their scores in order.

        Parameters
        ----------
        bit_error_rate, bit_mask, seed
            As `NoisySession.run` takes them.
        samples : array of int64, optional
            Ascending indices in the data set; None: all.
        tick : callable, optional
            Called after each batch with its number of samples.

        Returns
        -------
        Scores

        Raises
        ------
        InputError
            A noise argument is bad, ONNX Runtime fails, or the outputs do not fit the data, the
            labels or the metric.
        """
        parts = []
        for chosen, outputs in self.outputs(bit_error_rate, bit_mask, seed, samples):
            labels = None if self.data.labels is None else self.data.labels[chosen]
            self._check_labels(outputs)
            parts.append(score(outputs, labels, self.metric))
            if tick is not None:
                tick(len(outputs))
        return Scores.joined(parts)

    def outputs(
        self,
        bit_error_rate: Any = 0.0,
        bit_mask: Any = None,
        seed: int = 0,
        samples: npt.NDArray[np.int64] | None = None,
    ) -> Iterator[tuple[Any, npt.NDArray[Any]]]:
        """Run batch by batch, and yield which samples ran and their first output.

        Parameters and errors are those of `run`.

        Yields
        ------
        (slice or array of int64 [n], array [n, ...])
        """
        noise = self.session.noise_feed(bit_error_rate, bit_mask, seed)
        for chosen, x, index, rows in self.batches(samples):
            feeds = {self.session.input_name: x, **noise}
            outputs = self.session.run_feed(feeds, index, rows)[0]
            if outputs.shape[:1] != (len(x),):
                raise InputError(
                    f"model {self.session.path}: expected an output [{len(x)}, ...] for "
                    f"{len(x)} samples, got {list(outputs.shape)}"
                )
            yield chosen, outputs[:rows]

    def batches(
        self, samples: npt.NDArray[np.int64] | None = None
    ) -> Iterator[tuple[Any, npt.NDArray[Any], npt.NDArray[np.int64], int]]:
        """Yield batches as the network takes them, filled up to one size where that is wanted.

        Parameters
        ----------
        samples : array of int64, optional
            As `run` takes them.

        Yields
        ------
        (slice or array of int64 [n], array [N, ...], array of int64 [1] or [N], n)
            Samples, input, sample indices, and the number of samples that are not filling.
        """
        count = len(self.data) if samples is None else len(samples)
        for start in range(0, count, self.batch_size):
            stop = min(start + self.batch_size, count)
            chosen = slice(start, stop) if samples is None else samples[start:stop]
            yield (chosen, *self._batch(chosen, stop - start), stop - start)

    def affected(
        self, bit_error_rate: Any, bit_mask: Any, seed: int
    ) -> npt.NDArray[np.int64] | None:
        """Return the samples in which a bit may flip; None: all are to be run.

        The others have the clean prediction. Exact where p01 = p10, else a few more.
        """
        if not self.session.sizes_confirmed:
            return None
        return affected_samples(self.session.sites, len(self.data), bit_error_rate, bit_mask, seed)

    def _batch(self, chosen: Any, rows: int) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
        x = self._ready[chosen] if self._kept else self._prepare(self.data.images[chosen])
        if isinstance(chosen, slice):
            index = np.array([chosen.start], dtype=np.int64)
        else:
            index = np.ascontiguousarray(chosen, dtype=np.int64)
        missing = self.batch_size - rows if self._fills else 0
        if missing:
            x = np.concatenate([x, np.repeat(x[-1:], missing, axis=0)])
            if index.size > 1 or not isinstance(chosen, slice):
                index = np.concatenate([index, np.repeat(index[-1:], missing)])
        return x, index

    @cached_property
    def _fills(self) -> bool:
        """Whether every batch has one size, be it with samples that are not needed.

        For each size that comes, accelerators' libraries choose their algorithms anew, which takes
        longer, and rounds otherwise. Not where a model mixes samples: others would change theirs.
        """
        mixed = any(site.rows_per_sample < 0 for site in self.session.sites)
        accelerated = self.session.provider != "CPUExecutionProvider"
        return bool(self.session.batch) or (accelerated and not mixed)

    @cached_property
    def _ready(self) -> npt.NDArray[Any]:
        return self._prepare(self.data.images)

    def _prepare(self, images: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return prepare(images, self.session.normalization, self.session.input_dtype)

    def _check_labels(self, outputs: npt.NDArray[Any]) -> None:
        logits = as_logits(outputs)
        if logits is None or logits.shape[1] == self.classes:
            return
        self.classes = logits.shape[1]
        self._check_label_range(self.classes)

    def _check_label_range(self, classes: int) -> None:
        if self.data.labels is not None:
            check_label_range(self.data.name, self.data.labels, classes, "outputs of the model")


def expected_flips(sites: list[Site], bit_error_rate: Any, bit_mask: Any) -> float:
    """Return the flips that one sample is expected to meet; inf if unknown.

    Those of a stored parameter happen once and meet all samples: each counts them. The chance that
    a sample is to be run is 1 - exp(-flips) all the same.

    Parameters
    ----------
    sites : list of Site
    bit_error_rate, bit_mask
        As `NoisySession.run` takes them.

    Raises
    ------
    InputError
        A bad rate or mask.
    """
    rates = noise_inputs.rate_table(bit_error_rate, len(sites))
    masks = site_masks(bit_mask, sites)
    total = 0.0
    for site in sites:
        bits = _noisy_mask(site, int(masks[site.site])).bit_count()
        rate = float(rates[site.site].max())
        if bits and rate > 0:
            if site.elements < 1 or site.rows_per_sample < 0:
                return float("inf")
            total += site.elements * bits * rate
    return total


def affected_samples(
    sites: list[Site], samples: int, bit_error_rate: Any, bit_mask: Any, seed: int
) -> npt.NDArray[np.int64] | None:
    """Return which of the samples 0 to `samples` - 1 may have a flip; None: all, or unknown.

    Parameters
    ----------
    sites : list of Site
    samples : int
    bit_error_rate, bit_mask, seed
        As `NoisySession.run` takes them.

    Returns
    -------
    array of int64, ascending; or None

    Raises
    ------
    InputError
        A bad rate, mask or seed.
    """
    from .. import ortops

    if any(site.rows_per_sample < 0 for site in sites):
        return None
    if expected_flips(sites, bit_error_rate, bit_mask) > COUNTED_FLIPS:
        return None
    rates = noise_inputs.rate_table(bit_error_rate, len(sites))
    masks = site_masks(bit_mask, sites)
    hit = np.zeros(samples, dtype=bool)
    for site in sites:
        mask = _noisy_mask(site, int(masks[site.site]))
        p01, p10 = (float(rate) for rate in rates[site.site])
        if not mask or max(p01, p10) == 0:
            continue
        whole = site.rows_per_sample == 0
        flips = ortops.count_flips(
            (1, site.elements) if whole else (samples, site.elements),
            site.bits_per_word,
            (p01, p10),
            bit_mask=mask,
            seed=seed,
            site=site.site,
            sample_index=0,
            rows_per_sample=0 if whole else 1,
        )
        if whole and flips.any():
            return None
        if not whole:
            hit |= flips > 0
    return None if hit.all() else np.flatnonzero(hit)


def _noisy_mask(site: Site, mask: int) -> int:
    """Return the set bits of a mask that the words of a site have."""
    return mask & ((1 << site.noisy_bits) - 1)
