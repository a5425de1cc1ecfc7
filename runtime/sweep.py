# SPDX-License-Identifier: Apache-2.0
"""Accuracy against bit error rate: points measured one by one, kept, and resumed."""

from __future__ import annotations

import json
import os
import platform
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..ortops import noise_inputs
from ..ortops.errors import InputError
from .dataset import Dataset, load
from .environment import environment
from .evaluate import COUNTED_FLIPS, Evaluator, expected_flips
from .interrupt import Interrupted, terminable
from .metrics import Metric, Scores
from .progress import Progress
from .rates import noise_seed, parse_rates
from .results import Point, Results, pack_bits, rates_key, sweep_key
from .session import NoisySession

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
        Of these, inside ONNX Runtime.
    inferences : int
        Samples run in this call, those of the clean network included.
    skipped : int
        Samples of this call's points that were not run, having no flip.
    measured : int
        Points measured in this call.
    sweep : str
        Key of the sweep in the results.
    path : pathlib.Path or None
        The results file.
    """

    points: list[dict[str, Any]]
    clean_accuracy: float | None
    chance_accuracy: float | None
    images: int
    seconds: float
    run_seconds: float
    inferences: int
    skipped: int
    measured: int
    sweep: str
    path: Path | None

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
    bit_mask: int | Sequence[int] | None = None,
    mask_name: str | None = None,
    seed: int = 0,
    batch_size: int = 100,
    providers: Sequence[str] | str | None = None,
    threads: int | None = None,
    results: str | os.PathLike[str] | Results | None = None,
    metric: Metric | None = None,
    metric_name: str | None = None,
    progress: bool | None = None,
    skip_clean: bool = True,
    split: str = "test",
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
    bit_mask : int, sequence of int [sites], or None
        Bits that may flip; None: all.
    mask_name : str, optional
        Label of the mask in results; None: ``all``, or the mask in hexadecimal.
    seed : int
        Of the whole sweep, 64 bits, signed; the noise seeds of its points follow from it.
    batch_size : int
        Samples a run; a model with a fixed batch size keeps its own.
    providers, threads
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
    session = model if isinstance(model, NoisySession) else NoisySession(model, providers, threads)
    noise_inputs.mask_table(bit_mask, len(session.sites))
    dataset = load(data, split) if isinstance(data, str) else data
    before = session.run_seconds, session.inferences
    store = results if isinstance(results, Results) else Results(results)
    try:
        work = _Sweep(
            Evaluator(session, dataset.head(images), batch_size, metric),
            store,
            _mask_text(bit_mask),
            bit_mask,
            mask_name,
            int(seed),
            _metric_label(metric, metric_name, results is not None),
            skip_clean,
        )
        wanted = [(p01, p10, trial) for trial in range(int(trials)) for p01, p10 in pairs]
        work.measure(wanted, progress)
        keys = {(rates_key(p01, p10), trial) for p01, p10, trial in wanted}
        points = [
            row
            for row in store.rows(sweep=work.key)
            if (rates_key(row["p01"], row["p10"]), row["trial"]) in keys
        ]
    finally:
        if store is not results:
            store.close()
    return SweepSummary(
        points=points,
        clean_accuracy=points[0]["clean_accuracy"],
        chance_accuracy=points[0]["chance_accuracy"],
        images=len(work.evaluator),
        seconds=time.perf_counter() - begin,
        run_seconds=session.run_seconds - before[0],
        inferences=session.inferences - before[1],
        skipped=work.skipped,
        measured=work.measured,
        sweep=work.key,
        path=store.path,
    )


class _Sweep:
    """The sweep of one model, data set, mask and seed: its clean scores and its points."""

    def __init__(
        self,
        evaluator: Evaluator,
        store: Results,
        mask_text: str,
        bit_mask: Any,
        mask_name: str | None,
        seed: int,
        metric_name: str,
        skip_clean: bool,
    ) -> None:
        self.evaluator, self.store, self.bit_mask = evaluator, store, bit_mask
        self.unsized = skip_clean and not evaluator.session.sizes_confirmed
        self.seed, self.skip_clean = seed, skip_clean and not self.unsized
        self.mask_name = mask_name or ("all" if bit_mask is None else mask_text)
        self.measured = self.skipped = 0
        session = evaluator.session
        self.identity = {
            "model_sha256": session.model_sha256,
            "data_sha256": evaluator.data.sha256,
            "images": len(evaluator),
            "seed": seed,
            "batch_size": evaluator.batch_size,
            "bit_mask": mask_text,
            "metric": metric_name,
            "provider": session.provider,
            "machine": platform.machine(),
            "noise_model": noise_inputs.NOISE_MODEL,
        }
        self.key = sweep_key(self.identity)

    def measure(self, wanted: list[tuple[float, float, int]], show: bool | None) -> None:
        """Measure and store the wanted points (p01, p10, trial) that are not stored yet."""
        found = self.store.find_sweep(self.identity)
        done = set() if found is None else self.store.measured(found[0])
        todo = [p for p in wanted if (rates_key(p[0], p[1]), p[2]) not in done]
        costs = {(p01, p10): self._expected_cost(p01, p10) for p01, p10, _ in todo}
        total = sum(costs[p01, p10] for p01, p10, _ in todo)
        total += len(self.evaluator) if found is None else 0
        bar = Progress(total, len(todo), show)
        try:
            with terminable():
                if todo and self.unsized:
                    bar.say(
                        "the graph does not state the sizes of its sites: all samples are run, "
                        "those without a flip too"
                    )
                sweep_id, clean = self._clean(bar) if found is None else found
                run_id = self.store.add_run(environment(self.evaluator.session)) if todo else 0
                for p01, p10, trial in todo:
                    label = f"{_rate_label(p01, p10)} trial {trial}"
                    bar.start(label)
                    if self.store.has_point(sweep_id, p01, p10, trial):
                        bar.finish(costs[p01, p10], label)
                        continue
                    point = self._point(p01, p10, trial, clean, bar)
                    if self.store.add_point(sweep_id, run_id, point):
                        self.measured += 1
                    bar.finish(costs[p01, p10], f"{label}  {_outcome(point)}")
        except KeyboardInterrupt as error:
            number = error.signal if isinstance(error, Interrupted) else signal.SIGINT
            raise Interrupted(self._stopped(len(todo), len(wanted)), number) from None
        except InputError as error:
            if "results file" not in str(error):
                raise
            raise InputError(f"{error} ({self.measured} points stored by this run)") from None
        finally:
            bar.close()

    def _stopped(self, todo: int, wanted: int) -> str:
        stored = wanted - todo + self.measured
        if self.store.path is None:
            return f"interrupted after {stored} of {wanted} points, which were in memory only"
        return (
            f"interrupted: {stored} of {wanted} points are in {self.store.path}; "
            "the same command goes on from there"
        )

    def _expected_cost(self, p01: float, p10: float) -> float:
        sites = self.evaluator.session.sites
        flips = expected_flips(sites, (p01, p10), self.bit_mask)
        if not self.skip_clean or flips > COUNTED_FLIPS:
            return float(len(self.evaluator))
        return max(1.0, len(self.evaluator) * -float(np.expm1(-flips)))

    def _clean(self, bar: Progress) -> tuple[int, Scores]:
        bar.start("clean network")
        clean = self.evaluator.run(0.0, self.bit_mask, tick=bar.tick)
        session, data = self.evaluator.session, self.evaluator.data
        outputs = self.evaluator.classes
        formats = {"number": len(session.sites), "kinds": sorted({s.kind for s in session.sites})}
        description = {
            "model": session.path.name,
            "sites": json.dumps(formats),
            "storage_format": session.storage_format,
            "data": data.name,
            "mask_name": self.mask_name,
            "classes": outputs,
            "chance_accuracy": None if outputs is None else 1 / outputs,
            "clean_accuracy": _mean(clean.correct),
            "clean_top5": _mean(clean.top5),
            "clean_metric": _mean(clean.metric),
            "clean_scores": clean.to_bytes(),
        }
        sweep_id = self.store.add_sweep(self.identity, description)
        bar.finish(len(self.evaluator), "clean network", points=0)
        return sweep_id, clean

    def _point(self, p01: float, p10: float, trial: int, clean: Scores, bar: Progress) -> Point:
        start, inside = time.perf_counter(), self.evaluator.session.run_seconds
        seed = noise_seed(self.seed, trial, p01, p10)
        noise = ((p01, p10), self.bit_mask, seed)
        samples = self.evaluator.affected(*noise) if self.skip_clean else None
        count = len(self.evaluator) if samples is None else len(samples)
        scores = clean
        if count:
            scores = self.evaluator.run(*noise, samples=samples, tick=bar.tick)
            if samples is not None:
                scores = clean.replaced(samples, scores)
        self.skipped += len(self.evaluator) - count
        agree = None
        if scores.predictions is not None and clean.predictions is not None:
            agree = scores.predictions == clean.predictions
        return Point(
            p01=p01,
            p10=p10,
            trial=trial,
            noise_seed=seed,
            images=len(self.evaluator),
            n_run=count,
            correct=_count(scores.correct),
            top5=_count(scores.top5),
            agreement=_count(agree),
            metric=_mean(scores.metric),
            seconds=time.perf_counter() - start,
            run_seconds=self.evaluator.session.run_seconds - inside,
            correct_bits=None if scores.correct is None else pack_bits(scores.correct),
            agree_bits=None if agree is None else pack_bits(agree),
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


def _count(values: Any) -> int | None:
    return None if values is None else int(np.count_nonzero(values))


def _mean(values: Any) -> float | None:
    return None if values is None else float(np.mean(values))


def _mask_text(bit_mask: Any) -> str:
    if bit_mask is None:
        return hex(noise_inputs.ALL_BITS)
    if isinstance(bit_mask, (int, np.integer)):
        return hex(int(bit_mask))
    masks = [hex(int(mask)) for mask in bit_mask]
    return masks[0] if len(set(masks)) == 1 else json.dumps(masks, separators=(",", ":"))


def _rate_label(p01: float, p10: float) -> str:
    return f"{p01:.3g}" if p01 == p10 else f"{p01:.3g}/{p10:.3g}"


def _outcome(point: Point) -> str:
    value = point.agreement if point.correct is None else point.correct
    name = "agreement" if point.correct is None else "accuracy"
    text = f"metric {point.metric:.4g}" if value is None else f"{name} {value / point.images:.4f}"
    return f"{text}  {1 - point.n_run / point.images:.0%} of samples skipped"
