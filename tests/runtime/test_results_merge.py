# SPDX-License-Identifier: Apache-2.0
"""Results files of several machines put together."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from results_files import (
    CORRECT,
    DESCRIPTION,
    ENVIRONMENT,
    IDENTITY,
    POINT,
    make_schema_1,
)

from noisystore.ortops import InputError
from noisystore.runtime.metrics import Scores
from noisystore.runtime.results import Results, results_rows
from noisystore.runtime.results_merge import merge_results

AGREE = np.arange(10) >= 2
POINTS = [
    replace(POINT, trial=trial, p10=p10, agree_bits=np.packbits(AGREE).tobytes())
    for trial in range(3)
    for p10 in (0.0, 1e-5)
]


def make(path, points, environment=None, scores=None, **identity):
    description = {**DESCRIPTION, **({"clean_scores": scores.to_bytes()} if scores else {})}
    with Results(path) as results:
        sweep = results.add_sweep({**IDENTITY, **identity}, description)
        run = results.add_run({**ENVIRONMENT, **(environment or {})})
        for point in points:
            results.add_point(sweep, run, point)
    return path


def state(folder):
    return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.iterdir() if p.is_file()}


def counts(merged):
    return [(each.sweeps, each.points, each.known) for each in merged]


@pytest.fixture
def files(tmp_path):
    """Two machines' files of one sweep with two points in common, and one of another sweep."""
    a = make(tmp_path / "a.sqlite", POINTS[:4], {"host": "a"})
    b = make(tmp_path / "b.sqlite", POINTS[2:], {"host": "b"})
    c = make(tmp_path / "c.sqlite", POINTS[:1], {"host": "c"}, seed=1)
    return a, b, c


def test_points_count_once(tmp_path, files):
    before = state(tmp_path)
    out = tmp_path / "out/r.sqlite"
    out.parent.mkdir()
    merged = merge_results(files[0], files[1:], out)
    assert counts(merged) == [(1, 4, 0), (0, 2, 2), (1, 1, 0)]
    assert state(tmp_path) == before
    assert os.listdir(out.parent) == ["r.sqlite"]
    rows = results_rows(out)
    hosts = {(row["seed"], row["trial"], row["p10"]): row["host"] for row in rows}
    points = [(point.trial, point.p10) for point in POINTS]
    expected = {(0, *point): "a" if i < 4 else "b" for i, point in enumerate(points)}
    assert hosts == {**expected, (1, *points[0]): "c"}
    sources = [row for file in files for row in results_rows(file)]
    assert [row for row in sources if row not in rows] == [
        row for row in results_rows(files[1]) if row["trial"] == 1
    ]


def test_again_and_in_place_adds_nothing(tmp_path, files):
    a, b, c = files
    assert counts(merge_results(a, [b, c, b])) == [(0, 2, 2), (1, 1, 0), (0, 0, 4)]
    with Results(a, readonly=True) as results:
        runs = results._db.execute("SELECT COUNT(*) FROM runs").fetchone()[0]
        rows = results.rows()
    assert runs == 3
    assert len(rows) == 7
    assert counts(merge_results(a, [b, c])) == [(0, 0, 4), (0, 0, 1)]
    # What was merged knows where it came from: from there it adds nothing either.
    assert counts(merge_results(b, [a])) == [(1, 3, 4)]
    with Results(a, readonly=True) as results:
        assert results._db.execute("SELECT COUNT(*) FROM runs").fetchone()[0] == runs
        assert results.rows() == rows


