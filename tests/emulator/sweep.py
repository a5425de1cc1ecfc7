# SPDX-License-Identifier: Apache-2.0
"""Sweep a model with its sites on a CUDA device and all else on the CPU, and on the CPU alone.

`sweep.py MODEL [DATA [RATES [IMAGES]]]` exits with 1 where points differ. Without DATA, noise is
classified. The convolutions are the same code, so every number has to be the same, too. An emulated
device will do.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from noisystore import ortops
from noisystore.runtime import NoisySession, sweep

_HOST, _MARK = "host", "layer_ann"


def stamped(path: Path, folder: Path) -> Path:
    """Write the model with a mark at every node that is no site."""
    model = onnx.load(path)
    for node in model.graph.node:
        marks = {entry.key for entry in node.metadata_props}
        if node.op_type != "NoisyStore" and _MARK not in marks:
            node.metadata_props.add(key=_MARK, value=_HOST)
    onnx.save(model, folder / path.name)
    return folder / path.name


def noise(model: Path, file: Path) -> str:
    """Write images of noise of the size that a model takes, with labels; give their name."""
    shape = [axis for axis in NoisySession(model).input_shape or () if axis is not None]
    rng = np.random.default_rng(0)
    images = rng.standard_normal((50, *shape), np.float32)
    np.savez(file, images=images, labels=rng.integers(0, 10, len(images)))
    return f"npz:{file}"


def main(model: str, data: str = "", rates: str = "1e-5:1e-1:1/decade", images: str = "0") -> int:
    """Run both sweeps and compare their points."""
    if not ortops.cuda_architectures():  # the sites would run on the CPU
        print("this NoisyStore library was built without CUDA; build it with nvcc")
        return 1
    made = onnxruntime.SessionOptions

    def marked_stay_on_the_cpu() -> Any:
        options = made()
        options.add_session_config_entry("session.layer_assignment_settings", f"cpu(={_HOST})")
        return options

    onnxruntime.SessionOptions = marked_stay_on_the_cpu
    with tempfile.TemporaryDirectory(prefix="noisystore.") as made_folder:
        folder = Path(made_folder)
        path = stamped(Path(model), folder)
        data = data or noise(path, folder / "noise.npz")
        found = {
            provider: sweep(
                path,
                data,
                rates,
                trials=2,
                images=int(images) or None,
                providers=provider,
                threads=2,
                results=folder / f"{provider}.sqlite",
            )
            for provider in ("cpu", "cuda")
        }
    pairs = list(zip(found["cpu"].points, found["cuda"].points, strict=True))
    if any(not point["provider"].lower().startswith("cuda") for _, point in pairs):
        print("no CUDA provider started")
        return 1
    # What was run, and what came of it; not when, how fast and where.
    names = ("p01", "p10", "noise_seed", "n_run", "correct", "top5", "correct_bits", "agree_bits")
    different = [a for a, b in pairs if any(a[name] != b[name] for name in names)]
    print(f"{Path(model).name}: {len(pairs)} points, {len(different)} of them differ; accuracies "
          + " ".join(f"{a['correct'] / a['images']:.3f}" for a, _ in pairs))  # fmt: skip
    return int(bool(different) or not pairs)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
