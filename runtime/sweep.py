# SPDX-License-Identifier: Apache-2.0
"""Accuracy against bit error rate: points measured one by one, kept, and resumed."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ortops.errors import InputError
from .dataset import Dataset, load
from .evaluate import Evaluator
from .interrupt import Interrupted
from .metrics import Metric
from .noisy_sites import NoisySites
from .notes import session_notes, too_wide
from .ort_session import Provider
from .point_pool import local_executor
from .point_task import Executor, Kind, SweepNoise
from .rates import noise_seed, parse_rates
from .results import Results, rates_key
from .session import NoisySession
from .sweep_masks import swept_masks
from .sweep_points import SweepPoints
from .sweep_record import SweepLabels, point_key

if TYPE_CHECKING:
    from .cluster import Cluster
    from .cluster_link import Link

_UNSIZED = (
    "the graph does not state the sizes of its sites: all samples are run, those without a flip too"
)

__all__ = ["Interrupted", "SweepSummary", "noise_seed", "parse_rates", "sweep"]


@dataclass(frozen=True)
class SweepSummary:
    """What a sweep found.

    Attributes
    ----------
    points : list of dict
        The asked points, those measured earlier included, as `Results.rows` gives them.
    clean_accuracy : float or None
        None where the data have no labels.
    chance_accuracy : float or None
        1 / classes.
    images : int
        Samples of a point.
    seconds : float
        From start to end, in this call.
    run_seconds : float
        Of these, inside ONNX Runtime's ``run``; those of several workers added up.
    prepare_seconds : float
        Of these, spent on applying the noise of weights and biases.
    inferences : int
        Samples run in this call, those of the clean network included.
    skipped : int
        Samples of this call's points that were not run, having no flip.
    measured : int
        Points measured in this call.
    sweep : str
        Key of the sweep in the results.
    noisy : str
        The sites that had the swept rates, and the rates of others; empty: all sites.
    path : pathlib.Path or None
        The results file.
    """

    points: list[dict[str, Any]]
    clean_accuracy: float | None
    chance_accuracy: float | None
    images: int
    seconds: float
    run_seconds: float
    prepare_seconds: float
    inferences: int
    skipped: int
    measured: int
    sweep: str
    noisy: str
    path: Path | None

    def __str__(self) -> str:
        """File, points, clean accuracy and inferences in two lines."""
        where = "" if self.path is None else f" in {self.path}"
        clean = "" if self.clean_accuracy is None else f"clean accuracy {self.clean_accuracy:.4f}, "
        return (
            f"{self.rows:,} points of {self.images:,} images{where} ({self.measured:,} measured "
            f"now)\n{clean}{self.inferences:,} inferences, {self.seconds:.1f} s"
        )

    @property
    def rows(self) -> int:
        """Number of points."""
        return len(self.points)


def sweep(
    model: str | os.PathLike[str] | NoisySession,
    data: str | Dataset,
    rates: Any,
    *,
    trials: int = 5,
    images: int | None = None,
    noisy: str | int | Sequence[str | int] | None = None,
    fixed_rates: Mapping[str, Any] | None = None,
    bit_mask: int | str | Sequence[int | str] | None = None,
    mask_name: str | None = None,
    seed: int = 0,
    batch_size: int = 100,
    providers: Sequence[str | Provider] | str | None = None,
    threads: int | None = None,
    custom_op_libraries: Sequence[str | os.PathLike[str]] = (),
    results: str | os.PathLike[str] | Results | None = None,
    metric: Metric | None = None,
    metric_name: str | None = None,
    progress: bool | None = None,
    skip_clean: bool = True,
    split: str = "test",
    workers: int | str = 1,
    cluster: str | Link | Cluster | Any | None = None,
) -> SweepSummary:
    """Measure the accuracy of a model at several bit error rates.

    The clean network is measured first, then trial 0 at every rate, then trial 1, and so on. Every
    point is stored as soon as it is measured; a point that the results hold already is not
    measured again, so an interrupted sweep goes on where it stopped.

    Parameters
    ----------
    model : path of an annotated ONNX file, or NoisySession
    data : str or Dataset
        See `noisystore.runtime.dataset.load`.
    rates : str, float or sequence
        See `parse_rates`.
    trials : int
        Points a rate, each with noise of its own.
    images : int, optional
        Samples, the first of the data set; None: all.
    noisy : str, int, sequence of these, or None
        Sites that have the swept rates: kinds (``activation``, ``weight``, ``bias``, ``input``),
        names or patterns of names, or numbers; a str may hold several, separated by commas. None:
        all that `fixed_rates` does not name.
    fixed_rates : mapping, optional
        From kind, name, pattern or number to the rate, or (p01, p10), that sites keep in every
        point. Sites that neither names have the rates 0. The clean network has no noise at all.
    bit_mask : int, str, sequence of int or str [sites], or None
        Bits that may flip, as numbers or by name (`noisystore.ortops.bit_mask`; each site's
        format gives a name its bits; one name must suit the noisy sites); None: all.
    mask_name : str, optional
        Label of the mask in results; None: its name, or the mask in hexadecimal.
    seed : int
        Of the whole sweep, 64 bits, signed; the noise seeds of its points follow from it.
    batch_size : int
        Samples a run; a model with a fixed batch size keeps its own.
    providers, threads, custom_op_libraries
        As `NoisySession` takes them (not used where `model` is one).
    results : path, Results, or None
        Where points are kept; None: in memory only.
    metric : callable (outputs [N, ...], labels [N] or None) -> array [N], optional
        One number a sample, which must not depend on the others of its batch; the mean is
        recorded beside accuracy.
    metric_name : str, optional
        Label of the metric; None: the callable's name (a lambda has none: give one where there
        are `results`). Points of other metrics are kept apart.
    progress : bool, optional
        True: show a progress line on standard error, False: do not; None: on a terminal.
    skip_clean : bool
        Do not run samples in which no bit flips: they have the clean prediction. The results
        are the same, but for the time. Only where the graph states the sizes of its sites.
    split : "test" or "train"
        Of the data set.
    workers : int or "auto"
        Processes that measure points at the same time; the points are the same, bit for bit. The
        cores are divided among them, unless `threads` says how many each has. "auto": one, and,
        as soon as the sweep is seen to be long, one a core, or as many as fit into the memory (one
        where `metric` is known to this process alone). A script with several must call
        `sweep` under ``if __name__ == "__main__":``.
    cluster : str, Link, Cluster or distributed.Client, optional
        A Dask scheduler whose workers measure, instead of this machine: its address (see
        `noisystore.runtime.cluster_link.Link`), or `noisystore.runtime.cluster.Cluster`. Then
        `providers` and `threads` are the workers'.

    Returns
    -------
    SweepSummary

    Raises
    ------
    InputError
        Bad input of any kind, or no space left for the results (the points are kept).
    Interrupted
        Ctrl-C or SIGTERM (the points are kept).

    Notes
    -----
    Accuracy counts a sample as correct if its label is the arg-max of the logits, NaN being the
    largest. Source: paper, section 4.1 (rates 1e-8 to 1e-1, five trials).
    """
    begin = time.perf_counter()
    pairs = parse_rates(rates)
    if not isinstance(trials, (int, np.integer)) or trials < 1:
        raise InputError(f"trials: expected a positive integer, got {trials!r}")
    if not isinstance(seed, (int, np.integer)) or not -(1 << 63) <= seed < 1 << 63:
        raise InputError(f"seed: expected an integer of 64 bits with a sign, got {seed!r}")
    if cluster is not None and workers not in (1, "auto"):
        raise InputError(
            'workers: expected 1 or "auto" with a cluster, whose own workers measure, got '
            f"{workers!r}"
        )
    session = model
    if not isinstance(session, NoisySession):
        # Of a cluster's providers this machine need not have any.
        here = providers if cluster is None else None
        session = NoisySession(session, here, threads, custom_op_libraries)
    elif cluster is not None:
        providers, threads = session.maker.providers, session.threads
    chosen = NoisySites(session.sites, noisy, fixed_rates)
    label, masks = swept_masks(bit_mask, session.sites, chosen)
    dataset = load(data, split, size=session.image_size) if isinstance(data, str) else data
    evaluator = Evaluator(session, dataset.head(images), batch_size, metric)
    skips = skip_clean and session.sizes_confirmed
    noise = SweepNoise(chosen, masks, int(seed), skips)
    labels = SweepLabels(
        mask_name or label, _metric_label(metric, metric_name, results is not None)
    )
    source = (data, split) if isinstance(data, str) else evaluator.data
    with contextlib.ExitStack() as stack:
        remote = None
        if cluster is None:
            executor: Executor = local_executor(evaluator, noise, source, workers, threads)
        else:
            from .cluster import cluster_executor  # asyncio, which costs boards time

            measuring = cluster_executor(cluster, evaluator, noise, providers, threads, progress)
            executor = remote = stack.enter_context(measuring)
        store = results
        if not isinstance(store, Results):
            store = Results(store)
            stack.callback(store.close)
        elsewhere: list[Kind] = []
        if remote is not None and remote.mixed == "any":
            elsewhere = [(row["machine"], row["provider"]) for row in store.sweeps()]
        work = SweepPoints(evaluator, store, noise, labels, elsewhere)
        wanted = [(p01, p10, trial) for trial in range(int(trials)) for p01, p10 in pairs]
        notes = [
            *too_wide(label, masks, session.sites, chosen),
            *session_notes(session, evaluator.data),
            *([_UNSIZED] if skip_clean and not skips else []),
        ]
        work.measure(wanted, executor, progress, notes)
        keys = {point_key(point) for point in wanted}
        points = [
            row
            for key in work.keys
            for row in store.rows(sweep=key)
            if (rates_key(row["p01"], row["p10"]), row["trial"]) in keys
        ]
    return SweepSummary(
        points=points,
        clean_accuracy=points[0]["clean_accuracy"],
        chance_accuracy=points[0]["chance_accuracy"],
        images=len(evaluator),
        seconds=time.perf_counter() - begin,
        run_seconds=work.run_seconds,
        prepare_seconds=work.prepare_seconds,
        inferences=work.inferences,
        skipped=work.skipped,
        measured=work.measured,
        sweep=work.keys[0],
        noisy=chosen.label,
        path=store.path,
    )


def _metric_label(metric: Metric | None, name: str | None, kept: bool) -> str:
    """Return what tells a metric's points from others, in a file or in a `Results`."""
    if metric is None:
        return ""
    own = getattr(metric, "__name__", None)
    if name or (own and own != "<lambda>"):
        return str(name or own)
    if kept:
        raise InputError(
            "metric: expected metric_name, because this callable has no name of its own: it tells "
            "the metric's points from those of others"
        )
    return "metric"
