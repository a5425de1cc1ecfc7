# SPDX-License-Identifier: Apache-2.0
"""`noisystore fit` on simulated results: groups, JSON, text, plots, files that are none."""

import json
import re
import sqlite3

import numpy as np
import pytest

from noisystore.ortops import InputError
from noisystore.runtime import Points, fit_midpoint
from noisystore.runtime.cli import main
from noisystore.runtime.metrics import Scores
from noisystore.runtime.midpoint_curve import logistic
from noisystore.runtime.midpoint_groups import fit_files, fit_results, labels_of
from noisystore.runtime.results import Point, Results, pack_bits, results_rows

RATES = np.logspace(-8, -1, 15)


def write(
    path,
    mu=-5.0,
    *,
    sigma=0.3,
    model="vgg.onnx",
    model_sha256="0" * 64,
    data="digits",
    data_sha256="1" * 64,
    machine="x86_64",
    batch_size=100,
    images=300,
    trials=3,
    seed=0,
    clean=0.85,
    mask="all",
    provider="CPUExecutionProvider",
    rates=RATES,
    ratio=1.0,
    labels=True,
    classes=10,
):
    """Add one simulated sweep whose midpoint is 10**mu to a results file."""
    identity = {
        "model_sha256": model_sha256,
        "data_sha256": data_sha256,
        "images": images,
        "seed": seed,
        "batch_size": batch_size,
        "bit_mask": "0xffffffffffffffff" if mask == "all" else mask,
        "metric": "",
        "provider": provider,
        "machine": machine,
        "noise_model": "1",
    }
    random = np.random.default_rng(seed)
    right = np.arange(images) < round(clean * images)
    description = {
        "model": model,
        "sites": "{}",
        "storage_format": "float32",
        "data": data,
        "mask_name": mask,
        "classes": classes,
        "chance_accuracy": classes and 1 / classes,
        "clean_accuracy": float(right.mean()) if labels else None,
        "clean_top5": None,
        "clean_metric": None,
        "clean_scores": Scores(correct=right if labels else None).to_bytes(),
    }
    with Results(path) as results:
        sweep = results.add_sweep(identity, description)
        run = results.add_run(
            {
                "library_version": "0",
                "onnxruntime_version": "0",
                "threads": 0,
                "cpu": "",
                "host": "",
            }
        )
        for rate in rates:
            for trial in range(trials):
                intact = logistic(np.log10(max(rate, 1e-30)), mu, sigma, 1.0, 0.0)
                agree = random.random(images) < intact
                correct = np.where(agree, right, random.random(images) < 0.1)
                results.add_point(
                    sweep,
                    run,
                    Point(
                        p01=float(rate),
                        p10=float(rate * ratio),
                        trial=trial,
                        noise_seed=trial,
                        images=images,
                        n_run=images,
                        correct=int(correct.sum()) if labels else None,
                        top5=None,
                        agreement=int(agree.sum()),
                        metric=None,
                        seconds=0.0,
                        run_seconds=0.0,
                        correct_bits=pack_bits(correct) if labels else None,
                        agree_bits=pack_bits(agree),
                    ),
                )
    return path


def fit(capsys, *arguments):
    status = main(["fit", *map(str, arguments), "--json"])
    out = capsys.readouterr().out
    return status, json.loads(out)


def test_json(tmp_path, capsys):
    status, (entry,) = fit(capsys, write(tmp_path / "r.sqlite"))
    assert status == 0
    assert entry["midpoint"] == pytest.approx(1e-5, rel=0.2)
    assert entry["interval"][0] < entry["midpoint"] < entry["interval"][1]
    assert entry["sigma"] == pytest.approx(0.3, rel=0.3)
    assert entry["half_level"] == pytest.approx(1e-5, rel=0.3)
    assert entry["axis"] == "log10"
    assert entry["clean_accuracy"] == pytest.approx(0.85)
    assert 1e-8 < entry["rate_99"] < 1e-5
    assert "bound" not in entry
    assert "limit" not in entry
    assert entry["covers"] == "noise and images"
    expected = {
        "model": "vgg.onnx",
        "format": "float32",
        "mask": "all",
        "images": 300,
        "trials": 3,
        "provider": "CPUExecutionProvider",
        "metric": "accuracy",
        "directions": "1:1",
    }
    assert {key: entry[key] for key in expected} == expected


