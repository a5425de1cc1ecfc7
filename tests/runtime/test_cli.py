# SPDX-License-Identifier: Apache-2.0
"""The command line: help, versions, exit statuses, training, export and inspection."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys

import onnx
import pytest

from noisystore.ortops.errors import InputError
from noisystore.runtime import cli
from noisystore.runtime.cli import COMMANDS, build_parser, main
from noisystore.runtime.interrupt import Interrupted

pytestmark = pytest.mark.usefixtures("one_torch_thread")

# Help, versions, start


def test_help_lists_every_command(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for name in COMMANDS:
        assert re.search(rf"\n    {name}\s", out)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example_that_parses(name, capsys):
    assert main([name, "--help"]) == 0
    out = capsys.readouterr().out
    example = out.split("example:\n", 1)[1].strip()
    words = shlex.split(example)
    assert words[:2] == ["noisystore", name]
    args = build_parser().parse_args([*words[1:], "--json"])
    assert args.command == name
    assert args.json is True
    for option in out.split():
        assert option != "--json" or "standard output" in out


def test_version(capsys):
    assert main(["--version"]) == 0
    words = capsys.readouterr().out.split()
    assert words[0] == "noisystore"
    assert "noise model 1" in " ".join(words)
    assert "CUDA" in words


def test_help_starts_fast_without_heavy_modules():
    code = (
        "import sys; from noisystore.runtime.cli import main; main(['--help']); "
        "print([m for m in ('torch', 'onnxruntime', 'onnx', 'matplotlib', 'scipy') "
        "if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == "[]"


def test_a_process_reports_bad_input_in_one_line(run_program):
    result = run_program("fit", "missing.sqlite")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("noisystore: error: ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected a command"),
        (["fly"], "invalid choice: 'fly'"),
        (["fit"], "required: FILE.sqlite"),
        (["inspect", "a", "b"], "unrecognized arguments: b"),
        (["fit", "a", "--ax", "linear"], "unrecognized arguments"),
    ],
)
def test_wrong_usage(error, arguments, message):
    line = error(*arguments)
    assert message in line
    assert "--help)" in line


# From training to a sweep


def test_train(tmp_path, ok, capsys):
    pytest.importorskip("torch")
    path = tmp_path / "w.safetensors"
    result = ok(
        "train", "vgg-a", "--data", "digits", "--width", "0.03", "--epochs", "1", "-o", path
    )
    assert result["path"] == str(path)
    assert 0 <= result["clean_accuracy"] <= 1
    assert result["images"] == 500
    assert [file.name for file in tmp_path.iterdir()] == ["w.safetensors"]
    assert (
        main(
            [
                "train",
                "vgg-a",
                "--data",
                "digits",
                "--width",
                "0.03",
                "--epochs",
                "1",
                "-o",
                str(path),
            ]
        )
        == 0
    )
    captured = capsys.readouterr()
    assert f"clean accuracy {result['clean_accuracy']:.4f}" in captured.out
    assert "epoch 1/1" in captured.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["vgg-z", "--data", "digits"], "invalid choice: 'vgg-z'"),
        (["vgg-a", "--data", "mnist"], "digits or cifar10:DIR, got 'mnist'"),
        (["vgg-a", "--data", "cifar10:missing"], "missing"),
        (["vgg-a", "--data", "digits", "--width", "0"], "between 0 and 64, got '0'"),
        (["vgg-a", "--data", "digits", "--width", "nan"], "got 'nan'"),
        (["vgg-a", "--data", "digits", "--epochs", "0"], "1 or more, got '0'"),
        (["vgg-a", "--data", "digits", "--lr", "-1"], "between 0 and 100"),
        (["vgg-a", "--data", "digits", "--seed", "x"], "expected an integer, got 'x'"),
        (["vgg-a", "--data", "digits", "--resume"], "there is no checkpoint"),
    ],
)
def test_train_with_bad_input(tmp_path, error, options, message):
    pytest.importorskip("torch")
    assert message in error("train", *options, "-o", tmp_path / "w.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_training_interrupted_and_resumed(tmp_path, ok, capsys, monkeypatch):
    pytest.importorskip("torch")
    from noisystore.runtime.commands import train as command

    options = ["train", "vgg-a", "--data", "digits", "--width", "0.03", "--epochs", "2", "-o"]
    whole = ok(*options, tmp_path / "whole.safetensors")

    def stop(text):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "progress", stop)
    assert main([*options, str(tmp_path / "w.safetensors")]) == 130
    assert "interrupted: 1 of 2 epochs are kept in" in capsys.readouterr().err
    monkeypatch.undo()
    assert not (tmp_path / "w.safetensors").exists()
    resumed = ok(*options, tmp_path / "w.safetensors", "--resume")
    assert resumed["clean_accuracy"] == whole["clean_accuracy"]
    first, second = (tmp_path / name for name in ("whole.safetensors", "w.safetensors"))
    assert first.read_bytes() == second.read_bytes()


def test_export_json(model, tmp_path, ok):
    result = ok(
        "export", "vgg-a", "--width", "0.0625", "--sites", "layer", "-o", tmp_path / "m.onnx"
    )
    assert result["path"] == str(tmp_path / "m.onnx")
    assert len(result["sites"]) > 8
    assert result["bits_per_sample"] == sum(s["elements"] * 32 for s in result["sites"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["vgg-z"], "vgg-z"),
        (["torchvision:nothing"], "torchvision"),
        (["missing.py:model"], "missing.py"),
        (["vgg-a", "--weights", "missing.safetensors"], "no such file"),
        (["vgg-a", "--sites", "activation,,input"], "got 'activation,,input'"),
        (["vgg-a", "--width", "0.03", "--sites", "no-such-module"], "no-such-module"),
        (["vgg-a", "--width", "0.03", "--storage-format", "float17"], "float17"),
        (["vgg-a", "--classes", "0"], "1 or more, got '0'"),
    ],
)
def test_export_with_bad_input(tmp_path, error, options, message):
    pytest.importorskip("torch")
    assert message in error("export", *options, "-o", tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_export_names_the_normalization_and_random_weights(tmp_path, capsys):
    from noisystore.runtime import NoisySession

    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "def make():\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10),"
        " torch.nn.ReLU())\n"
    )
    mine, narrow = f"{tmp_path / 'mine.py'}:make", ["vgg-a", "--width", "0.0625"]
    for words, option, expected, note in (
        ([mine], "0.5/0.25", {"mean": [0.5], "std": [0.25]}, False),
        (narrow, "none", None, True),
    ):
        path = tmp_path / "m.onnx"
        assert main(["export", *words, "--normalization", option, "-o", str(path)]) == 0
        assert ("note: untrained" in capsys.readouterr().err) is note
        assert NoisySession(path).normalization == expected


def test_export_weights_of_another_width(model, tmp_path, error):
    weights = model.parent / "w.safetensors"
    assert "width" in error("export", "vgg-a", "--weights", weights, "-o", tmp_path / "m.onnx")
    assert "does not exist" in error("export", "vgg-a", "-o", tmp_path / "no" / "m.onnx")


def test_commands_without_pytorch(tmp_path, error, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    line = error("export", "vgg-a", "-o", tmp_path / "m.onnx")
    assert "pip install noisystore[export]" in line
    line = error("train", "vgg-a", "--data", "digits", "-o", tmp_path / "w.safetensors")
    assert "pip install noisystore[demo]" in line


def test_inspect(model, ok, capsys):
    result = ok("inspect", model, "--rate", "1e-3")
    assert [site["site"] for site in result["sites"]] == list(range(8))
    first = result["sites"][0]
    assert {"name", "op", "storage_format", "elements", "rows_per_sample"} <= set(first)
    assert first["bits_per_sample"] == first["elements"] * 32
    assert result["bits_per_sample"] == sum(site["bits_per_sample"] for site in result["sites"])
    assert result["flips_per_sample"] == pytest.approx(result["bits_per_sample"] * 1e-3)
    assert main(["inspect", str(model)]) == 0
    out = capsys.readouterr().out
    assert "8 sites" in out
    assert len(out.splitlines()) == 10


def test_inspect_marks_sites_without_a_batch_axis():
    from noisystore.runtime.commands.inspect import describe, text
    from noisystore.runtime.sites import Site

    site = Site(0, "a", "activation", "int4", elements=10, bits_per_word=8, rows_per_sample=-1)
    described = describe(site, 0.5)
    assert described["bits_per_sample"] == 40
    assert described["flips_per_sample"] == 20
    result = {"sites": [described], "rate": 0.5, "bits_per_sample": 40, "flips_per_sample": 20}
    assert "-1*" in text(result)
    assert "no batch axis" in text(result)


def test_models_that_are_none(model, tmp_path, error):
    onnx = pytest.importorskip("onnx")
    for command in (["inspect"], ["sweep", "--data", "digits", "-o", tmp_path / "r.sqlite"]):
        first, *rest = command
        assert "missing.onnx" in error(first, tmp_path / "missing.onnx", *rest)
        assert "expected an ONNX file" in error(first, tmp_path, *rest)
        garbage = tmp_path / "garbage.onnx"
        garbage.write_bytes(b"no model " * 50)
        assert "expected an ONNX" in error(first, garbage, *rest)
        plain = tmp_path / "plain.onnx"
        value = onnx.helper.make_tensor_value_info
        graph = onnx.helper.make_graph(
            [onnx.helper.make_node("Relu", ["x"], ["y"])],
            "g",
            [value("x", 1, ["n", 3])],
            [value("y", 1, ["n", 3])],
        )
        opset = [onnx.helper.make_opsetid("", 17)]
        onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), plain)
        assert "without any" in error(first, plain, *rest)
    changed = onnx.load(model)
    for entry in changed.metadata_props:
        if entry.key == "noisystore.sites":
            entry.value = "[]"
    onnx.save(changed, tmp_path / "changed.onnx")
    assert "at least one site" in error("inspect", tmp_path / "changed.onnx")
    assert "from 0 to 1" in error("inspect", model, "--rate", "2")
    assert "from 0 to 1" in error("inspect", model, "--rate", "nan")


def test_a_missing_or_foreign_library(model, tmp_path, error, monkeypatch):
    from noisystore.ortops import library

    def missing():
        raise InputError("operator library: not there; install the package again")

    monkeypatch.setattr(library, "library_path", missing)
    assert "operator library: not there" in error("inspect", model)
    foreign = tmp_path / "libnoisystore.so"
    foreign.write_bytes(b"\x7fELF" + b"\0" * 100)
    monkeypatch.setattr(library, "library_path", lambda: str(foreign))
    assert "operator library" in error("inspect", model)
    library.load.cache_clear()
    try:
        assert "operator library" in error("--version")
    finally:
        library.load.cache_clear()


# Failures of the system


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_standard_output_on_a_full_disk(model, run_program):
    with open("/dev/full", "w") as full:
        result = run_program("inspect", model, stdout=full)
    assert result.returncode == 2
    assert result.stderr == "noisystore: error: No space left on device\n"


def test_a_reader_that_goes_away(model, run_program):
    read, write = os.pipe()
    os.close(read)
    result = run_program("inspect", model, stdout=write)
    os.close(write)
    assert result.returncode == 141
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("raised", "status", "line"),
    [
        (
            PermissionError(13, "Permission denied", "/root/x"),
            2,
            "error: /root/x: Permission denied",
        ),
        (OSError(28, "No space left on device"), 2, "error: No space left on device"),
        (MemoryError(), 2, "error: out of memory"),
        (InputError("two\nlines"), 2, "error: two lines"),
        (KeyboardInterrupt(), 130, "interrupted: nothing was written"),
        (Interrupted("interrupted: 3 points are kept", signal.SIGTERM), 143, "interrupted: 3"),
    ],
)
def test_failures_become_one_line(monkeypatch, capsys, raised, status, line):
    from noisystore.runtime.commands import fit

    def fail(args):
        raise raised

    monkeypatch.setattr(fit, "run", fail)
    assert cli.main(["fit", "x"]) == status
    err = capsys.readouterr().err
    assert err.startswith(f"noisystore: {line}")
    assert err.count("\n") == 1


def test_closed_streams():
    words = f"{shlex.quote(sys.executable)} -m noisystore.runtime.cli board --json"
    for closed in (">&-", "2>&-", ">&- 2>&-"):
        done = subprocess.run(["sh", "-c", f"{words} {closed}"], capture_output=True, text=True)
        assert done.returncode == 0
        assert done.stderr == ""


def test_what_files_say_is_printed_safely(make_model, tmp_path, error, capsys):
    from noisystore.ortops import noise_inputs

    def model(**metadata):
        return make_model(tmp_path / "m.onnx", metadata=metadata)

    hostile = "\x1b[31mred\x9b0m\u202e\nforged"
    line = error("inspect", model(**{noise_inputs.NOISE_MODEL_KEY: hostile}))
    assert "got ?[31mred?0m? forged" in line
    line = error("inspect", model(**{noise_inputs.NOISE_MODEL_KEY: "y" * 100_000}))
    assert len(line) < 1100
    assert line.endswith("...")

    texts = {p.key: p.value for p in onnx.load(model()).metadata_props}
    records = json.loads(texts[noise_inputs.SITES_KEY])
    records[0]["name"] = hostile
    assert main(["inspect", str(model(**{noise_inputs.SITES_KEY: json.dumps(records)}))]) == 0
    out = capsys.readouterr().out
    assert "?[31mred?0m??forged" in out
    assert "\x1b" not in out
