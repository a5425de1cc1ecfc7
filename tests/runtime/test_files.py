# SPDX-License-Identifier: Apache-2.0
"""Files that are there whole or not at all."""

import os

import pytest

from noisystore.ortops import InputError
from noisystore.ortops.files import write_whole


def test_written_and_replaced_with_the_umasks_permissions(tmp_path):
    path = tmp_path / ("n" * 255)
    before = os.umask(0o027)
    try:
        for data in (b"one", b"another"):
            write_whole(path, data)
            assert path.read_bytes() == data
            assert path.stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(before)
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_left_of_a_failure(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        write_whole(path, b"new")
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"old"]
    with pytest.raises(InputError, match="cannot be written"):
        write_whole(tmp_path / "none" / "a", b"")


def test_links_are_followed_and_devices_kept(tmp_path):
    (tmp_path / "folder").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "folder" / "a")
    for data in (b"one", b"another"):
        write_whole(link, data)
        assert link.is_symlink()
        assert (tmp_path / "folder" / "a").read_bytes() == data
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "to-pipe").symlink_to(tmp_path / "pipe")
    for name in ("pipe", "to-pipe", "folder"):
        with pytest.raises(InputError, match="expected a file, got a"):
            write_whole(tmp_path / name, b"")
    assert (tmp_path / "pipe").is_fifo()
    assert len(list(tmp_path.rglob("*"))) == 5
