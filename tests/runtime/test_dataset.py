# SPDX-License-Identifier: Apache-2.0
"""Readers of data sets, on files made here, good and bad (CIFAR-10: test_dataset_cifar10)."""

from __future__ import annotations

import os
import struct
import sys
import zipfile

import numpy as np
import pytest

from noisystore.ortops import InputError
from noisystore.runtime.dataset import Dataset, load, prepare

RNG = np.random.default_rng(0)


def test_npz(tmp_path):
    images = RNG.normal(size=(5, 1, 4, 4))
    for names in (("x", "y"), ("images", "labels")):
        path = tmp_path / f"{names[0]}.npz"
        np.savez_compressed(path, **{names[0]: images, names[1]: np.arange(5, dtype=np.int32)})
        data = load(f"npz:{path}")
        assert data.images.dtype == np.float32
        assert np.array_equal(data.images, images.astype(np.float32))
        assert data.labels.tolist() == [0, 1, 2, 3, 4]
    np.savez(tmp_path / "unlabelled.npz", x=images)
    assert load(f"npz:{tmp_path}/unlabelled.npz").labels is None


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"z": np.zeros((2, 2))}, "expected an array x or images"),
        ({"x": np.zeros((0, 1, 2, 2))}, "expected images"),
        ({"x": np.zeros(4)}, "expected images"),
        ({"x": np.full((2, 1, 2, 2), np.nan)}, "expected finite values, got nan in sample 0"),
        ({"x": np.full((2, 1, 2, 2), np.inf)}, "expected finite values"),
        ({"x": np.zeros((2, 2), np.int16)}, "expected uint8 or float images, got int16"),
        ({"x": np.zeros((2, 2), object)}, "Python objects"),
        ({"x": np.zeros((2, 2)), "y": np.zeros(3, int)}, "expected 2 integer labels"),
        ({"x": np.zeros((2, 2)), "y": np.zeros(2)}, "expected 2 integer labels"),
        ({"x": np.zeros((2, 2)), "y": np.array([0, -1])}, "labels of 0 or more, got -1"),
    ],
)
def test_wrong_npz(tmp_path, arrays, message):
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(InputError, match=message):
        load(f"npz:{tmp_path}/d.npz")


def test_damaged_npz(tmp_path):
    path = tmp_path / "d.npz"
    with pytest.raises(InputError, match="No such file"):
        load(f"npz:{path}")
    with pytest.raises(InputError, match="expected a file"):
        load(f"npz:{tmp_path}")
    np.savez(path, x=np.zeros((100, 10)))
    whole = path.read_bytes()
    for content in (b"", b"no archive", whole[:500], whole[:-30]):
        path.write_bytes(content)
        with pytest.raises(InputError, match="expected a NumPy archive"):
            load(f"npz:{path}")
    path.write_bytes(whole[:3000] + bytes([whole[3000] ^ 1]) + whole[3001:])
    with pytest.raises(InputError, match="CRC"):
        load(f"npz:{path}")


def test_npz_that_claims_too_much(tmp_path):
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000,), }"
    header = header.ljust(117) + b"\n"
    member = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + b"\0" * 100
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.writestr("x.npy", member)
    with pytest.raises(InputError, match=r"expected 1000000000000 bytes .* got 100"):
        load(f"npz:{tmp_path}/d.npz")


@pytest.mark.parametrize(
    "header", [b"{'descr': (", b"\x00\xff", b"(" * 5000, b"{1: 2}", b"[]", b'"', b"{'descr': [1"]
)
def test_npz_with_a_damaged_header(tmp_path, header):
    member = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + b"\0" * 100
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.writestr("x.npy", member)
    with pytest.raises(InputError, match="expected a NumPy archive") as caught:
        load(f"npz:{tmp_path}/d.npz")
    assert "\n" not in str(caught.value)


def test_npz_larger_than_memory(tmp_path, monkeypatch):
    from noisystore.runtime import npz

    np.savez_compressed(tmp_path / "d.npz", x=np.zeros((1000, 1000), np.uint8))
    monkeypatch.setattr(npz, "_memory", lambda: 1_500_000)
    with pytest.raises(InputError, match="half of the memory, got 1000000 bytes"):
        load(f"npz:{tmp_path}/d.npz")


def test_digits():
    train, test = load("digits", "train"), load("digits")
    assert (len(train), len(test)) == (1297, 500)
    assert test.images.shape == (500, 3, 32, 32)
    assert test.images.dtype == np.uint8
    assert (test.images.min(), test.images.max()) == (0, 255)
    image = test.images[0]
    assert np.array_equal(image[0], image[2])
    assert np.array_equal(image[0], image[0, ::4, ::4].repeat(4, 0).repeat(4, 1))
    assert test.classes == tuple("0123456789")
    assert train.sha256 != test.sha256


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(InputError, match=r"pip install noisystore\[demo\]"):
        load("digits")


