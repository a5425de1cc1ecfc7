# SPDX-License-Identifier: Apache-2.0
"""The points of one sweep: which are wanted, what they cost, and how each is measured."""

from __future__ import annotations

import json
import platform
import signal
import time
from typing import Any

import numpy as np

from ..ortops import noise_inputs
from ..ortops.errors import InputError
from .environment import environment
from .evaluate import COUNTED_FLIPS, Evaluator, expected_flips
from .interrupt import Interrupted, terminable
from .metrics import Scores
from .noisy_sites import NoisySites
from .progress import Progress
from .rates import noise_seed
from .results import Point, Results, pack_bits, rates_key, sweep_key


class SweepPoints:
    """The sweep of one model, data set, mask, seed and choice of sites: clean scores and points.

    Parameters
    ----------
    evaluator : Evaluator
    store : Results
    noisy : NoisySites
        Which sites have a point's rates.
    bit_mask : int, list of int [sites], or None
    mask_name : str
        Label of the mask.
    seed : int
        The user's.
    metric_name : str
    skip_clean : bool
        Do not run samples in which no bit flips.

    Attributes
    ----------
    key : str
        Of the sweep in the results.
    measured, skipped : int
        Points measured, and samples of them that were not run, so far.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        store: Results,
        noisy: NoisySites,
        bit_mask: int | list[int] | None,
        mask_name: str,
        seed: int,
        metric_name: str,
        skip_clean: bool,
    ) -> None:
        self.evaluator, self.store = evaluator, store
        self.noisy, self.bit_mask = noisy, bit_mask
        self.unsized = skip_clean and not evaluator.session.sizes_confirmed
        self.seed, self.skip_clean = seed, skip_clean and not self.unsized
        self.mask_name = mask_name
        self.measured = self.skipped = 0
        session = evaluator.session
        self.identity = {
            "model_sha256": session.model_sha256,
            "data_sha256": evaluator.data.sha256,
            "images": len(evaluator),
            "seed": seed,
            "batch_size": evaluator.batch_size,
            "bit_mask": _mask_text(bit_mask),
            "metric": metric_name,
            "provider": session.provider,
            "machine": platform.machine(),
            "noise_model": noise_inputs.NOISE_MODEL,
            "noisy": noisy.label,
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
        bar = Progress(total, len(todo), show if total else False)
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
        flips = expected_flips(sites, self.noisy.table((p01, p10)), self.bit_mask)
        if not self.skip_clean or flips > COUNTED_FLIPS:
            return float(len(self.evaluator))
        return max(1.0, len(self.evaluator) * -float(np.expm1(-flips)))

    def _clean(self, bar: Progress) -> tuple[int, Scores]:
        bar.start("clean network")
        clean = self.evaluator.run(0.0, self.bit_mask, tick=bar.tick)
        session, data = self.evaluator.session, self.evaluator.data
        outputs = self.evaluator.classes
        kinds = sorted({site.kind for site in session.sites})
        sites: dict[str, Any] = {"number": len(session.sites), "kinds": kinds}
        if self.noisy.label:
            sites["noisy"] = self.noisy.label
        description = {
            "model": session.path.name,
            "sites": json.dumps(sites),
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
        noise = (self.noisy.table((p01, p10)), self.bit_mask, seed)
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


def _count(values: Any) -> int | None:
    return None if values is None else int(np.count_nonzero(values))


def _mean(values: Any) -> float | None:
    return None if values is None else float(np.mean(values))


def _rate_label(p01: float, p10: float) -> str:
    return f"{p01:.3g}" if p01 == p10 else f"{p01:.3g}/{p10:.3g}"


def _outcome(point: Point) -> str:
    value = point.agreement if point.correct is None else point.correct
    name = "agreement" if point.correct is None else "accuracy"
    text = f"metric {point.metric:.4g}" if value is None else f"{name} {value / point.images:.4f}"
    return f"{text}  {1 - point.n_run / point.images:.0%} of samples skipped"


def _mask_text(bit_mask: int | list[int] | None) -> str:
    if isinstance(bit_mask, list):
        return json.dumps([hex(mask) for mask in bit_mask], separators=(",", ":"))
    return hex(noise_inputs.ALL_BITS if bit_mask is None else bit_mask)
