# SPDX-License-Identifier: Apache-2.0
"""The results file: contents, identity, and files that are not results."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from results_files import CORRECT, DESCRIPTION, ENVIRONMENT, IDENTITY, POINT, fill

from noisystore.ortops import InputError
from noisystore.runtime.results import Results, results_rows, sweep_key, unpack_bits


def test_rows(tmp_path):
    path = tmp_path / "r.sqlite"
    with Results(path) as results:
        assert fill(results) == [True]
        (row,) = results.rows()
    assert row["accuracy"] == 0.7
    assert row["noise_seed"] == -1
    assert row["clean_accuracy"] == 0.8
    assert row["mask"] == "all"
    assert row["noisy"] == ""
    assert row["onnxruntime_version"] == "2"
    assert unpack_bits(row["correct_bits"], 10).tolist() == [True] * 7 + [False] * 3
    assert results_rows(path) == [row] == results_rows([row])
    with Results(path, readonly=True) as results:
        assert len(results) == 1
        assert results_rows(results) == [row]
        assert np.array_equal(results.clean_bits(row["sweep"]), CORRECT)
        assert results.clean_bits("none") is None
        assert results.rows(sweep=row["sweep"], trial=0) == [row]
        assert results.rows(trial=1) == []
        assert results.sweeps()[0]["key"] == row["sweep"]
        with pytest.raises(InputError, match="cannot be opened for writing"):
            fill(results)
    assert sorted(os.listdir(tmp_path)) == ["r.sqlite"]


def test_to_arrays():
    with Results() as results:
        fill(results, [POINT, replace(POINT, trial=1, correct=None)])
        arrays = results.to_arrays()
    assert arrays["p01"].tolist() == [1e-5, 1e-5]
    assert arrays["trial"].tolist() == [0, 1]
    assert arrays["correct"][0] == 7
    assert np.isnan(arrays["correct"][1])
    assert np.isnan(arrays["metric"]).all()


def test_a_point_counts_once(tmp_path):
    with Results(tmp_path / "r.sqlite") as first, Results(tmp_path / "r.sqlite") as second:
        assert fill(first) == [True]
        assert fill(second, [replace(POINT, correct=1), replace(POINT, trial=1)]) == [False, True]
        assert [row["correct"] for row in first.rows()] == [7, 7]
        next_up = float(np.nextafter(1e-5, 1))
        assert fill(first, [replace(POINT, p01=next_up)]) == [True]


@pytest.mark.parametrize("name", IDENTITY)
def test_identity_keeps_sweeps_apart(name):
    with Results() as results:
        fill(results)
        other = IDENTITY[name] + 1 if isinstance(IDENTITY[name], int) else "other"
        assert fill(results, **{name: other}) == [True]
        assert len(results) == len(results.sweeps()) == 2


def test_the_choice_of_sites_keeps_sweeps_apart():
    with Results() as results:
        fill(results)
        sites = json.dumps({"noisy": "weight"})
        identity = {**IDENTITY, "noisy": "weight"}
        sweep = results.add_sweep(identity, {**DESCRIPTION, "sites": sites})
        assert results.add_point(sweep, results.add_run(ENVIRONMENT), POINT)
        assert [row["noisy"] for row in results.rows()] == ["", "weight"]
        assert len(results.rows(noisy="weight")) == 1
        # Files from before the choice have the keys of sweeps of all sites.
        assert sweep_key({**IDENTITY, "noisy": ""}) == sweep_key(IDENTITY)
        assert results.find_sweep(identity)[0] == sweep


def test_order_does_not_depend_on_insertion():
    points = [replace(POINT, trial=t, p01=p, p10=p) for t in range(3) for p in (1e-5, 1e-6)]
    orders = []
    for some in (points, points[::-1]):
        with Results() as results:
            fill(results, some)
            orders.append([(row["p01"], row["trial"]) for row in results.rows()])
    assert orders[0] == orders[1] == sorted(orders[0])


def test_an_interrupted_transaction_leaves_nothing(tmp_path):
    with Results(tmp_path / "r.sqlite") as results:
        fill(results)
        try:
            with results.transaction():
                results._db.execute("DELETE FROM bits")
                results._db.execute("DELETE FROM points")
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            pass
        assert len(results) == 1


def foreign(tmp_path, statements):
    path = tmp_path / "r.sqlite"
    database = sqlite3.connect(path)
    for statement in statements:
        database.execute(statement)
    database.commit()
    database.close()
    return path


@pytest.mark.parametrize("readonly", [False, True])
def test_foreign_files_are_left_alone(tmp_path, readonly):
    other = ["CREATE TABLE points (x)", "PRAGMA user_version = 1"]
    newer = ["CREATE TABLE points (x)", "PRAGMA application_id = 0x4E6F6953"]
    newer.append("PRAGMA user_version = 7")
    wal = ["PRAGMA journal_mode = WAL", *other]
    text = tmp_path / "text"
    text.write_text("accuracy, rate\n" * 20)
    short = tmp_path / "short"
    short.write_text("SQLite format 3")
    cases = [(text, "another kind of file"), (short, "another kind of file")]
    for i, (statements, message) in enumerate(
        [
            (other, "another SQLite"),
            (newer, "expected schema version 2 or older, got 7"),
            (wal, "another"),
        ]
    ):
        (tmp_path / str(i)).mkdir()
        cases.append((foreign(tmp_path / str(i), statements), message))
    for path, message in cases:
        before = path.read_bytes(), path.stat().st_mtime_ns, os.listdir(path.parent)
        with pytest.raises(InputError, match=message) as caught:
            Results(path, readonly=readonly)
        assert "left as it is" in str(caught.value) or "left as it was" in str(caught.value)
        assert (path.read_bytes(), path.stat().st_mtime_ns, os.listdir(path.parent)) == before


def test_no_place_for_a_file(tmp_path):
    with pytest.raises(InputError, match="got a directory"):
        Results(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/null", tmp_path / "pipe"):
        with pytest.raises(InputError, match="got a device or a pipe"):
            Results(path)
    with pytest.raises(InputError, match="there is no directory"):
        Results(tmp_path / "none/r.sqlite")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be read: Not a directory"):
        Results(tmp_path / "file/r.sqlite")
    with pytest.raises(InputError, match="cannot be opened for writing"):
        Results("/proc/r.sqlite")
    with pytest.raises(InputError, match="got no such file"):
        Results(tmp_path / "none.sqlite", readonly=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_file_that_may_not_be_written(tmp_path):
    path = tmp_path / "r.sqlite"
    with Results(path) as results:
        fill(results)
    path.chmod(0o400)
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(InputError, match="cannot be opened for writing"):
            Results(path)
        assert len(results_rows(path)) == 1
    finally:
        tmp_path.chmod(0o700)


def test_a_copy_of_a_live_file_and_its_log_is_whole(tmp_path):
    path = tmp_path / "r.sqlite"
    results = Results(path)
    fill(results)
    (tmp_path / "copy").mkdir()
    for name in ("r.sqlite", "r.sqlite-wal"):
        shutil.copy(tmp_path / name, tmp_path / "copy" / name)
    results.close()
    with Results(tmp_path / "copy/r.sqlite") as copy:
        assert len(copy) == 1


def test_readers_change_nothing(tmp_path):
    path, log = tmp_path / "r.sqlite", tmp_path / "r.sqlite-wal"
    code = (
        "import os, sys, sqlite3\nfrom noisystore.runtime import Results\n"
        "r = Results(sys.argv[1]); r.add_run(dict(library_version='1', onnxruntime_version='2',"
        "threads=0, cpu='c', host='h')); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, path], timeout=60, check=False)
    before = path.read_bytes(), log.read_bytes()
    assert before[1]
    with Results(path, readonly=True) as results:
        assert results._db.execute("SELECT COUNT(*) FROM runs").fetchone()[0] == 1
    assert (path.read_bytes(), log.read_bytes()) == before
    with Results(path) as results:
        fill(results)
    whole = path.read_bytes(), path.stat().st_mtime_ns
    assert len(results_rows(path)) == 1
    assert (path.read_bytes(), path.stat().st_mtime_ns) == whole
    assert sorted(os.listdir(tmp_path)) == ["r.sqlite"]


def test_rows_of_unknown_columns():
    with Results() as results:
        fill(results)
        with pytest.raises(InputError, match=r"expected a column of .*, got 'foo'"):
            results.rows(foo=1)
        with pytest.raises(InputError):
            results.rows(seed=2**80)
        assert len(results.rows(mask="all", metric=None)) == 1


@pytest.mark.parametrize(
    "change",
    [
        "points SET correct = 'x'",
        "points SET p01 = 'high'",
        "points SET trial = 0.5",
        "bits SET correct_bits = x'00'",
        "sweeps SET classes = 'ten'",
        "sweeps SET model = x''",
        "sweeps SET images = 11",
        "sweeps SET sites = 'text'",
        "sweeps SET sites = '{\"noisy\": 1}'",
        "sweeps SET clean_scores = 'text'",
    ],
)
def test_rows_of_a_damaged_file(tmp_path, change):
    path = tmp_path / "r.sqlite"
    with Results(path) as results:
        fill(results)
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA ignore_check_constraints = ON")
        database.execute(f"UPDATE {change}")
    with pytest.raises(InputError, match=r"r\.sqlite: damaged: ") as caught:
        results_rows(path)
    assert "\n" not in str(caught.value)


def test_a_full_disk(tmp_path):
    path = tmp_path / "r.sqlite"
    with Results(path) as results:
        fill(results)
        pages = results._db.execute("PRAGMA page_count").fetchone()[0]
        results._db.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(InputError, match=r"no space left.*run the same command again"):
            fill(results, [replace(POINT, trial=t, agree_bits=bytes(9000)) for t in range(1, 9)])
        stored = len(results)
    with Results(path) as results:
        assert results._db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        assert len(results) == stored
        fill(results, [replace(POINT, trial=t, agree_bits=bytes(9000)) for t in range(1, 9)])
        assert len(results) == 9


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_log_in_a_folder_that_may_not_be_written(tmp_path):
    writer = Results(tmp_path / "r.sqlite")
    fill(writer)
    copies = tmp_path / "copies"
    copies.mkdir()
    for end in ("", "-wal"):
        shutil.copy(f"{writer.path}{end}", copies)
    copies.chmod(0o500)
    with pytest.raises(InputError, match="a write-ahead log, which needs a folder that can be wri"):
        Results(copies / "r.sqlite", readonly=True)
    copies.chmod(0o700)
    with Results(copies / "r.sqlite", readonly=True) as results:
        assert len(results) == 1
    writer.close()


def test_reading_an_open_file_keeps_its_locks(tmp_path):
    """Closing any descriptor of a file drops all of a process's locks on it (POSIX)."""
    path = tmp_path / "r.sqlite"
    other = "import sys; from noisystore.runtime import Results; "
    with Results(path) as results:
        results.add_run(ENVIRONMENT)
        Results(path, readonly=True).close()
        # Were this process's locks gone, another one would take the log away, being the last.
        close = other + "Results(sys.argv[1]).close()"
        subprocess.run([sys.executable, "-c", close, path], check=True)
        results.add_run(ENVIRONMENT)
        query = "SELECT COUNT(*) AS n FROM runs"
        count = other + f"print(Results(sys.argv[1], readonly=True).select({query!r})[0]['n'])"
        found = subprocess.run(
            [sys.executable, "-c", count, path], capture_output=True, text=True, check=True
        )
        assert found.stdout == "2\n"
    path.write_text("another kind of file " * 10)
    with pytest.raises(InputError, match="another kind of file"):
        Results(path)
