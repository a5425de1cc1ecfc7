# SPDX-License-Identifier: Apache-2.0
"""Data sets as plain files: written, read back, swept, and damaged in every way."""

from __future__ import annotations

import numpy as np
import pytest

from noisystore.ortops import InputError
from noisystore.runtime import sweep
from noisystore.runtime.dataset import Dataset, load
from noisystore.runtime.dataset_raw import write_raw

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 3, 4, 5), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])
NORMALIZATION = {"mean": [0.1, 0.2, 1 / 3], "std": [0.5, 0.25, 1e-7]}


@pytest.fixture
def write(tmp_path):
    def call(data, *arguments):
        for name, content in write_raw(data, *arguments).items():
            (tmp_path / name).write_bytes(content)
        return f"raw:{tmp_path}"

    return call


@pytest.mark.parametrize("labels", [LABELS, None])
@pytest.mark.parametrize(
    "images",
    [IMAGES, IMAGES.astype(np.float32) / 7 - 20, IMAGES[:, :, 0, 0], IMAGES.transpose(0, 2, 3, 1)],
    ids=["uint8", "float32", "two axes", "transposed"],
)
def test_the_data_come_back_with_their_checksum(write, images, labels):
    data = Dataset("some/test", images, labels, None if labels is None else ("a", "b", "c"))
    back = load(write(data))
    assert back.name == data.name
    assert back.images.dtype == data.images.dtype
    assert back.sha256 == data.sha256
    assert np.array_equal(back.images, data.images)
    assert np.array_equal(back.labels, labels) if labels is not None else back.labels is None
    assert load(write(data), images=4).sha256 == data.sha256


def test_the_text(write, tmp_path):
    data = Dataset("images/Bücher\nund mehr", IMAGES, LABELS, ("a", "b", "c"))
    spec = write(data, NORMALIZATION, 32)
    text = (tmp_path / "data.txt").read_text("ascii")
    entries = dict(line.split(" ", 1) for line in text.splitlines())
    assert entries["name"] == r"images/B\xfccher und mehr"
    assert entries["batch"] == "32"
    assert entries["classes"] == "3"
    for key, values in NORMALIZATION.items():
        back = np.array(entries[key].split(), dtype=np.float32)
        assert np.array_equal(back, np.array(values, dtype=np.float32))
    assert load(spec).sha256 == data.sha256


def test_a_sweep_of_plain_files(write, model_path, small_data):
    spec = write(small_data)
    expected = sweep(model_path, small_data, "1e-3,1e-2", trials=2, threads=1, progress=False)
    found = sweep(model_path, spec, "1e-3,1e-2", trials=2, threads=1, progress=False)
    assert found.sweep == expected.sweep  # checksums of the data included
    assert [p["accuracy"] for p in found.points] == [p["accuracy"] for p in expected.points]


TEXT_DAMAGE = [
    ("version 1\n", "version 2\n", "version: expected 1, got '2'"),
    ("version 1\n", "", "expected a line with version"),
    ("batch 100\n", "", "expected a line with batch"),
    ("batch 100", "batch 0", "batch: expected an integer from 1 to 2147483647"),
    ("batch 100", "batch 4294967296", "batch: expected an integer from 1 to 2147483647"),
    ("batch 100\n", "batch 100\nbatch 100\n", "batch: expected one value, got another"),
    ("batch 100\n", "batch 100\ncolour red\n", "got 'colour'"),
    ("batch 100\n", "batch 100\n\n", "got ''"),
    ("name some/test", "name", "name: expected one value, got none"),
    ("name some/test", "name s\x00me", "ASCII"),
    ("e-07\n", "e-07", "damaged or truncated"),
    ("uint8", "float16", "type: expected uint8 or float32, got 'float16'"),
    ("shape 6 3 4 5", "shape 6", "2 to 8 axes"),
    ("shape 6 3 4 5", "shape 6 3 4 5 1 1 1 1 1", "2 to 8 axes"),
    ("shape 6 3 4 5", "shape 6 3 4  5", "shape: expected an integer"),
    ("shape 6 3 4 5", "shape 6 3 4 0", "shape: expected an integer from 1"),
    ("shape 6 3 4 5", "shape 6 3 4 -5", "shape: expected an integer from 1"),
    ("shape 6 3 4 5", "shape 6 3 4 99999999999999999999", "shape: expected an integer from 1"),
    ("shape 6 3 4 5", "shape 6 3 4 6", "images.bin: expected 432 bytes"),
    ("shape 6 3 4 5", "shape 6 3 4294967296 4294967296", "images.bin: expected"),
    ("labels 6", "labels 5", "labels: expected 6, one an image, or 0"),
    ("labels 6", "labels six", "labels: expected an integer from 0"),
    ("labels 6", "labels 0", "labels.bin: expected 0 bytes"),
    ("classes 3", "classes 2", "labels from 0 to 1"),
    ("classes 3", "classes 0", "classes: expected an integer from 1"),
    ("mean ", "mean nan ", "mean: expected "),
    ("mean ", "mean 1e31 ", "mean: "),
    ("mean ", "mean 0x10 ", "mean: expected "),
    ("mean ", "mean 0.5 ", "mean and std: expected 1 value or 3"),
    ("std 0.5", "std 0", "std: "),
    ("std 0.5", "std -0.5", "std: "),
    ("std 0.5 0.25 1.00000001e-07\n", "", "mean and std"),
]


@pytest.mark.parametrize(("old", "new", "message"), TEXT_DAMAGE)
def test_a_damaged_text(write, tmp_path, old, new, message):
    spec = write(Dataset("some/test", IMAGES, LABELS, ("a", "b", "c")), NORMALIZATION)
    path = tmp_path / "data.txt"
    text = path.read_bytes().decode()
    assert text.count(old) == 1
    path.write_bytes(text.replace(old, new).encode())
    with pytest.raises(InputError) as caught:
        load(spec)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["data.txt", "images.bin", "labels.bin"])
def test_missing_and_wrong_files(write, tmp_path, name):
    data = Dataset("some/test", IMAGES.astype(np.float32), LABELS)
    spec, path = write(data), tmp_path / name
    content = path.read_bytes()
    for wrong in (content[:-1], content + b"\0", b""):
        path.write_bytes(wrong)
        with pytest.raises(InputError, match=rf"{name}: expected [^\n]+ got [^\n]+\Z"):
            load(spec)
    path.unlink()
    with pytest.raises(InputError, match=rf"{name}: No such file"):
        load(spec)
    path.mkdir()
    with pytest.raises(InputError, match=rf"{name}: expected a file"):
        load(spec)


def test_wrong_values(write, tmp_path):
    spec = write(Dataset("some/test", IMAGES.astype(np.float32), LABELS))
    for name, kind, value, message in (
        ("images.bin", "<f4", np.inf, "expected finite values, got inf"),
        ("labels.bin", "<i8", -1, "expected labels of 0 or more, got -1"),
    ):
        values = np.fromfile(tmp_path / name, dtype=kind)
        before, values[3] = values[3], value
        values.tofile(tmp_path / name)
        with pytest.raises(InputError, match=message):
            load(spec)
        values[3] = before
        values.tofile(tmp_path / name)
    load(spec)


def test_a_text_that_is_too_long(write, tmp_path):
    spec = write(Dataset("some/test", IMAGES, LABELS))
    (tmp_path / "data.txt").write_bytes(b"name " + b"x" * (1 << 20) + b"\n")
    with pytest.raises(InputError, match="at most 1048576 bytes"):
        load(spec)
