# SPDX-License-Identifier: Apache-2.0
"""The SQLite file behind `Results`: how it is told apart, opened, migrated and explained."""

from __future__ import annotations

import os
import struct
import threading
from collections import Counter
from pathlib import Path
from typing import Any

from ..ortops.errors import InputError
from .results_schema import APPLICATION_ID, SCHEMA_VERSION, migrate, schema_version

try:
    import sqlite3
except ImportError:  # Small systems have Pythons without it; what keeps no results runs there, too.
    sqlite3 = None  # type: ignore[assignment]

#: Seconds that a writer waits for another one.
BUSY_SECONDS = 60.0


#: Device and inode of a file.
Identity = tuple[int, int]

# POSIX locks belong to a process: when it closes any descriptor of a file, those that SQLite holds
# on it are gone, and another process may then take the write-ahead log away. So no file that is
# open here is opened by anything but SQLite.
_open_here: Counter[Identity] = Counter()
_opening = threading.Lock()


def open_file(path: Path, readonly: bool) -> tuple[sqlite3.Connection, int, Identity]:
    """Check a file and open it.

    Parameters
    ----------
    path, readonly
        See `connect`.

    Returns
    -------
    database, version
        See `connect`.
    identity : (int, int)
        For `release`.

    Raises
    ------
    InputError
        As `check_file` and `connect`.
    """
    with _opening:
        if not (path.exists() and _identity(path) in _open_here):
            check_file(path, readonly)
        database, version = connect(path, readonly)
        identity = _identity(path)
        _open_here[identity] += 1
    return database, version, identity


def release(identity: Identity) -> None:
    """Say that a connection of `open_file` is closed."""
    with _opening:
        _open_here[identity] -= 1
        if _open_here[identity] < 1:
            del _open_here[identity]


def _identity(path: Path) -> Identity:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def check_file(path: Path, readonly: bool) -> None:
    """Check, from its bytes alone, that `path` is a results file or, to be written, nothing yet.

    Raises
    ------
    InputError
        It is a directory, a foreign file or of a newer schema, or cannot be read.
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
    if not header or _unfinished(path, header):
        if readonly:
            raise InputError(f"results file {path}: expected measured points, got no such file")
        if not path.parent.is_dir():
            raise InputError(f"results file {path}: there is no directory {path.parent}")
        return
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
    _check_version(path, version)


def _unfinished(path: Path, header: bytes) -> bool:
    """Return whether the power was lost while the file was made, which SQLite then takes back."""
    journal = Path(f"{path}-journal")
    nothing = len(header) < 100 or not header.strip(b"\0")
    return nothing and journal.is_file() and journal.stat().st_size > 0


def _check_version(path: Path, version: int) -> None:
    if not 1 <= version <= SCHEMA_VERSION:
        raise InputError(
            f"results file {path}: expected schema version {SCHEMA_VERSION} or older, got "
            f"{version}; it was left as it is: use the noisystore that wrote it, or another file"
        )


def _check_tables(path: Path, database: sqlite3.Connection, version: int) -> None:
    # A view of one of these names, a virtual table or a generated column, in a file from elsewhere,
    # could compute for ever.
    query = "SELECT name FROM sqlite_master WHERE type = 'table' AND sql LIKE 'CREATE TABLE%'"
    found = {name for (name,) in database.execute(query)}
    for table in ("sweeps", "runs", "points", "bits")[: 4 if version > 1 else 3]:
        columns = database.execute(f"PRAGMA table_xinfo({table})").fetchall()
        if table not in found or any(column[-1] for column in columns):
            raise InputError(f"results file {path}: damaged: no table {table}")


def connect(path: Path, readonly: bool) -> tuple[sqlite3.Connection, int]:
    """Open an SQLite file, in autocommit mode, to write it or for reading only.

    Parameters
    ----------
    path : path
    readonly : bool
        Change neither the file nor its write-ahead log: of a file of an older schema, a copy in
        memory is migrated.

    Returns
    -------
    database : sqlite3.Connection
        To write, it may hold an older schema, or nothing yet.
    version : int
        Schema version of the file, 0 for none.

    Raises
    ------
    InputError
        It cannot be opened, or is of a newer schema.
    """
    database = _connect_readonly(path) if readonly else _connect(path, "mode=rwc")
    try:
        # A newer program's migration may still be in the write-ahead log alone.
        version = schema_version(database)
        if readonly or version:
            _check_version(path, version)
            _check_tables(path, database, version)
        if readonly and version < SCHEMA_VERSION:
            database = _migrated_copy(database)
        if readonly:
            database.execute("PRAGMA query_only = ON")
    except sqlite3.Error as error:
        database.close()
        raise InputError(explain(path, error)) from None
    except InputError:
        database.close()
        raise
    return database, version


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    options: dict[str, Any] = {"uri": True, "timeout": BUSY_SECONDS, "isolation_level": None}
    try:
        database = sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", **options)
    except sqlite3.Error as error:
        raise InputError(explain(path, error)) from None
    # A file from elsewhere may bring triggers and views: they are to call no function of ours.
    database.execute("PRAGMA trusted_schema = OFF")
    return database


def _connect_readonly(path: Path) -> sqlite3.Connection:
    # A write-ahead log with contents is left to writers: a connection that may write would move
    # them into the file at its end. Without contents there is nothing to move, and only such a
    # connection tidies away the log that every reader makes. In a read-only directory the file is
    # read as one that nobody writes.
    log = Path(f"{path}-wal")
    filled = log.exists() and log.stat().st_size > 0
    reason: InputError | None = None
    for mode in ("mode=ro",) if filled else ("mode=rw", "mode=ro", "immutable=1"):
        try:
            database = _connect(path, mode)
        except InputError as error:
            reason = error
            continue
        try:
            database.execute("PRAGMA query_only = ON")
            database.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
            return database
        except sqlite3.Error as error:
            reason = InputError(explain(path, error))
            database.close()
            if filled and "unable to open" in str(error):
                reason = InputError(
                    f"results file {path}: cannot be read: beside it lies a write-ahead log, which "
                    "needs a folder that can be written: copy both there"
                )
    assert reason is not None
    raise reason


def _migrated_copy(database: sqlite3.Connection) -> sqlite3.Connection:
    copy = sqlite3.connect(":memory:", isolation_level=None)
    database.backup(copy)
    database.close()
    migrate(copy)
    return copy


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
    if "decode to UTF-8" in text:
        return f"results file {path}: damaged: a text that is no UTF-8"
    if "malformed JSON" in text:
        return f"results file {path}: damaged: the sites of a sweep: no JSON"
    if "constraint failed" in text or "malformed" in text:
        return f"results file {path}: damaged, or values that no sweep gives ({text})"
    return f"results file {path}: SQLite: {text}"
