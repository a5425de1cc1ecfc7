# SPDX-License-Identifier: Apache-2.0
"""What is read from the ONNX file itself: weight files, and nodes that bear the metadata out."""

from __future__ import annotations

import json
import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from noisystore.ortops import InputError, noise_inputs
from noisystore.runtime import NoisySession, sweep
from noisystore.runtime.model_file import model_sha256
from noisystore.runtime.onnx_file import external_files, read_stores


def external(name, location):
    tensor = TensorProto(name=name, data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def hidden_tensors(path):
    """Write a model whose weight files are named in every place that can hold a tensor."""
    inner = helper.make_graph([], "inner", [], [], [external("i", "graph.bin")])
    inner.sparse_initializer.add(
        values=external("v", "values.bin"), indices=external("j", "indices.bin")
    )
    node = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    node.attribute.append(helper.make_attribute("value", external("t", "attribute.bin")))
    node.attribute.append(helper.make_attribute("several", [external("u", "list.bin")]))
    inside = helper.make_node("Constant", [], ["z"], value=external("f", "function.bin"))
    plain = external("p", "not-read.bin")
    plain.data_location = TensorProto.DEFAULT
    graph = helper.make_graph([node], "g", [], [], [plain])
    opset = [helper.make_opsetid("", 17)]
    function = helper.make_function("d", "F", [], ["z"], [inside], opset)
    model = helper.make_model(graph, functions=[function])
    path.write_bytes(model.SerializeToString())
    names = ["attribute", "function", "graph", "indices", "list", "values"]
    return [f"{name}.bin" for name in names]


def test_weight_files_in_every_place(tmp_path):
    path = tmp_path / "m.onnx"
    names = hidden_tensors(path)
    assert external_files(path) == names
    sums = set()
    for name in names:
        (tmp_path / name).write_bytes(b"a")
    sums.add(model_sha256(path))
    for name in names:
        (tmp_path / name).write_bytes(b"b")
        sums.add(model_sha256(path))
    assert len(sums) == 1 + len(names)


def test_names_and_lengths_count(tmp_path):
    path = tmp_path / "m.onnx"
    sums = set()
    for first, second in ((b"ab", b"c"), (b"a", b"bc")):
        tensors = [external("a", "1"), external("b", "2")]
        graph = helper.make_graph([], "g", [], [], tensors)
        path.write_bytes(helper.make_model(graph).SerializeToString())
        (tmp_path / "1").write_bytes(first)
        (tmp_path / "2").write_bytes(second)
        sums.add(model_sha256(path))
    assert len(sums) == 2


@pytest.mark.parametrize("location", ["/dev/zero", "../outside", "pipe", "", ".", "a\0b", "none"])
def test_only_regular_files_of_the_models_folder(tmp_path, location):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "outside").write_bytes(b"secret")
    os.mkfifo(folder / "pipe")
    (folder / "link").symlink_to(tmp_path / "outside")
    for name in (location, "link"):
        graph = helper.make_graph([], "g", [], [], [external("a", name)])
        (folder / "m.onnx").write_bytes(helper.make_model(graph).SerializeToString())
        with pytest.raises(InputError, match="weight file") as caught:
            model_sha256(folder / "m.onnx")
        assert "\n" not in str(caught.value)


def test_a_model_that_is_a_link_into_a_store(tmp_path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "view").mkdir()
    graph = helper.make_graph([], "g", [], [], [external("a", "w.bin")])
    (tmp_path / "blobs/1").write_bytes(helper.make_model(graph).SerializeToString())
    (tmp_path / "blobs/2").write_bytes(b"weights")
    (tmp_path / "view/m.onnx").symlink_to(tmp_path / "blobs/1")
    (tmp_path / "view/w.bin").symlink_to(tmp_path / "blobs/2")
    assert len(model_sha256(tmp_path / "view/m.onnx")) == 64


def test_no_onnx_file(tmp_path):
    path = tmp_path / "m.onnx"
    for content in (b"", b"\xff" * 50, b"\x3a\x02\x0a\xff"):
        path.write_bytes(content)
        with pytest.raises(InputError, match="expected an ONNX model"):
            external_files(path)


