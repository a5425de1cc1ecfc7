# SPDX-License-Identifier: Apache-2.0
"""harden: opsets and types, what is left alone, and what is refused."""

import functools
import json

import numpy as np
import onnx
import pytest
from hardenable import X, annotated_in, network, old, ranges_of, run
from onnx import TensorProto, helper
from onnx_models import FLOAT, NODE, constant, model, stores, value, weight

from noisystore.export.harden import harden
from noisystore.ortops.errors import InputError
from noisystore.runtime import NoisySession
from noisystore.runtime.hardening import HARDENING_KEY, read_hardening


@pytest.fixture
def annotated(tmp_path):
    return functools.partial(annotated_in, tmp_path)


# Opsets and types


@pytest.mark.parametrize(
    ("opset", "ranges", "expected"),
    [(9, None, 9), (9, {0: (0, 1)}, 11), (11, {0: (0, 1)}, 11), (21, {0: (0, 1)}, 14)],
)
def test_the_opset_is_raised_as_far_as_needed(annotated, tmp_path, opset, ranges, expected):
    path, hard = annotated(old(opset)), tmp_path / "hard.onnx"
    harden(path, hard, ranges=ranges)
    made = onnx.load(hard)
    assert {o.domain: o.version for o in made.opset_import}[""] == expected
    assert made.ir_version <= 9
    plain = np.maximum(X @ onnx.numpy_helper.to_array(made.graph.initializer[0]), 0)
    np.testing.assert_allclose(run(hard), plain if not ranges else plain.clip(0, 1), rtol=1e-5)


def test_an_opset_that_cannot_be_raised(annotated, tmp_path):
    path = annotated(old(9, NODE("ReduceMean", ["r"], ["y"], axes=[1], keepdims=1)))
    hard = tmp_path / "hard.onnx"
    with pytest.raises(InputError, match=r"opset 9: expected 11 or newer, and ReduceMean may"):
        harden(path, hard, ranges={0: (0, 1)})
    assert not hard.exists()
    harden(path, hard)
    assert hard.exists()


def test_doubles_need_a_newer_clip(annotated, tmp_path):
    made = model(
        [NODE("Relu", ["x"], ["r"])],
        [value("x", TensorProto.DOUBLE)],
        [value("r", TensorProto.DOUBLE)],
        opset=11,
    )
    path, hard = annotated(made), tmp_path / "hard.onnx"
    assert {o.domain: o.version for o in onnx.load(path).opset_import}[""] < 12
    harden(path, hard, ranges={0: (0.1, 0.2)})
    assert {o.domain: o.version for o in onnx.load(hard).opset_import}[""] == 12
    np.testing.assert_array_equal(
        NoisySession(hard).run(X.astype(float)), X.astype(float).clip(0.1, 0.2)
    )


def test_types_behind_stores_that_the_file_does_not_state(annotated, tmp_path):
    path = annotated()
    made = onnx.load(path)
    del made.graph.value_info[:]
    onnx.save(made, path)
    done = harden(path, tmp_path / "hard.onnx", ranges={0: (0, 1), 1: (0, 1)})
    assert done.clipped == done.nan_to_zero == (0, 1)


# What is refused or left alone


