# SPDX-License-Identifier: Apache-2.0
"""Bundles as archives: the same content gives the same bytes, and hostile ones write nothing."""

import io
import json
import stat
import struct
import zipfile
import zlib

import pytest

from noisystore.ortops.errors import InputError
from noisystore.runtime import bundle_file

ABOUT = {"noisystore": "1", "noise_model": "1", "board": "b", "data": "d"}
FILES = {"install.sh": b"echo\n", "model/model.onnx": b"\0" * 3000, "data/x y.bin": b""}


@pytest.fixture
def bundle(tmp_path):
    path = tmp_path / "bundle.zip"
    bundle_file.write_bundle(path, ABOUT, FILES)
    return path


def unpacked(path, tmp_path):
    """Unpack into a new folder and return what lies there; of a refused one nothing may."""
    folder = tmp_path / "out"
    folder.mkdir()
    try:
        bundle_file.unpack(path, folder)
    finally:
        found = {str(p.relative_to(folder)): p for p in folder.rglob("*") if p.is_file()}
    return found


def refused(path, tmp_path, match):
    with pytest.raises(InputError, match=match) as error:
        unpacked(path, tmp_path)
    assert "\n" not in str(error.value)
    assert list((tmp_path / "out").iterdir()) == []


def rewritten(path, change):
    """Write the archive again after `change(members)`, a dict from ZipInfo to bytes."""
    with zipfile.ZipFile(path) as archive:
        members = [(info, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for info, data in change(members):
            archive.writestr(info, data)


def test_what_was_packed_comes_out(bundle, tmp_path):
    found = unpacked(bundle, tmp_path)
    manifest = json.loads(found.pop(bundle_file.MANIFEST).read_bytes())
    assert {name: path.read_bytes() for name, path in found.items()} == FILES
    assert manifest["files"]["model/model.onnx"]["bytes"] == 3000
    assert manifest["board"] == "b"
    assert found["install.sh"].stat().st_mode & stat.S_IXUSR
    assert not found["model/model.onnx"].stat().st_mode & stat.S_IXUSR
    assert bundle_file.check_folder(tmp_path / "out") == manifest


def test_the_same_content_gives_the_same_bytes(bundle, tmp_path):
    again = tmp_path / "again.zip"
    source = tmp_path / "model"
    source.write_bytes(FILES["model/model.onnx"])
    order = dict(reversed({**FILES, "model/model.onnx": source}.items()))
    sha256, size = bundle_file.write_bundle(again, ABOUT, order)
    assert again.read_bytes() == bundle.read_bytes()
    assert size == again.stat().st_size
    assert len(sha256) == 64


def test_a_file_that_cannot_be_read_leaves_nothing(tmp_path):
    with pytest.raises(InputError, match="gone: No such file"):
        bundle_file.write_bundle(tmp_path / "b.zip", ABOUT, {"a": tmp_path / "gone"})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["../up", "a/../../up", "/etc/x", "a//b", "a\\b", "C:x", "a/./b", "a\nb", "", "x" * 500]
)
def test_names_that_lead_elsewhere(bundle, tmp_path, name):
    rewritten(bundle, lambda members: [*members, (zipfile.ZipInfo(name or "d/"), b"1")])
    refused(bundle, tmp_path, "not a name of a file inside: refused")
    assert not (tmp_path / "up").exists()
    with pytest.raises(InputError, match="not a name"):
        bundle_file.write_bundle(tmp_path / "new.zip", ABOUT, {name: b""})
    assert not (tmp_path / "new.zip").exists()


def link(members):
    info = zipfile.ZipInfo("link")
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return [*members, (info, b"/etc")]


def compressed(members):
    info = zipfile.ZipInfo("bomb")
    info.compress_type = zipfile.ZIP_DEFLATED
    return [*members, (info, b"\0" * 1_000_000)]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (link, "expected a plain file"),
        (compressed, "expected a stored file, got a compressed one"),
        (lambda m: [*m, (zipfile.ZipInfo("more"), b"1")], "files and manifest differ.*more"),
        (lambda m: m[:-1], "files and manifest differ"),
        (lambda m: [*m, (zipfile.ZipInfo("install.sh/x"), b"1")], "both a file and a folder"),
        (lambda m: m[1:], "expected manifest.json in it"),
        (lambda m: [*m, m[-1]], "two files of one name"),
        (lambda m: [(i, d.replace(b"\0", b"\1")) for i, d in m], "not the file that the manifest"),
        (lambda m: [(m[0][0], b"[]"), *m[1:]], "manifest.json: damaged"),
        (lambda m: [(m[0][0], b"[" * 100_000), *m[1:]], "manifest.json: damaged"),
        (
            lambda m: [(m[0][0], m[0][1].replace(b'"bundle": 1', b'"bundle": 2')), *m[1:]],
            "expected a bundle of version 1, got 2",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archives_that_are_not_as_they_were_made(bundle, tmp_path, change, match):
    rewritten(bundle, change)
    refused(bundle, tmp_path, match)


def test_a_member_inside_of_another(tmp_path):
    """A bomb: one member's bytes hold another's whole entry, so more comes out than went in."""
    inner = b"\0" * 5000
    header = struct.pack(
        "<4s5H3I2H", b"PK\3\4", 20, 0, 0, 0, 33, zlib.crc32(inner), 5000, 5000, 5, 0
    )
    outer = header + b"inner" + inner
    path = tmp_path / "bundle.zip"
    bundle_file.write_bundle(path, ABOUT, {"inner": inner, "outer": outer})
    data = path.read_bytes()
    # The entry of `inner` in the directory points into `outer`, and its own bytes are cut out.
    first, last = data.index(b"PK\3\4", 4), data.rindex(b"PK\3\4")
    own = data.index(b"inner", first)
    start = data.rindex(b"PK\3\4", 0, own)
    stop = data.index(b"PK\3\4", own)
    directory = data.index(b"PK\1\2")
    removed = stop - start
    entries = bytearray(data[directory:])
    place = entries.index(b"inner") - 46
    struct.pack_into("<I", entries, place + 42, last - removed)
    outside = entries.index(b"outer") - 46
    struct.pack_into("<I", entries, outside + 42, stop - removed)
    end = entries.index(b"PK\5\6")
    struct.pack_into("<I", entries, end + 16, directory - removed)
    path.write_bytes(data[:start] + data[stop:directory] + entries)
    with zipfile.ZipFile(path) as archive:
        assert [info.filename for info in archive.infolist()] == ["manifest.json", "inner", "outer"]
    refused(path, tmp_path, "larger than the archive: refused")


def test_damage_anywhere(bundle, tmp_path):
    whole = bundle.read_bytes()
    for cut in (0, 10, len(whole) // 2, len(whole) - 1):
        bundle.write_bytes(whole[:cut])
        with pytest.raises(InputError, match="bundle"):
            bundle_file.unpack(bundle, tmp_path / "out")
        assert not (tmp_path / "out").exists()
    for place in range(0, len(whole), 97):
        broken = bytearray(whole)
        broken[place] ^= 0x40
        bundle.write_bytes(broken)
        folder = tmp_path / str(place)
        try:
            bundle_file.unpack(bundle, folder)
        except InputError:
            assert not folder.exists()
        else:  # a date or a flag that nothing reads
            assert (folder / "model/model.onnx").read_bytes() == FILES["model/model.onnx"]


def test_something_else(tmp_path):
    path = tmp_path / "x.zip"
    with pytest.raises(InputError, match="No such file"):
        bundle_file.unpack(path, tmp_path / "out")
    path.write_bytes(b"hello")
    refused(path, tmp_path, "expected an archive of `noisystore bundle`")


def test_a_folder_that_was_changed(bundle, tmp_path):
    unpacked(bundle, tmp_path)
    folder = tmp_path / "out"
    (folder / "noisystore-env").mkdir()  # what is added does not matter
    bundle_file.check_folder(folder)
    (folder / "model/model.onnx").write_bytes(b"\1" * 3000)
    with pytest.raises(InputError, match=r"model/model.onnx: changed"):
        bundle_file.check_folder(folder)
    (folder / "model/model.onnx").unlink()
    with pytest.raises(InputError, match=r"model/model.onnx: missing or changed"):
        bundle_file.check_folder(folder)
    with pytest.raises(InputError, match="expected an unpacked bundle"):
        bundle_file.check_folder(tmp_path)


def test_a_manifest_cannot_name_files_elsewhere(bundle, tmp_path):
    unpacked(bundle, tmp_path)
    path = tmp_path / "out" / bundle_file.MANIFEST
    path.write_text(path.read_text().replace("install.sh", "../up"))
    with pytest.raises(InputError, match="refused"):
        bundle_file.check_folder(tmp_path / "out")


def test_the_archive_is_stored_by_every_zlib(bundle):
    with zipfile.ZipFile(io.BytesIO(bundle.read_bytes())) as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
