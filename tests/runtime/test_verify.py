# SPDX-License-Identifier: Apache-2.0
"""What a machine gives is held against a bundle's answers: equal, different, damaged."""

import json
import os
import re

import numpy as np
import pytest
from bundles import seal
from conftest import build_model

from noisystore.runtime import NoisySession
from noisystore.runtime.cli import main
from noisystore.runtime.verify import verify


@pytest.fixture
def folder(bundle_folder):
    return bundle_folder


def test_it_verifies(bundle, folder, capsys):
    assert main(["verify", str(bundle), "--json"]) == 0
    out = json.loads(capsys.readouterr().out)
    assert out["equal"] is True
    assert out["logits_difference"] == 0
    assert out["accuracy"] == out["expected_accuracy"]
    assert out["agreement"] == 1
    assert out["milliseconds_per_image"] > 0
    assert [site["equal"] for site in out["sites"]] == [True] * 3
    assert all(site["flips"] > 0 and site["words"] > 1000 for site in out["sites"])
    assert main(["verify", str(folder)]) == 0
    text = capsys.readouterr().out
    assert "bits: 3 of 3 sites equal" in text
    assert text.rstrip().endswith("all as expected")


def changed_answers(folder, change):
    path = folder / "answers/answers.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def changed_array(folder, name, change):
    path = folder / "answers/answers.npz"
    with np.load(path) as archive:
        arrays = dict(archive)
    arrays[name] = change(arrays[name].copy())
    np.savez(path, **arrays)


def flip_a_word(words):
    words[1, 5] ^= 1 << 20
    return words


def another_count(record):
    record["network"][0]["sites"][1]["flips"][2] += 1


def other_places(record):
    record["network"][1]["sites"][0]["sha256"] = "0" * 64


@pytest.mark.parametrize(
    ("change", "site", "said"),
    [
        (
            lambda folder: changed_array(folder, "words.1.2", flip_a_word),
            2,
            "known words at 0.002/0.01, mask 0x5555555555555555: sample 0 of the batch, "
            "element 1036: expected 0x",
        ),
        (
            lambda folder: changed_answers(folder, another_count),
            1,
            "in the network at 0.001/0.001: sample 2: expected",
        ),
        (
            lambda folder: changed_answers(folder, other_places),
            0,
            "in the network at 0.05/0.05, mask 0x5555555555555555: other bits flip, as many",
        ),
    ],
)
def test_other_bits_are_a_failure(folder, capsys, change, site, said):
    change(folder)
    seal(folder)
    assert main(["verify", str(folder)]) == 1
    captured = capsys.readouterr()
    assert "bits: 2 of 3 sites equal" in captured.out
    assert "NOT as expected" in captured.out
    (line,) = [line for line in captured.out.splitlines() if line.split()[:1] == [str(site)]]
    assert said in line


def test_other_logits_are_a_failure(folder):
    def moved(logits):
        logits[3, 2] += 1e-2
        return logits

    changed_array(folder, "logits", moved)
    seal(folder)
    verdict = verify(folder)
    assert verdict.bits_equal
    assert not verdict.equal
    assert verdict.logits_difference == pytest.approx(1e-2, rel=0.01)
    assert verdict.tolerance < 1e-2


def test_other_predictions_are_a_failure(folder):
    def some_changed(count):
        def change(predictions):
            predictions[:count] = (predictions[:count] + 1) % 10
            return predictions

        return change

    changed_array(folder, "predictions", some_changed(1))
    seal(folder)
    assert verify(folder).equal  # one image may tip
    changed_array(folder, "predictions", some_changed(3))
    seal(folder)
    verdict = verify(folder)
    assert not verdict.equal
    assert verdict.agreement == pytest.approx(1 - 3 / 21)


def test_images_that_end_in_nan_do_not_count(folder):
    def lost(count):
        def change(predictions):
            predictions[:count] = -1
            return predictions

        return change

    changed_array(folder, "predictions", lost(2))
    seal(folder)
    verdict = verify(folder)
    assert (verdict.equal, verdict.agreement, verdict.left_out) == (True, 1.0, 2)
    changed_array(folder, "predictions", lost(3))  # more than a tenth of 21
    seal(folder)
    assert not verify(folder).equal
    changed_array(folder, "predictions", lost(21))
    seal(folder)
    assert not verify(folder).equal


