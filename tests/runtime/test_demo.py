# SPDX-License-Identifier: Apache-2.0
"""The demonstration: every file, a text that says what was found, and running it again."""

import json
import sys
from pathlib import Path

import pytest

from noisystore.ortops.errors import InputError
from noisystore.runtime.cli import main
from noisystore.runtime.demo import run_demo

for _needed in ("torch", "onnxscript", "sklearn", "matplotlib"):
    pytest.importorskip(_needed)


pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture(scope="module")
def demo(tmp_path_factory, one_torch_thread):
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
        "--mask mantissa",
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


def test_training_goes_on_after_the_last_epoch(tmp_path, demo, monkeypatch):
    from noisystore.runtime.commands import train

    calls = []

    def stop(text):
        calls.append(text)
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "progress", stop)
    with pytest.raises(KeyboardInterrupt):
        run_demo(tmp_path, quick=True)
    assert [file.name for file in tmp_path.iterdir()] == ["model-quick.safetensors.checkpoint"]
    monkeypatch.setattr(train, "progress", calls.append)
    run_demo(tmp_path, quick=True)
    assert [text.split()[1] for text in calls] == ["1/3", "2/3", "3/3"]
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {file.name for file in demo[0].iterdir()}
    first, second = (folder / "model-quick.onnx" for folder in (demo[0], tmp_path))
    assert first.read_bytes() == second.read_bytes()


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


def test_the_environment_is_named_where_the_program_is_not_on_the_path(tmp_path, monkeypatch):
    from noisystore.runtime import demo as module

    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "activate").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module.sys, "executable", str(tmp_path / "bin" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert module._activation() == "  . bin/activate\n"
    (tmp_path / "noisystore").touch(0o755)
    assert module._activation() == ""
