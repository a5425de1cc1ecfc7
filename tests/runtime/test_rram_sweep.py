# SPDX-License-Identifier: Apache-2.0
"""`sweep --rates-from`: conditions of a cell measured and marked; untrusted files."""

import json
import math
import xml.etree.ElementTree

import numpy as np
import pytest

from noisystore.runtime import NoisySession, Results, fit_results
from noisystore.runtime.cli import main
from noisystore.runtime.plot import Curve, Mark, _draw
from noisystore.runtime.rram_rates import (
    ConditionAccuracy,
    NamedRates,
    accuracy_interval,
    read_rates,
)
from noisystore.runtime.sweep import sweep

#: One far below any flip, one never, two around the drop of the small model, one beyond.
CELLS = {
    "far": "1e3,0.2,1e7,0.3",
    "never": "1,0.001,1e9,0.001",
    "near $5": "1e4,0.5,1e6,0.5",
    "drop": "1e4,0.6,1e5,0.6",
    "over": "1e4,1,5e4,1",
}


@pytest.fixture
def cells(tmp_path):
    def make(*options, conditions=CELLS):
        path = tmp_path / "rram.json"
        words = [
            w for name, value in conditions.items() for w in ("--condition", f"{name}={value}")
        ]
        assert main(["rram", *words, *options, "-o", str(path)]) == 0
        return path

    return make


@pytest.fixture
def options(model_path, small_npz, tmp_path):
    words = ["sweep", model_path, "--data", f"npz:{small_npz}", "--rates", "1e-5:1e-1:2/decade"]
    return [*words, "--trials", 2, "--threads", 1, "-o", tmp_path / "r.sqlite"]


def test_conditions_are_measured(cells, options, ok, capsys, model_path, small_data, tmp_path):
    path = cells()
    capsys.readouterr()
    result = ok(*options, "--rates-from", path)
    written = {entry["name"]: entry for entry in json.loads(path.read_text())["conditions"]}
    found = {entry["name"]: entry for entry in result["conditions"]}
    assert list(found) == list(CELLS)
    # Nine rates of the grid, four of the cells ("far" and "never" flip nothing: one rate, 0).
    assert result["rows"] == 2 * (9 + 4)
    clean = result["clean_accuracy"]
    for name, entry in found.items():
        assert (entry["p01"], entry["p10"]) == (written[name]["p01"], written[name]["p10"])
        assert entry["interval"][0] <= entry["accuracy"] <= entry["interval"][1]
        assert entry["of_clean"] == pytest.approx(entry["accuracy"] / clean)
    for name in ("far", "never"):
        assert 0 <= found[name]["p01"] < 1e-15
        assert found[name]["accuracy"] == clean
    # The same as a sweep of that rate alone.
    rate = found["drop"]["p01"]
    session = NoisySession(model_path, threads=1)
    alone = sweep(session, small_data, [rate], trials=2, batch_size=100, progress=False)
    mean = np.mean([row["accuracy"] for row in alone.points])
    assert found["drop"]["accuracy"] == pytest.approx(mean)
    assert found["over"]["accuracy"] < found["drop"]["accuracy"] < clean
    # Measured once, and fitted with the others.
    again = ok(*options, "--rates-from", path)
    assert again["measured"] == 0
    assert again["conditions"] == result["conditions"]
    (group,) = fit_results(tmp_path / "r.sqlite")
    assert group.fit.midpoint is not None


def test_rewrites_and_costs_reach_the_sweep(cells, options, ok, capsys, tmp_path):
    path = cells("--rewrites", "1", "--cost-ratio", "3")
    capsys.readouterr()
    entry = ok(*options, "--rates-from", path)["conditions"][3]
    first, second = json.loads(path.read_text())["conditions"][3]["write_check_correct"]
    assert (entry["p01"], entry["p10"]) == (second["p01"], second["p10"])
    assert entry["p01"] == pytest.approx(first["p01"] ** 2)
    assert entry["p01"] < entry["p10"]
    with Results(tmp_path / "r.sqlite", readonly=True) as results:
        pairs = {(row["p01"], row["p10"]) for row in results.rows()}
    assert (entry["p01"], entry["p10"]) in pairs


def test_text_and_marks(cells, options, capsys, tmp_path):
    pytest.importorskip("matplotlib")
    for number, cost in enumerate(([], ["--cost-ratio", "3"])):
        path, plot = cells(*cost), tmp_path / f"{number}.svg"
        capsys.readouterr()
        words = [*options, "--rates-from", path, "--plot", plot]
        assert main([*map(str, words)]) == 0
        table = capsys.readouterr().out.splitlines()[1:-1]
        assert table[0].split() == [
            "condition",
            "rate",
            "accuracy",
            "95%",
            "interval",
            "of",
            "clean",
        ]
        assert len(table) == 6
        assert ("/" in table[4]) == bool(cost)
        words = " ".join(xml.etree.ElementTree.parse(plot).getroot().itertext())
        assert f"conditions of {path.name}, 95% interval" in words
        assert ("at the mean of p01 and p10" in words) == bool(cost)
        for label in ("← never: 0", "← far: ", "drop: ", "near $5: ", "→ over: "):
            assert label in words


