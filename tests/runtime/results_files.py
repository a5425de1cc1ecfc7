# SPDX-License-Identifier: Apache-2.0
"""Results files with simulated points, for tests that need no model."""

import numpy as np

from noisystore.runtime.midpoint_curve import logistic
from noisystore.runtime.results import Point, Results, pack_bits

RATES = np.logspace(-8, -1, 15)


def write(path, mu=-5.0, *, sigma=0.3, model="vgg.onnx", images=300, trials=3, seed=0, clean=0.85,
          mask="all", provider="CPUExecutionProvider", rates=RATES, ratio=1.0, labels=True,
          classes=10):
    """Add one simulated sweep whose midpoint is 10**mu to a results file."""
    identity = {
        "model_sha256": "0" * 64, "data_sha256": "1" * 64, "images": images, "seed": seed,
        "batch_size": 100, "bit_mask": "0xffffffffffffffff" if mask == "all" else mask,
        "metric": "", "provider": provider, "machine": "x86_64", "noise_model": "1",
    }
    random = np.random.default_rng(seed)
    right = np.arange(images) < round(clean * images)
    description = {
        "model": model, "sites": "{}", "storage_format": "float32", "data": "digits",
        "mask_name": mask, "classes": classes, "chance_accuracy": classes and 1 / classes,
        "clean_accuracy": float(right.mean()) if labels else None, "clean_top5": None,
        "clean_metric": None, "clean_scores": b"",
    }
    with Results(path) as results:
        sweep = results.add_sweep(identity, description)
        run = results.add_run({"library_version": "0", "onnxruntime_version": "0", "threads": 0,
                               "cpu": "", "host": ""})
        for rate in rates:
            for trial in range(trials):
                intact = logistic(np.log10(max(rate, 1e-30)), mu, sigma, 1.0, 0.0)
                agree = random.random(images) < intact
                correct = np.where(agree, right, random.random(images) < 0.1)
                results.add_point(sweep, run, Point(
                    p01=float(rate), p10=float(rate * ratio), trial=trial, noise_seed=trial,
                    images=images, n_run=images, correct=int(correct.sum()) if labels else None,
                    top5=None, agreement=int(agree.sum()), metric=None, seconds=0.0,
                    run_seconds=0.0, correct_bits=pack_bits(correct) if labels else None,
                    agree_bits=pack_bits(agree),
                ))
    return path
