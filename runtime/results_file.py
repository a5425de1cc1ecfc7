# SPDX-License-Identifier: Apache-2.0
"""The SQLite file behind `Results`: its schema, and how it is told apart, opened and explained."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from ..ortops.errors import InputError

try:
    import sqlite3
except ImportError:  # Small systems have Pythons without it; what keeps no results runs there, too.
    sqlite3 = None  # type: ignore[assignment]

APPLICATION_ID = 0x4E6F6953
SCHEMA_VERSION = 1

#: Seconds that a writer waits for another one.
BUSY_SECONDS = 60.0

SCHEMA = """
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
)
"""


def create_schema(database: sqlite3.Connection) -> None:
    """Make the tables inside the caller's transaction, unless another process just did.

    The transaction is to be in rollback mode: then ``application_id`` is in the file itself, not
    in a write-ahead log, and other processes see all of the schema or nothing.
    """
    if database.execute("PRAGMA user_version").fetchone()[0] == 0:
        for statement in SCHEMA.split(";"):
            database.execute(statement)
        database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        database.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def check_file(path: Path, readonly: bool) -> bool:
    """Return whether `path` is a results file (False: nothing is there), from its bytes alone.

    Raises
    ------
    InputError
        It is a directory, a foreign file or of another schema version, or cannot be read.
    """
    if path.is_dir():
        raise InputError(f"results file {path}: expected a file, got a directory")
    if path.exists() and not path.is_file():
        raise InputError(f"results file {path}: expected a file, got a device or a pipe")
    try:
        with path.open("rb") as file:
            header = file.read(100)
    except FileNotFoundError:
        header = b""
    except OSError as error:
        raise InputError(f"results file {path}: cannot be read: {error.strerror}") from None
    if not header:
        if readonly:
            raise InputError(f"results file {path}: expected measured points, got no such file")
        if not path.parent.is_dir():
            raise InputError(f"results file {path}: there is no directory {path.parent}")
        return False
    if len(header) < 100 or not header.startswith(b"SQLite format 3\0"):
        raise InputError(
            f"results file {path}: expected a results file of noisystore, got another kind of "
            "file; it was left as it is"
        )
    version, application = struct.unpack(">I", header[60:64])[0], header[68:72]
    if application != struct.pack(">I", APPLICATION_ID):
        raise InputError(
            f"results file {path}: expected a results file of noisystore, got another SQLite "
            "database; it was left as it is"
        )
    if version != SCHEMA_VERSION:
        raise InputError(
            f"results file {path}: expected schema version {SCHEMA_VERSION}, got {version}; it was "
            "left as it is: use the noisystore that wrote it, or another file"
        )
    return True


def connect(path: Path, readonly: bool) -> sqlite3.Connection:
    """Open an SQLite file, in autocommit mode, to write it or for reading only.

    Parameters
    ----------
    path : path
    readonly : bool
        Change neither the file nor its write-ahead log.

    Raises
    ------
    InputError
        It cannot be opened.
    """
    name = path.absolute().as_uri()
    options: dict[str, Any] = {"uri": True, "timeout": BUSY_SECONDS, "isolation_level": None}
    if not readonly:
        try:
            return sqlite3.connect(f"{name}?mode=rwc", **options)
        except sqlite3.Error as error:
            raise InputError(explain(path, error)) from None
    # A write-ahead log with contents is left to writers: a connection that may write would move
    # them into the file at its end. Without contents there is nothing to move, and only such a
    # connection tidies away the log that every reader makes. In a read-only directory the file is
    # read as one that nobody writes.
    log = Path(f"{path}-wal")
    filled = log.exists() and log.stat().st_size > 0
    reason: sqlite3.Error | None = None
    for mode in ("mode=ro",) if filled else ("mode=rw", "mode=ro", "immutable=1"):
        try:
            database = sqlite3.connect(f"{name}?{mode}", **options)
        except sqlite3.Error as error:
            reason = error
            continue
        try:
            database.execute("PRAGMA query_only = ON")
            database.execute("SELECT COUNT(*) FROM points")
            return database
        except sqlite3.Error as error:
            reason = error
            database.close()
    raise InputError(explain(path, reason or sqlite3.OperationalError("unable to open")))


def explain(path: Path | None, error: sqlite3.Error | OverflowError) -> str:
    """Return one line that says what an SQLite error means and what to do."""
    text = str(error)
    if "full" in text or "disk I/O" in text:
        return (
            f"results file {path}: no space left to write ({text}); the points measured so far "
            "are kept: free space and run the same command again"
        )
    if "locked" in text or "busy" in text:
        return f"results file {path}: another program has held it for {BUSY_SECONDS:.0f} s"
    if "readonly" in text or "unable to open" in text:
        return f"results file {path}: cannot be opened for writing ({text})"
    if "malformed JSON" in text:
        return f"results file {path}: damaged: the sites of a sweep: no JSON"
    return f"results file {path}: SQLite: {text}"
