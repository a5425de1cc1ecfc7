# SPDX-License-Identifier: Apache-2.0
"""Models with operators of other libraries."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper, numpy_helper
from parameter_models import annotated, record, saved, store

from noisystore.ortops import InputError, ort_options
from noisystore.runtime import NoisySession

X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)


@pytest.fixture
def model(tmp_path):
    """X + w through an operator of onnxruntime-extensions, which keeps the positive numbers."""
    info = helper.make_tensor_value_info
    nodes = [
        store("w", "w.read", 0),
        helper.make_node("Add", ["x", "w.read"], ["s"]),
        helper.make_node("NegPos", ["s"], ["negative", "y"], domain="ai.onnx.contrib"),
    ]
    made = annotated(
        nodes, [info("x", 1, ["N", 4])], [info("y", 1, ["N", 4])],
        [numpy_helper.from_array(np.ones(4, np.float32), "w")],
        [record(0, "w", "weight", 4)],
        imports=[("ai.onnx.contrib", 1)],
    )  # fmt: skip
    return saved(made, tmp_path / "m.onnx")


@pytest.fixture
def library():
    return pytest.importorskip("onnxruntime_extensions").get_library_path()


def test_onnxruntime_extensions_is_found_by_itself(model, library):
    expected = np.maximum(X + 1, 0)
    assert np.array_equal(NoisySession(model, threads=1).run(X), expected)
    named = NoisySession(model, threads=1, custom_op_libraries=[library])
    assert np.array_equal(named.run(X), expected)


def test_a_library_that_is_named(model, library, monkeypatch):
    monkeypatch.setattr(ort_options, "extensions_library", lambda: None)
    with pytest.raises(InputError, match="pip install onnxruntime-extensions") as caught:
        NoisySession(model, threads=1)
    assert "\n" not in str(caught.value)
    session = NoisySession(model, threads=1, custom_op_libraries=[library, library])
    assert np.array_equal(session.run(X), np.maximum(X + 1, 0))


def test_bad_libraries(model_path, tmp_path):
    text = tmp_path / "text.so"
    text.write_text("no library")
    for libraries, message in (
        ([tmp_path / "none.so"], "none.so: expected a library, got no such file"),
        ([tmp_path], "expected a library, got no such file"),
        ([text], "text.so: expected a library of ONNX Runtime operators"),
        (str(text), "expected a list of libraries"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            NoisySession(model_path, custom_op_libraries=libraries)
        assert "\n" not in str(caught.value)


def test_command_line(model, library, monkeypatch, ok, error):
    monkeypatch.setattr(ort_options, "extensions_library", lambda: None)
    assert len(ok("inspect", model, "--custom-ops", library)["sites"]) == 1
    assert "no such file" in error("inspect", model, "--custom-ops", "none.so")
    assert "onnxruntime-extensions" in error("inspect", model)
