# SPDX-License-Identifier: Apache-2.0
"""Results files whose accuracies follow a logistic curve."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from results_files import DESCRIPTION, ENVIRONMENT, IDENTITY, POINT

from noisystore.runtime.metrics import Scores
from noisystore.runtime.midpoint_curve import logistic
from noisystore.runtime.results import Results, pack_bits

RATES = np.logspace(-7, -2, 11)
IMAGES = 200


def write(
    path: Path,
    mu: float = -5.0,
    *,
    rates=RATES,
    trials: int = 3,
    ratio: float = 1.0,
    labels: bool = True,
    metric: str = "",
    cpu: str = "a cpu",
    images: int = IMAGES,
    bits: bool = True,
    description: dict | None = None,
    **identity,
) -> Path:
    """Add a sweep whose midpoint is 10**mu."""
    right = np.arange(images) < 0.85 * images
    said = {**DESCRIPTION, "clean_accuracy": 0.85 if labels else None, **(description or {})}
    said["clean_scores"] = Scores(correct=right if labels else None).to_bytes()
    own = {**IDENTITY, "images": images, "batch_size": 100, "metric": metric, **identity}
    random = np.random.default_rng(own["seed"])
    with Results(path) as results:
        # Hundreds of points, each a transaction: no test here is about a power loss.
        results._db.execute("PRAGMA synchronous = OFF")
        sweep = results.add_sweep(own, said)
        run = results.add_run({**ENVIRONMENT, "cpu": cpu})
        for rate in rates:
            for trial in range(trials):
                agree = random.random(images) < logistic(np.log10(rate), mu, 0.3, 1.0, 0.1)
                correct = agree & right
                point = replace(
                    POINT,
                    **{"p01": float(rate), "p10": float(rate * ratio), "trial": trial},
                    **{"images": images, "n_run": images, "top5": None},
                    correct=int(correct.sum()) if labels else None,
                    agreement=None if metric else int(agree.sum()),
                    metric=0.5 if metric else None,
                    correct_bits=pack_bits(correct) if labels and bits else None,
                    agree_bits=None if metric or not bits else pack_bits(agree),
                )
                results.add_point(sweep, run, point)
    return path
