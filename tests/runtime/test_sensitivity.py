# SPDX-License-Identifier: Apache-2.0
"""Midpoints of sites and bits alone: which entries, how they resume, files that do not belong."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from noisystore.ortops import InputError
from noisystore.runtime import NoisySession, fit_midpoint, sensitivity, sweep
from noisystore.runtime.clean_once import CleanOnce
from noisystore.runtime.dataset import Dataset
from noisystore.runtime.evaluate import Evaluator
from noisystore.runtime.sensitivity import irregular
from noisystore.runtime.sensitivity_report import report, write_csv


def run(model, data, **options):
    options = {"threads": 1, "progress": False, "precision": 0.5, **options}
    return sensitivity(model, data, **options)


def values(found):
    """Entries without what differs from run to run."""
    return {key: replace(entry, seconds=0.0) for key, entry in found.entries.items()}


@pytest.fixture(scope="module")
def whole(model_path, small_data, tmp_path_factory):
    """Both sites of the small network, three masks, and their crosses."""
    path = tmp_path_factory.mktemp("whole") / "r.json"
    masks = "msb:1,mantissa:10-,exponent:1-8,exponent"
    return run(model_path, small_data, masks=masks, cross=True, results=path)


def test_entries_and_their_order(whole):
    assert whole.masks == ["msb:1", "mantissa:10-", "exponent:1-8", "exponent"]
    margins = [(None, "all"), (0, "all"), (1, "all"), *((None, mask) for mask in whole.masks)]
    inside = [(site, mask) for site in (0, 1) for mask in whole.masks]
    assert list(whole.entries) == [*margins, *inside]
    assert whole.measured == len(margins) + len(inside) - 2
    assert whole.inferences > 0
    # The last 14 bits of a mantissa say nothing.
    assert whole.entries[None, "mantissa:10-"].bound == "above"


def test_clean_images_run_once(model_path, small_data):
    session = NoisySession(model_path, threads=1)
    once, plain = CleanOnce(session, small_data, 50), Evaluator(session, small_data, 50)
    first, second = np.arange(0, 100, 3), np.arange(0, 157, 2)
    for samples in (first, second, first):
        got, expected = once.run(0.0, samples=samples), plain.run(0.0, samples=samples)
        for name in ("predictions", "correct", "top5"):
            np.testing.assert_array_equal(getattr(got, name), getattr(expected, name))
    before = session.inferences
    once.run(0.0, samples=np.union1d(first, second))
    assert session.inferences == before
    noisy = [e.run(1e-3, None, 5, samples=first).predictions for e in (once, plain)]
    np.testing.assert_array_equal(*noisy)
    assert session.inferences == before + 2 * len(first)


def test_one_site_is_less_sensitive_than_all(whole):
    together = whole.entries[None, "all"]
    for site in (0, 1):
        alone = whole.entries[site, "all"]
        assert alone.interval[1] > together.interval[0]
        assert alone.precision <= 0.5
    # Site 0 has five times as many elements, of which any top exponent bit ruins the sample.
    assert whole.entries[0, "msb:1"].midpoint < whole.entries[1, "msb:1"].midpoint


def test_a_pair_is_not_measured_where_its_half_has_no_drop(whole):
    for site in (0, 1):
        pair, half = whole.entries[site, "mantissa:10-"], whole.entries[None, "mantissa:10-"]
        assert (pair.bound, pair.limit) == ("above", half.limit)
        assert pair.inferences == 0
        assert pair.reason.startswith("not measured: with these bits of all sites noisy")


def test_entries_agree_with_a_sweep(model_path, small_data):
    found = run(model_path, small_data, masks="msb:1", precision=0.2)
    for site, mask, noisy in ((1, "all", 1), (None, "msb:1", None)):
        points = sweep(
            model_path,
            small_data,
            "1e-5:1e-1:6/decade",
            trials=6,
            noisy=noisy,
            bit_mask=mask,
            threads=1,
            progress=False,
        )
        fit, entry = fit_midpoint(points), found.entries[site, mask]
        distance = abs(np.log10(entry.midpoint / fit.midpoint))
        widths = [np.log10(x.interval[1] / x.interval[0]) / 2 for x in (entry, fit)]
        # Five standard errors of the difference.
        assert distance < 5 / 1.96 * np.hypot(*widths)


def test_the_same_seed_gives_the_same_in_any_company(whole, model_path, small_data):
    again = run(model_path, small_data, sites=1, masks="exponent,msb:1")
    assert again.entries[1, "all"].midpoint == whole.entries[1, "all"].midpoint
    # One site: all sites and this one are the same measurement.
    for name, entry in values(again).items():
        if name[0] is None:
            assert entry == values(whole)[1, name[1]]
    other = run(model_path, small_data, masks="none", seed=1)
    assert other.entries[None, "all"].midpoint != whole.entries[None, "all"].midpoint
    assert list(other.entries) == [(None, "all"), (0, "all"), (1, "all")]


@pytest.mark.parametrize(
    ("factor", "odd"), [(1.0, False), (1.2, False), (1 / 1.2, False), (3.0, True), (1 / 3.0, True)]
)
def test_a_half_level_far_from_the_midpoint_is_told(whole, factor, odd):
    key = (1, "all")
    low, high = whole.entries[key].interval
    entry = replace(whole.entries[key], half_level=factor * (high if factor > 1 else low))
    assert irregular(entry) == odd
    changed = replace(whole, entries={**whole.entries, key: entry})
    text = report(changed, lambda head, rows: "\n".join("|".join(row) for row in [head, *rows]))
    line = next(line for line in text.splitlines() if line.startswith("1|hidden|"))
    assert ("?" in line) == odd
    assert line.endswith("|") == odd
    rows = {(row["site"], row["mask"]): row["irregular"] for row in changed.as_dict()["entries"]}
    assert rows[key] == odd


# -- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sites": "conv9"}, "noisy: expected a kind"),
        ({"masks": "fraction"}, "bit mask: expected all, sign"),
        ({"masks": "none,sign"}, "bit mask: expected all, sign"),
        ({"masks": ""}, "bit mask: expected all, sign"),
        ({"masks": [3]}, "bit mask: expected all, sign"),
        ({"precision": 0.0}, "precision"),
        ({"precision": float("nan")}, "precision"),
        ({"images": 158}, "images: expected a number from 1 to 157"),
        ({"seed": 1 << 63}, "seed: expected an integer of 64 bits"),
        ({"batch_size": 0}, "batch size"),
    ],
)
def test_bad_input(model_path, small_data, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        run(model_path, small_data, results=tmp_path / "r.json", **{"masks": "none", **options})
    assert not list(tmp_path.iterdir())


# -- results file --------------------------------------------------------------------------------


def test_a_file_goes_on_with_other_masks(whole, model_path, small_data, tmp_path):
    path = tmp_path / "r.json"
    first = run(model_path, small_data, masks="none", results=path)
    assert first.measured == 3
    second = run(model_path, small_data, masks=whole.masks, cross=True, results=path)
    assert second.measured == whole.measured - 3
    assert values(second) == values(whole)
    third = run(model_path, small_data, masks="msb:1", results=path)
    assert (third.measured, third.inferences) == (0, 0)
    assert list(third.entries) == [(None, "all"), (0, "all"), (1, "all"), (None, "msb:1")]
    # What was not asked this time is still there.
    assert len(json.loads(path.read_text())["entries"]) == len(whole.entries)


SCRIPT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background jobs
from noisystore.runtime import sensitivity
module = sys.modules["noisystore.runtime.sensitivity"]
model, data, path, number, after = sys.argv[1:]
whole, left = module.write_entries, int(after)
def write(*args):
    global left
    whole(*args)
    left -= 1
    if left == 0:
        os.kill(os.getpid(), int(number))
module.write_entries = write
try:
    sensitivity(model, data, masks="msb:1,mantissa:10-,exponent:1-8,exponent", cross=True,
                precision=0.5, threads=1, results=path, progress=False)
except KeyboardInterrupt as error:
    print(error, file=sys.stderr)
    sys.exit(128 + error.signal)
"""