def test_stores(make_model, tmp_path):
    path = make_model(tmp_path / "m.onnx", noisy_weight=True, last_rows=-1)
    first, second, third = read_stores(path)
    assert (first.site, first.storage_format, first.rows_per_sample) == (0, "native", 1)
    assert (first.shape, first.word_bits, first.elements) == ((None, 8, 4, 4), 32, 128)
    assert (second.rows_per_sample, second.elements) == (-1, None)
    assert (third.shape, third.elements) == ((10, 24), 240)


def changed(make_model, tmp_path, fields):
    plain = make_model(tmp_path / "plain.onnx")
    records = json.loads(
        {p.key: p.value for p in onnx.load(plain).metadata_props}[noise_inputs.SITES_KEY]
    )
    records[1].update(fields)
    text = json.dumps(records)
    return make_model(tmp_path / "m.onnx", metadata={noise_inputs.SITES_KEY: text})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"elements": 23}, "the metadata say elements 23, the graph 24"),
        ({"rows_per_sample": 2}, "rows per sample 2, the graph 1"),
        ({"bits_per_word": 16}, "bits of a word 16, the graph 32"),
        ({"storage_format": "float32"}, "storage format float32, the graph native"),
        ({"bits_per_word": 12}, "damaged list of sites"),
        ({"storage_format": "int4"}, "int4 with 32 bits a word"),
        ({"storage_format": "float7"}, "damaged list of sites"),
        ({"elements": -1}, "elements: expected an integer of 0 or more, got -1"),
        ({"elements": 1.5}, "damaged list of sites"),
        ({"rows_per_sample": -2}, "of -1 or more, got -2"),
        ({"site": 0}, r"expected sites 0 to 1, got \[0, 0\]"),
        ({"site": True}, "damaged list of sites"),
    ],
)
def test_metadata_that_the_graph_contradicts(make_model, tmp_path, fields, message):
    with pytest.raises(InputError, match=message):
        NoisySession(changed(make_model, tmp_path, fields))


def test_one_node_for_each_site(make_model, tmp_path):
    path = make_model(tmp_path / "m.onnx")
    model = onnx.load(path)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "site":
                attribute.i = 0
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=r"one NoisyStore node for each of its 2 sites.*\[0, 0\]"):
        NoisySession(path)


def test_without_known_sizes_every_sample_is_run(make_model, small_data, tmp_path, capsys):
    path = make_model(tmp_path / "m.onnx", with_shapes=False)
    assert NoisySession(make_model(tmp_path / "known.onnx")).sizes_confirmed
    assert not NoisySession(path).sizes_confirmed
    summary = sweep(path, small_data, "1e-7,1e-6", trials=1, threads=1, progress=True)
    assert {point["n_run"] for point in summary.points} == {157}
    assert capsys.readouterr().err.count("the graph does not state the sizes") == 1


def test_a_node_with_inputs_of_its_own_is_not_certain(make_model, tmp_path):
    path = make_model(tmp_path / "m.onnx")
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(np.full((2, 2), 0.5), "rates"))
    next(n for n in model.graph.node if n.op_type == "NoisyStore").input[1] = "rates"
    path.write_bytes(model.SerializeToString())
    assert not NoisySession(path).sizes_confirmed


def test_exported_models_state_their_sizes(model):
    assert NoisySession(model).sizes_confirmed


@pytest.mark.parametrize("size", [1 << 45, 1 << 63])
def test_a_number_where_a_name_belongs_allocates_nothing(tmp_path, size):
    def varint(value):
        out = bytearray()
        while value > 0x7F:
            out.append(value & 0x7F | 0x80)
            value >>= 7
        return bytes([*out, value])

    node = bytes([1 << 3]) + varint(size)  # its first input, as a number
    graph = bytes([1 << 3 | 2, len(node)]) + node
    path = tmp_path / "hostile.onnx"
    path.write_bytes(bytes([7 << 3 | 2, len(graph)]) + graph)
    with pytest.raises(InputError, match="expected an ONNX"):
        read_stores(path)
