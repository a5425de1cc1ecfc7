# SPDX-License-Identifier: Apache-2.0
"""`noisystore midpoint`: JSON, text, plots, bad input, interruption, and no drop to find."""

import os
import signal
import subprocess
import time

import numpy as np
import pytest
from conftest import PROGRAM

from noisystore.runtime.cli import main

SMALL = ("--batch-size", "50", "--threads", "1")
KEYS = {
    "midpoint",
    "bound",
    "limit",
    "half_level",
    "interval",
    "sigma",
    "sigma_interval",
    "clean_accuracy",
    "chance_accuracy",
    "clean_images",
    "confidence",
    "precision",
    "inferences",
    "seconds",
    "reason",
}


@pytest.fixture(scope="module")
def options(model_path, small_npz):
    return (model_path, "--data", f"npz:{small_npz}", *SMALL)


def test_json(options, ok):
    found = ok("midpoint", *options, "--precision", "10%")
    assert set(found) == KEYS
    low, high = found["interval"]
    assert low < found["midpoint"] < high < 1.11 * found["midpoint"]
    assert found["precision"] <= 0.1
    assert found["half_level"] == pytest.approx(found["midpoint"], rel=0.3)
    assert found["reason"] == "the interval is as narrow as asked"
    assert found["clean_accuracy"] == pytest.approx(137 / 157)
    again = ok("midpoint", *options, "--precision", "0.1", "--batch-size", "3")
    assert again["midpoint"] == found["midpoint"]
    other = ok("midpoint", *options, "--precision", "10%", "--seed", "0x10")
    assert other["midpoint"] != found["midpoint"]
    assert other["interval"][0] < high
    assert low < other["interval"][1]


def test_a_trained_network(model, tmp_path, ok):
    """The interval meets that of a fit to a sweep with many times as many images."""
    found = ok("midpoint", model, "--data", "digits", "--precision", "15%", *SMALL)
    results = tmp_path / "r.sqlite"
    command = ("--data", "digits", "--rates", "1e-7:1e-1:4/decade", "--trials", "4", "--threads")
    ok("sweep", model, *command, 1, "-o", results)
    (fit,) = ok("fit", results)
    assert found["clean_accuracy"] == pytest.approx(fit["clean_accuracy"], abs=0.1)
    assert found["interval"][0] < fit["interval"][1]
    assert fit["interval"][0] < found["interval"][1]
    assert found["half_level"] == pytest.approx(fit["half_level"], rel=0.4)
    assert found["inferences"] < 10_000


def test_text(options, capsys):
    assert main(["midpoint", *map(str, options), "--inferences", "2000"]) == 0
    out, err = capsys.readouterr()
    first, second, third, fourth = out.splitlines()
    assert first.startswith("midpoint   0.00")
    assert "  95% interval [0.00" in first
    assert second.startswith("half level 0.00")
    assert second.endswith(" decades")
    assert third == "clean accuracy 0.8726 (157 images), chance 0.1"
    assert fourth.startswith("2,000 inferences in ")
    assert fourth.endswith(" s: the inferences allowed are spent")
    assert err.startswith("looking for the drop: ")


