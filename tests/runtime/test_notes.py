# SPDX-License-Identifier: Apache-2.0
"""What the commands that measure say first."""

import numpy as np
import pytest

from noisystore.runtime import NoisySession, notes
from noisystore.runtime.cli import main

SCALED = "note: images as x / 255: the model names no normalization"
WIDE = "warning: mask 0x1ffffffff: words of the noisy sites have at most 32 bits: it means all of "
COMMANDS = {
    "sweep": ["--rates", "1e-3", "--trials", "1", "--mask", "0x1ffffffff"],
    "midpoint": ["--precision", "100%", "--mask", "0x1ffffffff"],
    "protect": ["--rate", "1e-6", "--target", "90%", "--images", "100", "--mask", "0x1ffffffff"],
    "sensitivity": ["--precision", "100%", "--masks", "none", "--sites", "0"],
}


@pytest.fixture(scope="module")
def bytes_npz(tmp_path_factory, model_path):
    """400 images of bytes, labelled by the model."""
    x = np.random.default_rng(0).integers(0, 256, (400, 1, 6, 6), dtype=np.uint8)
    y = NoisySession(model_path, threads=1).run(x / np.float32(255)).argmax(axis=1)
    path = tmp_path_factory.mktemp("bytes") / "bytes.npz"
    np.savez(path, x=x, y=y)
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_that_measures_says_it_once(command, model_path, bytes_npz, tmp_path, capsys):
    words = [command, model_path, "--data", f"npz:{bytes_npz}", "--threads", "1"]
    words += ["-o", tmp_path / "r.sqlite"] if command == "sweep" else []
    assert main([*map(str, words), *COMMANDS[command]]) == 0
    said = capsys.readouterr().err.splitlines()
    assert said.count(SCALED) == 1
    assert sum(line.startswith(WIDE) for line in said) == ("--mask" in COMMANDS[command])


@pytest.mark.parametrize("provider", ["CPUExecutionProvider", "CUDAExecutionProvider"])
@pytest.mark.parametrize("built_for", [(), ("90",)])
def test_a_library_without_cuda_is_named_on_cuda(provider, built_for, monkeypatch):
    monkeypatch.setattr(notes, "cuda_architectures", lambda: built_for)
    said = notes.without_kernels(provider)
    assert ["built without CUDA" in note for note in said] == [True] * (
        provider.startswith("CUDA") and not built_for
    )
