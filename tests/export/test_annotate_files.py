# SPDX-License-Identifier: Apache-2.0
"""annotate and files: weights in other files, damaged and hostile ones, nothing half-written."""

import os

import onnx
import pytest
from onnx_models import NODE, close, constant, model, outputs_at, same, stores, value, weight

from noisystore.export import annotate, onnx_files
from noisystore.ortops.errors import InputError


def network():
    nodes = [
        NODE("Gemm", ["x", "w", "b"], ["g"], transB=1),
        NODE("Relu", ["g"], ["r"]),
        NODE("Reshape", ["r", "shape"], ["q"]),
        NODE("MatMul", ["q", "w2"], ["y"]),
    ]
    initializers = [
        weight("w", 160, 256),
        weight("b", 160),
        weight("w2", 160, 3),
        constant("shape", [-1, 160]),
    ]
    return model(nodes, [value("x", shape=("n", 256))], [value("y", shape=("n", 3))], initializers)


@pytest.fixture
def external(tmp_path):
    """A model whose tensors lie beside it, and the model as one."""
    folder = tmp_path / "in"
    folder.mkdir()
    made = network()
    onnx.save(
        made,
        folder / "m.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    return folder / "m.onnx", network()


def test_weights_in_another_file(external, tmp_path):
    path, whole = external
    out = tmp_path / "noisy.onnx"
    result = annotate(path, out, sites="activation,weight")
    assert [s["name"] for s in result.sites] == ["w", "r", "w2"]
    assert result.notes == []
    assert {p.name for p in tmp_path.iterdir()} == {"in", "noisy.onnx"}
    assert result.sites == annotate(whole, sites="activation,weight").sites
    assert not any(onnx_files.is_external(t) for t in onnx.load(out).graph.initializer)
    close(outputs_at(out), outputs_at(whole))  # a noisy weight is no constant to the product


def test_models_that_are_too_large_for_one_file(external, tmp_path, monkeypatch):
    path, whole = external
    monkeypatch.setattr(onnx_files, "MAX_BYTES", 100_000)
    out = tmp_path / "out" / "noisy.onnx"
    out.parent.mkdir()
    annotate(path, out, sites="activation,weight")
    assert {p.name for p in out.parent.iterdir()} == {"noisy.onnx", "noisy.onnx.data"}
    assert out.stat().st_size < 10_000
    onnx.checker.check_model(str(out))
    close(outputs_at(out), outputs_at(whole))  # a noisy weight is no constant to the product
    assert not same(outputs_at(out, 0.01, 3), outputs_at(whole))
    before = {p.name: p.read_bytes() for p in out.parent.iterdir()}
    again = out.parent / "again.onnx"
    again.mkdir()
    with pytest.raises(InputError, match="folder"):
        annotate(path, again)
    again.rmdir()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left"):
        annotate(path, out, sites="weight")
    assert {p.name: p.read_bytes() for p in out.parent.iterdir()} == before


def test_annotating_in_place(external):
    path, whole = external
    annotate(path, path)
    assert same(outputs_at(path), outputs_at(whole))
    with pytest.raises(InputError, match="annotated already"):
        annotate(path, path)


def test_a_model_in_memory_with_tensors_elsewhere(external):
    path, _ = external
    with pytest.raises(InputError, match="pass the path"):
        annotate(onnx.load(path, load_external_data=False))


@pytest.mark.parametrize(
    "location", ["../secret.bin", "/etc/hostname", "", "missing.bin", "link.bin"]
)
def test_tensors_outside_the_folder(external, tmp_path, location):
    path, _ = external
    (tmp_path / "secret.bin").write_bytes(bytes(1 << 20))
    (path.parent / "link.bin").symlink_to(tmp_path / "secret.bin")
    made = onnx.load(path, load_external_data=False)
    for entry in made.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    path.write_bytes(made.SerializeToString())
    with pytest.raises(InputError, match=r"weight file|in its folder"):
        annotate(path, tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize(
    ("key", "entry"),
    [
        ("offset", "9999999"),
        ("length", "-4"),
        ("length", "x"),
        ("length", "4"),
        ("length", b"\xff\xfe"),
    ],
)
def test_damaged_references(external, tmp_path, key, entry):
    path, _ = external
    made = onnx.load(path, load_external_data=False)
    tensor = made.graph.initializer[0]
    kept = {e.key: e.value for e in tensor.external_data} | {key: entry}
    del tensor.external_data[:]
    for name, text in kept.items():
        tensor.external_data.add(key=name, value=text if isinstance(text, str) else "????")
    data = made.SerializeToString()
    path.write_bytes(data if isinstance(entry, str) else data.replace(b"????", entry * 2))
    with pytest.raises(InputError, match=r"tensor w: |text in UTF-8"):
        annotate(path)


def test_tensors_that_do_not_fill_their_shape(external, tmp_path):
    path, whole = external
    made = onnx.load(path, load_external_data=False)
    made.graph.initializer[0].dims[0] -= 1
    path.write_bytes(made.SerializeToString())
    tensor = whole.graph.initializer[0]
    tensor.raw_data = tensor.raw_data[:-4]
    inside = tmp_path / "inside.onnx"
    inside.write_bytes(whole.SerializeToString())
    much = onnx.ModelProto()
    much.CopyFrom(whole)
    much.graph.initializer[0].raw_data += bytes(12)
    for case in (path, inside, whole, much):
        with pytest.raises(InputError, match=r"tensor w: expected \d+ bytes for its shape"):
            annotate(case)


def test_text_that_is_no_utf8(tmp_path):
    data = network().SerializeToString()
    path = tmp_path / "m.onnx"
    for old, new in ((b"\x12\x01n", b"\x12\x01\xff"), (b"transB", b"tra\xffsB")):
        assert old in data
        path.write_bytes(data.replace(old, new))
        with pytest.raises(InputError, match="text in UTF-8"):
            annotate(path)


def test_files_that_are_no_models(tmp_path):
    whole = network().SerializeToString()
    cases = {
        "garbage.onnx": b"no model " * 50,
        "empty.onnx": b"",
        "cut.onnx": whole[: len(whole) // 2],
        "other.onnx": onnx.TensorProto(name="w", dims=[2]).SerializeToString(),
    }
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match="expected an ONNX") as caught:
            annotate(tmp_path / name, tmp_path / "out.onnx")
        assert "\n" not in str(caught.value)
    for name in ("missing.onnx", "."):
        with pytest.raises(InputError, match="expected an ONNX file"):
            annotate(tmp_path / name)
    assert not (tmp_path / "out.onnx").exists()


def test_damaged_tensors():
    made = network()
    made.graph.initializer[3].raw_data = bytes(20)
    with pytest.raises(InputError, match="tensor shape: expected 16 bytes for its shape"):
        annotate(made)


def test_a_graph_that_does_not_hang_together():
    made = network()
    made.graph.node[1].input[0] = "nowhere"
    with pytest.raises(InputError, match="checker refuses"):
        annotate(made)


def test_nodes_in_no_order_are_sorted():
    made, sorted_ = network(), network()
    nodes = list(made.graph.node)[::-1]
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    result = annotate(made, sites="activation,weight")
    assert result.sites == annotate(sorted_, sites="activation,weight").sites
    assert len(stores(result.model)) == 3
    close(outputs_at(result.model), outputs_at(sorted_))


def test_the_written_file_is_the_model_in_memory(tmp_path):
    annotate(network(), tmp_path / "m.onnx", sites="layer")
    held = annotate(network(), sites="layer").model
    assert onnx.load(tmp_path / "m.onnx") == held
    assert [n.name for n in stores(held)] == ["NoisyStore_0", "NoisyStore_1"]