def test_files_of_schema_1(tmp_path, files):
    old = tmp_path / "old.sqlite"
    scores = {row["sweep"]: DESCRIPTION["clean_scores"] for row in results_rows(files[0])}
    make_schema_1(old, results_rows(files[0]), scores)
    before = old.read_bytes()
    out = tmp_path / "r.sqlite"
    assert counts(merge_results(old, [files[1], old], out)) == [(1, 4, 0), (0, 2, 2), (0, 0, 4)]
    assert old.read_bytes() == before
    assert counts(merge_results(old, files[1:])) == [(0, 2, 2), (1, 1, 0)]
    assert counts(merge_results(out, [old])) == [(1, 1, 6)]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"correct": 6, "correct_bits": np.packbits(np.arange(10) < 6).tobytes()}, "correct 6 h"),
        ({"correct_bits": np.packbits(np.arange(10) >= 3).tobytes()}, "correct_bits"),
        ({"noise_seed": 1}, "noise_seed 1 here, -1 there"),
        ({"top5": None}, "top5 None here, 9 there"),
        ({"agreement": 9, "agree_bits": None}, "agreement 9 here"),
    ],
)
@pytest.mark.parametrize("new", [False, True])
def test_two_outcomes_of_one_point(tmp_path, change, named, new):
    a = make(tmp_path / "a.sqlite", POINTS[:4], {"cpu": "x"})
    b = make(tmp_path / "b.sqlite", [POINTS[5], replace(POINTS[3], **change)], {"cpu": "y"})
    before = state(tmp_path)
    with pytest.raises(InputError, match=r"b\.sqlite: the point p01 1e-05, p10 1e-05") as caught:
        merge_results(a, [b], tmp_path / "r.sqlite" if new else None)
    message = str(caught.value)
    assert "trial 1 of a.onnx (mask all, sweep " in message
    assert f"has another outcome than in {tmp_path / ('r' if new else 'a')}.sqlite: " in message
    assert named in message
    assert "y on h here, x on h there" in message
    assert message.endswith("nothing was merged")
    assert "\n" not in message
    assert state(tmp_path) == before


def test_what_may_differ(tmp_path):
    """Times, and whether samples without a flip were run, are no outcome; NaN is like NaN."""
    point = replace(POINTS[0], metric=float("nan"))
    a = make(tmp_path / "a.sqlite", [point], metric="m")
    b = make(tmp_path / "b.sqlite", [replace(point, n_run=10, seconds=9.0)], metric="m")
    assert counts(merge_results(a, [b])) == [(0, 0, 1)]
    assert [row["n_run"] for row in results_rows(a)] == [4]


def test_two_clean_networks(tmp_path):
    a = make(tmp_path / "a.sqlite", POINTS[:1])
    b = make(tmp_path / "b.sqlite", POINTS[1:2], scores=Scores(correct=~CORRECT))
    before = state(tmp_path)
    with pytest.raises(InputError, match=r"b\.sqlite: the clean network of a\.onnx .* correct"):
        merge_results(a, [b])
    assert state(tmp_path) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("points SET correct = 'x'", "column correct: got a value of type str"),
        ("points SET correct = 6", "column correct_bits: not as many as correct"),
        ("points SET correct = 11, top5 = 0", "not as many as correct"),
        ("points SET top5 = 11", "constraint failed"),
        ("points SET p01 = 2.0", "constraint failed"),
        ("points SET trial = -1 WHERE trial = 2 AND p10 = 0", "constraint failed"),
        ("points SET run = 9", "a point without its run"),
        ("bits SET agree_bits = x'ffffff'", "column agree_bits: not one bit an image"),
        ("runs SET host = x'00'", "column host: got a value of type bytes"),
        ("sweeps SET images = 9", "a sweep's key is not that of its columns"),
        ("sweeps SET seed = 5", "a sweep's key is not that of its columns"),
        ('sweeps SET sites = \'{"noisy": "weight"}\'', "a sweep's key is not"),
        ("sweeps SET clean_scores = x'00'", "the clean scores of sweep"),
        ("sweeps SET clean_accuracy = 2.0", "constraint failed"),
    ],
)
def test_hostile_files(tmp_path, change, message):
    a = make(tmp_path / "a.sqlite", POINTS[:1], seed=7)
    b = make(tmp_path / "b.sqlite", POINTS[1:])
    with sqlite3.connect(b) as database:
        database.execute("PRAGMA ignore_check_constraints = ON")
        database.execute(f"UPDATE {change}")
    database.close()
    before = state(tmp_path)
    for output in (None, tmp_path / "r.sqlite"):
        with pytest.raises(InputError, match=r"results file .*/b\.sqlite: damaged") as caught:
            merge_results(a, [b], output)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
        assert state(tmp_path) == before


def test_a_view_that_never_ends(tmp_path, files):
    a, b, _ = files
    database = sqlite3.connect(b, isolation_level=None)
    database.execute("ALTER TABLE points RENAME TO other")
    database.execute(
        "CREATE VIEW points AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) "
        "SELECT i AS id, i AS sweep FROM n WHERE i < 0"
    )
    database.close()
    with pytest.raises(InputError, match=r"b\.sqlite: damaged: no table points"):
        merge_results(a, [b])


