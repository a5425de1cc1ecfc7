# SPDX-License-Identifier: Apache-2.0
"""Files of older and newer schemas, and the page that documents this one."""

from __future__ import annotations

import math
import os
import re
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from results_files import DESCRIPTION, ENVIRONMENT, IDENTITY, POINT, fill, make_schema_1

from noisystore.ortops import InputError
from noisystore.runtime.results import Results, results_rows
from noisystore.runtime.results_schema import SCHEMA_VERSION, create_schema

PAGE = Path(__file__).parents[2] / "docs/results.md"
POINTS = [
    POINT,
    replace(POINT, trial=1, p01=0.0, p10=1.0, noise_seed=5),
    replace(POINT, trial=2, correct=None, top5=None, correct_bits=None, metric=0.25),
    replace(POINT, trial=3, agreement=None),
]


@pytest.fixture
def rows():
    with Results() as results:
        fill(results, POINTS)
        fill(results, POINTS[:1], seed=1, metric="m")
        results.add_sweep({**IDENTITY, "seed": 2}, DESCRIPTION)
        return results.rows()


@pytest.fixture
def old(tmp_path, rows):
    path = tmp_path / "old.sqlite"
    make_schema_1(path, rows, {row["sweep"]: DESCRIPTION["clean_scores"] for row in rows})
    return path


def objects(path):
    with Results(path, readonly=True) as results:
        query = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name"
        return results.select(query)


def test_how_a_file_is_kept(tmp_path):
    with Results(tmp_path / "r.sqlite") as results:
        fill(results)
        assert results.select("PRAGMA journal_mode") == [{"journal_mode": "wal"}]
        assert results.select("PRAGMA synchronous") == [{"synchronous": 2}]
        for sweep, run in ((9, 1), (1, 9)):
            with pytest.raises(InputError, match="FOREIGN KEY constraint failed"):
                results.add_point(sweep, run, replace(POINT, trial=5))
        with pytest.raises(InputError, match="cannot be opened for writing"):
            results.select("DELETE FROM points")
        assert fill(results, [replace(POINT, trial=5)]) == [True]
        assert len(results) == 2


@pytest.mark.parametrize("size", [40, 4096, 9000])
@pytest.mark.parametrize("zeros", [True, False])
def test_power_lost_while_the_file_is_made(tmp_path, size, zeros):
    """Of the file anything may be on the disk; its journal is there before, and says: nothing."""
    made, path = tmp_path / "made.sqlite", tmp_path / "r.sqlite"
    database = sqlite3.connect(made, isolation_level=None)
    database.execute("PRAGMA cache_size = 1")
    database.execute("BEGIN IMMEDIATE")
    create_schema(database)
    database.execute("CREATE TABLE filler AS SELECT zeroblob(100000)")
    written = made.read_bytes()[:size]
    assert len(written) == size
    path.write_bytes(bytes(size) if zeros else written)
    journal = Path(f"{made}-journal").read_bytes()
    Path(f"{path}-journal").write_bytes(journal)
    database.close()
    with pytest.raises(InputError, match=r"results file .*r\.sqlite: expected"):
        Results(path, readonly=True)
    Path(f"{path}-journal").write_bytes(journal)
    with Results(path) as results:
        assert fill(results) == [True]
    assert len(results_rows(path)) == 1
    assert sorted(os.listdir(tmp_path)) == ["made.sqlite", "r.sqlite"]


def test_a_reader_changes_nothing_of_an_old_file(old, rows):
    before = old.read_bytes(), old.stat().st_mtime_ns
    with Results(old, readonly=True) as results:
        assert results.schema == 1
        assert repr(results.rows()) == repr(rows)
        with pytest.raises(InputError, match="cannot be opened for writing"):
            results.add_run(ENVIRONMENT)
    assert (old.read_bytes(), old.stat().st_mtime_ns) == before
    assert os.listdir(old.parent) == [old.name]


def test_a_writer_migrates(tmp_path, old, rows):
    with Results(old) as results:
        assert results.schema == 1
        assert repr(results.rows()) == repr(rows)
        assert fill(results, POINTS) == [False] * 4
        assert fill(results, [replace(POINT, trial=9)]) == [True]
    with Results(old) as results:
        assert results.schema == SCHEMA_VERSION
        assert len(results) == len(rows) + 1
        assert results.select("PRAGMA integrity_check") == [{"integrity_check": "ok"}]
    Results(tmp_path / "new.sqlite").close()
    assert objects(old) == objects(tmp_path / "new.sqlite")


def test_runs_of_an_old_file_are_the_same_in_its_copies(tmp_path, old):
    uuids = []
    for name in ("a.sqlite", "b.sqlite"):
        (tmp_path / name).write_bytes(old.read_bytes())
        with Results(tmp_path / name) as results:
            uuids.append([run["run"] for run in results.run_rows()])
    assert uuids[0] == uuids[1]
    assert len(set(uuids[0])) == 1


