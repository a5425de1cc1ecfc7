# SPDX-License-Identifier: Apache-2.0
"""Predictions with NaN and ties, top-5, and metrics of the user's own."""

from __future__ import annotations

import io

import numpy as np
import pytest

from noisystore.ortops import InputError
from noisystore.runtime.metrics import Scores, predict, score, top_k

DTYPES = [np.float16, np.float32, np.float64]


def ranking(row):
    """Classes from the largest logit to the smallest: NaN first, the first of equals first."""
    return sorted(range(len(row)), key=lambda j: (0, 0, j) if np.isnan(row[j]) else (1, -row[j], j))


@pytest.mark.parametrize("dtype", DTYPES)
def test_order_of_logits(dtype):
    rng = np.random.default_rng(0)
    values = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, 2.0, -3.0])
    logits = rng.choice(values, (4000, 12)).astype(dtype)
    logits[:100] = np.nan
    labels = rng.integers(0, 12, 4000)

    ranks = [ranking(row) for row in logits]
    assert predict(logits).tolist() == [rank[0] for rank in ranks]
    for k in (1, 5, 12):
        expected = [label in rank[:k] for label, rank in zip(labels, ranks, strict=True)]
        assert top_k(logits, labels, k).tolist() == expected
    assert predict(logits).dtype == np.int32


def test_integer_logits():
    logits = np.array([[1, 255, 255], [0, 0, 0]], np.uint8)
    assert predict(logits).tolist() == [1, 0]
    assert top_k(logits, np.array([2, 0]), 1).tolist() == [False, True]


def test_ruined_networks_fall_to_chance():
    labels = np.arange(1000) % 10
    scores = score(np.full((1000, 10), np.nan, np.float32), labels)
    assert scores.correct.mean() == 0.1


def test_shapes_of_outputs():
    logits = np.eye(4, dtype=np.float32)
    labels = np.array([0, 1, 2, 0])
    assert score(logits.reshape(4, 4, 1, 1), labels).correct.sum() == 3
    assert score(logits, None).correct is None
    for shape in ((4,), (4, 1), (4, 4, 2)):
        with pytest.raises(InputError, match=r"expected logits \[N, classes\]"):
            score(np.zeros(shape, np.float32), labels)
    other = score(np.zeros((4, 3, 2)), labels, lambda outputs, _: outputs.sum((1, 2)))
    assert other.predictions is None
    assert other.metric.tolist() == [0.0] * 4
    with pytest.raises(InputError, match=r"metric: expected one number a sample, \[4\]"):
        score(logits, labels, lambda outputs, _: 1.0)


def test_scores_are_stored_and_replaced():
    scores = score(np.eye(4), np.array([0, 1, 2, 0]), lambda outputs, labels: labels * 2.0)
    again = Scores.from_bytes(scores.to_bytes(), 4)
    assert again.correct.tolist() == scores.correct.tolist()
    assert again.metric.tolist() == [0, 2, 4, 0]
    new = again.replaced(np.array([1, 3]), score(np.eye(4)[:2], np.array([3, 0]), again_metric))
    assert new.correct.tolist() == [True, False, True, False]
    assert new.metric.tolist() == [0, 7, 4, 7]
    assert again.correct.tolist() == scores.correct.tolist()


def again_metric(outputs, labels):
    return np.full(len(outputs), 7.0)


def test_damaged_scores_are_refused():
    whole = Scores(correct=np.ones(4, bool)).to_bytes()
    with pytest.raises(InputError, match=r"array correct: expected bool \[5\], got bool \[4\]"):
        Scores.from_bytes(whole, 5)
    file = io.BytesIO()
    np.savez(file, correct=np.array([print], object))
    for blob in (b"", whole[:-40], b"x" * 200, file.getvalue()):
        with pytest.raises(InputError):
            Scores.from_bytes(blob, 4)
