# SPDX-License-Identifier: Apache-2.0
"""Points as arrays, pandas tables, CSV and Parquet."""

from __future__ import annotations

import csv
import errno
import os
import sys
from dataclasses import replace

import numpy as np
import pytest
from results_files import DESCRIPTION, ENVIRONMENT, IDENTITY, POINT, fill

from noisystore.ortops import InputError
from noisystore.runtime import results_export
from noisystore.runtime.results import Results
from noisystore.runtime.results_columns import BITS, COLUMNS, EXTRA
from noisystore.runtime.results_export import export_points

# Neither has a short decimal.
RATE, METRIC = float(np.nextafter(1e-5, 1)), 1 / 3
HOSTILE = '=HYPERLINK("http://x";"y"),\n"a"'
POINTS = [
    POINT,
    replace(POINT, p01=RATE, trial=1, correct=None, top5=None, correct_bits=None, metric=METRIC),
    replace(POINT, p01=0.0, trial=2, agreement=None, metric=float("nan")),
]


@pytest.fixture
def results():
    with Results() as results:
        fill(results, POINTS, metric="m")
        description = {**DESCRIPTION, "model": HOSTILE, "mask_name": "'all", "classes": None}
        sweep = results.add_sweep({**IDENTITY, "seed": -5}, description)
        run = results.add_run({**ENVIRONMENT, "host": "-h", "cpu": "naïve ≤ cpu"})
        results.add_point(sweep, run, POINT)
        yield results


def test_columns_and_limit(results):
    rows = results.rows()
    assert list(rows[0]) == [name for name in COLUMNS if name not in EXTRA]
    some = ["trial", "run", "model", "agree_bits"]
    assert results.rows(columns=some, limit=2) == [
        {**{name: row[name] for name in some if name != "run"}, "run": run}
        for row, run in zip(rows[:2], [run["run"] for run in results.run_rows()][::-1], strict=True)
    ]
    assert results.rows(limit=0) == []
    assert len(results.rows(limit=3)) == 3
    assert results.rows(columns="trial", host="-h") == [{"trial": 0}]
    assert results.rows(host="nobody") == []
    assert [row["trial"] for row in results.rows(p01=RATE)] == [1]
    with pytest.raises(InputError, match=r"expected a column of .*, got 'colour'"):
        results.rows(columns=["colour"])


def test_a_run_that_begins_meanwhile(tmp_path):
    path = tmp_path / "r.sqlite"
    with Results(path) as writer, Results(path, readonly=True) as reader:
        fill(writer)
        fill(writer, [replace(POINT, trial=1)], seed=1)
        blocks = reader.blocks(["trial", "host"])
        found = [*next(blocks).own["trial"]]
        left = 1 - writer.select("SELECT seed FROM sweeps ORDER BY key LIMIT 1")[0]["seed"]
        fill(writer, [replace(POINT, trial=2)], seed=left)
        assert sorted([*found, *(t for block in blocks for t in block.own["trial"])]) == [0, 1, 2]


def test_bits_are_not_read_unless_asked(results):
    statements = []
    results._db.set_trace_callback(statements.append)
    results.rows(columns=["accuracy"])
    results.to_arrays()
    results.to_frame()
    assert statements
    assert not any("bits" in sql or "clean_scores" in sql for sql in statements)
    results.rows(columns=["clean_bits"])
    assert any("clean_scores" in sql for sql in statements)


def test_arrays_are_those_of_rows(results):
    rows = results.rows()
    names = [name for name in COLUMNS if name not in (*BITS, *EXTRA)]
    arrays = results.to_arrays(columns=names)
    assert list(arrays) == names
    for name, array in arrays.items():
        expected = [np.nan if row[name] is None else row[name] for row in rows]
        assert array.dtype.kind == ("U" if isinstance(expected[0], str) else array.dtype.kind)
        np.testing.assert_array_equal(array, np.array(expected, dtype=array.dtype))
    assert arrays["trial"].dtype == np.int64
    assert arrays["p01"].dtype == arrays["correct"].dtype == np.float64
    empty = results.to_arrays(model="none")
    assert {len(array) for array in empty.values()} == {0}
    with pytest.raises(InputError, match="expected columns of numbers or text, got agree_bits"):
        results.to_arrays(columns=["agree_bits"])


