# SPDX-License-Identifier: Apache-2.0
"""The command `noisystore results`."""

from __future__ import annotations

import os
import sqlite3
from dataclasses import replace

import pytest
from results_files import DESCRIPTION, ENVIRONMENT, IDENTITY, POINT, fill, make_schema_1

from noisystore.runtime.cli import main
from noisystore.runtime.results import Results, results_rows


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "r.sqlite"
    with Results(path) as results:
        fill(results, [POINT, replace(POINT, trial=1, seconds=2.0), replace(POINT, p01=0.0)])
        fill(results, [replace(POINT, p10=1e-3)], seed=1)
        results.add_sweep({**IDENTITY, "seed": 2}, DESCRIPTION)
        results.add_run({**ENVIRONMENT, "host": "\x1b[2Jevil"})
    return path


def test_what_is_in_a_file(file, ok, capsys):
    found = ok("results", file)
    assert {name: found[name] for name in ("path", "schema", "points", "bytes")} == {
        "path": str(file),
        "schema": 2,
        "points": 4,
        "bytes": file.stat().st_size,
    }
    sweeps = {row["seed"]: row for row in found["sweeps"]}
    wanted = ("points", "rates", "trials", "low", "high")
    assert [sweeps[0][name] for name in wanted] == [3, 2, 2, 0.0, 1e-5]
    assert [sweeps[1][name] for name in wanted] == [1, 1, 1, 1e-5, 1e-5]
    assert [sweeps[2][name] for name in wanted] == [0, 0, 0, None, None]
    assert sweeps[0]["clean_accuracy"] == 0.8
    known, other = found["machines"]
    assert (known["host"], known["runs"], known["points"], known["seconds"]) == ("h", 2, 4, 3.5)
    assert (other["runs"], other["points"]) == (1, 0)
    assert main(["results", str(file)]) == 0
    text = capsys.readouterr().out
    assert f"{file}: sweeps 3, points 4, bytes {file.stat().st_size:,}, schema 2" in text
    assert "\x1b" not in text
    assert "?[2Jevil" in text


def test_an_old_file(tmp_path, file, ok):
    rows = results_rows(file)
    old = tmp_path / "old.sqlite"
    make_schema_1(old, rows, {row["sweep"]: DESCRIPTION["clean_scores"] for row in rows})
    before = old.read_bytes()
    assert ok("results", old)["schema"] == 1
    assert ok("results", old)["points"] == 4
    assert old.read_bytes() == before


def test_export(tmp_path, file, ok, capsys):
    path = tmp_path / "p.csv"
    where = ["--where", "trial=0", "seed=0", "--where", "p01=1e-5"]
    assert ok("results", file, "--export", path, *where) == {"path": str(path), "points": 1}
    assert path.read_text().count("\n") == 2
    assert "correct_bits" not in path.read_text()
    assert main(["results", str(file), "--export", str(path), "--bits"]) == 0
    assert capsys.readouterr().out == f"4 points in {path}\n"
    assert "correct_bits" in path.read_text()
    assert main(["results", str(file), "--export", str(path), *where]) == 0
    assert capsys.readouterr().out == f"1 point in {path}\n"
    assert ok("results", file, "--export", path, "--where", "metric=")["points"] == 4
    assert ok("results", file, "--export", path, "--where", "metric_name=")["points"] == 4


def test_merge(tmp_path, file, ok, capsys):
    other, out = tmp_path / "o.sqlite", tmp_path / "out.sqlite"
    with Results(other) as results:
        fill(results, [POINT, replace(POINT, trial=7)])
    found = ok("results", file, "--merge", other, "-o", out)
    assert found == {
        "path": str(out),
        "sources": [
            {"source": str(file), "sweeps": 3, "points": 4, "known": 0},
            {"source": str(other), "sweeps": 0, "points": 1, "known": 1},
        ],
    }
    assert main(["results", str(file), "--merge", str(other)]) == 0
    assert f"next: noisystore results {file}" in capsys.readouterr().out
    assert len(results_rows(file)) == len(results_rows(out)) == 5


def test_rates_that_are_no_numbers(file, error):
    database = sqlite3.connect(file, isolation_level=None)
    database.execute("PRAGMA ignore_check_constraints = ON")
    database.execute("UPDATE points SET p01 = 'abc' WHERE trial = 1")
    database.close()
    for more in ([], ["--export", file.parent / "p.csv"]):
        assert f"{file}: damaged: column p01: " in error("results", file, *more)


def test_bad_input_leaves_nothing(tmp_path, file, error):
    other, text = tmp_path / "o.sqlite", tmp_path / "t.csv"
    with Results(other) as results:
        fill(results, [replace(POINT, top5=8)])
    text.write_text("a,b\n")
    aside = tmp_path / "r.csv"
    os.link(file, aside)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    out = tmp_path / "out.csv"
    for arguments, message in [
        ([tmp_path / "none"], "got no such file"),
        ([text], "another kind of file"),
        ([file, "--export", tmp_path / "p.txt"], "expected a name that ends in .csv or .parquet"),
        ([file, "--export", tmp_path / "none/p.csv"], "does not exist"),
        ([aside, "--export", aside], "expected another file"),
        ([file, "--export", out, "--where", "trial"], "expected COLUMN=VALUE, got 'trial'"),
        ([file, "--export", out, "--where", "colour=1"], "expected a column of"),
        ([file, "--export", out, "--where", "trial=x"], "expected a number for trial, got 'x'"),
        ([file, "--export", out, "--where", "trial="], "expected a number for trial, got ''"),
        ([file, "--export", out, "--where", "clean_bits=1"], "expected a column of"),
        ([file, "--export", out, "--where", f"seed={2**70}"], "too large"),
        ([file, "--export", text, "--where", "model=no"], "points with model=no, got none"),
        ([file, "--export", text, "--where", "model=no", "--json"], "with model=no, got none"),
        ([file, "--where", "trial=0"], "choose what --export writes"),
        ([file, "--bits"], "choose what --export writes"),
        ([file, "-o", tmp_path / "new"], "-o names a new file for --merge"),
        ([file, "--export", out, "--merge", other], "got both"),
        ([file, "--merge", file], "got it twice"),
        ([file, "--merge", text], "another kind of file"),
        ([file, "--merge", tmp_path / "none"], "got no such file"),
        ([file, "--merge", other], "has another outcome than in"),
        ([file, "--merge", other, "-o", tmp_path / "new"], "has another outcome than in"),
        ([file, "--merge", other, "-o", text], "expected a new file"),
    ]:
        assert message in error("results", *arguments)
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
