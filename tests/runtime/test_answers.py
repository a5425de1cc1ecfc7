# SPDX-License-Identifier: Apache-2.0
"""The answers of a bundle: tolerances, predictions, and that they are read as they were written."""

import numpy as np
import pytest
from conftest import build_model
from parameter_models import annotated, record, store, tensor

from noisystore.ortops.errors import InputError
from noisystore.runtime.answers import make_answers, read_answers, steady_predictions
from noisystore.runtime.dataset import Dataset
from noisystore.runtime.session import NoisySession

helper = pytest.importorskip("onnx").helper


def data(count=9, shape=(1, 6, 6)):
    rng = np.random.default_rng(2)
    x = rng.normal(size=(count, *shape)).astype(np.float32)
    return Dataset("d", x, rng.integers(0, 4, count))


def test_predictions():
    logits = np.array([[1, np.nan, 3], [0, 2, 1], [np.inf, 0, 0]], dtype=np.float32)
    assert steady_predictions(logits).tolist() == [-1, 1, 0]
    assert steady_predictions(np.zeros((3, 4, 5), dtype=np.float32)) is None


def test_they_are_read_as_they_were_written(tmp_path):
    session = NoisySession(build_model(tmp_path / "m.onnx", noisy_weight=True), threads=1)
    answers = make_answers(session, data(), 4)
    for name, content in answers.files().items():
        (tmp_path / name).write_bytes(content)
    read = read_answers(tmp_path)
    assert read.files() == answers.files()
    assert read.tolerance == pytest.approx(1e-4 * np.abs(read.logits).max())
    assert read.bit_error_rate > 0
    assert (read.predictions >= 0).any()


def linear(path, weight, bias, **attributes):
    """Write x [N, K] -> site 0 -> x W + b."""
    form = attributes.get("storage_format", "native")
    nodes = [
        store("x", "s", 0, rows=1, **attributes),
        helper.make_node("Gemm", ["s", "w", "b"], ["y"]),
    ]
    sizes = weight.shape
    model = annotated(
        nodes,
        [helper.make_tensor_value_info("x", 1, ["N", sizes[0]])],
        [helper.make_tensor_value_info("y", 1, ["N", sizes[1]])],
        [
            tensor("w", weight.view(np.uint32), 1),
            tensor("b", bias.view(np.uint32), 1),
        ],
        [record(0, "x", "input", sizes[0], 32, form, rows=1)],
    )
    path.write_bytes(model.SerializeToString())
    return NoisySession(path, threads=1)


@pytest.mark.parametrize(
    ("attributes", "share"),
    [
        ({}, 1e-4),
        ({"storage_format": "float8e4m3fn"}, 1 / 8),
        ({"storage_format": "int4", "scale": 0.5}, 1 / 4),
    ],
)
def test_a_tolerance_is_a_step_of_the_coarsest_format(tmp_path, attributes, share):
    weight = np.eye(8, 4, dtype=np.float32)
    session = linear(tmp_path / "m.onnx", weight, np.zeros(4, dtype=np.float32), **attributes)
    answers = make_answers(session, data(shape=(8,)), 4)
    assert answers.tolerance == pytest.approx(share * np.abs(answers.logits).max())


def test_a_tolerance_grows_with_what_roundings_do(tmp_path):
    """Large sums that cancel: an input moved by 1e-6 moves the outputs by about 0.08."""
    weight = np.full((8, 4), 1e4, dtype=np.float32)
    bias = np.full(4, -8e4, dtype=np.float32)
    session = linear(tmp_path / "m.onnx", weight, bias)
    x = np.ones((9, 8), dtype=np.float32)
    answers = make_answers(session, Dataset("d", x, np.zeros(9, dtype=np.int64)), 4)
    assert np.abs(answers.logits).max() < 1
    assert answers.tolerance == pytest.approx(4 * 0.08, rel=0.3)


def test_a_network_that_is_not_finite_is_refused(tmp_path):
    weight = np.full((8, 4), np.inf, dtype=np.float32)
    session = linear(tmp_path / "m.onnx", weight, np.zeros(4, dtype=np.float32))
    with pytest.raises(InputError, match="expected finite outputs of the clean network"):
        make_answers(session, data(shape=(8,)), 4)
