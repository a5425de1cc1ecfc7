# SPDX-License-Identifier: Apache-2.0
"""Tables of a results file, and how files of older schemas get them (see docs/results.md)."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import sqlite3

#: "NoiS", in ``application_id``.
APPLICATION_ID = 0x4E6F6953
#: In ``user_version``.
SCHEMA_VERSION = 2

# Not STRICT: SQLite before 3.37, which boards have, could not even read the file. The checks say
# the same. Bits have a table of their own, so that queries of a million points read no blobs.
SCHEMA = """
CREATE TABLE sweeps (
  id INTEGER PRIMARY KEY,
  key TEXT NOT NULL UNIQUE CHECK (length(key) = 64),
  model_sha256 TEXT NOT NULL,
  data_sha256 TEXT NOT NULL,
  images INTEGER NOT NULL CHECK (typeof(images) = 'integer' AND images > 0),
  seed INTEGER NOT NULL CHECK (typeof(seed) = 'integer'),
  batch_size INTEGER NOT NULL CHECK (typeof(batch_size) = 'integer' AND batch_size > 0),
  bit_mask TEXT NOT NULL,
  metric TEXT NOT NULL,
  provider TEXT NOT NULL,
  machine TEXT NOT NULL,
  noise_model TEXT NOT NULL,
  model TEXT NOT NULL,
  sites TEXT NOT NULL CHECK (typeof(sites) = 'text'),
  storage_format TEXT NOT NULL,
  data TEXT NOT NULL,
  mask_name TEXT NOT NULL,
  classes INTEGER CHECK (typeof(classes) IN ('integer', 'null')),
  chance_accuracy REAL CHECK (chance_accuracy BETWEEN 0 AND 1),
  clean_accuracy REAL CHECK (clean_accuracy BETWEEN 0 AND 1),
  clean_top5 REAL CHECK (clean_top5 BETWEEN 0 AND 1),
  clean_metric REAL CHECK (typeof(clean_metric) IN ('real', 'null')),
  clean_scores BLOB NOT NULL CHECK (typeof(clean_scores) = 'blob')
);
CREATE TABLE runs (
  id INTEGER PRIMARY KEY,
  uuid TEXT NOT NULL UNIQUE,
  library_version TEXT NOT NULL,
  onnxruntime_version TEXT NOT NULL,
  threads INTEGER NOT NULL CHECK (typeof(threads) = 'integer'),
  cpu TEXT NOT NULL,
  host TEXT NOT NULL,
  started TEXT NOT NULL
);
CREATE TABLE points (
  id INTEGER PRIMARY KEY,
  sweep INTEGER NOT NULL REFERENCES sweeps(id),
  p01 REAL NOT NULL CHECK (p01 BETWEEN 0 AND 1),
  p10 REAL NOT NULL CHECK (p10 BETWEEN 0 AND 1),
  trial INTEGER NOT NULL CHECK (typeof(trial) = 'integer' AND trial >= 0),
  run INTEGER NOT NULL REFERENCES runs(id),
  noise_seed INTEGER NOT NULL CHECK (typeof(noise_seed) = 'integer'),
  images INTEGER NOT NULL CHECK (typeof(images) = 'integer' AND images > 0),
  n_run INTEGER NOT NULL CHECK (typeof(n_run) = 'integer' AND n_run BETWEEN 0 AND images),
  correct INTEGER
    CHECK (typeof(correct) IN ('integer', 'null') AND correct BETWEEN 0 AND images),
  top5 INTEGER CHECK (typeof(top5) IN ('integer', 'null') AND top5 BETWEEN 0 AND images),
  agreement INTEGER
    CHECK (typeof(agreement) IN ('integer', 'null') AND agreement BETWEEN 0 AND images),
  metric REAL CHECK (typeof(metric) IN ('real', 'null')),
  seconds REAL NOT NULL CHECK (typeof(seconds) = 'real'),
  run_seconds REAL NOT NULL CHECK (typeof(run_seconds) = 'real'),
  measured TEXT NOT NULL,
  UNIQUE (sweep, p01, p10, trial)
);
CREATE TABLE bits (
  point INTEGER PRIMARY KEY REFERENCES points(id),
  correct_bits BLOB CHECK (typeof(correct_bits) IN ('blob', 'null')),
  agree_bits BLOB CHECK (typeof(agree_bits) IN ('blob', 'null'))
);
CREATE INDEX sweeps_by_model ON sweeps (model, mask_name);
CREATE INDEX points_by_rate ON points (p01, p10, correct, images)
"""


def create_schema(database: sqlite3.Connection) -> None:
    """Make the tables inside the caller's transaction, unless another process just did.

    The transaction is to be in rollback mode: then ``application_id`` is in the file itself, not
    in a write-ahead log, and other processes see all of the schema or nothing.
    """
    if schema_version(database) == 0:
        _create_tables(database)
        database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def schema_version(database: sqlite3.Connection) -> int:
    """Return ``user_version``, of the write-ahead log where that is newer than the file."""
    return int(database.execute("PRAGMA user_version").fetchone()[0])


def migrate(database: sqlite3.Connection) -> None:
    """Bring a database in autocommit mode to this schema, in one transaction.

    Raises
    ------
    sqlite3.Error
        Nothing was changed. `sqlite3.IntegrityError`: a value is none that a sweep gives.
    """
    import sqlite3

    # Tables that others refer to are replaced; the pragma has no effect inside a transaction.
    database.execute("PRAGMA foreign_keys = OFF")
    try:
        database.execute("BEGIN IMMEDIATE")
        for version in range(schema_version(database), SCHEMA_VERSION):
            MIGRATIONS[version](database)
            database.execute(f"PRAGMA user_version = {version + 1}")
        if database.execute("PRAGMA foreign_key_check").fetchone():
            raise sqlite3.IntegrityError("constraint failed: a point without its sweep or run")
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise
    finally:
        database.execute("PRAGMA foreign_keys = ON")


def _create_tables(database: sqlite3.Connection) -> None:
    for statement in SCHEMA.split(";\n"):
        database.execute(statement)


def _from_1_to_2(database: sqlite3.Connection) -> None:
    """Bits go to a table of their own, runs get a UUID, rates are compared as numbers."""
    database.create_function("old_run_uuid", -1, _old_run_uuid, deterministic=True)
    for table in ("sweeps", "runs", "points"):
        database.execute(f"ALTER TABLE {table} RENAME TO old_{table}")
    _create_tables(database)
    run = "id, library_version, onnxruntime_version, threads, cpu, host, started"
    point = (
        "sweep, p01, p10, trial, run, noise_seed, images, n_run, correct, top5, agreement, "
        "metric, seconds, run_seconds, measured"
    )
    database.execute("INSERT INTO sweeps SELECT * FROM old_sweeps")
    database.execute(
        f"INSERT INTO runs SELECT id, old_run_uuid({run}), {run.removeprefix('id, ')} FROM old_runs"
    )
    # The rates 0 and -0, once two texts, are one number.
    database.execute(
        f"INSERT INTO points (id, {point}) SELECT rowid, {point} FROM old_points WHERE 1 "
        "ON CONFLICT (sweep, p01, p10, trial) DO NOTHING"
    )
    database.execute(
        "INSERT INTO bits SELECT rowid, correct_bits, agree_bits FROM old_points WHERE "
        "rowid IN (SELECT id FROM points) AND COALESCE(correct_bits, agree_bits) IS NOT NULL"
    )
    for table in ("points", "runs", "sweeps"):
        database.execute(f"DROP TABLE old_{table}")


def _old_run_uuid(*run: Any) -> str:
    """Return the same UUID for one run in all copies of a file of schema 1."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, "noisystore run " + repr(run)))


#: From a schema version to what makes the next one of it, inside a transaction.
MIGRATIONS: dict[int, Callable[[sqlite3.Connection], None]] = {1: _from_1_to_2}
