# SPDX-License-Identifier: Apache-2.0
"""examples/rescale_vgg.py: larger convolution outputs, the same network."""

import subprocess
import sys
from pathlib import Path

import torch

from noisystore.export import load_weights, save_weights, vgg

SCRIPT = Path(__file__).parents[2] / "examples" / "rescale_vgg.py"


def test_logits_stay_and_convolution_outputs_grow(tmp_path):
    torch.manual_seed(0)
    model = vgg("A", width=0.125).train()
    images = torch.randn(64, 3, 32, 32)
    for _ in range(20):
        model(images)
    model.eval()
    given, made = tmp_path / "given.safetensors", tmp_path / "made.safetensors"
    save_weights(model, given)
    subprocess.run([sys.executable, SCRIPT, given, "4", made], check=True)
    scaled = vgg("A", width=0.125).eval()
    load_weights(scaled, made)
    with torch.no_grad():
        torch.testing.assert_close(scaled(images), model(images), rtol=1e-3, atol=1e-4)
        first = model.features[0](images)
        torch.testing.assert_close(scaled.features[0](images), 4 * first, rtol=1e-5, atol=1e-6)


def test_usage():
    done = subprocess.run(
        [sys.executable, SCRIPT, "4"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "usage: python rescale_vgg.py WEIGHTS FACTOR OUT.safetensors\n"