def test_two_zeros_become_one(tmp_path, rows):
    path = tmp_path / "old.sqlite"
    zeros = [{**rows[0], "p01": zero, "p10": zero} for zero in (0.0, -0.0)]
    make_schema_1(path, zeros, {rows[0]["sweep"]: DESCRIPTION["clean_scores"]})
    Results(path).close()
    (row,) = results_rows(path)
    assert row["p01"] == 0
    with Results(path) as results:
        number = results.select("SELECT id FROM sweeps")[0]["id"]
        assert results.measured(number) == {("0x0.0p+0|0x0.0p+0", row["trial"])}
        assert results.has_point(number, -0.0, 0.0, row["trial"])


@pytest.mark.parametrize("step", ["CREATE TABLE bits", "INSERT INTO points", "DROP TABLE old_runs"])
def test_killed_while_migrating(old, rows, step):
    code = (
        "import os, sqlite3, sys\n"
        "from noisystore.runtime import results_file as f, results\n"
        "class Killed(sqlite3.Connection):\n"
        "    def execute(self, sql, *args):\n"
        "        found = super().execute(sql, *args)\n"
        "        if sql.strip().startswith(sys.argv[2]): os.kill(os.getpid(), 9)\n"
        "        return found\n"
        "whole = sqlite3.connect\n"
        "sqlite3.connect = lambda *a, **k: whole(*a, factory=Killed, **k)\n"
        "results.Results(sys.argv[1])"
    )
    command = [sys.executable, "-c", code, old, step]
    assert subprocess.run(command, timeout=60, check=False).returncode == -signal.SIGKILL
    with Results(old, readonly=True) as results:
        assert results.schema == 1
        assert repr(results.rows()) == repr(rows)
    with Results(old) as results:
        assert repr(results.rows()) == repr(rows)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE points SET correct = 'x'",
        "UPDATE points SET run = 7",
        "UPDATE points SET n_run = 11",
        "DELETE FROM sweeps",
        "DROP TABLE runs",
        "ALTER TABLE points RENAME COLUMN seconds TO s",
    ],
)
@pytest.mark.parametrize("readonly", [True, False])
def test_a_damaged_old_file_stays_as_it_is(old, change, readonly):
    database = sqlite3.connect(old, isolation_level=None)
    database.execute("PRAGMA foreign_keys = OFF")
    database.execute(change)
    dump = list(database.iterdump())
    database.close()
    with pytest.raises(InputError, match=r"results file .*old\.sqlite: ") as caught:
        Results(old, readonly=readonly)
    assert "\n" not in str(caught.value)
    database = sqlite3.connect(old)
    assert list(database.iterdump()) == dump
    assert database.execute("PRAGMA user_version").fetchone()[0] == 1
    database.close()


@pytest.mark.parametrize("readonly", [True, False])
def test_a_newer_schema_that_only_the_log_knows(tmp_path, readonly):
    """A migration by a newer version, whose write-ahead log is not in the file yet."""
    path = tmp_path / "r.sqlite"
    Results(path).close()
    newer = sqlite3.connect(path, isolation_level=None)
    newer.execute("PRAGMA user_version = 3")
    assert Path(f"{path}-wal").stat().st_size > 0
    with pytest.raises(InputError, match="version 2 or older, got 3; it was left as it is"):
        Results(path, readonly=readonly)
    newer.close()


def documented():
    """Columns of each table of the page: name to (type, may be NULL)."""
    tables = {}
    for name, body in re.findall(r"^### `(\w+)`\n(.*?)(?=^#)", PAGE.read_text(), re.M | re.S):
        rows = re.findall(r"^\| `(\w+)` \| (\w+)( or NULL)? \| \S.* \|$", body, re.MULTILINE)
        tables[name] = {column: (kind, bool(null)) for column, kind, null in rows}
    return tables


def test_documented_columns_are_the_real_ones(tmp_path):
    with Results(tmp_path / "r.sqlite") as results:
        tables = results.select("SELECT name FROM sqlite_master WHERE type = 'table'")
        real = {}
        for name in (row["name"] for row in tables):
            columns = results.select(f"PRAGMA table_info({name})")
            real[name] = {
                row["name"]: (row["type"], not row["notnull"] and not row["pk"]) for row in columns
            }
    assert documented() == real
    assert {name: list(columns) for name, columns in documented().items()} == {
        name: list(columns) for name, columns in real.items()
    }
    assert f"schema {SCHEMA_VERSION}" in PAGE.read_text()


def test_documented_queries_run(tmp_path):
    queries = re.findall(r"```sql\n(.*?)```", PAGE.read_text(), re.S)
    assert len(queries) >= 3
    path = tmp_path / "r.sqlite"
    with Results(path) as results:
        fill(results, POINTS)
        fill(results, [replace(POINT, correct=9, trial=4)], seed=1)
    shell = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    for query in queries:
        assert shell.execute(query).fetchall(), query
    means = shell.execute(queries[0]).fetchall()
    shell.close()
    assert any(math.isclose(row[-2], (7 + 7 + 9) / 30) for row in means), means


def test_documented_python_runs(tmp_path, monkeypatch, rows):
    pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    with Results("results.sqlite") as results:
        fill(results, [replace(POINT, p01=1e-6, p10=1e-6)])
    for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S):
        exec(code, {})
