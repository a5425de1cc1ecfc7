# SPDX-License-Identifier: Apache-2.0
"""The reader of CIFAR-10, on files made here, good and bad."""

from __future__ import annotations

import os
import pickle
import struct

import numpy as np
import pytest

from noisystore.ortops import InputError
from noisystore.runtime.dataset import load

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (20, 3072), dtype=np.uint8)
LABELS = (np.arange(20) % 10).astype(np.uint8)
ROWS = np.concatenate([LABELS[:, None], PIXELS], axis=1)


@pytest.fixture
def binary(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    ROWS.tofile(folder / "test_batch.bin")
    for i in range(1, 6):
        ROWS[:i].tofile(folder / f"data_batch_{i}.bin")
    return tmp_path


def python_version(tmp_path, record=None, protocol=2, raw=None):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir(exist_ok=True)
    record = {b"data": PIXELS, b"labels": LABELS.tolist()} if record is None else record
    data = pickle.dumps(record, protocol) if raw is None else raw
    (folder / "test_batch").write_bytes(data)
    return f"cifar10:{tmp_path}"


def test_cifar10_binary(binary):
    data = load(f"cifar10:{binary}")
    assert data.name == "cifar10/test"
    assert data.images.shape == (20, 3, 32, 32)
    assert np.array_equal(data.images.reshape(20, -1), PIXELS)
    assert np.array_equal(data.labels, LABELS)
    assert data.classes[3] == "cat"
    assert load(f"cifar10:{binary}/cifar-10-batches-bin").sha256 == data.sha256
    assert len(load(f"cifar10:{binary}", "train")) == 15


def test_some_images_keep_the_checksum(binary):
    data = load(f"cifar10:{binary}")
    some = load(f"cifar10:{binary}", images=7)
    assert len(some) == len(some.labels) == 7
    assert some.sha256 == data.sha256
    for images in (0, 21, -1, 1.5):
        with pytest.raises(InputError, match="expected a number from 1 to 20"):
            data.head(images)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("keys", [bytes, str])
def test_cifar10_python(binary, tmp_path, protocol, keys):
    folder = tmp_path / "py"
    folder.mkdir()
    record = {"data": PIXELS, "labels": LABELS.tolist(), "batch_label": "testing batch 1 of 1"}
    if keys is bytes:
        record = {name.encode(): value for name, value in record.items()}
    data = load(python_version(folder, record, protocol))
    assert data.sha256 == load(f"cifar10:{binary}").sha256


def python2_pickle():
    """Return what Python 2 wrote: byte strings, and NumPy 1's module names."""

    def text(value):
        return b"T" + struct.pack("<I", len(value)) + value

    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\nt" + text(b"b") + b"tR"
    dtype = b"cnumpy\ndtype\n(" + text(b"u1") + b"I0\nI1\ntR(I3\n" + text(b"|")
    dtype += b"NNNI-1\nI-1\nI0\ntb"
    state = b"(I1\n(I20\nI3072\nt" + dtype + b"I00\n" + text(PIXELS.tobytes()) + b"tb"
    labels = b"(" + b"".join(b"I%d\n" % label for label in LABELS) + b"l"
    return b"\x80\x02}" + text(b"data") + array + state + b"s" + text(b"labels") + labels + b"s."


def test_cifar10_as_python_2_wrote_it(binary, tmp_path):
    expected = pickle.loads(python2_pickle(), encoding="bytes")
    assert np.array_equal(expected[b"data"], PIXELS)
    data = load(python_version(tmp_path / "cifar-10-batches-bin", raw=python2_pickle()))
    assert data.sha256 == load(f"cifar10:{binary}").sha256


class Hostile:
    def __reduce__(self):
        return os.system, ("touch hostile-was-here",)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_hostile_pickles_are_refused(tmp_path, monkeypatch, protocol):
    monkeypatch.chdir(tmp_path)
    spec = python_version(tmp_path, {b"data": Hostile(), b"labels": [0]}, protocol)
    with pytest.raises(InputError, match=r"refused to load \w+\.system"):
        load(spec)
    assert not (tmp_path / "hostile-was-here").exists()


def pickled(*parts):
    return b"\x80\x02" + b"".join(parts)


@pytest.mark.parametrize(
    "raw",
    [
        pickled(b"K\x00r", struct.pack("<I", 2**31 - 1), b"."),
        pickled(b"K\x00p4000000000\n."),
        pickled(b"]" * (1 << 20), b"."),
        # _frombuffer of a number would make that many zeros.
        pickled(
            b"}X\x04\x00\x00\x00datacnumpy.core.numeric\n_frombuffer\n(",
            b"J\xff\xff\xff\x7fcnumpy\ndtype\nX\x02\x00\x00\x00u1\x85RK\x01\x85tRs.",
        ),
        b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b".",
    ],
)
def test_pickles_that_would_take_gigabytes(tmp_path, raw):
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match="test_batch"):
        load(python_version(tmp_path, raw=raw))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000