def make_images(tmp_path, mode="RGB"):
    image = pytest.importorskip("PIL.Image")
    shape = (4, 5) if mode == "L" else (4, 5, 3)
    pixels = RNG.integers(0, 256, (4, *shape), dtype=np.uint8)
    for i, place in enumerate(["dog/b.png", "cat/z.png", "dog/a.PNG", "cat/a.png"]):
        path = tmp_path / "set" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        image.fromarray(pixels[i], mode=mode).save(path, "PNG")
    (tmp_path / "set/dog/notes.txt").write_text("no image")
    (tmp_path / "set/cat/.hidden.png").write_text("no image")
    os.mkfifo(tmp_path / "set/cat/pipe.png")
    return tmp_path / "set", pixels


def test_images(tmp_path):
    folder, pixels = make_images(tmp_path)
    data = load(f"images:{folder}")
    assert data.images.shape == (4, 3, 4, 5)
    assert data.classes == ("cat", "dog")
    assert data.labels.tolist() == [0, 0, 1, 1]
    assert np.array_equal(data.images, pixels[[3, 1, 2, 0]].transpose(0, 3, 1, 2))


def test_grey_images(tmp_path):
    folder, _ = make_images(tmp_path, "L")
    assert load(f"images:{folder}").images.shape == (4, 1, 4, 5)


def test_images_of_other_sizes_are_brought_to_one(tmp_path):
    folder, pixels = make_images(tmp_path)
    image = pytest.importorskip("PIL.Image")
    image.fromarray(np.full((30, 60, 3), 77, np.uint8)).save(folder / "dog/c.png")
    images = load(f"images:{folder}", size=(4, 3)).images
    assert images.shape == (5, 3, 4, 3)
    assert np.array_equal(images[0], pixels[3].transpose(2, 0, 1)[:, :, 1:4])
    assert (images[4] == 77).all()


def test_bad_images(tmp_path, monkeypatch):
    folder, _ = make_images(tmp_path)
    image = pytest.importorskip("PIL.Image")
    image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(folder / "dog/c.png")
    with pytest.raises(InputError, match=r"c\.png: expected \[4, 5\] pixels .* got \[9, 9\]"):
        load(f"images:{folder}")
    (folder / "dog/c.png").write_bytes((folder / "dog/b.png").read_bytes()[:60])
    with pytest.raises(InputError, match=r"c\.png: expected a PNG or JPEG"):
        load(f"images:{folder}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="got no image"):
        load(f"images:{tmp_path}/empty")
    with pytest.raises(InputError, match="folder per class"):
        load(f"images:{tmp_path}/missing")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(InputError, match=r"pip install noisystore\[images\]"):
        load(f"images:{folder}")


@pytest.mark.parametrize("spec", ["", "mnist:x", "cifar10", "cifar10:", "digits:", "npz:"])
def test_unknown_data_set(spec):
    with pytest.raises(InputError, match="data set: expected cifar10:DIR"):
        load(spec)


def test_unknown_split():
    with pytest.raises(InputError, match="split: expected test or train"):
        load("digits", "validation")


def test_prepare_normalises_as_torchvision_does():
    images = RNG.integers(0, 256, (4, 3, 8, 8), dtype=np.uint8)
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    x = images.astype(np.float32) / np.float32(255)
    assert np.array_equal(prepare(images, None), x)
    shape = (1, 3, 1, 1)
    x = (x - np.float32(mean).reshape(shape)) / np.float32(std).reshape(shape)
    got = prepare(images, {"mean": mean, "std": std})
    assert got.dtype == np.float32
    assert got.flags.c_contiguous
    assert np.array_equal(got, x)
    assert prepare(images, {"mean": [0.5], "std": [0.5]}).shape == images.shape


def test_prepare_keeps_what_is_prepared():
    x = np.ones((2, 3, 4, 4), np.float32)
    assert prepare(x, {"mean": [1.0] * 3, "std": [2.0] * 3}) is x
    assert prepare(x, None, np.float16).dtype == np.float16
    images = np.ones((2, 3, 4, 4), np.uint8)
    assert prepare(images, {"mean": [1.0] * 3, "std": [2.0] * 3}, np.uint8) is images


def test_prepare_wants_the_right_channels():
    with pytest.raises(InputError, match=r"normalisation of 3 channels.*got \[2, 1, 4, 4\]"):
        prepare(np.zeros((2, 1, 4, 4), np.uint8), {"mean": [0.0] * 3, "std": [1.0] * 3})


def test_checksum_depends_on_all_the_contents():
    images = np.zeros((4, 1, 2, 2), np.uint8)
    sums = {
        Dataset("a", images).sha256,
        Dataset("a", images, np.zeros(4, int)).sha256,
        Dataset("a", images, np.ones(4, int)).sha256,
        Dataset("a", images.reshape(2, 2, 2, 2)).sha256,
        Dataset("a", images.astype(np.float32)).sha256,
    }
    assert len(sums) == 5
    assert Dataset("b", images).sha256 == Dataset("a", images).sha256
