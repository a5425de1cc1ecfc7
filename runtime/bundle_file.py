# SPDX-License-Identifier: Apache-2.0
"""Bundles as files: archives that are the same for the same content, checked before they unpack."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import secrets
import shutil
import stat
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ..ortops.errors import InputError
from ..ortops.files import target_of

MANIFEST = "manifest.json"
#: Version of the layout of a bundle.
VERSION = 1
#: Files that may be run.
PROGRAMS = frozenset({"install.sh"})

_MOST_MANIFEST = 16 << 20
_MOST_FILES = 100_000
_EPOCH = (1980, 1, 1, 0, 0, 0)
_CHUNK = 1 << 20

#: Content of a file: its bytes, or where they lie.
Content = bytes | Path


def write_bundle(
    path: str | os.PathLike[str], description: Mapping[str, Any], files: Mapping[str, Content]
) -> tuple[str, int]:
    """Write an archive of files and their manifest; whole, or not at all.

    Members are stored, not compressed, in sorted order and with one date, so that the bytes depend
    on the content alone.

    Parameters
    ----------
    path : path
        Of the zip file.
    description : mapping
        What the manifest says besides the version and the files.
    files : mapping from name to bytes or path

    Returns
    -------
    (str, int)
        SHA-256 and size of the archive.

    Raises
    ------
    InputError
        A file cannot be read or written, or has a name that a bundle does not take.
    """
    manifest = {
        "bundle": VERSION,
        **description,
        "files": {name: _identity(name, files[name]) for name in sorted(files)},
    }
    members = {MANIFEST: json.dumps(manifest, indent=1, allow_nan=False).encode(), **files}
    target = target_of(path)
    temporary = Path(os.path.dirname(target)) / f".{secrets.token_hex(8)}.tmp"
    try:
        with zipfile.ZipFile(temporary, "x", zipfile.ZIP_STORED) as archive:
            for name in (MANIFEST, *sorted(files)):
                info = zipfile.ZipInfo(name, _EPOCH)
                mode = 0o755 if name in PROGRAMS else 0o644
                info.create_system, info.external_attr = 3, (stat.S_IFREG | mode) << 16
                with (
                    _opened(members[name]) as source,
                    archive.open(info, "w", force_zip64=True) as out,
                ):
                    shutil.copyfileobj(source, out, _CHUNK)
        with temporary.open("rb") as file:
            identity = _digest(file)
            os.fsync(file.fileno())
        size = temporary.stat().st_size
        os.replace(temporary, target)
        return identity, size
    except OSError as error:
        raise InputError(
            f"{os.fspath(path)}: cannot be written ({error.strerror}); choose another path"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _identity(name: str, content: Content) -> dict[str, Any]:
    _check_name(name, "a bundle's file")
    with _opened(content) as file:
        return {"sha256": _digest(file), "bytes": file.tell()}


@contextlib.contextmanager
def _opened(content: Content) -> Iterator[IO[bytes]]:
    try:
        with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as file:
            yield file
    except OSError as error:
        raise InputError(f"{error.filename or 'file'}: {error.strerror}") from None


def _digest(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def unpack(path: str | os.PathLike[str], folder: Path) -> dict[str, Any]:
    """Check a bundle as a whole, then write its files into a folder.

    Parameters
    ----------
    path : path of a zip file
    folder : path
        Must be empty.

    Returns
    -------
    dict
        The manifest.

    Raises
    ------
    InputError
        It is no bundle, damaged or hostile; nothing is written then.
    """
    where = f"bundle {os.fspath(path)}"
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(archive, os.stat(path).st_size, where)
            manifest = _manifest(members, archive, where)
            for name, wanted in manifest["files"].items():
                with archive.open(members[name]) as file:
                    if (
                        members[name].file_size != wanted["bytes"]
                        or _digest(file) != wanted["sha256"]
                    ):
                        raise InputError(
                            f"{where}: {name}: not the file that the manifest names: damaged, "
                            "get the bundle again"
                        )
            for name, info in members.items():
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(info) as file, target.open("xb") as out:
                    shutil.copyfileobj(file, out, _CHUNK)
                target.chmod(0o755 if name in PROGRAMS else 0o644)
            return manifest
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{where}: {error.strerror or error}") from None
    except Exception as error:  # zipfile raises nearly anything on a hostile file
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(
            f"{where}: expected an archive of `noisystore bundle`, got a damaged or foreign file "
            f"({reason})"
        ) from None


def _members(archive: zipfile.ZipFile, size: int, where: str) -> dict[str, zipfile.ZipInfo]:
    """Return the members by name, none of which leaves a folder or grows when it is read."""
    infos = archive.infolist()
    if len(infos) > _MOST_FILES:
        raise InputError(f"{where}: expected at most {_MOST_FILES} files, got {len(infos)}")
    members: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        _check_name(info.filename, where)
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG) or info.flag_bits & 1:
            raise InputError(f"{where}: {info.filename!r}: expected a plain file, got another kind")
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise InputError(
                f"{where}: {info.filename!r}: expected a stored file, got a compressed one: a "
                "bundle is used as `noisystore bundle` wrote it"
            )
        if info.filename in members:
            raise InputError(f"{where}: {info.filename!r}: two files of one name")
        members[info.filename] = info
    folders = {
        "/".join(parts[:i])
        for parts in (n.split("/") for n in members)
        for i in range(1, len(parts))
    }
    if folders & members.keys():
        raise InputError(f"{where}: {min(folders & members.keys())!r}: both a file and a folder")
    if sum(info.file_size for info in infos) > size:
        raise InputError(f"{where}: its files would be larger than the archive: refused")
    return members


def _check_name(name: str, where: str) -> None:
    parts = name.split("/")
    good = (
        all(len(part.encode()) <= 200 for part in parts)
        and name.isprintable()
        and "\\" not in name
        and ":" not in parts[0]
    )
    if not good or not all(parts) or not {".", ".."}.isdisjoint(parts):
        raise InputError(f"{where}: {name[:80]!r}: not a name of a file inside: refused")


def _manifest(
    members: Mapping[str, zipfile.ZipInfo], archive: zipfile.ZipFile, where: str
) -> dict[str, Any]:
    if MANIFEST not in members:
        raise InputError(f"{where}: expected {MANIFEST} in it, got none: no bundle")
    if members[MANIFEST].file_size > _MOST_MANIFEST:
        raise InputError(f"{where}: {MANIFEST}: expected at most {_MOST_MANIFEST} bytes")
    manifest = _checked_manifest(archive.read(members[MANIFEST]), where)
    missing = manifest["files"].keys() ^ (members.keys() - {MANIFEST})
    if missing:
        raise InputError(
            f"{where}: files and manifest differ, first in {min(missing)!r}: damaged, get the "
            "bundle again"
        )
    return manifest


def _checked_manifest(data: bytes, where: str) -> dict[str, Any]:
    """Return a manifest whose values have the types that readers rely on."""
    try:
        manifest = json.loads(data)
        version = manifest["bundle"]
        if version != VERSION:
            raise InputError(
                f"{where}: expected a bundle of version {VERSION}, got {version!r}: make it again "
                "with this version of noisystore"
            )
        texts = [manifest[key] for key in ("noisystore", "noise_model", "board", "data")]
        for name, identity in manifest["files"].items():
            _check_name(name, where)
            good = type(identity["bytes"]) is int and len(identity["sha256"]) == 64
            texts += [identity["sha256"]] if good else [None]
        good = all(isinstance(text, str) and text.isprintable() for text in texts)
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        good = False
    if not good:
        raise InputError(f"{where}: {MANIFEST}: damaged: get the bundle again")
    return dict(manifest)


def check_folder(folder: Path) -> dict[str, Any]:
    """Check that an unpacked bundle is as it was made; further files do not matter.

    Parameters
    ----------
    folder : path

    Returns
    -------
    dict
        The manifest.

    Raises
    ------
    InputError
        A file is missing or was changed, or it is no bundle.
    """
    where = f"bundle {folder}"
    try:
        with (folder / MANIFEST).open("rb") as file:
            manifest = _checked_manifest(file.read(_MOST_MANIFEST), where)
        for name, wanted in manifest["files"].items():
            path = folder / PurePosixPath(name)
            if not path.is_file() or path.stat().st_size != wanted["bytes"]:
                raise InputError(f"{where}: {name}: missing or changed: unpack the bundle again")
            with path.open("rb") as file:
                if _digest(file) != wanted["sha256"]:
                    raise InputError(f"{where}: {name}: changed: unpack the bundle again")
    except FileNotFoundError:
        raise InputError(
            f"{where}: expected an unpacked bundle, with {MANIFEST} in it: no such file"
        ) from None
    except OSError as error:
        raise InputError(f"{where}: {error.strerror or error}") from None
    return manifest
