# SPDX-License-Identifier: Apache-2.0
"""`noisystore protect` as a user runs it: a small network trained on the digits."""

import importlib.util
import json

import numpy as np
import pytest

from noisystore.runtime import NoisySession, protection
from noisystore.runtime.cli import main
from noisystore.runtime.dataset import load
from noisystore.runtime.hardening import read_hardening

RATE = "3e-3"


@pytest.fixture(scope="module")
def design(model, tmp_path_factory):
    """Everything at once: the result, and the files written."""
    folder = tmp_path_factory.mktemp("protect")
    files = {name: folder / name for name in ("d.json", "d.png", "d.onnx")}
    status = main(
        [
            *("protect", str(model), "--data", "digits", "--rate", RATE, "--target", "90%"),
            *("--images", "300", "--compare", "-o", str(files["d.json"])),
            *("--plot", str(files["d.png"]), "--save-model", str(files["d.onnx"])),
        ]
    )
    assert status == 0
    return json.loads(files["d.json"].read_text()), files


def test_designs_hold_the_target(design):
    found, _ = design
    plain, clipped = found["designs"]
    assert (plain["mitigation"], clipped["mitigation"]) == ("none", "clip+nan")
    for one in (plain, clipped):
        assert one["meets"]
        assert one["accuracy"] >= one["target"] == pytest.approx(0.9 * one["clean_accuracy"])
        assert one["interval"][0] <= one["accuracy"] <= one["interval"][1]
    assert plain["unprotected"][0] < plain["target"]
    assert 0 < plain["bits"] < found["stored_bits"] / 2
    assert clipped["bits"] < plain["bits"]
    sites = {site["site"]: site for site in found["sites"]}
    bits = sum(sites[i]["elements"] * mask.bit_count() for i, mask in enumerate(plain["masks"]))
    assert bits == plain["bits"]


def test_a_session_of_ones_own_finds_the_accuracy(design, model):
    """The unprotected bits noisy, with seeds that the search never had."""
    plain = design[0]["designs"][0]
    session, data = NoisySession(model), load("digits")
    evaluator = protection.CleanOnce(session, data, 100)
    masks = [0xFFFFFFFF & ~mask for mask in plain["masks"]]
    rates = [[3e-3 if mask else 0.0] * 2 for mask in masks]
    masks = [mask or 1 for mask in masks]
    right = [evaluator.run(rates, masks, seed).correct.mean() for seed in range(5)]
    low, high = plain["interval"]
    assert low - 0.03 <= np.mean(right) <= high + 0.03


def test_means_are_priced(design):
    found, _ = design
    means = {m["means"]: m for m in found["designs"][0]["means"]}
    assert set(means) == {"reliable", "rewrite", "secded"}
    assert means["reliable"]["reliable_bits"] == found["designs"][0]["bits"]
    assert means["reliable"]["area_f2"][1] > found["plain"]["area_f2"][1]
    assert means["rewrite"]["energy_pj"][1] > found["plain"]["energy_pj"][1]
    assert means["rewrite"]["left_flips"] <= 1e-3
    assert means["secded"]["check_bits"] > 0
    assert 0.1 <= means["secded"]["accuracy"] <= means["reliable"]["accuracy"]
    i, j = found["best"]
    assert found["goal"] == "bits"
    assert found["designs"][i]["bits"] == min(d["bits"] for d in found["designs"])
    assert found["designs"][i]["means"][j]["meets"]


def test_comparison_is_at_equal_bits(design):
    rows = design[0]["compared"]
    words = sum(site["elements"] for site in design[0]["sites"])
    assert [row["bits"] for row in rows] == [words * (k + 1) for k in range(len(rows))]
    for row in rows:
        gain, (low, high) = row["gain_over_equal"]
        assert gain == pytest.approx(row["accuracy"] - row["equal"])
        assert low <= gain <= high
    assert max(row["gain_over_by_layer"][1][0] for row in rows) > 0


def test_files(design):
    _, files = design
    assert files["d.png"].read_bytes().startswith(b"\x89PNG")
    assert len(read_hardening(files["d.onnx"]).ranges) == len(NoisySession(files["d.onnx"]).sites)


