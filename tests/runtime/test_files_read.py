# SPDX-License-Identifier: Apache-2.0
"""No command writes over a file that it was told to read: model, data, weights, results."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from noisystore.ortops.errors import InputError
from noisystore.runtime.commands.common import check_written

#: Commands, with the file that they would write over.
CASES = [
    ("annotate m.onnx -o m.onnx", "m.onnx"),
    ("annotate m.onnx --example d.npz -o d.npz", "d.npz"),
    ("annotate m.onnx --custom-ops lib.so -o lib.so", "lib.so"),
    ("bench --model m.onnx --clean c.json --data npz:d.npz -o c.json", "c.json"),
    ("bench --compare a.json c.json -o c.json", "c.json"),
    ("bundle m.onnx --board host.toml --data npz:d.npz -o d.npz", "d.npz"),
    ("bundle m.onnx --board host.toml --data npz:d.npz -o host.toml", "host.toml"),
    ("export n.py:net --weights w.pt -o w.pt", "w.pt"),
    ("export n.py:net --weights w.pt -o n.py", "n.py"),
    ("fit r.png --plot r.png", "r.png"),
    ("harden m.onnx --data npz:d.npz -o d.npz", "d.npz"),
    ("midpoint r.png --data npz:d.npz --plot r.png", "r.png"),
    ("protect m.onnx --data npz:d.npz --rate 1e-3 -o d.npz", "d.npz"),
    ("quantize m.onnx --data npz:d.npz -o d.npz", "d.npz"),
    ("quantize m.onnx --data npz:d.npz -o q.onnx --scales d.npz", "d.npz"),
    ("retrain n.py:net --weights w.pt --data npz:d.npz --noise 1e-3 -o n.py", "n.py"),
    ("rram s.csv --plot r.png -o s.csv", "s.csv"),
    ("sensitivity m.onnx --data npz:d.npz --csv d.npz", "d.npz"),
]


@pytest.mark.parametrize(("command", "name"), CASES, ids=[command for command, _ in CASES])
def test_it_is_refused_at_once(command, name, tmp_path, monkeypatch, error):
    if "plot" in command and importlib.util.find_spec("matplotlib") is None:
        pytest.skip("needs matplotlib")
    monkeypatch.chdir(tmp_path)
    for word in command.replace("npz:", "").split():
        if "." in word and word != "q.onnx":
            Path(word.partition(":")[0]).write_bytes(b"precious")
    assert f"{name}: expected another file than {name}, which is read" in error(*command.split())
    assert {file.read_bytes() for file in tmp_path.iterdir()} == {b"precious"}


def test_what_data_sets_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "d" / "cat"
    folder.mkdir(parents=True)
    (folder / "1.png").touch()
    np.savez("a.npz", x=np.zeros(1))
    Path("link.npz").symlink_to("a.npz")
    for path, data in (
        ("d/cat/1.png", "images:d"),
        ("link.npz", "npz:a.npz"),
        ("d/labels.bin", "raw:d/../d"),
    ):
        with pytest.raises(InputError, match="which is read"):
            check_written({"plot": path}, "m.onnx", data)
    check_written({"plot": "d/cat/2.png", "csv": "d/1.csv", "-o": None}, "m.onnx", "images:d", None)
    check_written({"plot": "d/map.png"}, "raw:d", "digits", "cifar10:d")
