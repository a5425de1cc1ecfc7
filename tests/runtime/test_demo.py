# SPDX-License-Identifier: Apache-2.0
"""The demonstration: every file, a text that says what was found, and running it again."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from noisystore.ortops.errors import InputError
from noisystore.runtime.cli import main
from noisystore.runtime.demo import run_demo

for _needed in ("torch", "onnxscript", "sklearn", "matplotlib"):
    pytest.importorskip(_needed)


@pytest.fixture(autouse=True, scope="module")
def one_torch_thread():
    """Two PyTorch threads on cores that are busy with other tests wait for each other."""
    if importlib.util.find_spec("torch") is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "new" / "folder"
    said: list[str] = []
    return folder, run_demo(folder, quick=True, say=said.append), said


def test_files_and_result(demo):
    folder, result, said = demo
    names = {file.name for file in folder.iterdir()}
    assert {
        "model-quick.onnx",
        "results.sqlite",
        "midpoint.png",
        "midpoint.svg",
        "summary.txt",
    } == names
    assert [text.split(":")[0] for text in said] == ["train", "export", "sweep", "fit and plot"]
    assert result["clean_accuracy"] > 0.7
    assert 1e-6 < result["interval"][0] < result["midpoint"] < result["interval"][1] < 1e-2
    json.dumps({key: result[key] for key in result}, allow_nan=False)


def test_summary_explains_the_numbers(demo):
    folder, result, _ = demo
    text = (folder / "summary.txt").read_text()
    assert text == result["summary"]
    for words in (
        f"{result['midpoint']:.3g}",
        "half way between",
        "bit error rate",
        f"{result['clean_accuracy']:.1%}",
        str(folder),
        "noisystore sweep",
    ):
        assert words in text
    assert max(len(line) for line in text.replace(str(folder), "").splitlines()) <= 100


def test_run_again_it_repeats_nothing(demo, capsys):
    folder, result, _ = demo
    before = (folder / "model-quick.onnx").stat().st_mtime_ns
    assert main(["demo", "--quick", "-o", str(folder), "--json"]) == 0
    captured = capsys.readouterr()
    again = json.loads(captured.out)
    assert again == json.loads(json.dumps(result))
    assert "train" not in captured.err
    assert (folder / "model-quick.onnx").stat().st_mtime_ns == before


def test_bad_input(tmp_path, capsys, monkeypatch):
    taken = tmp_path / "file"
    taken.write_text("")
    assert main(["demo", "-o", str(taken)]) == 2
    assert "expected a folder, got a file" in capsys.readouterr().err
    assert main(["demo", "-o", str(taken / "below")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(InputError, match=r"needs sklearn.*pip install noisystore\[demo\]"):
        run_demo(tmp_path / "new")
    assert not Path(tmp_path / "new").exists()
