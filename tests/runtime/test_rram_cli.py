# SPDX-License-Identifier: Apache-2.0
"""The command `rram`: forms of CSV, parameters, JSON, text, figures, bad input."""

import json
import math
import os
import xml.etree.ElementTree
from pathlib import Path

import numpy as np
import pytest

from noisystore.runtime import LogNormal, equal_error_threshold, read_samples
from noisystore.runtime.cli import main
from noisystore.runtime.rram_csv import parse_condition
from noisystore.runtime.rram_rates import read_rates

CSV = Path(__file__).parents[1] / "data" / "rram.csv"
FORMED = "formed=5e3,0.4,6e4,0.9"

WIDE = "LRS 1 V,HRS 1 V,LRS 2 V,HRS 2 V\n"
WIDE_ROWS = "1000,20000,900,8000\n1200,,1100,9500\n1100,26000,,7000\n,22000,1000,\n"


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# Forms of input


def test_two_forms_of_csv_hold_the_same_cells(tmp_path):
    wide = read_samples(write(tmp_path / "a.csv", WIDE + WIDE_ROWS))
    assert [cell.name for cell in wide] == ["1 V", "2 V"]
    assert wide[0].lrs_samples.tolist() == [1000, 1100, 1200]
    assert wide[0].hrs_samples.tolist() == [20000, 22000, 26000]
    rows = "lrs,1000,900\nLRS,1200,1100\n LRS ,1100,\nLRS,,1000\n"
    rows += "HRS,20000,8000\nHRS,,9500\n\nHRS,26000,7000\nHRS,22000\n"
    for text in (f"State,1 V,2 V\n{rows}", f"\ufeffState,1 V,2 V\n{rows}".replace("\n", "\r\n")):
        assert read_samples(write(tmp_path / "b.csv", text)) == wide


@pytest.mark.parametrize(
    ("low", "high", "name"),
    [
        ("LRS 1.5 V", "HRS 1.5 V", "1.5 V"),
        ("1.5 V_lrs", "hrs_1.5 V", "1.5 V"),
        ("LRS (1.5 V)", "HRS (1.5 V)", "(1.5 V)"),
        ("a-1.5 V-LRS", "HRS_a-1.5 V", "a-1.5 V"),
        ("LRS -0.5 V", "HRS: -0.5 V", "-0.5 V"),
        ("LRS", "HRS", "cell"),
    ],
)
def test_names_of_columns(tmp_path, low, high, name):
    path = write(tmp_path / "cell.csv", f"{low},{high}\n1,10\n2,20\n3,30\n")
    assert [cell.name for cell in read_samples(path)] == [name]


def test_parameters():
    cell = parse_condition("V=1.5 = 5e3,0.4,6e4,0.9")
    assert (cell.name, cell.lrs, cell.hrs) == ("V=1.5", LogNormal(5e3, 0.4), LogNormal(6e4, 0.9))


# Results


def test_json_and_file_are_one(tmp_path, ok):
    path = tmp_path / "rram.json"
    options = ["--condition", FORMED, "--rewrites", 2, "--energy", "1:2", "--read-time", 5]
    result = ok("rram", CSV, *options, "-o", path)
    assert json.loads(path.read_text()) == result
    assert list(tmp_path.iterdir()) == [path]
    assert (result["noisystore_rram"], result["lrs_is"], result["rewrites"]) == (1, 1, 2)
    assert result["cost_of_access"] == {
        "energy_pj": [1, 2],
        "read_ns": [5, 5],
        "write_ns": [10, 10],
    }
    *measured, formed = result["conditions"]
    rate = equal_error_threshold(LogNormal(5e3, 0.4), LogNormal(6e4, 0.9)).lrs_error
    assert formed["lognormal"]["bit_error_rate"] == pytest.approx(rate)
    assert formed["p01"] == formed["p10"] == pytest.approx(rate**3)
    assert formed["lrs"] == {"median": 5e3, "sigma": 0.4, "samples": None, "p_value": None}
    assert (formed["samples"], formed["lognormal"]["interval"]) == (None, None)
    written = formed["write_check_correct"]
    assert [entry["rewrites"] for entry in written] == [0, 1, 2]
    assert written[2]["writes"] == pytest.approx(1 + rate + rate**2)
    assert written[2]["time_ns"] == pytest.approx([15 * written[2]["writes"]] * 2)
    for entry in measured:
        assert entry["lrs"]["samples"] == entry["hrs"]["samples"] == 250
        assert entry["lrs"]["p_value"] > 0.001
        low, high = entry["lognormal"]["interval"]
        assert low < entry["lognormal"]["bit_error_rate"] < high
        assert entry["samples"]["interval"][0] <= entry["samples"]["bit_error_rate"]