@pytest.mark.parametrize(
    "table",
    [
        "VIEW bits AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) "
        "SELECT i AS point, NULL AS correct_bits, NULL AS agree_bits FROM n WHERE i < 0",
        "TABLE bits (point INTEGER PRIMARY KEY, correct_bits BLOB, "
        "agree_bits AS (zeroblob(1000000000)))",
        "VIRTUAL TABLE bits USING fts5(point, correct_bits, agree_bits)",
    ],
)
def test_bits_that_are_computed(files, table):
    a, b, _ = files
    database = sqlite3.connect(b, isolation_level=None)
    database.execute("DROP TABLE bits")
    database.execute(f"CREATE {table}")
    database.close()
    with pytest.raises(InputError, match=r"b\.sqlite: damaged: no table bits"):
        merge_results(a, [b])


def test_a_point_without_its_sweep(files):
    a, b, _ = files
    database = sqlite3.connect(b, isolation_level=None)
    database.execute("UPDATE points SET sweep = 99")
    database.close()
    with pytest.raises(InputError, match=r"b\.sqlite: damaged: a point without its sweep"):
        merge_results(a, [b])


def test_scores_that_unpack_to_more_than_there_are_images(files):
    a, b, _ = files
    bomb = Scores(correct=np.zeros(10_000_000, dtype=bool)).to_bytes()
    assert len(bomb) < 20_000
    database = sqlite3.connect(b, isolation_level=None)
    database.execute("UPDATE sweeps SET clean_scores = ?", (bomb,))
    database.close()
    with pytest.raises(InputError, match="expected at most 80 bytes, got 10000000 unpacked"):
        merge_results(a, [b])


def test_terminated_before_the_end(tmp_path, files):
    """SIGTERM leaves nothing, no temporary file either."""
    before = state(tmp_path)
    code = (
        "import os, sys\nfrom noisystore.runtime import cli, results_merge as m\n"
        "m._Merge._add = lambda *_: os.kill(os.getpid(), 15)\n"
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    for output in ((), ("-o", tmp_path / "r.sqlite")):
        command = [sys.executable, "-c", code, "results", files[0], "--merge", files[1], *output]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 128 + signal.SIGTERM
        assert done.stderr == "noisystore: interrupted: nothing was written\n"
        assert state(tmp_path) == before


def test_places(tmp_path, files):
    a, b, _ = files
    (tmp_path / "text").write_text("accuracy, rate\n" * 20)
    before = state(tmp_path)
    link = tmp_path / "link.sqlite"
    link.symlink_to(a)
    for arguments, message in [
        ((a, [a]), "got it twice"),
        ((a, [link]), "got it twice"),
        ((a, [b, tmp_path / "text"]), "another kind of file"),
        ((tmp_path / "none.sqlite", [a]), "no such file"),
        ((a, [tmp_path / "none.sqlite"]), "no such file"),
        ((a, [b], b), "expected a new file"),
        ((a, [b], tmp_path / "none/r.sqlite"), "there is no folder"),
        ((a, [tmp_path / "text"], tmp_path / "r.sqlite"), "another kind of file"),
    ]:
        with pytest.raises(InputError, match=message):
            merge_results(*arguments)
    link.unlink()
    assert state(tmp_path) == before


def test_killed_before_the_end(tmp_path, files):
    """A merge is one transaction, or a file with a temporary name."""
    code = (
        "import os, sys\nfrom noisystore.runtime import results_merge as m\n"
        "whole, calls = m._Merge._add, []\n"
        "def add(*args):\n"
        "    calls.append(1)\n"
        "    if len(calls) == 2: os.kill(os.getpid(), 9)\n"
        "    whole(*args)\n"
        "m._Merge._add = add\n"
        "m.merge_results(sys.argv[1], [sys.argv[2]], sys.argv[3] if len(sys.argv) > 3 else None)"
    )
    rows = results_rows(files[0])
    for output in ((), (tmp_path / "r.sqlite",)):
        command = [sys.executable, "-c", code, files[0], files[1], *output]
        assert subprocess.run(command, timeout=60, check=False).returncode == -signal.SIGKILL
        assert results_rows(files[0]) == rows
        assert not (tmp_path / "r.sqlite").exists()