def test_fit_midpoint_takes_results(tmp_path):
    path = write(tmp_path / "results.sqlite")
    fit = fit_midpoint(path)
    assert fit == fit_results(path)[0].fit
    with Results(path, readonly=True) as results:
        assert fit_midpoint(results) == fit
        rows = results.rows()
    assert fit_midpoint(rows) == fit
    with pytest.raises(InputError, match="expected clean_accuracy and classes"):
        fit_midpoint(Points([1e-6, 1e-5, 1e-4], [0] * 3, [9, 5, 1], [10] * 3))


def test_a_file_is_fitted_curve_by_curve(tmp_path):
    """Seeds of one curve, its directions, and other curves between them."""
    path = tmp_path / "r.sqlite"
    for more in ({}, {"model": "b.onnx", "mask": "m"}, {"seed": 5}, {"seed": 6, "ratio": 0.5}):
        write(path, **more)
    (at_once, parts) = fit_results(results_rows(path)), fit_results(path)
    fits = {group.label: group.as_dict() for group in at_once}
    assert {group.label: group.as_dict() for group in parts} == fits
    assert sorted(fit["trials"] for fit in fits.values()) == [3, 3, 6]


def test_several_files_in_one_call(tmp_path, capsys):
    first = write(tmp_path / "first.sqlite")
    second = write(tmp_path / "second.sqlite")
    assert main(["fit", str(first), str(second), "--json"]) == 0
    fits = json.loads(capsys.readouterr().out)
    assert len(fits) == 2
    assert fits[0]["midpoint"] == fits[1]["midpoint"]


def test_axis_and_confidence(tmp_path, capsys):
    path = write(tmp_path / "r.sqlite")
    wide = fit(capsys, path, "--confidence", "0.99")[1][0]["interval"]
    narrow = fit(capsys, path, "--confidence", "0.5")[1][0]["interval"]
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    assert fit(capsys, path, "--axis", "linear")[1][0]["axis"] == "linear"


@pytest.mark.parametrize(("mu", "bound", "limit"), [(2.0, "above", 0.1), (-12.0, "below", 1e-8)])
def test_no_midpoint_in_the_range(tmp_path, capsys, mu, bound, limit):
    path = write(tmp_path / "r.sqlite", mu)
    status, (entry,) = fit(capsys, path)
    assert status == 0
    assert entry["midpoint"] is None
    assert (entry["bound"], entry["limit"]) == (bound, pytest.approx(limit))
    assert main(["fit", str(path)]) == 0
    assert f"{bound} {limit:.3g}" in capsys.readouterr().out


def test_other_seeds_are_more_trials_and_other_masks_other_curves(tmp_path, capsys):
    path = tmp_path / "r.sqlite"
    write(path, seed=0)
    write(path, seed=1)
    write(path, -3.0, mask="0x7fffff")
    write(path, provider="CUDAExecutionProvider")
    write(path, ratio=0.5, model="vgg.onnx", seed=9)
    entries = fit(capsys, path)[1]
    assert len(entries) == 4
    both = [e for e in entries if e["seeds"] == [0, 1]]
    assert [e["trials"] for e in both] == [6]
    assert {e["mask"] for e in entries} == {"all", "0x7fffff"}
    assert {e["directions"] for e in entries} == {"1:1", "1:0.5"}


def test_without_labels_agreement_is_fitted(tmp_path, capsys):
    entry = fit(capsys, write(tmp_path / "r.sqlite", labels=False))[1][0]
    assert entry["metric"] == "agreement"
    assert entry["clean_accuracy"] == 1.0
    assert entry["midpoint"] is not None


def test_rate_zero_is_left_out(tmp_path):
    path = write(tmp_path / "r.sqlite")
    write(path, rates=[0.0])
    assert fit_results(path)[0].fit.rates == 15


