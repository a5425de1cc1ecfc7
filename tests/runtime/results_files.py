# SPDX-License-Identifier: Apache-2.0
"""Results files with little in them, and one as it was before schema 2."""

from __future__ import annotations

import sqlite3

import numpy as np

from noisystore.runtime.metrics import Scores
from noisystore.runtime.results import IDENTITY as NAMES
from noisystore.runtime.results import Point, pack_bits

IDENTITY = {
    "model_sha256": "m",
    "data_sha256": "d",
    "images": 10,
    "seed": 0,
    "batch_size": 5,
    "bit_mask": "0xff",
    "metric": "",
    "provider": "CPUExecutionProvider",
    "machine": "x86_64",
    "noise_model": "1",
}
CORRECT = np.arange(10) < 8
DESCRIPTION = {
    "model": "a.onnx",
    "sites": "{}",
    "storage_format": "float32",
    "data": "digits/test",
    "mask_name": "all",
    "classes": 10,
    "chance_accuracy": 0.1,
    "clean_accuracy": 0.8,
    "clean_top5": 1.0,
    "clean_metric": None,
    "clean_scores": Scores(correct=CORRECT).to_bytes(),
}
ENVIRONMENT = {
    "library_version": "1",
    "onnxruntime_version": "2",
    "threads": 0,
    "cpu": "c",
    "host": "h",
}
POINT = Point(
    p01=1e-5,
    p10=1e-5,
    trial=0,
    noise_seed=2**64 - 1,
    images=10,
    n_run=4,
    correct=7,
    top5=9,
    agreement=8,
    metric=None,
    seconds=0.5,
    run_seconds=0.4,
    correct_bits=pack_bits(np.arange(10) < 7),
    agree_bits=None,
)


def fill(results, points=(POINT,), **identity):
    sweep = results.add_sweep({**IDENTITY, **identity}, DESCRIPTION)
    run = results.add_run(ENVIRONMENT)
    return [results.add_point(sweep, run, point) for point in points]


# What the versions before schema 2 wrote.
SCHEMA_1 = """
CREATE TABLE sweeps (
  id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE,
  model_sha256 TEXT NOT NULL, data_sha256 TEXT NOT NULL, images INTEGER NOT NULL,
  seed INTEGER NOT NULL, batch_size INTEGER NOT NULL, bit_mask TEXT NOT NULL,
  metric TEXT NOT NULL, provider TEXT NOT NULL, machine TEXT NOT NULL, noise_model TEXT NOT NULL,
  model TEXT NOT NULL, sites TEXT NOT NULL, storage_format TEXT NOT NULL, data TEXT NOT NULL,
  mask_name TEXT NOT NULL, classes INTEGER, chance_accuracy REAL,
  clean_accuracy REAL, clean_top5 REAL, clean_metric REAL, clean_scores BLOB NOT NULL
);
CREATE TABLE runs (
  id INTEGER PRIMARY KEY, library_version TEXT NOT NULL, onnxruntime_version TEXT NOT NULL,
  threads INTEGER NOT NULL, cpu TEXT NOT NULL, host TEXT NOT NULL, started TEXT NOT NULL
);
CREATE TABLE points (
  sweep INTEGER NOT NULL REFERENCES sweeps(id), rates TEXT NOT NULL, trial INTEGER NOT NULL,
  run INTEGER NOT NULL REFERENCES runs(id), p01 REAL NOT NULL, p10 REAL NOT NULL,
  noise_seed INTEGER NOT NULL, images INTEGER NOT NULL, n_run INTEGER NOT NULL,
  correct INTEGER, top5 INTEGER, agreement INTEGER, metric REAL,
  seconds REAL NOT NULL, run_seconds REAL NOT NULL, correct_bits BLOB, agree_bits BLOB,
  measured TEXT NOT NULL,
  PRIMARY KEY (sweep, rates, trial)
);
PRAGMA application_id = 0x4E6F6953;
PRAGMA user_version = 1;
PRAGMA journal_mode = WAL;
"""


def make_schema_1(path, rows, clean_scores):
    """Write rows, as `Results.rows` gives them, as schema 1 held them.

    `clean_scores` is from a sweep's key to its scores' bytes.
    """
    database = sqlite3.connect(path, isolation_level=None)
    database.executescript(SCHEMA_1)
    sweeps, runs = {}, {}
    for row in rows:
        if row["sweep"] not in sweeps:
            sweeps[row["sweep"]] = len(sweeps) + 1
            own = {**row, "metric": row["metric_name"]}
            names = (*NAMES, "model", "sites", "storage_format", "data")
            values = [sweeps[row["sweep"]], row["sweep"], *(own[name] for name in names)]
            values += [row["mask"], row["classes"], row["chance_accuracy"], row["clean_accuracy"]]
            values += [row["clean_top5"], row["clean_metric"], clean_scores[row["sweep"]]]
            marks = ", ".join("?" * len(values))
            database.execute(f"INSERT INTO sweeps VALUES ({marks})", values)
        run = tuple(row[name] for name in ENVIRONMENT)
        if run not in runs:
            runs[run] = len(runs) + 1
            values = (runs[run], *run, "2026-01-01T00:00:00+00:00")
            database.execute("INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, ?)", values)
        key = f"{row['p01'].hex()}|{row['p10'].hex()}"
        names = ("noise_seed", "images", "n_run", "correct", "top5", "agreement", "metric")
        names += ("seconds", "run_seconds", "correct_bits", "agree_bits", "measured")
        values = [sweeps[row["sweep"]], key, row["trial"], runs[run], row["p01"], row["p10"]]
        values += [row[name] for name in names]
        database.execute(f"INSERT INTO points VALUES ({', '.join('?' * len(values))})", values)
    database.close()
