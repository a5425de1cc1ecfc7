# SPDX-License-Identifier: Apache-2.0
"""Results files whose accuracies follow a logistic curve, and a sensitivity map."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
from results_files import DESCRIPTION, ENVIRONMENT, IDENTITY, POINT

from noisystore.runtime.metrics import Scores
from noisystore.runtime.midpoint_curve import logistic
from noisystore.runtime.results import Results, pack_bits

RATES = np.logspace(-7, -2, 11)
IMAGES = 200
HOSTILE = "<script>alert(1)</script>\"'&\u2028\u202e\x1b]\x00 " + "x" * 300


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


def several(path):
    """Two networks in two formats, one with a mask, one board more, two seeds."""
    for i, name in enumerate(("a-float32.onnx", "a-float16.onnx", "b-float32.onnx")):
        said = {"model": name, "storage_format": name[2:9]}
        write(path, -5 - i / 4, description=said, model_sha256=name)
    first = {"model": "a-float32.onnx"}
    write(path, -5, description=first, model_sha256="a-float32.onnx", seed=1)
    mask = {**first, "mask_name": "exponent"}
    write(path, -4, description=mask, model_sha256="a-float32.onnx", bit_mask="0x7f800000")
    write(path, -5, description=first, model_sha256="a-float32.onnx", machine="aarch64")
    return path


def write_map(path, midpoints=(1e-5, 1e-3), mask="msb:1", name="conv"):
    def entry(site, mask, midpoint):
        bound = None if midpoint else "above"
        interval = [midpoint * 0.9, midpoint * 1.1] if midpoint else None
        return {
            **{"site": site, "mask": mask, "midpoint": midpoint, "bound": bound},
            **{"limit": 0.5 if bound else None, "half_level": midpoint, "interval": interval},
            **{"sigma": 0.3, "sigma_interval": [0.2, 0.4], "clean_accuracy": 0.85},
            **{"chance_accuracy": 0.1, "clean_images": 100, "confidence": 0.95},
            **{"precision": 0.1, "inferences": 1000, "seconds": 1.0, "reason": "done"},
        }

    entries = [entry(None, "all", midpoints[0]), entry(0, "all", midpoints[0])]
    entries += [entry(None, mask, midpoints[1]), entry(0, mask, midpoints[1])]
    entries += [entry(None, "msb:9", None), entry(0, "msb:9", None)]
    record = {
        "noisystore_sensitivity": 1,
        "settings": {"model": "m.onnx", "data": "digits", "images": 10, "precision": 0.15},
        "sites": [{"site": 0, "name": name, "format": "float32", "kind": "layer", "elements": 4}],
        "entries": entries,
    }
    path.write_text(json.dumps(record))
    return path


def page_data(text):
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])