def test_rates_by_samples(ok):
    result = ok("rram", CSV, "--rates-by", "samples")
    for entry in result["conditions"]:
        assert entry["p01"] == entry["samples"]["p01"]
    assert result["conditions"][0]["p01"] == 0
    assert result["conditions"][-1]["p01"] > 0.01


def test_text(capsys):
    assert main(["rram", str(CSV), "--rewrites", "1"]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert "states do not overlap" in lines[2]
    assert "at most 0.015" in lines[2]
    assert "note: 1.5 V: no sample is an error" in out
    assert "note: 2.5 V" not in out
    assert "0.2 to 6" in out
    assert main(["rram", "--condition", FORMED, "--cost-ratio", "4", "--lrs-is", "0"]) == 0
    out = capsys.readouterr().out
    assert "LRS is 0; threshold: least cost, an error 0 to 1 costs 4 times one 1 to 0" in out


def test_a_counted_0_is_noted(capsys):
    for options, bound in (([], "up to 0.015"), (["--cost-ratio", "2"], "above 0")):
        assert main(["rram", str(CSV), "--rates-by", "samples", *options]) == 0
        notes = [line for line in capsys.readouterr().out.splitlines() if line[:5] == "note:"]
        assert notes == [
            f"note: {name} V: 0 is what was counted in 250 LRS and 250 HRS samples; the rate of "
            f"one write may be {bound}"
            for name in ("1.5", "2.0")
        ]


def test_samples_that_are_not_log_normal_are_named(tmp_path, capsys):
    random = np.random.default_rng(0)
    rows = zip(1e3 + 1e3 * random.random(300), 1e5 + 1e4 * random.exponential(1, 300), strict=True)
    text = "LRS,HRS\n" + "".join(f"{low:.6g},{high:.6g}\n" for low, high in rows)
    assert main(["rram", str(write(tmp_path / "odd.csv", text))]) == 0
    note = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note")]
    assert len(note) == 1
    assert "odd: not log-normal" in note[0]
    assert "HRS (p = " in note[0]


def test_figure(tmp_path):
    pytest.importorskip("matplotlib")
    png, first, second = (tmp_path / name for name in ("a.png", "b.svg", "c.svg"))
    assert main(["rram", str(CSV), "--condition", "a $1 cell=1,0.1,1e9,2", "--plot", str(png)]) == 0
    assert png.read_bytes().startswith(b"\x89PNG")
    for path in (first, second):
        assert main(["rram", str(CSV), "--condition", FORMED, "--plot", str(path)]) == 0
    assert first.read_bytes() == second.read_bytes()
    words = " ".join(xml.etree.ElementTree.parse(first).getroot().itertext())
    titles = ("LRS, CDF", "LRS, probit", "HRS, CDF", "HRS, probit", "resistance R (ohm)")
    rate = equal_error_threshold(LogNormal(5e3, 0.4), LogNormal(6e4, 0.9)).lrs_error
    for word in (*titles, "1.5 V: p = ", f"formed: p = {rate:.2g}", "threshold (log-normal)"):
        assert word in words


def test_a_figure_with_other_letters_prints_nothing(tmp_path, capfd, recwarn):
    pytest.importorskip("matplotlib")
    for name in ("a.png", "a.svg"):
        path = tmp_path / name
        condition = "\u96fb\u5727=5e3,0.4,6e4,0.9"
        assert main(["rram", "--condition", condition, "--plot", str(path)]) == 0
        assert path.exists()
        assert capfd.readouterr().err == f"wrote {path}\n"
    assert not recwarn.list


def test_figure_marks_what_the_rates_are_taken_from():
    pytest.importorskip("matplotlib")
    from noisystore.runtime.rram_plot import _draw
    from noisystore.runtime.rram_report import Choices, cell_report

    cells = read_samples(CSV)
    for by in ("lognormal", "samples"):
        reports = [cell_report(cell, Choices(rates_by=by)) for cell in cells]
        figure = _draw(reports)
        upper_left, upper_right, lower_left, lower_right = figure.axes[:4]
        for axes in (upper_left, upper_right, lower_left, lower_right):
            lines = [line.get_xdata() for line in axes.lines]
            marks = [x[0] for x in lines if len(x) == 2 and x[0] == x[1]]
            assert marks == [getattr(report, by).threshold for report in reports]
            assert axes.get_xscale() == "log"
        for axes, state in ((upper_right, "lrs_samples"), (lower_right, "hrs_samples")):
            points = [line.get_xdata() for line in axes.lines if line.get_linestyle() == "None"]
            for drawn, cell in zip(points, cells, strict=True):
                np.testing.assert_array_equal(drawn, getattr(cell, state))


# Bad input


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (WIDE + WIDE_ROWS.replace("9500", "-5"), "line 3, column 'HRS 2 V': expected a resistance"),
        (WIDE + WIDE_ROWS.replace("9500", "0"), "above 0, in ohm (at most 1e+30), got '0'"),
        (WIDE + WIDE_ROWS.replace("9500", "inf"), "got 'inf'"),
        (WIDE + WIDE_ROWS.replace("9500", "nan"), "got 'nan'"),
        (WIDE + WIDE_ROWS.replace("9500", "9k"), "got '9k'"),
        (WIDE + WIDE_ROWS.replace("9500", "1e400"), "got '1e400'"),
        (WIDE + WIDE_ROWS.replace("9500", "9500,1"), "line 3: expected at most 4 cells, got 5"),
        ("", "expected a first line"),
        (WIDE, "'1 V': expected resistances of both LRS and HRS, got no LRS"),
        (WIDE + "1,20,3,40\n2,30,4,50\n", "1 V: LRS: resistances: expected at least 3 values"),
        ("LRS a,HRS a\n5,10\n5,20\n5,30\n", "not all equal, got 3"),
        ("LRS a,HRS a\n10,1\n20,2\n30,3\n", "a: expected a median of the HRS above"),
        ("LRS a\n10\n20\n30\n", "'a': expected resistances of both LRS and HRS, got no HRS"),
        ("cycle,LRS a,HRS a\n1,1,2\n", "column 'cycle': expected a name that begins or ends"),
        (",".join(map(str, range(202))) + "\n", "line 1: expected at most 201 columns, got 202"),
        ("a" + ",a" * 300_000 + "\n", "expected at most 201 columns, got 300001"),
        ("LRS a,LRS a\n1,2\n", "expected each column once, got 'LRS a' twice"),
        ("LRS a,a LRS,HRS a\n1,2,3\n", "expected one column of the LRS of 'a', got two"),
        ("state,a\nLRS,1\nMRS,2\n", "line 3, column 'state': expected LRS or HRS, got 'MRS'"),
        ("state\nLRS\n", "expected from 1 to 100 conditions, got 0"),
        ("state,\nLRS,1\n", "expected a name of 1 to 80 printable characters, got ''"),
        ("LRS a\x07b,HRS a\x07b\n1,2\n", "printable characters"),
        ('LRS a,HRS a\n1,"2\n', "not CSV"),
        (b"LRS a,HRS a\n1,\xff\n", "expected a text file (CSV, UTF-8)"),
        (b"LRS a,HRS a\n1,\0\n", "expected a text file (CSV, UTF-8)"),
        ("LRS " + "a" * 200_000 + ",HRS\n", "not CSV: field larger than"),
    ],
)
def test_a_bad_csv(tmp_path, error, text, message):
    path = write(tmp_path / "bad.csv", text)
    out, plot = tmp_path / "rram.json", tmp_path / "rram.svg"
    said = error("rram", path, "-o", out, "--plot", plot)
    assert str(path) in said
    assert message in said
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "expected FILE.csv, or at least one --condition"),
        (["missing.csv"], "missing.csv: cannot be read: No such file"),
        (["."], "cannot be read: Is a directory"),
        (["--condition", "a"], "NAME=LRS_MEDIAN,LRS_SIGMA,HRS_MEDIAN,HRS_SIGMA"),
        (["--condition", "=1,1,2,1"], "NAME=LRS_MEDIAN"),
        (["--condition", "a=1,1,2"], "NAME=LRS_MEDIAN"),
        (["--condition", "a=1,1,2,x"], "NAME=LRS_MEDIAN"),
        (["--condition", "a=1,1,-2,1"], "condition 'a': HRS median: expected a number from"),
        (["--condition", "a=1,0,2,1"], "condition 'a': LRS sigma: expected a number from"),
        (["--condition", "a=2,1,1,1"], "a: expected a median of the HRS above"),
        (["--condition", "a\n=1,1,2,1", "--condition", "a=1,1,2,1"], "got 'a' twice"),
        (["--condition", "a\nb=1,1,2,1"], "printable characters"),
        (["--condition", FORMED, "--rewrites", "-1"], "an integer of 0 or more"),
        (["--condition", FORMED, "--rewrites", "101"], "rewrites: expected from 0 to 100"),
        (["--condition", FORMED, "--cost-ratio", "0"], "cost ratio: expected a number between"),
        (["--condition", FORMED, "--cost-ratio", "inf"], "cost ratio: expected a number between"),
        (
            ["--condition", FORMED, "--cost-ratio", "1e12"],
            "formed: cost of errors: expected a threshold",
        ),
        (["--condition", "x=1e4,3,1.1e4,1", "--cost-ratio", "1"], "costs or sigmas differ too"),
        (["--condition", FORMED, "--ones-fraction", "1"], "ones fraction: expected"),
        (["--condition", FORMED, "--lrs-is", "2"], "invalid choice: 2"),
        (["--condition", FORMED, "--rates-by", "samples"], "formed: expected samples"),
        (["--condition", FORMED, "--energy", "3:1"], "expected LOW:HIGH"),
        (["--condition", FORMED, "--energy", "nan"], "expected LOW:HIGH"),
        (["--condition", FORMED, "--write-time", "-1"], "expected LOW:HIGH"),
        (["--condition", FORMED, "--energy", "1e308"], "expected LOW:HIGH, or one number, from 0"),
        (["--condition", FORMED, "--read-time", "0:1.1e12"], "from 0 to 1e+12, got '0:1.1e12'"),
        (["--condition", FORMED, "--write-time", "inf"], "from 0 to 1e+12"),
        (["--condition", FORMED, "--plot", "a.pdf"], "ends in .png or .svg"),
        (["--condition", FORMED, "-o", "no/a.json"], "does not exist"),
        (["--condition", FORMED, "-o", "a.svg", "--plot", "a.svg"], "expected different files"),
    ],
)
def test_bad_options(tmp_path, monkeypatch, error, options, message):
    monkeypatch.chdir(tmp_path)
    assert message in error("rram", *options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "option"), [("a.csv", "-o"), ("a.svg", "--plot")])