def test_labels_in_lists_of_lists(tmp_path):
    labels = [0]
    for _ in range(12):
        labels = [labels] * 10
    with pytest.raises(InputError, match="expected integer labels"):
        load(python_version(tmp_path, {b"data": PIXELS, b"labels": labels}))


@pytest.mark.parametrize(
    "name", ["builtins eval", "numpy load", "numpy.core.multiarray scalar", "_codecs lookup"]
)
def test_other_names_are_refused(tmp_path, name):
    raw = b"c" + name.replace(" ", "\n").encode() + b"\n."
    with pytest.raises(InputError, match="refused to load"):
        load(python_version(tmp_path, raw=raw))


@pytest.mark.parametrize(
    "record",
    [
        {b"labels": [0]},
        {b"data": PIXELS},
        {b"data": PIXELS, b"labels": [0]},
        {b"data": PIXELS[:, :100], b"labels": LABELS.tolist()},
        {b"data": PIXELS.astype(float), b"labels": LABELS.tolist()},
        {b"data": PIXELS.astype(object), b"labels": LABELS.tolist()},
        {b"data": PIXELS, b"labels": [10] * 20},
        {b"data": PIXELS, b"labels": [-1] * 20},
        {b"data": PIXELS, b"labels": ["a"] * 20},
        [1, 2],
        b"data",
    ],
)
def test_wrong_python_version(tmp_path, record):
    with pytest.raises(InputError, match="test_batch"):
        load(python_version(tmp_path, record))


@pytest.mark.parametrize("size", [0, 1, 10, 1000, 30000, 61000])
def test_truncated_python_version(tmp_path, size):
    raw = pickle.dumps({b"data": PIXELS, b"labels": LABELS.tolist()}, 2)
    with pytest.raises(InputError, match=r"damaged file|test_batch"):
        load(python_version(tmp_path, raw=raw[:size]))


def test_bad_binary_version(tmp_path, binary):
    path = binary / "cifar-10-batches-bin/test_batch.bin"
    for size in (0, 1, 3072, 3073 * 20 - 1):
        path.write_bytes(ROWS.tobytes()[:size])
        with pytest.raises(InputError, match=f"multiple of 3073 bytes.*got {size}"):
            load(f"cifar10:{binary}")
    rows = ROWS.copy()
    rows[4, 0] = 10
    rows.tofile(path)
    with pytest.raises(InputError, match=r"labels from 0 to 9 .* got 10 at sample 4"):
        load(f"cifar10:{binary}")
    path.unlink()
    with pytest.raises(InputError, match=r"expected test_batch\.bin"):
        load(f"cifar10:{binary}")
    (binary / "cifar-10-batches-bin/data_batch_3.bin").unlink()
    with pytest.raises(InputError, match=r"data_batch_3\.bin"):
        load(f"cifar10:{binary}", "train")