def test_frames_are_those_of_rows(results):
    pd = pytest.importorskip("pandas")
    rows = results.rows()
    frame = results.to_frame()
    assert list(frame) == [name for name in COLUMNS if name not in (*BITS, *EXTRA)]
    everything = results.to_frame(columns=COLUMNS)
    for name in frame:
        pd.testing.assert_series_equal(frame[name], everything[name])
    for name in (name for name in COLUMNS if name not in EXTRA):
        for value, row in zip(everything[name], rows, strict=True):
            missing = row[name] is None or row[name] != row[name]
            assert (value is None or pd.isna(value)) if missing else value == row[name], name
    assert str(frame["correct"].dtype) == "Int64"
    assert isinstance(frame["model"].dtype, pd.CategoricalDtype)
    assert results.to_frame(model="none").shape == (0, frame.shape[1])
    assert len(results.to_frame(limit=2, columns=["seed", "host"])) == 2


def test_a_frame_without_pandas(results, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match=r"needs pandas.*pip install noisystore\[tables\]"):
        results.to_frame()


@pytest.mark.parametrize("bits", [False, True])
def test_csv_is_exact(results, tmp_path, bits):
    path = tmp_path / "p.csv"
    assert export_points(results, path, bits=bits) == 4
    with path.open(newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    rows = results.rows()
    assert len(read) == len(rows)
    for cells, row in zip(read, rows, strict=True):
        assert list(cells) == [n for n in COLUMNS if n not in EXTRA and (bits or n not in BITS)]
        for name, cell in cells.items():
            value = row[name]
            if value is None:
                assert cell == ""
            elif isinstance(value, float):
                assert float(cell) == value or (cell == "nan" and value != value)
            elif isinstance(value, bytes):
                assert bytes.fromhex(cell) == value
            elif isinstance(value, str):
                assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
                assert (cell[1:] if cell.startswith("'") else cell) == value
            else:
                assert int(cell) == value
    assert {cells["model"] for cells in read} == {"a.onnx", f"'{HOSTILE}"}
    assert {cells["mask"] for cells in read} == {"all", "''all"}
    assert {cells["seed"] for cells in read} == {"0", "-5"}


def test_no_text_begins_a_cell_of_its_own(results, tmp_path):
    """A spreadsheet may take a semicolon, a tab or the end of a line for the end of a cell."""
    description = {**DESCRIPTION, "model": 'a;=1\t=2\n=3"'}
    results.add_point(results.add_sweep({**IDENTITY, "seed": 9}, description), 1, POINT)
    path = tmp_path / "p.csv"
    assert export_points(results, path, columns=["model", "trial"], seed=9) == 1
    assert path.read_bytes() == b'model,trial\n"a;=1\t=2\n=3""",0\n'


@pytest.mark.parametrize("rows", [1, 100_000])
def test_parquet_is_exact(results, tmp_path, monkeypatch, rows):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(results_export, "_PARQUET_ROWS", rows)
    path = tmp_path / "p.parquet"
    assert export_points(results, path, bits=True) == 4
    read = parquet.read_table(path).to_pylist()
    assert repr(read) == repr(results.rows())


def test_chosen_points(results, tmp_path):
    path = tmp_path / "p.csv"
    assert export_points(results, path, columns=["trial", "model"], seed=0, p01=RATE) == 1
    assert path.read_text() == 'trial,model\n1,"a.onnx"\n'


@pytest.mark.parametrize("name", ["p.csv", "p.parquet"])
def test_no_such_points(results, tmp_path, name):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    path = tmp_path / name
    path.write_text("before")
    with pytest.raises(InputError, match="expected points with model=none, seed=0, got none"):
        export_points(results, path, model="none", seed=0)
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == [name]


def test_a_file_without_points(tmp_path):
    path = tmp_path / "p.csv"
    with Results(tmp_path / "r.sqlite") as empty:
        assert export_points(empty, path, columns=["trial"]) == 0
    assert path.read_text() == "trial\n"


@pytest.mark.parametrize("name", ["p.csv", "p.parquet"])
def test_a_failure_leaves_what_was_there(results, tmp_path, monkeypatch, name):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    path = tmp_path / name
    path.write_text("before")
    results._db.execute("PRAGMA ignore_check_constraints = ON")
    results._db.execute("UPDATE points SET trial = 'x' WHERE p01 > 1e-5")
    with pytest.raises(InputError, match="damaged: column trial"):
        export_points(results, path)
    results._db.execute("UPDATE points SET trial = 3 WHERE p01 > 1e-5")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=rf"{name}: cannot be written \(No space left"):
        export_points(results, path)
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == [name]


def test_places(results, tmp_path, monkeypatch):
    for path, message in [
        (tmp_path / "p.xlsx", "ends in .csv or .parquet"),
        (tmp_path, "ends in .csv or .parquet"),
        (tmp_path / "none/p.csv", "cannot be written"),
    ]:
        with pytest.raises(InputError, match=message):
            export_points(results, path)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(InputError, match=r"needs pyarrow.*pip install noisystore\[tables\]"):
        export_points(results, tmp_path / "p.parquet")
    assert os.listdir(tmp_path) == []