def test_the_figure_s_marks_stand_where_they_were_measured(options, ok, tmp_path):
    pytest.importorskip("matplotlib")
    ok(*options)
    (group,) = fit_results(tmp_path / "r.sqlite")
    marks = [Mark("a", 1e-3, 0.7, (0.6, 0.8)), Mark("b", 0.0, 0.9, (0.8, 0.95))]
    axes = _draw([Curve("c", group.points, group.fit)], "", "accuracy", marks, "cells").axes[0]
    drawn = [
        bars.lines[0].get_xydata()[0]
        for bars in axes.containers
        if len(bars.lines[0].get_xdata()) == 1
    ]
    left, _ = axes.get_xlim()
    assert drawn[1].tolist() == [1e-3, 0.7]
    assert left < drawn[0][0] < 1.2 * left
    assert drawn[0][1] == 0.9
    assert [text.get_text() for text in axes.texts if text.get_rotation()] == ["← b: 0", "a: 0.001"]


def test_accuracy_interval():
    # Wilson's interval, by hand: 90 of 100.
    z = 1.959964
    centre, half = (0.9 + z * z / 200) / (1 + z * z / 100), z / (1 + z * z / 100)
    half *= math.sqrt(0.09 / 100 + z * z / 40000)
    assert accuracy_interval([45, 45], [50, 50]) == pytest.approx((centre - half, centre + half))
    # Trials that differ by much more than binomial error: wider.
    low, high = accuracy_interval([30, 60, 45], [60, 60, 60])
    assert low < 0.75 - 3 * math.sqrt(0.75 * 0.25 / 180)
    assert high > 0.85
    assert accuracy_interval([50, 50], [50, 50])[1] == 1
    assert accuracy_interval([0], [50])[0] == 0
    # A spread of two trials that binomial errors explain makes it no wider.
    assert accuracy_interval([43, 47], [50, 50]) == accuracy_interval([45, 45], [50, 50])
    random = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        begin, end = accuracy_interval(random.binomial(200, 0.97, 3).tolist(), [200] * 3)
        held += begin <= 0.97 <= end
    assert held >= 940


def test_rates_that_flip_nothing_are_measured_as_0():
    assert NamedRates("a", 1e-16, 1e-14).measured == (0.0, 1e-14)


def test_conditions_stand_at_the_mean_of_their_rates():
    assert ConditionAccuracy("a", 0.25, 0.5, 0.9, (0.8, 1.0), None).mean_rate == 0.375


GOOD = {"noisystore_rram": 1, "conditions": [{"name": "a", "p01": 0.1, "p10": 0}]}


def entries(*changes):
    return {**GOOD, "conditions": [{**GOOD["conditions"][0], **change} for change in changes]}


def test_a_minimal_file(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(entries({}, {"name": "b"})))
    assert read_rates(path) == [NamedRates("a", 0.1, 0.0), NamedRates("b", 0.1, 0.0)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("9" * 5000, "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        ("[]", 'no "noisystore_rram": 1'),
        ("{}", 'no "noisystore_rram": 1'),
        ({**GOOD, "noisystore_rram": 2}, 'no "noisystore_rram": 1'),
        ({**GOOD, "noisystore_rram": True}, 'no "noisystore_rram": 1'),
        ({**GOOD, "conditions": []}, "no list of 1 to 100 conditions"),
        ({**GOOD, "conditions": {}}, "no list of 1 to 100 conditions"),
        ({**GOOD, "conditions": [1]}, "condition 1 has no name"),
        (entries({"name": 5}), "condition 1 has no name"),
        (entries({"name": ""}), "printable characters"),
        (entries({"name": "a\x1b[2J"}), "printable characters"),
        (entries({}, {}), "condition 'a' stands there twice"),
        (entries({"p01": 1.5}), "condition 'a': p01 is no rate from 0 to 1"),
        (entries({"p10": -1e-9}), "p10 is no rate"),
        (entries({"p10": None}), "p10 is no rate"),
        (entries({"p10": True}), "p10 is no rate"),
        (entries({"p10": "0.1"}), "p10 is no rate"),
        (entries({"p10": math.nan}), "p10 is no rate"),
        (entries({"p10": 10**400}), "p10 is no rate"),
    ],
)
def test_bad_files(tmp_path, options, error, text, message):
    path = tmp_path / "bad.json"
    if not isinstance(text, bytes):
        text = (text if isinstance(text, str) else json.dumps(text)).encode()
    path.write_bytes(text)
    said = error(*options, "--rates-from", path, "--plot", tmp_path / "a.svg")
    assert f"{path}: " in said
    assert message in said
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("option", ["-o", "--plot"])
def test_the_conditions_are_not_overwritten(tmp_path, options, error, option):
    pytest.importorskip("matplotlib")
    path = tmp_path / "a.svg"
    path.write_text(json.dumps(GOOD))
    assert "expected another file" in error(*options, "--rates-from", path, option, path)
    assert path.read_text() == json.dumps(GOOD)
    assert list(tmp_path.iterdir()) == [path]


def test_files_that_cannot_be_read(tmp_path, options, error):
    assert "cannot be read: No such file" in error(*options, "--rates-from", tmp_path / "no.json")
    assert "cannot be read: Is a directory" in error(*options, "--rates-from", tmp_path)
    long = tmp_path / "long.json"
    with long.open("wb") as file:
        file.truncate((8 << 20) + 1)
    assert "larger than 8 MiB" in error(*options, "--rates-from", long)
    assert not (tmp_path / "r.sqlite").exists()