def test_no_drop(options, ok, capsys):
    found = ok("midpoint", *options, "--mask", "msb:31")
    assert (found["midpoint"], found["bound"], found["limit"]) == (None, "above", 0.5)
    assert main(["midpoint", *map(str, options), "--range", "1e-9:1e-7"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "midpoint above 1e-07"
    assert "no drop to find: accuracy is" in lines[2]
    found = ok("midpoint", *options, "--range", "0.3:0.5")
    assert (found["midpoint"], found["bound"]) == (None, "below")


def test_sites_masks_and_fixed_rates(make_model, small_npz, tmp_path, ok):
    path = make_model(tmp_path / "m.onnx", noisy_weight=True)
    command = ("midpoint", path, "--data", f"npz:{small_npz}", "--precision", "30%", *SMALL)
    everything = ok(*command)["midpoint"]
    sites = ok(*command, "--noisy", "activation")["midpoint"]
    sign = ok(*command, "--noisy", "activation", "--mask", "sign")["midpoint"]
    assert everything < sites < sign
    fixed = ok(*command, "--fixed-rate", "weight=0.004")["midpoint"]
    assert fixed < sites
    few = ok(*command, "--noisy", "0", "--noisy", "weight", "--images", "100")
    assert few["clean_images"] == 100


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_plot(options, tmp_path, capsys, suffix):
    pytest.importorskip("matplotlib")
    path = tmp_path / f"curve.{suffix}"
    command = ["midpoint", *map(str, options), "--precision", "30%", "--plot", str(path)]
    assert main(command) == 0
    assert f"wrote {path}" in capsys.readouterr().err
    assert path.stat().st_size > 5000
    assert main([*command, "--mask", "msb:31"]) == 0
    assert path.stat().st_size > 5000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--precision", "0"], "expected a share from 0.1% to 100%"),
        (["--precision", "5%%"], "expected a share from 0.1% to 100%"),
        (["--precision", "nan"], "expected a share from 0.1% to 100%"),
        (["--precision", "101%"], "expected a share from 0.1% to 100%"),
        (["--inferences", "5"], "inferences: expected 1000 or more, got 5"),
        (["--inferences", "0"], "expected an integer of 1 or more"),
        (["--range", "1e-3"], "--range: expected LOW:HIGH"),
        (["--range", "1e-3:1e-5"], "--range: expected LOW:HIGH"),
        (["--range", "0:0.5"], "--range: expected LOW:HIGH"),
        (["--range", "nan:0.5"], "--range: expected LOW:HIGH"),
        (["--range", "1e-5:2"], "--range: expected LOW:HIGH"),
        (["--range", "1:2:3"], "--range: expected LOW:HIGH"),
        (["--data", "nothing:x"], "data"),
        (["--data", "npz:nothing.npz"], "nothing.npz"),
        (["--images", "158"], "images: expected a number from 1 to 157"),
        (["--mask", "nothing"], "argument --mask"),
        (["--mask", "sign,sign,sign"], "bit mask"),
        (["--noisy", "weight"], "noisy: expected a kind of this model's sites"),
        (["--fixed-rate", "0=2"], "expected SITES=R"),
        (["--fixed-rate", "0=1e-3", "--fixed-rate", "0=1e-4"], "--fixed-rate: expected each"),
        (["--plot", "curve.pdf"], "plot: expected a file name that ends in .png or .svg"),
        (["--plot", "nowhere/curve.png"], "does not exist"),
        (["--seed", "1e3"], "expected an integer"),
        (["--board", "nothing"], "board"),
        (["--provider", "nothing"], "provider"),
    ],
)
def test_bad_input(options, error, tmp_path, monkeypatch, changes, message):
    monkeypatch.chdir(tmp_path)
    assert message in error("midpoint", *options, *changes)
    assert list(tmp_path.iterdir()) == []


def test_a_network_at_chance(model_path, small_data, tmp_path, error):
    wrong = tmp_path / "wrong.npz"
    np.savez(wrong, x=small_data.images, y=(small_data.labels + 5) % 10)
    said = error("midpoint", model_path, "--data", f"npz:{wrong}", *SMALL)
    assert "clean accuracy: expected clearly more than chance (0.1), got 0" in said


def test_data_without_labels(model_path, small_data, tmp_path, ok):
    path = tmp_path / "images.npz"
    np.savez(path, x=small_data.images)
    found = ok("midpoint", model_path, "--data", f"npz:{path}", "--precision", "20%", *SMALL)
    assert found["clean_accuracy"] == 1


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption(make_model, small_npz, tmp_path, number, status):
    path = make_model(tmp_path / "m.onnx", noisy_weight=True)
    command = ["midpoint", path, "--data", f"npz:{small_npz}", "--precision", "0.1%", *SMALL]
    with subprocess.Popen(
        [*PROGRAM, *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stderr is not None
        while "midpoint" not in process.stderr.readline():
            assert process.poll() is None
        time.sleep(0.1)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == status
    assert out == ""
    last = err.splitlines()[-1]
    assert last.startswith("noisystore: interrupted: midpoint 0.00")
    assert "Traceback" not in err


def test_help(capsys):
    assert main(["midpoint", "--help"]) == 0
    out = capsys.readouterr().out
    for option in ("--precision", "--inferences", "--range", "--images", "--noisy", "--plot"):
        assert option in out
    assert "example:" in out
