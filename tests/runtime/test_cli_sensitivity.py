# SPDX-License-Identifier: Apache-2.0
"""`noisystore sensitivity`: tables, JSON, CSV, figures, interruption, bad input."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time

import pytest

from noisystore.runtime.cli import main
from noisystore.runtime.commands.common import precision

pytestmark = pytest.mark.usefixtures("one_torch_thread")


def options(model, data="digits", **changes):
    given = {"--data": data, "--masks": "none", "--precision": "100%", "--threads": 1, **changes}
    words = ["sensitivity", model]
    for name, value in given.items():
        words += [name] if value is True else [name, value]
    return [*map(str, words)]


@pytest.fixture
def small(model_path, small_npz):
    """Model and data that need no PyTorch."""
    return model_path, f"npz:{small_npz}"


def test_a_trained_network(model, tmp_path, ok, capsys):
    path = tmp_path / "r.json"
    changes = {"--sites": "activation", "--masks": "exponent,msb:1,mantissa:10-", "-o": path}
    found = ok(*options(model, **changes))
    sites = found["sites"]
    assert len(sites) == 8
    assert [site["site"] for site in sites] == list(range(8))
    assert found["masks"] == ["exponent", "msb:1", "mantissa:10-"]
    assert found["measured"] == len(found["entries"]) == 1 + 8 + 3
    by_key = {(entry["site"], entry["mask"]): entry for entry in found["entries"]}
    together = by_key[None, "all"]
    assert found["chance_accuracy"] == 0.1 < found["clean_accuracy"]
    # The top exponent bit decides, and no site alone is more sensitive than all of them.
    assert by_key[None, "msb:1"]["midpoint"] < 3 * together["midpoint"]
    for number in range(8):
        entry = by_key[number, "all"]
        if entry["midpoint"] is not None:
            assert entry["interval"][1] > together["interval"][0]
    assert by_key[None, "mantissa:10-"]["bound"] == "above"
    assert main(options(model, **changes)) == 0
    captured = capsys.readouterr()
    assert "12 midpoints" in captured.out
    assert "(0 measured now): 0 inferences" in captured.out
    assert "each site alone, all bits:" in captured.out
    assert "each mask alone, all sites:" in captured.out
    assert "most sensitive site: site " in captured.out


def test_text_csv_and_figure(small, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    plot, csv = tmp_path / "p.svg", tmp_path / "r.csv"
    words = options(*small, **{"--masks": "sign,msb:1", "--cross": True, "--csv": csv})
    assert main([*words, "--plot", str(plot)]) == 0
    captured = capsys.readouterr()
    assert "most sensitive pair: site 0 (conv), msb:1 (exponent:1), midpoint" in captured.out
    assert "9 midpoints (" in captured.out
    assert f"wrote {plot}" in captured.err
    assert plot.read_text().count("all sites") == 1
    assert len(csv.read_text().splitlines()) == 10


def test_progress_goes_to_standard_error(small, capsys):
    assert main([*options(*small), "--json"]) == 0
    captured = capsys.readouterr()
    json.loads(captured.out)
    assert "0/3 points  all sites, all bits" in captured.err
    assert "3/3 points" in captured.err


def test_interrupted_and_resumed(small, tmp_path, ok):
    path, whole = tmp_path / "r.json", tmp_path / "whole.json"
    changes = {"--masks": "bits", "--cross": True, "--precision": "10%"}
    words = [sys.executable, "-m", "noisystore.runtime.cli"]
    started = subprocess.Popen(
        [*words, *options(*small, **changes, **{"-o": path})],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for _ in range(600):
        time.sleep(0.02)
        if path.exists() and len(json.loads(path.read_text())["entries"]) > 2:
            break
    started.send_signal(signal.SIGINT)
    out, err = started.communicate(timeout=60)
    assert started.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    kept = len(json.loads(path.read_text())["entries"])
    total = 1 + 2 + 32 + 64
    # A signal between writing and counting leaves one more than is said.
    starts = tuple(f"noisystore: interrupted: {n} of {total} entries" for n in (kept - 1, kept))
    assert err.splitlines()[-1].startswith(starts)
    assert str(path) in err.splitlines()[-1]
    results = [ok(*options(*small, **changes, **{"-o": file})) for file in (path, whole)]
    for result in results:
        for entry in result["entries"]:
            del entry["seconds"]
    assert results[0]["entries"] == results[1]["entries"]
    assert results[0]["measured"] < results[1]["measured"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--precision": "0"}, "expected a share from 0.1% to 100%"),
        ({"--precision": "101%"}, "expected a share from 0.1% to 100%"),
        ({"--precision": "nan"}, "expected a share"),
        ({"--masks": "fraction"}, "bit mask: expected all, sign"),
        ({"--masks": "exponent:9"}, "bit mask exponent:9: expected FIRST-LAST within 1 to 8"),
        ({"--sites": "conv9"}, "expected a kind of this model's sites"),
        ({"--images": "0"}, "1 or more"),
        ({"--images": "158"}, "from 1 to 157"),
        ({"--seed": str(1 << 64)}, "64 bits"),
        ({"--provider": "tpu"}, "execution provider: expected one of"),
        ({"--board": "toaster"}, "toaster"),
        ({"--plot": "no/p.png"}, "does not exist"),
        ({"--plot": "p.jpg"}, "ends in .png or .svg"),
        ({"-o": "no/r.json"}, "does not exist"),
    ],
)
def test_bad_input(small, tmp_path, error, monkeypatch, changes, message):
    monkeypatch.chdir(tmp_path)
    assert message in error(*options(*small, **changes))
    assert not list(tmp_path.iterdir())


def test_files_that_are_read_are_not_written(small, tmp_path, error):
    model, data = small
    before = model.read_bytes()
    assert "expected another file than" in error(*options(model, data, **{"-o": model}))
    same = {"-o": tmp_path / "r", "--csv": tmp_path / "r"}
    assert "expected different files" in error(*options(model, data, **same))
    assert model.read_bytes() == before


def test_a_file_of_another_kind(small, tmp_path, error):
    path = tmp_path / "r.json"
    path.write_text('{"conditions": []}')
    said = error(*options(*small, **{"-o": path}))
    assert 'no "noisystore_sensitivity": 1: expected a file of `noisystore sensitivity`' in said
    assert path.read_text() == '{"conditions": []}'


@pytest.mark.parametrize(
    ("text", "share"), [("15%", 0.15), ("0.15", 0.15), (" 1 %", 0.01), ("0.1%", 0.001), ("1", 1)]
)
def test_precisions(text, share):
    assert precision(text) == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "%", "15%%", "15% x", "-5%", "inf", "0.05%", "200%", "2"])
def test_no_precisions(text):
    with pytest.raises(argparse.ArgumentTypeError, match=r"such as 15% or 0\.15"):
        precision(text)