def test_text_and_plots(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    path = write(tmp_path / "r.sqlite")
    write(path, -3.0, mask="0x7fffff")
    for name in ("a.png", "a.svg"):
        assert main(["fit", str(path), "--plot", str(tmp_path / name)]) == 0
        assert (tmp_path / name).stat().st_size > 1000
    captured = capsys.readouterr()
    assert "midpoint" in captured.out
    assert "mask 0x7fffff" in captured.out
    assert "intervals cover: noise and images" in captured.out
    assert "wrote" in captured.err


def error(capsys, *arguments):
    """Run a command that must fail as bad input does: one line, no traceback, nothing printed."""
    status = main([*map(str, arguments)])
    captured = capsys.readouterr()
    assert status == 2
    assert captured.out == ""
    assert captured.err.startswith("noisystore: error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def test_files_that_are_no_results(tmp_path, capsys):
    assert "no such file" in error(capsys, "fit", tmp_path / "missing.sqlite")
    assert not (tmp_path / "missing.sqlite").exists()
    assert "directory" in error(capsys, "fit", tmp_path)
    text = tmp_path / "text.sqlite"
    text.write_text("x" * 4096)
    assert "another kind of file" in error(capsys, "fit", text)
    foreign = tmp_path / "foreign.sqlite"
    with sqlite3.connect(foreign) as database:
        database.execute("CREATE TABLE t (x)")
    assert "another SQLite database" in error(capsys, "fit", foreign)
    newer = write(tmp_path / "newer.sqlite")
    with sqlite3.connect(newer) as database:
        database.execute("PRAGMA user_version = 99")
        database.execute("PRAGMA journal_mode = DELETE")
    assert "version 2 or older, got 99" in error(capsys, "fit", newer)


def test_results_that_cannot_be_fitted(tmp_path, capsys):
    empty = write(tmp_path / "empty.sqlite", rates=[])
    assert "run a sweep first" in error(capsys, "fit", empty)
    short = write(tmp_path / "short.sqlite", rates=[1e-5, 1e-3])
    assert "3 distinct rates or more, got 2" in error(capsys, "fit", short)
    untrained = write(tmp_path / "untrained.sqlite", clean=0.1)
    assert "more than chance" in error(capsys, "fit", untrained)
    nameless = write(tmp_path / "nameless.sqlite", classes=None)
    assert "number of classes" in error(capsys, "fit", nameless)
    guessing = write(tmp_path / "guessing.sqlite", clean=0.12, images=50)
    said = error(capsys, "fit", guessing)
    assert "clearly more than chance (0.1), got 0.12 (50 images)" in said
    write(guessing, mask="0x7fffff", rates=[1e-5, 1e-3])
    said = error(capsys, "fit", guessing)
    assert "(mask all): clean accuracy: expected clearly more" in said
    assert "vgg.onnx (mask 0x7fffff): points: a fit needs 3" in said
    assert said.count("; vgg.onnx") == 1
    said = error(capsys, "fit", empty, short, guessing)
    assert f"{empty}: results: expected measured points" in said
    assert f"; {short}: vgg.onnx (mask all): points: a fit needs" in said
    assert said.count(f"; {guessing}: vgg.onnx") == 2


def test_a_curve_that_cannot_be_fitted_leaves_the_others(tmp_path, capsys):
    path = write(tmp_path / "r.sqlite")
    write(path, mask="0x7fffff", rates=[1e-5, 1e-3])
    assert main(["fit", str(path), "--json"]) == 0
    captured = capsys.readouterr()
    assert [entry["mask"] for entry in json.loads(captured.out)] == ["all"]
    assert captured.err.startswith("noisystore: warning: not fitted: vgg.onnx (mask 0x7fffff)")
    assert captured.err.count("\n") == 1
    with pytest.warns(UserWarning, match="3 distinct rates"):
        fit_results(path)


def test_a_file_that_cannot_be_fitted_leaves_the_others(tmp_path, capsys):
    short = write(tmp_path / "short.sqlite", rates=[1e-5, 1e-3])
    empty = write(tmp_path / "empty.sqlite", rates=[])
    good = write(tmp_path / "good.sqlite")
    assert main(["fit", str(short), str(good), str(empty), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == [group.as_dict() for group in fit_results(good)]
    first, second = captured.err.splitlines()
    begin = "noisystore: warning: not fitted: "
    assert first.startswith(f"{begin}{short}: vgg.onnx (mask all): points: a fit needs 3")
    assert second.startswith(f"{begin}{empty}: results: expected measured points")
    # A name that is no results file is a mistake, not a result.
    assert "no such file" in error(capsys, "fit", good, tmp_path / "missing.sqlite")


def test_labels_that_collide_name_in_what_curves_differ(tmp_path, capsys):
    path, other = tmp_path / "r.sqlite", tmp_path / "other.sqlite"
    write(path)
    assert labels_of(fit_results(path)) == ["vgg.onnx, float32"]
    write(path, mask="0x7fffff")
    write(path, data="cifar10", data_sha256="2" * 64)
    write(path, images=200)
    write(path, provider="CUDAExecutionProvider", machine="aarch64")
    write(path, model_sha256="abcdef0123" + "0" * 54)
    named = "vgg.onnx, float32, model SHA-256"
    expected = [
        "vgg.onnx, float32, mask 0x7fffff",
        f"{named} 00000000, cifar10, 300 images, CPU, x86_64",
        f"{named} 00000000, digits, 200 images, CPU, x86_64",
        f"{named} 00000000, digits, 300 images, CPU, x86_64",
        f"{named} 00000000, digits, 300 images, CUDA, aarch64",
        f"{named} abcdef01, digits, 300 images, CPU, x86_64",
    ]
    assert sorted(labels_of(fit_results(path))) == sorted(expected)
    write(other, data_sha256="ef" * 32)
    write(other, batch_size=50)
    write(other)
    said = labels_of(fit_results(other))
    assert sorted(said) == [
        "vgg.onnx, float32, data SHA-256 11111111, batch size 100",
        "vgg.onnx, float32, data SHA-256 11111111, batch size 50",
        "vgg.onnx, float32, data SHA-256 efefefef, batch size 100",
    ]
    assert main(["fit", str(other)]) == 0
    out = capsys.readouterr().out
    assert all(f"{label}  " in out for label in said)
    with pytest.raises(InputError, match=re.escape(f"got 3 ({'; '.join(said)})")):
        fit_midpoint(other)


def test_labels_of_files_that_collide_name_the_files(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    paths = [tmp_path / name for name in ("one.sqlite", "a/two.sqlite", "b/two.sqlite")]
    for path in paths:
        write(path)
    alike = "vgg.onnx, float32"
    said = labels_of(fit_files(paths[:2]))
    assert said == [f"{alike}, one.sqlite", f"{alike}, two.sqlite"]
    said = labels_of(fit_files(paths[1:]))
    assert said == [f"{alike}, {path}" for path in paths[1:]]


@pytest.mark.parametrize("axis", ["linear", "log10"])
def test_rates_beyond_all_reason(tmp_path, capsys, axis):
    path = write(tmp_path / "r.sqlite", rates=[1e-310, 2e-310, 4e-310, 8e-310], mu=-309.5)
    assert "rates from 1e-100 to 1" in error(capsys, "fit", path, "--axis", axis)


def test_bad_options(tmp_path, capsys):
    path = write(tmp_path / "r.sqlite")
    assert "at most 0.9999" in error(capsys, "fit", path, "--confidence", "0.9999999999999999")
    assert "log10" in error(capsys, "fit", path, "--axis", "cubic")
    assert "between 0 and 1" in error(capsys, "fit", path, "--confidence", "95")
    assert ".png or .svg" in error(capsys, "fit", path, "--plot", tmp_path / "a.pdf")
    assert "does not exist" in error(capsys, "fit", path, "--plot", tmp_path / "no" / "a.png")
    assert "folder" in error(capsys, "fit", path, "--plot", tmp_path)
