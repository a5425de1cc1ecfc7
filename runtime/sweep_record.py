# SPDX-License-Identifier: Apache-2.0
"""One sweep in the results: its identity, its clean network, and the points that it gets."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..ortops import noise_inputs
from .evaluate import Evaluator
from .metrics import Scores
from .point_task import Kind, Outcome, SweepNoise
from .rates import noise_seed
from .results import Point, Results, pack_bits, rates_key, sweep_key


@dataclass(frozen=True)
class SweepLabels:
    """Names that a sweep has in the results.

    Attributes
    ----------
    mask : str
        Of the mask.
    metric : str
        Of the user's metric; empty: none.
    """

    mask: str
    metric: str


class SweepRecord:
    """The sweep of one model, data set, mask, seed, choice of sites, and kind of machine.

    Parameters
    ----------
    evaluator : Evaluator
        Of the same model and data; it need not run here.
    noise : SweepNoise
    labels : SweepLabels
    kind : (machine, provider)
        That measures.
    store : Results

    Attributes
    ----------
    key : str
        Of the sweep in the results.
    clean : Scores or None
        Of the clean network; None: not measured yet.
    skipped : int
        Samples of points measured now that were not run.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        noise: SweepNoise,
        labels: SweepLabels,
        kind: Kind,
        store: Results,
    ) -> None:
        self._evaluator, self._noise, self._labels = evaluator, noise, labels
        self._kind, self._store = kind, store
        session = evaluator.session
        self._identity = {
            "model_sha256": session.model_sha256,
            "data_sha256": evaluator.data.sha256,
            "images": len(evaluator),
            "seed": noise.seed,
            "batch_size": evaluator.batch_size,
            "bit_mask": _mask_text(noise.bit_mask),
            "metric": labels.metric,
            "provider": kind[1],
            "machine": kind[0],
            "noise_model": noise_inputs.NOISE_MODEL,
            "noisy": noise.sites.label,
        }
        self.key = sweep_key(self._identity)
        self.skipped = 0
        self._id = 0
        self.clean: Scores | None = None
        found = store.find_sweep(self._identity)
        if found is not None:
            self._id, self.clean = found
        self._runs: dict[str, int] = {}
        self._early: list[Outcome] = []

    def measured(self) -> set[tuple[str, int]]:
        """Return (rates key, trial) of the points that are stored.

        Raises
        ------
        InputError
            One of them is damaged, which is better told before more are measured.
        """
        if self.clean is None:
            return set()
        self._store.check(self.key)
        return self._store.measured(self._id)

    def has(self, point: tuple[float, float, int]) -> bool:
        """Return whether a point (p01, p10, trial) is stored."""
        return self.clean is not None and self._store.has_point(self._id, *point)

    def add(self, outcome: Outcome) -> list[Point]:
        """Keep an outcome, and return the points that were stored by this.

        Points wait for the clean network, which may come later.

        Raises
        ------
        InputError
            The results cannot be written.
        """
        if outcome.task.point is None:
            if self.clean is None:
                self._add_clean(outcome)
            waiting, self._early = self._early, []
        elif self.clean is None:
            self._early.append(outcome)
            waiting = []
        else:
            waiting = [outcome]
        points = []
        for early in waiting:
            point = self._point(early)
            if self._store.add_point(self._id, self._run(early.environment), point):
                points.append(point)
                self.skipped += point.images - point.n_run
        return points

    def _add_clean(self, outcome: Outcome) -> None:
        session, data, clean = self._evaluator.session, self._evaluator.data, outcome.scores
        kinds = sorted({site.kind for site in session.sites})
        sites: dict[str, Any] = {"number": len(session.sites), "kinds": kinds}
        if self._noise.sites.label:
            sites["noisy"] = self._noise.sites.label
        description = {
            "model": session.path.name,
            "sites": json.dumps(sites),
            "storage_format": session.storage_format,
            "data": data.name,
            "mask_name": self._labels.mask,
            "classes": outcome.classes,
            "chance_accuracy": None if outcome.classes is None else 1 / outcome.classes,
            "clean_accuracy": _mean(clean.correct),
            "clean_top5": _mean(clean.top5),
            "clean_metric": _mean(clean.metric),
            "clean_scores": clean.to_bytes(),
        }
        self._id = self._store.add_sweep(self._identity, description)
        self.clean = clean

    def _run(self, environment: dict[str, Any]) -> int:
        key = json.dumps(environment, sort_keys=True)
        if key not in self._runs:
            self._runs[key] = self._store.add_run(environment)
        return self._runs[key]

    def _point(self, outcome: Outcome) -> Point:
        assert outcome.task.point is not None
        assert self.clean is not None
        p01, p10, trial = outcome.task.point
        images, samples = len(self._evaluator), outcome.samples
        scores = outcome.scores
        if samples is not None:
            scores = self.clean.replaced(samples, scores) if len(samples) else self.clean
        agree = None
        if scores.predictions is not None and self.clean.predictions is not None:
            agree = scores.predictions == self.clean.predictions
        return Point(
            p01=p01,
            p10=p10,
            trial=trial,
            noise_seed=noise_seed(self._noise.seed, trial, p01, p10),
            images=images,
            n_run=images if samples is None else len(samples),
            correct=_count(scores.correct),
            top5=_count(scores.top5),
            agreement=_count(agree),
            metric=_mean(scores.metric),
            seconds=outcome.seconds,
            run_seconds=outcome.run_seconds,
            correct_bits=None if scores.correct is None else pack_bits(scores.correct),
            agree_bits=None if agree is None else pack_bits(agree),
        )


def point_key(point: tuple[float, float, int]) -> tuple[str, int]:
    """Return (rates key, trial) of (p01, p10, trial)."""
    return rates_key(point[0], point[1]), point[2]


def _count(values: Any) -> int | None:
    return None if values is None else int(np.count_nonzero(values))


def _mean(values: Any) -> float | None:
    return None if values is None else float(np.mean(values))


def _mask_text(bit_mask: int | list[int] | None) -> str:
    if isinstance(bit_mask, list):
        return json.dumps([hex(mask) for mask in bit_mask], separators=(",", ":"))
    return hex(noise_inputs.ALL_BITS if bit_mask is None else bit_mask)