def test_a_library_with_other_noise_is_found(folder):
    """The model in the bundle stores site 0 under another number of rows per sample."""
    build_model(folder / "model/model.onnx", noisy_weight=True, last_rows=-1)
    seal(folder)
    verdict = verify(folder)
    assert [site.equal for site in verdict.sites] == [True, False, True]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: (f / "model/model.onnx").write_bytes(b"1"), "model/model.onnx: missing or"),
        (lambda f: (f / "manifest.json").unlink(), "expected an unpacked bundle"),
    ],
)
def test_damage_is_bad_input(folder, capsys, change, said):
    change(folder)
    assert main(["verify", str(folder)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert said in error


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("answers/answers.json", b"{}", "answers.json: damaged"),
        ("answers/answers.json", b'{"version": 9}', "expected version 1, got 9"),
        ("answers/answers.npz", b"PK", "answers.npz|NumPy archive"),
        ("board.toml", b"[board]\n", "board.toml"),
        ("data/data.txt", b"version 1\n", "data.txt"),
    ],
)
def test_damage_that_the_manifest_knows(folder, name, data, said, capsys):
    (folder / name).write_bytes(data)
    seal(folder)
    assert main(["verify", str(folder)]) == 2
    *_, error = capsys.readouterr().err.splitlines()
    assert re.search(said, error)
    assert error.startswith("noisystore: error: ")


@pytest.mark.parametrize("fault", ["no noise", "another seed", "the first site's rates"])
def test_a_session_with_other_noise_is_found(folder, monkeypatch, fault):
    """The session that sweeps use, by itself: the words of other graphs stay as they are."""
    run = NoisySession.run_feed

    def faulty(self, feeds, index, rows):
        feeds = dict(feeds)
        if fault == "no noise":
            feeds["noise.bit_error_rate"] = feeds["noise.bit_error_rate"] * 0
        else:
            feeds["noise.seed"] = feeds["noise.seed"] + 1
        return run(self, feeds, index, rows)

    def first_row(self, rates, masks, seed):
        feeds = feed(self, rates, masks, seed)
        table = feeds["noise.bit_error_rate"]
        feeds["noise.bit_error_rate"] = np.repeat(table[:1], len(table), axis=0)
        return feeds

    if fault == "the first site's rates":
        feed = NoisySession.noise_feed
        monkeypatch.setattr(NoisySession, "noise_feed", first_row)
    else:
        monkeypatch.setattr(NoisySession, "run_feed", faulty)
    verdict = verify(folder)
    assert not verdict.equal
    assert verdict.bits_equal == (fault != "the first site's rates")


def test_clean_predictions_count(folder):
    """Within the tolerance of a coarse format predictions may change, and that is a failure."""

    def swapped(logits):
        first, second = np.argsort(logits, axis=1)[:, -1], np.argsort(logits, axis=1)[:, -2]
        rows = np.arange(len(logits))
        logits[rows, second] = logits[rows, first] + 1e-3
        return logits

    changed_array(folder, "logits", swapped)
    changed_answers(folder, lambda record: record.update(tolerance=1e3))
    seal(folder)
    verdict = verify(folder)
    assert verdict.bits_equal
    assert verdict.logits_difference < verdict.tolerance
    assert not verdict.equal


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("predictions", lambda a: a[:5]),
        ("predictions", lambda a: a.astype(np.float32)),
        ("logits", lambda a: a.astype("U9")),
        ("logits", lambda a: a[0, 0]),
        ("words.0.0", lambda a: a.astype(np.uint16)),
        ("words.0.0", lambda a: a.astype(np.float32)),
    ],
)
def test_arrays_of_other_kinds(folder, error, name, change):
    changed_array(folder, name, change)
    seal(folder)
    assert re.search("answers.*make the bundle again", error("verify", folder))


@pytest.mark.parametrize(
    "changes",
    [
        {"clean_accuracy": float("nan")},
        {"tolerance": -1.0},
        {"element_types": {"0": "nope", "1": "float32", "2": "float32"}},
        {"batch_size": 0},
    ],
)
def test_numbers_of_other_kinds(folder, error, changes):
    changed_answers(folder, lambda record: record.update(changes))
    seal(folder)
    assert re.search("answers.*make the bundle again", error("verify", folder, "--json"))


def test_pipes_and_devices(error, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "expected a file or a folder" in error("verify", tmp_path / "pipe")
    assert "expected a file or a folder" in error("verify", "/dev/zero")