@pytest.mark.parametrize(
    ("number", "after"), [(signal.SIGKILL, 1), (signal.SIGTERM, 4), (signal.SIGINT, 9)]
)
def test_stopped_and_resumed(whole, model_path, small_npz, tmp_path, number, after):
    path = tmp_path / "r.json"
    words = [sys.executable, "-c", SCRIPT, model_path, f"npz:{small_npz}", path]
    done = subprocess.run(
        [*map(str, words), str(int(number)), str(after)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert len(json.loads(path.read_text())["entries"]) == after, done.stderr
    if number == signal.SIGKILL:
        assert done.returncode == -number
    else:
        assert done.returncode == 128 + number, done.stderr
        # The signal comes before the last entry counts as written.
        said = f"interrupted: {after - 1} of {len(whole.entries)} entries are in {path}"
        assert said in done.stderr
    resumed = run(model_path, f"npz:{small_npz}", masks=whole.masks, cross=True, results=path)
    assert values(resumed) == values(whole)


def test_files_of_something_else(whole, make_model, model_path, small_data, tmp_path):
    path = tmp_path / "r.json"
    run(model_path, small_data, masks="none", results=path)
    before = path.read_bytes()
    other = make_model(tmp_path / "other.onnx", seed=1)
    labels = (small_data.labels + 1) % 10
    relabelled = Dataset("small/test", small_data.images, labels)
    for model, data, options, message in (
        (other, small_data, {}, "model sha256"),
        (model_path, relabelled, {}, "data sha256"),
        (model_path, small_data, {"images": 100}, "images 100, got 157"),
        (model_path, small_data, {"seed": 1}, "seed 1, got 0"),
        (model_path, small_data, {"precision": 0.25}, "precision 0.25, got 0.5"),
        (model_path, small_data, {"sites": 0}, r"sites site 0 \(conv\), got all"),
        (model_path, small_data, {"batch_size": 10}, "batch size 10, got 100"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            run(model, data, masks="none", results=path, **options)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    # A search that is another one, or not named, may find other midpoints.
    for version, said in ((99, "99"), (None, "none")):
        record = json.loads(before)
        record["settings"]["search_version"] = version
        path.write_text(json.dumps(record))
        with pytest.raises(InputError, match=f"entries with search version 1, got {said}: choose"):
            run(model_path, small_data, masks="none", results=path)
    path.write_bytes(before)
    # The same model under another name is the same model.
    renamed = tmp_path / "renamed.onnx"
    renamed.write_bytes(model_path.read_bytes())
    assert run(renamed, small_data, masks="none", results=path).measured == 0


def damaged(record):
    """Texts that a damaged or hostile file may hold, from one that is good."""

    def changed(**fields):
        return json.dumps({**record, "entries": [{**record["entries"][0], **fields}]})

    yield ""
    yield "{"
    yield "[" * 100_000
    yield "null"
    yield "\0\1"
    yield '{"noisystore_sensitivity": true}'
    yield '{"noisystore_sensitivity": 2}'
    yield '{"noisystore_sensitivity": 1}'
    yield json.dumps({**record, "settings": []})
    yield json.dumps({**record, "settings": {**record["settings"], "seed": False}})
    yield json.dumps({**record, "settings": {**record["settings"], "provider": "\x1b[2J\n" * 99}})
    yield json.dumps({**record, "entries": {}})
    yield json.dumps({**record, "entries": [7]})
    yield json.dumps({**record, "entries": [record["entries"][0]] * 2})
    for site in (99, -1, True, "0", 0.5, [0]):
        yield changed(site=site)
    for mask in ("", "msb:1-1-", "MSB:1", 1, None, "a" * 1000):
        yield changed(mask=mask)
    for midpoint in (None, 0, -1, 2, 1e400, 10**400, 1e-9, "1e-5", [1], float("nan")):
        yield changed(midpoint=midpoint)
    for interval in (None, [], [1e-5], [0, 0.1], [0.1, 0.01], ["a", "b"], [1e-9, 2e-9]):
        yield changed(interval=interval)
    yield changed(bound="above")
    yield changed(bound="above", midpoint=None, interval=None, limit=None)
    yield changed(clean_accuracy=7)
    yield changed(clean_accuracy=0.05, chance_accuracy=0.1)
    yield changed(surprise=1)
    yield changed(reason=None)
    short = dict(record["entries"][0])
    del short["sigma"]
    yield json.dumps({**record, "entries": [short]})


def test_damaged_files(model_path, small_data, tmp_path):
    path = tmp_path / "r.json"
    run(model_path, small_data, masks="none", results=path)
    texts = list(damaged(json.loads(path.read_text())))
    session = NoisySession(model_path, threads=1)
    for text in texts:
        path.write_text(text)
        with pytest.raises(InputError) as caught:
            run(session, small_data, masks="none", results=path)
        said = str(caught.value)
        assert said.startswith(f"results {path}: "), said
        assert said.isprintable()
        assert len(said) < len(str(path)) + 600
        assert path.read_text() == text


def test_files_that_cannot_be_read_or_written(model_path, small_data, tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        run(model_path, small_data, results=tmp_path)
    with pytest.raises(InputError, match="cannot be written"):
        run(model_path, small_data, results=tmp_path / "no" / "r.json")
    large = tmp_path / "large.json"
    with large.open("wb") as file:
        os.truncate(file.fileno(), (64 << 20) + 1)
    with pytest.raises(InputError, match="larger than 64 MiB"):
        run(model_path, small_data, results=large)


# -- CSV -----------------------------------------------------------------------------------------


def test_csv(whole, tmp_path):
    path = tmp_path / "r.csv"
    write_csv(whole, path)
    rows = list(csv.DictReader(path.open()))
    assert len(rows) == len(whole.entries)
    assert rows[0]["site"] == ""
    by_key = {(row["site"], row["mask"]): row for row in rows}
    row = by_key["1", "msb:1"]
    assert row["name"] == "hidden"
    assert row["role"] == "exponent:1"
    assert float(row["midpoint"]) == whole.entries[1, "msb:1"].midpoint
    assert (by_key["1", "mantissa:10-"]["midpoint"], by_key["1", "mantissa:10-"]["bound"]) == (
        "",
        "above",
    )
