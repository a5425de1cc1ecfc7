# SPDX-License-Identifier: Apache-2.0
"""Stores of initializers, cut out of a file without the onnx package."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, helper, numpy_helper
from parameter_models import annotated, record, saved, seen_parameter, store

from noisystore.ortops import InputError
from noisystore.runtime.protobuf import bytes_field, fields, varint_field
from noisystore.runtime.stored_parameters import read_stored_parameters

TYPES = {
    TensorProto.FLOAT: np.float32,
    TensorProto.DOUBLE: np.float64,
    TensorProto.FLOAT16: np.float16,
    TensorProto.BFLOAT16: np.uint16,
    TensorProto.INT8: np.int8,
    TensorProto.UINT8: np.uint8,
    TensorProto.INT32: np.int32,
}


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_values_and_the_model_around_them(data):
    code = data.draw(st.sampled_from(sorted(TYPES)))
    how = data.draw(st.sampled_from(["raw", "typed", "external"]))
    shape = data.draw(arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5))
    dtype = np.dtype(TYPES[code])
    words = data.draw(arrays.arrays(f"u{dtype.itemsize}", shape)).view(dtype)
    if how == "typed" and dtype.kind == "f":
        # Python's floats, through which the typed fields are filled, quiet NaNs.
        words = np.nan_to_num(words)
    name = data.draw(st.text(min_size=1, max_size=40).filter(lambda text: "\0" not in text))
    model = seen_parameter(words, code, how="raw" if how == "external" else how)
    model.doc_string = name
    model.graph.node[0].name = name
    with tempfile.TemporaryDirectory() as folder:
        path = saved(model, Path(folder) / "m.onnx", external=how == "external")
        found = read_stored_parameters(path)
        expected = onnx.load(path, load_external_data=False)
    (parameter,) = found.parameters
    assert (parameter.site, parameter.name, parameter.element_type) == (0, "w.read", code)
    assert parameter.values.shape == shape
    assert parameter.values.dtype == dtype
    assert parameter.values.tobytes() == words.tobytes()
    cut = onnx.load_from_string(found.model)
    made = cut.graph.initializer[-1]
    assert (made.name, made.data_type, tuple(made.dims)) == ("w.read", code, shape)
    assert not made.raw_data
    # Nothing else has changed.
    del cut.graph.initializer[-1]
    del expected.graph.node[0]
    del expected.graph.initializer[0]
    assert cut == expected
    assert found.external == (
        how == "external" and any(t.external_data for t in cut.graph.initializer)
    )


@given(
    st.lists(st.tuples(st.integers(1, 2**20), st.one_of(st.integers(0, 2**64 - 1), st.binary())))
)
def test_fields_are_read_as_they_are_written(written):
    data = b"".join(
        varint_field(number, value) if isinstance(value, int) else bytes_field(number, value)
        for number, value in written
    )
    read = [
        (number, value if isinstance(value, int) else bytes(value))
        for number, value in fields(memoryview(data))
    ]
    assert read == written


@given(st.binary(max_size=200))
def test_any_bytes_are_a_model_or_bad_input(data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        path.write_bytes(data)
        try:
            read_stored_parameters(path)
        except InputError as error:
            assert "expected an ONNX model" in str(error)  # noqa: PT017


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_damaged_model_is_bad_input(data):
    blob = bytearray(seen_parameter(np.ones((3, 2), np.float32), 1).SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        path.write_bytes(blob)
        try:
            read_stored_parameters(path)
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017


def test_attributes(tmp_path):
    words = np.ones((2, 3), np.float32)
    model = seen_parameter(words, 1, storage_format="int8", scale=0.25, zero_point=-3)
    (found,) = read_stored_parameters(saved(model, tmp_path / "m.onnx")).parameters
    assert (found.storage_format, found.scale, found.zero_point) == ("int8", 0.25, -3)


def sites_left(path):
    """Return the sites that are cut out, and those of the stores that stay."""
    found = read_stored_parameters(path)
    if found is None:
        return [], None
    nodes = onnx.load_from_string(found.model).graph.node
    stay = [helper.get_node_attr_value(n, "site") for n in nodes if n.op_type == "NoisyStore"]
    return [p.site for p in found.parameters], stay


def test_what_is_no_constant_parameter_stays(tmp_path):
    values = np.arange(6, dtype=np.float32)
    info = helper.make_tensor_value_info

    def model(*nodes, extra_inputs=(), extra_outputs=()):
        sites = sum(node.op_type == "NoisyStore" for node in nodes)
        return annotated(
            [*nodes, helper.make_node("Identity", ["x"], ["y"])],
            [info("x", 1, ["N"]), *extra_inputs],
            [info("y", 1, ["N"]), *extra_outputs],
            [numpy_helper.from_array(values, "w")],
            [record(i, f"w{i}", "weight", 6) for i in range(sites)],
        )

    def left(made):
        return sites_left(saved(made, tmp_path / "m.onnx"))

    read = helper.make_node("Identity", ["a"], ["z"])
    z = info("z", 1, [6])
    assert left(model(store("w", "a", 0), read, extra_outputs=[z])) == ([0], [])
    # It stores what is no initializer, or one that a caller may replace.
    assert left(model(store("x", "a", 0), read, extra_outputs=[z])) == ([], None)
    overridable = model(
        store("w", "a", 0), read, extra_inputs=[info("w", 1, [6])], extra_outputs=[z]
    )
    assert left(overridable) == ([], None)
    # It is one a sample, or gives a graph output.
    assert left(model(store("w", "a", 0, rows=1), read, extra_outputs=[z])) == ([], None)
    assert left(model(store("w", "z", 0), extra_outputs=[z])) == ([], None)
    # It has noise of its own.
    own = store("w", "a", 0)
    own.input[3] = "other"
    assert left(model(own, read, extra_outputs=[z])) == ([], None)
    # Nobody reads it.
    assert left(model(store("w", "a", 0))) == ([], [])
    # A chain: the second stores what the first gives.
    chain = model(store("w", "b", 0), store("b", "a", 1), read, extra_outputs=[z])
    assert left(chain) == ([0], [1])


@pytest.mark.parametrize("damage", ["short", "long", "external"])
def test_data_that_do_not_fit_the_shape(tmp_path, damage):
    model = seen_parameter(np.ones((4, 3), np.float32), 1)
    path = saved(model, tmp_path / "m.onnx", external=damage == "external")
    if damage == "external":
        file = tmp_path / "weights.bin"
        file.write_bytes(file.read_bytes()[:-8000] if file.stat().st_size > 8000 else b"1234")
    else:
        tensor = model.graph.initializer[0]
        tensor.raw_data = tensor.raw_data[:-4] if damage == "short" else tensor.raw_data * 2
        path = saved(model, path)
    with pytest.raises(InputError, match="save the model again") as caught:
        read_stored_parameters(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("location", ["/etc/hostname", "../outside", "", "missing"])
def test_weight_files_outside_the_folder_are_refused(tmp_path, location):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "outside").write_bytes(bytes(48))
    model = seen_parameter(np.ones((4, 3), np.float32), 1)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    with pytest.raises(InputError, match="weight file"):
        read_stored_parameters(saved(model, folder / "m.onnx"))