def test_the_input_is_not_overwritten(tmp_path, error, name, option):
    pytest.importorskip("matplotlib")
    path = write(tmp_path / name, WIDE + WIDE_ROWS)
    assert "expected another file" in error("rram", path, option, path)
    assert path.read_text() == WIDE + WIDE_ROWS


def test_long_names_of_columns_are_cut(tmp_path, error):
    long = "LRS " + "_" * 50_000
    path = write(tmp_path / "a.csv", f"{long},HRS\nx,1\n")
    said = error("rram", path)
    assert "column 'LRS ____" in said
    assert len(said) < 500
    assert len(error("rram", write(path, f"{long},{long}\n"))) < 500


def test_as_many_conditions_as_a_sweep_takes(tmp_path, ok, error):
    names = [f"{state} {i}" for i in range(100) for state in ("LRS", "HRS")]
    rows = "".join(",".join([str(r), str(10 * r)] * 100) + "\n" for r in (1, 2, 3))
    path, out = write(tmp_path / "a.csv", ",".join(names) + "\n" + rows), tmp_path / "a.json"
    said = error("rram", path, "--condition", FORMED, "-o", out)
    assert "expected at most 100 conditions" in said
    assert "got 101" in said
    assert not out.exists()
    assert len(ok("rram", path, "-o", out)["conditions"]) == len(read_rates(out)) == 100


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, error):
    path = write(tmp_path / "a.json", "old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    assert "No space" in error("rram", "--condition", FORMED, "-o", path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_too_long(tmp_path, error):
    path = tmp_path / "long.csv"
    with path.open("wb") as file:
        file.truncate((32 << 20) + 1)
    assert "expected at most 32 MiB" in error("rram", path)


@pytest.mark.parametrize("values", ["1e-30,1e3,1e30,1e3", "1,1e-6,1.000001,1e-6", "1,1e-6,1e30,1"])
@pytest.mark.parametrize("ratio", [[], ["--cost-ratio", "2"]])
def test_extreme_parameters(tmp_path, capsys, values, ratio):
    """Finite numbers, or one line: no traceback."""
    plot = tmp_path / "a.png"
    status = main(["rram", "--condition", f"a={values}", *ratio, "--plot", str(plot), "--json"])
    captured = capsys.readouterr()
    if status == 2:
        assert captured.err.startswith("noisystore: error: a: ")
        assert list(tmp_path.iterdir()) == []
        return
    (entry,) = json.loads(captured.out)["conditions"]
    assert 0 <= entry["p01"] <= 0.5
    assert math.isfinite(entry["lognormal"]["threshold"])
    assert plot.exists()