def test_the_report(model, capsys):
    words = ["protect", str(model), "--data", "digits", "--rate", RATE, "--target", "90%"]
    assert main([*words, "--mitigate", "none", "--images", "100", "--compare"]) == 0
    out = capsys.readouterr().out
    for part in (
        "303,104 noisy bits a sample",
        "SECDED (72, 64)",
        "* least bits; bit 0 is the top",
    ):
        assert part in out
    assert "at equal bits, on the same images and flips:" in out


def test_nothing_to_protect(ok, model, tmp_path):
    saved = tmp_path / "saved.onnx"
    words = ["--rate", "1e-12", "--mitigate", "none", "--save-model", saved]
    found = ok("protect", model, "--data", "digits", *words)
    assert not saved.exists()
    assert found["designs"][0]["bits"] == 0
    assert [m["means"] for m in found["designs"][0]["means"]] == ["none"]
    assert found["best"] == [0, 0]


def test_some_bits_of_some_sites_at_two_rates(ok, model):
    found = ok(
        *("protect", model, "--data", "digits", "--rate", "0/0.2", "--mask", "exponent"),
        *("--noisy", "0,1", "--mitigate", "none", "--images", "200", "--target", "97%"),
        *("--means", "reliable", "--minimize", "area"),
    )
    one = found["designs"][0]
    assert found["rate"] == [0, 0.2]
    assert not any(mask & ~0x7F800000 for mask in one["masks"])
    assert not any(one["masks"][2:])
    assert one["meets"]


def test_a_target_out_of_reach(ok, model, capsys):
    """Noise at other sites that nothing is done about."""
    status = main(
        [
            *("protect", str(model), "--data", "digits", "--rate", "1e-2", "--mitigate", "none"),
            *("--noisy", "0", "--fixed-rate", "1=0.05", "--images", "100"),
        ]
    )
    assert status == 1
    assert "no design holds the target" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--rate", "0"], "above 0"),
        (["--rate", "2"], "[0, 1]"),
        (["--rate", "1e-4,1e-3"], "expected one rate"),
        (["--rate", "1e-3", "--target", "120%"], "target: expected"),
        (["--rate", "1e-3", "--target", "0.05"], "above chance"),
        (["--rate", "1e-3", "--mitigate", "foo"], "mitigation: expected none"),
        (["--rate", "1e-3", "--means", "foo"], "means: expected reliable"),
        (["--rate", "1e-3", "--images", "5"], "images: expected 100 or more"),
        (["--rate", "1e-3", "-o", "no/such/d.json"], "does not exist"),
        (["--rate", "1e-3", "-o", "d.png", "--plot", "d.png"], "different files"),
    ],
)
def test_bad_input(error, model, tmp_path, monkeypatch, options, said):
    monkeypatch.chdir(tmp_path)
    assert said in error("protect", model, "--data", "digits", *options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", ["-o", "--save-model"])
def test_the_model_is_not_overwritten(error, model, option):
    before = model.read_bytes()
    assert "which is read" in error(
        "protect", model, "--data", "digits", "--rate", RATE, option, model
    )
    assert model.read_bytes() == before


def test_a_hardened_file_is_not_hardened_again(error, design):
    path = design[1]["d.onnx"]
    said = error("protect", path, "--data", "digits", "--rate", RATE)
    assert "hardened already" in said


@pytest.mark.parametrize("command", [["protect", "--rate", RATE], ["sensitivity"], ["harden"]])
def test_the_data_are_not_overwritten(error, model, tmp_path, command):
    data = tmp_path / "data.npz"
    digits = load("digits")
    np.savez(data, x=digits.images, y=digits.labels)
    before = data.read_bytes()
    said = error(command[0], model, "--data", f"npz:{data}", *command[1:], "-o", data)
    assert "expected another file" in said
    assert data.read_bytes() == before


def test_without_onnx(error, model, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "onnx" else found(name, *a)
    )
    assert "noisystore[export]" in error("protect", model, "--data", "digits", "--rate", RATE)


def test_an_interruption_says_what_was_going_on(model, monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(protection, "search", stop)
    arguments = ["protect", str(model), "--data", "digits", "--rate", RATE, "--mitigate", "none"]
    assert main(arguments) == 130
    assert "interrupted: " in capsys.readouterr().err