def quantized():
    """A uint8 tensor between two QuantizeLinear and DequantizeLinear."""
    nodes = [
        NODE("Relu", ["x"], ["r"]),
        NODE("QuantizeLinear", ["r", "scale", "zero"], ["q"]),
        NODE("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        NODE("MatMul", ["d", "w"], ["y"]),
    ]
    initializers = [constant("scale", np.float32(0.02)), constant("zero", np.uint8(0))]
    return model(nodes, [value("x")], [value("y")], [*initializers, weight("w", 4, 4)])


def test_integers_are_left_alone(annotated, tmp_path):
    path, hard = annotated(quantized()), tmp_path / "hard.onnx"
    assert NoisySession(path).sites[0].word_format == "uint8"
    assert ranges_of(path) == {}
    with pytest.raises(InputError, match=r"nothing to harden: .* left alone \(integers\)"):
        harden(path, hard, ranges={0: (0, 1)})
    assert not hard.exists()
    mixed = annotated(quantized(), "mixed.onnx", sites="input,activation")
    done = harden(mixed, hard, ranges={0: (-1, 1), 1: (0, 1)})
    assert done.clipped == done.nan_to_zero == (0,)
    assert done.left_alone == {1: "integers"}
    assert done.as_dict()["left_alone"] == {"1": "integers"}


def test_integer_storage_of_a_float_tensor_has_no_nan(annotated, tmp_path):
    path = annotated(old(17))
    made = onnx.load(path)
    store = stores(made)[0]
    store.attribute.extend(
        [helper.make_attribute("storage_format", "int8"), helper.make_attribute("scale", 0.05)]
    )
    for entry in made.metadata_props:
        if entry.key == "noisystore.sites":
            record = json.loads(entry.value)
            record[0].update(storage_format="int8", bits_per_word=8)
            entry.value = json.dumps(record)
    onnx.save(made, path)
    done = harden(path, tmp_path / "hard.onnx", ranges={0: (0, 2)})
    assert (done.clipped, done.nan_to_zero) == ((0,), ())


def test_bfloat16_tensors_are_refused(annotated, tmp_path):
    nodes = [
        NODE("Cast", ["x"], ["b"], to=TensorProto.BFLOAT16),
        NODE("Identity", ["b"], ["r"]),
        NODE("Cast", ["r"], ["y"], to=FLOAT),
    ]
    path = annotated(model(nodes, [value("x")], [value("y")]), sites="Cast")
    assert {s.word_format for s in NoisySession(path).sites} >= {"bfloat16"}
    with pytest.raises(InputError, match="got bfloat16") as error:
        harden(path, tmp_path / "hard.onnx")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "hard.onnx").exists()


def test_hardened_twice(annotated, tmp_path):
    path, hard = annotated(), tmp_path / "hard.onnx"
    harden(path, hard)
    for given in (hard, onnx.load(hard)):
        with pytest.raises(InputError, match="hardened already"):
            harden(given, tmp_path / "again.onnx", ranges={0: (0, 1)})
    assert not (tmp_path / "again.onnx").exists()
    assert read_hardening(path) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ranges": {0: (1, 0)}}, "site 0: expected two finite numbers"),
        ({"ranges": {0: (0, float("nan"))}}, "site 0: expected two finite numbers"),
        ({"ranges": {1: (0, float("inf"))}}, "site 1: expected two finite numbers"),
        ({"ranges": {0: 3}}, "site 0: expected two finite numbers"),
        ({"ranges": {2: (0, 1)}}, "numbers from 0 to 1, the model's, got 2"),
        ({"sites": [-1]}, "numbers from 0 to 1, the model's, got -1"),
        ({"nan_to_zero": False}, "give ranges, or nan_to_zero"),
        ({"sites": []}, "give ranges for the chosen sites"),
    ],
)
def test_bad_arguments(annotated, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        harden(annotated(), tmp_path / "hard.onnx", **options)
    assert not (tmp_path / "hard.onnx").exists()


def test_models_that_are_not_annotated(tmp_path):
    with pytest.raises(InputError, match="expected sites"):
        harden(network(), tmp_path / "hard.onnx")
    with pytest.raises(InputError, match="does not exist"):
        harden(network(), tmp_path / "no" / "hard.onnx")


def test_damaged_metadata(annotated, tmp_path):
    hard = tmp_path / "hard.onnx"
    harden(annotated(), hard)
    made = onnx.load(hard)
    entry = next(p for p in made.metadata_props if p.key == HARDENING_KEY)
    for text in ("", "[]", "{}", '{"ranges": {"0": [0, Infinity]}, "nan_to_zero": []}'):
        entry.value = text
        onnx.save(made, hard)
        with pytest.raises(InputError, match=r"damaged noisystore\.hardening"):
            read_hardening(hard)
