# SPDX-License-Identifier: Apache-2.0
"""`noisystore reproduce` on small networks: files, resumption, what is refused."""

import csv
import json
import os
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
from conftest import PROGRAM
from safetensors.numpy import load_file, save_file

from noisystore.ortops.errors import InputError
from noisystore.runtime import Results
from noisystore.runtime.cli import main
from noisystore.runtime.dataset import load
from noisystore.runtime.reproduce_models import find_weights

EFFORT = ["--data", "digits", "--images", "60", "--trials", "1", "--threads", "1"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """VGG-A and VGG-B, an eighth as wide, trained for a moment."""
    pytest.importorskip("sklearn", reason="needs scikit-learn")
    folder = tmp_path_factory.mktemp("weights")
    for network in ("a", "b"):
        out = folder / f"vgg-{network}-digits.safetensors"
        made = ["train", f"vgg-{network}", "--data", "digits", "--width", "0.125", "--epochs", "3"]
        assert main([*made, "-o", str(out)]) == 0
    return folder


@pytest.fixture(scope="module")
def reproduced(weights, tmp_path_factory):
    """A folder with the experiments that one float format and the integers need."""
    folder = tmp_path_factory.mktemp("reproduced") / "out"
    assert main(["reproduce", "fig3", "table4", *options(weights, folder)]) == 0
    return folder


def options(weights, folder):
    return ["--weights", str(weights), *EFFORT, "--rates", "drop", "-o", str(folder)]


def rows_in(folder):
    with Results(folder / "reproduce.sqlite", readonly=True) as results:
        return results.rows()


def number_in(folder):
    """Points in a file that another process may just be making."""
    try:
        return len(rows_in(folder))
    except InputError:
        return 0


def test_each_experiment_has_points_figure_and_table(reproduced):
    for name in ("fig3", "table4"):
        picture = (reproduced / f"{name}.png").read_bytes()
        assert picture.startswith(b"\x89PNG")
        assert len(picture) > 10_000
        assert "<svg" in (reproduced / f"{name}.svg").read_text()
        text = (reproduced / f"{name}.md").read_text()
        assert f"]({name}.png)" in text
        assert "| paper | here (95% interval) | ratio |" in text
        assert "the first 60 images of digits/test, 1 trial a rate" in text
    with (reproduced / "fig3.csv").open() as file:
        points = list(csv.DictReader(file))
    kept = [r for r in rows_in(reproduced) if "float32" in r["model"]]
    assert len(points) == len(kept)
    assert {p["network"] for p in points} == {"VGG-A", "VGG-B"}
    assert {(p["model"], float(p["p01"]), int(p["correct"])) for p in points} == {
        (r["model"], r["p01"], r["correct"]) for r in kept
    }


def test_the_drop_is_seen_whole(reproduced):
    """Narrow networks fall far above the paper's midpoint: rates are added until they have."""
    for model in ("vgg-a-float32.onnx", "vgg-b-float32.onnx"):
        rows = sorted(
            (r for r in rows_in(reproduced) if r["model"] == model), key=lambda r: r["p01"]
        )
        clean, chance = rows[0]["clean_accuracy"], rows[0]["chance_accuracy"]
        assert rows[0]["accuracy"] > chance + 0.8 * (clean - chance)
        assert rows[-1]["accuracy"] < chance + 0.25 * (clean - chance)


def test_rows_as_json_and_nothing_measured_twice(weights, reproduced, capsys):
    before = rows_in(reproduced)
    assert main(["reproduce", "table4", *options(weights, reproduced), "--json"]) == 0
    captured = capsys.readouterr()
    rows = json.loads(captured.out)
    assert "all points are in" in captured.err
    assert rows_in(reproduced) == before
    names = ["clean accuracy", "midpoint", "99% noise", "improvement over float32"]
    assert [(r["network"], r["format"], r["quantity"]) for r in rows] == [
        *[("A", "int8", name) for name in names],
        *[("B", "int8", name) for name in names if name != "99% noise"],
    ]
    midpoints = {r["network"]: r for r in rows if r["quantity"] == "midpoint"}
    assert midpoints["A"]["paper"] == 1.23e-3
    assert midpoints["A"]["ratio"] == midpoints["A"]["here"] / 1.23e-3
    low, high = midpoints["A"]["interval"]
    assert low < midpoints["A"]["here"] < high


def test_more_trials_and_other_experiments_add_to_what_is_there(weights, reproduced, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(reproduced, folder)
    before = {(r["model"], r["mask"], r["p01"], r["trial"]): r["correct"] for r in rows_in(folder)}
    arguments = [*options(weights, folder), "--networks", "a", "--trials", "2"]
    assert main(["reproduce", "fig6", *arguments]) == 0
    after = {(r["model"], r["mask"], r["p01"], r["trial"]): r["correct"] for r in rows_in(folder)}
    assert before.items() <= after.items()
    new = [key for key in after if key not in before]
    assert {key[0] for key in new} == {f"vgg-a-{f}.onnx" for f in ("float32", "float16", "int8")}
    assert all(key[3] == 1 for key in new if "float16" not in key[0])


def test_masks_of_figure_4(weights, tmp_path):
    folder = tmp_path / "out"
    assert main(["reproduce", "fig4", *options(weights, folder), "--images", "30"]) == 0
    masks = {r["mask"] for r in rows_in(folder)}
    assert {"all", "exponent:1-", "exponent:8-", "msb:9-31", "msb:16-31"} <= masks
    text = (folder / "fig4.md").read_text()
    assert "| VGG-A | float32 | msb:16-31 | midpoint | > 0.5 | > 0.5 |  |" in text
    assert "| from bit 12 on: no drop at all" in text


def test_noisy_retraining(weights, tmp_path, capsys):
    folder = tmp_path / "out"
    arguments = ["reproduce", "a2", *options(weights, folder), "--quick", "--device", "cpu"]
    assert main([*arguments, "--json"]) == 0
    captured = capsys.readouterr()
    rows = {row["quantity"]: row for row in json.loads(captured.out)}
    after = "after exponent:6- at 0.001"
    assert list(rows) == [
        *("clean accuracy before", "midpoint before"),
        *(f"clean accuracy {after}", f"midpoint {after}"),
    ]
    assert rows[f"midpoint {after}"]["paper"] == 2.35e-6
    assert "1,297 images, rate 0.001, mask exponent:6-" in captured.err
    assert [r["model"] for r in rows_in(folder)].count("vgg-a-float32.onnx") > 3
    assert f"| midpoint {after} | 2.35e-6 |" in (folder / "a2.md").read_text()
    assert sorted(path.suffix for path in (folder / "models").iterdir()) == [
        *(".json", ".onnx", ".onnx", ".safetensors"),
    ]
    assert main([*arguments, "--json"]) == 0
    again = capsys.readouterr()
    assert "re-train VGG-A: " not in again.err
    assert json.loads(again.out) == json.loads(captured.out)


def test_an_interrupted_run_goes_on(weights, tmp_path):
    folder, whole = tmp_path / "out", tmp_path / "whole"
    arguments = ["reproduce", "fig3", "--networks", "a"]
    assert main([*arguments, *options(weights, whole)]) == 0
    process = subprocess.Popen(
        [*PROGRAM, *arguments, *options(weights, folder)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    deadline = time.monotonic() + 120
    while number_in(folder) < 3:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1].splitlines()[-1]
    assert process.returncode == 130
    assert "the same command goes on" in said
    assert not (folder / "fig3.md").exists()
    stopped = len(rows_in(folder))
    assert 3 <= stopped < len(rows_in(whole))
    assert main([*arguments, *options(weights, folder)]) == 0
    counts = [[(r["p01"], r["correct"]) for r in rows_in(f)] for f in (folder, whole)]
    assert counts[0] == counts[1]


def test_quick_says_what_it_leaves_out(weights, tmp_path, capsys):
    arguments = ["reproduce", "fig3", "--weights", str(weights), "--data", "digits", "--quick"]
    arguments += ["--networks", "A", "--trials", "1", "--threads", "1"]
    assert main([*arguments, "-o", str(tmp_path / "out")]) == 0
    captured = capsys.readouterr()
    assert "--quick: 1,000 images at most, 1 trials, rates around the drop" in captured.err
    assert "1 curve lacks 10 points of 500 images: about " in captured.err
    assert "Figure 3" in captured.out


def test_a_network_that_cannot_be_fitted_is_named_and_the_others_go_on(weights, tmp_path, capsys):
    """VGG-A takes the least likely class: its clean accuracy is below chance."""
    given, out = tmp_path / "weights", tmp_path / "out"
    given.mkdir()
    shutil.copy(weights / "vgg-b-digits.safetensors", given)
    tensors = load_file(weights / "vgg-a-digits.safetensors")
    tensors |= {n: -tensors[n] for n in ("classifier.weight", "classifier.bias")}
    save_file(tensors, given / "vgg-a.safetensors")
    arguments = ["fig3", "table4", *options(given, out)]
    assert main(["reproduce", *arguments]) == 0
    captured = capsys.readouterr()
    why = "clean accuracy: expected clearly more than chance (0.1), got"
    assert f"noisystore: warning: not fitted: VGG-A float32: {why}" in captured.err
    for name, storage, paper in (("fig3", "float32", "2.20e-6"), ("table4", "int8", "1.23e-3")):
        said = f"Not fitted: VGG-A {storage}, midpoint, noisy bits all: {why}"
        assert said in captured.out
        text = (out / f"{name}.md").read_text()
        assert said in text
        assert text.count("| VGG-A |") == 1
        assert f"| VGG-A | {storage} | all | midpoint | {paper} | not fitted |  |" in text
        assert f"| VGG-B | {storage} | all | midpoint |" in text
        assert (out / f"{name}.png").exists()
    with (out / "fig3.csv").open() as file:
        assert {point["network"] for point in csv.DictReader(file)} == {"VGG-A", "VGG-B"}
    assert main(["reproduce", *arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [r["network"] for r in found if "not_fitted" in r] == ["A", "A"]
    assert all(r["here"] is None and why in r["not_fitted"] for r in found if r["network"] == "A")
    # Alone it is all there is: an error, as of `fit`, but what was measured is written.
    only = ["fig3", *options(given, tmp_path / "only"), "--networks", "a"]
    assert main(["reproduce", *only]) == 2
    assert f"error: VGG-A float32: {why}" in capsys.readouterr().err.splitlines()[-1]
    assert "not fitted" in (tmp_path / "only" / "fig3.md").read_text()
    assert not (tmp_path / "only" / "fig3.png").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--weights": "nowhere"}, "weights nowhere: expected a folder, found none"),
        ({"--weights": "."}, "weights .: expected files such as vgg-a-cifar10.safetensors"),
        ({"--networks": "c"}, "--networks: expected some of a, b, d, e, got 'c'"),
        ({"--networks": "e"}, "has no weights of VGG-E, but VGG-A, VGG-B"),
        ({"--networks": "b", "what": "fig4"}, "fig4: needs the weights of VGG-A, got those of"),
        ({"--images": "501"}, "images: expected a number from 1 to 500"),
        ({"--data": "npz:none.npz"}, "none.npz"),
        (
            {"--data": "npz:../digits.npz", "what": "a2"},
            "a2: needs images to train on, cifar10:DIR",
        ),
        ({"-o": "file"}, "file"),
        ({"what": "fig9"}, "invalid choice: 'fig9'"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    weights, tmp_path, monkeypatch, capsys, change, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("kept")
    digits = load("digits")
    np.savez(tmp_path.parent / "digits.npz", x=digits.images, y=digits.labels)
    given = {"what": "fig3", "--weights": str(weights), "--data": "digits", "-o": "out"} | change
    arguments = ["reproduce", given.pop("what")]
    assert main([*arguments, *(part for pair in given.items() for part in pair)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert (tmp_path / "file").read_text() == "kept"
    assert sorted(os.listdir(tmp_path)) == ["file"]


def test_a_folder_is_of_one_set_of_weights(weights, reproduced, tmp_path, capsys):
    other = tmp_path / "weights"
    other.mkdir()
    data = (weights / "vgg-b-digits.safetensors").read_bytes()
    (other / "vgg-b.safetensors").write_bytes(data[:-4] + b"\0\0\0\0")
    assert main(["reproduce", "fig3", *options(other, reproduced)]) == 2
    assert "other weights of VGG-B: choose another -o" in capsys.readouterr().err
    (other / "vgg-b-2.safetensors").write_bytes(data)
    assert main(["reproduce", "fig3", *options(other, tmp_path / "out")]) == 2
    assert "expected one file of VGG-B, got vgg-b-2.safetensors" in capsys.readouterr().err


def test_all_leaves_out_what_the_weights_do_not_allow(weights, tmp_path, capsys):
    only = tmp_path / "weights"
    only.mkdir()
    shutil.copy(weights / "vgg-b-digits.safetensors", only)
    arguments = options(only, tmp_path / "out")
    assert main(["reproduce", "all", *arguments, "--images", "20", "--json"]) == 0
    captured = capsys.readouterr()
    for name in ("fig4", "fig5", "fig6", "a2"):
        assert f"left out: {name}: needs the weights of VGG-A, got those of VGG-B" in captured.err
    names = [row["experiment"] for row in json.loads(captured.out)]
    assert list(dict.fromkeys(names)) == ["fig3", "table2", "table5", "table4", "fig7"]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (None, "vgg-a.safetensors: expected a .safetensors file"),
        ({"other": (1,)}, "expected those of a VGG for RGB images, got others"),
        ({"features.0.weight": (64, 0), "classifier.weight": (9, 0)}, "expected those of a VGG"),
        ({"features.0.weight": (8, 3, 3, 3), "classifier.weight": (2000, 64)}, "at most 1024"),
        ({"features.0.weight": (8, 3, 3, 3), "classifier.weight": (10, 64)}, "lacks features"),
    ],
)
def test_weights_that_are_none(weights, tmp_path, capsys, state, message):
    given, out = tmp_path / "weights", tmp_path / "out"
    given.mkdir()
    (given / "vgg-a.safetensors").write_bytes(b"no weights")
    if state is not None:
        tensors = {name: np.zeros(shape, np.float32) for name, shape in state.items()}
        save_file(tensors, given / "vgg-a.safetensors")
    assert find_weights(given) == {"A": given / "vgg-a.safetensors"}
    assert main(["reproduce", "fig3", *options(given, out)]) == 2
    error = capsys.readouterr().err.splitlines()
    assert [line for line in error if not line.startswith("export ")] == error[-1:]
    assert message in error[-1]
    # The mistake put right, the same folder will do.
    shutil.copy(weights / "vgg-a-digits.safetensors", given / "vgg-a.safetensors")
    assert main(["reproduce", "fig3", *options(given, out), "--images", "20"]) == 0
    (out / "models" / "reproduce.json").write_text("[" * 100_000)
    assert main(["reproduce", "fig3", *options(given, out)]) == 2
    assert "reproduce.json: damaged" in capsys.readouterr().err


def test_a_gpu_that_is_not_there_is_missed_at_once(weights, tmp_path, capsys):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("needs a machine without CUDA")
    arguments = ["reproduce", "a2", *options(weights, tmp_path / "out"), "--device", "cuda"]
    assert main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()
